"""Whole or not at all: what a reader sees while others write, are killed, or run out of disk."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sane_engine.checkpoint import Refusal
from sane_engine.sane import encoder_folders
from sane_engine.workspace import (
    atomic,
    atomic_file,
    atomic_folder,
    quota,
    remove,
    require_room,
    strays,
    sweep,
    visible,
)

NO_SPACE = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write(folder: Path, text: str) -> None:
    with atomic_folder(folder) as temporary:
        (temporary / "a.txt").write_text(text)
        (temporary / "inner").mkdir()
        (temporary / "inner" / "b.txt").write_text(text)


def read(folder: Path) -> str:
    first, second = (folder / "a.txt").read_text(), (folder / "inner" / "b.txt").read_text()
    assert first == second
    return first


@pytest.fixture(params=["in one step", "in two steps"])
def steps(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "in two steps":
        monkeypatch.setattr(atomic, "exchange", lambda first, second: False)


@pytest.mark.usefixtures("steps")
def test_a_folder_takes_the_place_of_nothing_of_a_folder_of_a_file_and_of_a_link(tmp_path: Path) -> None:
    target = tmp_path / "item"
    write(target, "first")
    write(target, "second")
    assert read(target) == "second"
    target.rename(tmp_path / "elsewhere")
    target.write_text("a file")
    write(target, "third")
    assert read(target) == "third"
    target.rename(tmp_path / "again")
    target.symlink_to(tmp_path / "elsewhere")
    write(target, "fourth")
    assert read(target) == "fourth" and not target.is_symlink() and read(tmp_path / "elsewhere") == "second"
    assert names(tmp_path) == ["again", "elsewhere", "item"]


@pytest.mark.usefixtures("steps")
def test_an_error_while_writing_leaves_what_was_there(tmp_path: Path) -> None:
    write(tmp_path / "item", "old")
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "item") as temporary:
        (temporary / "a.txt").write_text("new")
        raise RuntimeError
    with pytest.raises(RuntimeError), atomic_file(tmp_path / "file.txt") as path:
        path.write_text("half")
        raise RuntimeError
    assert read(tmp_path / "item") == "old" and names(tmp_path) == ["item"]


@pytest.mark.parametrize("call", ["write", "safetensors", "fsync", "replace"])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_full_disk_is_one_line_and_leaves_what_was_there(
    call: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **keywords: object) -> None:
        raise NO_SPACE

    write(tmp_path / "item", "old")
    (tmp_path / "item.txt").write_text("old")
    before = names(tmp_path)
    if call == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    elif call == "replace":
        monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(Refusal) as caught:
        if kind == "file":
            with atomic_file(tmp_path / "item.txt") as path:
                path.write_text("new")
                fail(call)
        else:
            with atomic_folder(tmp_path / "item") as folder:
                (folder / "a.txt").write_text("new")
                fail(call)
    monkeypatch.undo()
    assert caught.value.code == "disk-full" and "\n" not in caught.value.line()
    assert names(tmp_path) == before and read(tmp_path / "item") == "old"
    assert (tmp_path / "item.txt").read_text() == "old"


def fail(call: str) -> None:
    if call == "write":
        raise NO_SPACE
    if call == "safetensors":  # a library that loses the number of the error
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")


def test_no_write_beyond_the_quota(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANE_QUOTA_GB", "0.004")
    monkeypatch.setattr(quota._Measured, "root", None)

    def put(target: Path, size: int) -> None:
        with atomic_file(target) as path:
            path.write_bytes(bytes(size))

    put(workspace / "a.bin", 2_500_000)
    with pytest.raises(Refusal, match=r"may take 0\.004 GB") as caught:
        put(workspace / "b.bin", 2_000_000)
    assert caught.value.code == "over-quota" and names(workspace) == ["a.bin"]
    put(workspace / "a.bin", 3_500_000)  # what it replaces goes, so there is room
    with pytest.raises(Refusal):
        require_room(1_000_000)
    put(workspace / "small.json", 900_000)  # whoever is over the quota can still work with what is there
    put(tmp_path / "elsewhere.bin", 2_000_000)
    (workspace / "a.bin").unlink()
    require_room(3_000_000)
    monkeypatch.setenv("SANE_QUOTA_GB", "1e9")
    with pytest.raises(Refusal) as caught:
        require_room(10**17)
    assert caught.value.code == "disk-full"


def test_what_a_killed_process_left_is_seen_by_nobody_and_goes_when_it_is_old(workspace: Path) -> None:
    encoders = workspace / "encoders"
    half = encoders / ".mine.sane-tmp.ab12_xyz"
    half.mkdir(parents=True)
    (half / "encoder.json").write_text("{}")
    (encoders / "whole").mkdir()
    (encoders / "whole" / "encoder.json").write_text("{}")
    (workspace / "spectra").mkdir()
    (workspace / "spectra" / ".abc.parquet.sane-tmp.0a1b2c3d.parquet").write_bytes(b"half")
    assert "whole" in encoder_folders() and ".mine.sane-tmp.ab12_xyz" not in encoder_folders()
    assert visible(workspace / "spectra", "*.parquet") == []
    assert sweep() == 0 and half.exists()
    assert sweep(older_than=-1) == 6
    assert names(encoders) == ["whole"] and names(workspace / "spectra") == []


def test_what_users_have_stays_whatever_it_is_called(workspace: Path) -> None:
    theirs = [
        "data/clothes/.data.20240101/a.png",
        "data/clothes/.old.sane-tmp.0a1b2c3d",
        "data/.gitignore.original",
        "zoos/mine/.gitignore.original",
        "zoos/mine/.git.removed/a",
    ]
    ours = [
        "data/.clothes.sane-removed/a.png",
        "data/.images.sane-tmp.0a1b2c3d",
        "jobs/a/.progress.json.sane-tmp.0a1b2c3d.json",
        "zoos/.mine.sane-old.0a1b2c3d/other",
        "probes/.cell.json.0a1b2c3d.json",  # of a version before
    ]
    for name in [*theirs, *ours]:
        (workspace / name).parent.mkdir(parents=True, exist_ok=True)
        (workspace / name).write_bytes(b"12345")
    assert sweep(older_than=-1) == 5 * len(ours)
    assert [name for name in [*theirs, *ours] if (workspace / name).exists()] == theirs


def test_what_is_written_and_what_is_removed_is_known_by_its_name(workspace: Path) -> None:
    target = workspace / "samples" / "item.odd suffix"
    with atomic_file(target):
        assert len(strays(workspace)) == 1
    target.unlink()
    with atomic_folder(target):
        assert len(strays(workspace)) == 1
    assert strays(workspace) == []
    remove(target)
    assert names(workspace / "samples") == []


def test_uploads_of_a_server_that_was_killed_go_after_a_week(workspace: Path) -> None:
    folders = [workspace / "incoming" / name for name in ("tmpold", "tmpnew")]
    for folder, days in zip(folders, (8, 2), strict=True):
        folder.mkdir(parents=True)
        (folder / "upload").write_bytes(b"12345")
        for path in (folder / "upload", folder):
            os.utime(path, (time.time() - days * 86400.0,) * 2)
    assert sweep() == 5
    assert names(workspace / "incoming") == ["tmpnew"]


def test_a_folder_that_was_moved_aside_comes_back(workspace: Path) -> None:
    aside = workspace / "zoos" / ".mine.sane-old.0a1b2c3d"
    write(aside / "mine", "the last whole one")
    sweep(older_than=-1)
    assert read(workspace / "zoos" / "mine") == "the last whole one" and names(workspace / "zoos") == ["mine"]


RACER = """
import json, os, sys, time
from pathlib import Path
from sane_engine.workspace import atomic_folder
target, me, start = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
time.sleep(max(0, start - time.time()))
for number in range(12):
    with atomic_folder(target) as temporary:
        for name in ("a", "b", "c"):
            (temporary / name).write_text(f"{me} {number}")
    # Whoever wrote last, the item is there, whole, and never missing: a descriptor holds one state of it.
    folder = os.open(target, os.O_RDONLY)
    try:
        found = {open(os.open(name, os.O_RDONLY, dir_fd=folder)).read() for name in ("a", "b", "c")}
        assert len(found) == 1, found
    except FileNotFoundError:
        pass  # the state that was opened has been replaced and removed since
    os.close(folder)
"""


def test_sixteen_processes_race_for_one_key(tmp_path: Path) -> None:
    target = tmp_path / "key"
    start = time.time() + 3
    racers = [
        subprocess.Popen([sys.executable, "-W", "error", "-c", RACER, str(target), str(me), str(start)])
        for me in range(16)
    ]
    assert [racer.wait(120) for racer in racers] == [0] * 16
    contents = {(target / name).read_text() for name in "abc"}
    assert len(contents) == 1 and names(tmp_path) == ["key"]
    assert json.dumps(sorted(path.name for path in target.iterdir())) == '["a", "b", "c"]'
