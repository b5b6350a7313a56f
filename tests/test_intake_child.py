"""The child: it never outlives who asked, it reports progress, and its limits can be set from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from attacks import endless, torch_bytes

from sane_engine.checkpoint import Refusal
from sane_engine.intake import DEFAULT_LIMITS, configured_limits, load_checkpoint, load_each, with_settings
from sane_engine.intake.child import source_bytes
from sane_engine.intake.limits import GIB

LOADS = """
import sys
from sane_engine.intake import load_checkpoint
load_checkpoint(sys.argv[1])
"""

HOLDS_THE_PIPE = """
import os, sys, time
from sane_engine.intake import child, load_checkpoint
def fork():
    # Another child of the same parent, which has copies of all its pipes and lives on.
    if not os.fork():
        time.sleep(8)
        os._exit(0)
started = child.subprocess.Popen
def noted(*arguments, **keywords):
    process = started(*arguments, **keywords)
    fork()
    return process
child.subprocess.Popen = noted
load_checkpoint(sys.argv[1])
"""

NO_SIGNAL = """
import sys
from sane_engine.intake import child, load_checkpoint
# As on a system without prctl: the child is started through a process that stands between.
command = [sys.executable, "-c", "import sys; sys.platform = 'other'; sys.argv = ['x'];"
           "from sane_engine.intake.worker import main; main()"]
started = child.subprocess.Popen
child.subprocess.Popen = lambda _command, **keywords: started(command, **keywords)
load_checkpoint(sys.argv[1])
"""


def test_only_an_index_of_shards_makes_a_folder_be_looked_through_and_that_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[Path] = []
    listed = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: looked.append(path) or listed(path))
    for name, size in (("1.pt", 1000), ("1.json", 10), ("a.safetensors.index.json", 100)):
        (tmp_path / name).write_bytes(bytes(size))
    (tmp_path / "b.safetensors.index.fp16.json").write_bytes(bytes(1))
    found = {path.name: source_bytes(path) for path in sorted(tmp_path.glob("*"))}
    assert found == {
        "1.json": 10,
        "1.pt": 1000,
        "a.safetensors.index.json": 1111,
        "b.safetensors.index.fp16.json": 1111,
    }
    assert source_bytes(tmp_path) == 1111 and source_bytes(tmp_path / "absent.pt") == 0
    looked.clear()
    list(load_each([*tmp_path.glob("*.json"), tmp_path]))
    assert looked == [tmp_path]


def _readers(marker: str) -> list[int]:
    """Processes of the intake that have this file open."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                command = (process / "cmdline").read_bytes()
                opened = [str(link.readlink()) for link in (process / "fd").iterdir()]
            except OSError:
                continue
            if (b"sane_engine.intake" in command or b"worker" in command) and marker in opened:
                found.append(int(process.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc to see the child")
@pytest.mark.parametrize("program", [LOADS, HOLDS_THE_PIPE, NO_SIGNAL])
def test_the_child_ends_with_a_parent_that_is_killed(tmp_path: Path, program: str) -> None:
    path = tmp_path / "slow.pt"
    path.write_bytes(endless(9_000_000))
    parent = subprocess.Popen([sys.executable, "-c", program, str(path)], cwd=Path(__file__).parent.parent)
    try:
        deadline = time.monotonic() + 30
        while not (readers := _readers(str(path))) and time.monotonic() < deadline:
            assert parent.poll() is None
            time.sleep(0.05)
        assert len(readers) == 1
    finally:
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
    deadline = time.monotonic() + 3
    while _readers(str(path)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _readers(str(path))


def test_progress_counts_the_bytes_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    torch.save({"w": torch.zeros(60_000_000, dtype=torch.uint8)}, path)
    seen: list[tuple[int, int, str]] = []
    load_checkpoint(path, progress=lambda done, total, message: seen.append((done, total, message)))
    assert all(total == path.stat().st_size for _, total, _ in seen)
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)
    assert all(message == "reading m.pt" for *_, message in seen)


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("file_bytes=64GiB", "file_bytes", 64 * GIB),
        ("file_bytes=1.5GB", "file_bytes", 1_500_000_000),
        ("tensors=7", "tensors", 7),
        ("seconds=0.5", "seconds", 0.5),
        (" memory_bytes = 300 MB ", "memory_bytes", 300_000_000),
    ],
)
def test_limits_are_set_by_name_with_units(text: str, name: str, value: float) -> None:
    changed = with_settings(DEFAULT_LIMITS, [text])
    assert getattr(changed, name) == value
    assert type(getattr(changed, name)) is type(getattr(DEFAULT_LIMITS, name))


@pytest.mark.parametrize("text", ["", "tensors", "tensors=", "tensors=-1", "tensors=0", "tensors=x", "tensorz=5"])
def test_a_limit_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(Refusal) as caught:
        with_settings(DEFAULT_LIMITS, [text])
    assert caught.value.code == "bad-limit"


def test_the_environment_sets_limits_for_everyone(monkeypatch: pytest.MonkeyPatch) -> None:
    data = torch_bytes({"a": torch.ones(1), "b": torch.ones(1)})
    monkeypatch.setenv("SANE_LIMITS", "tensors=1, seconds=20")
    assert (configured_limits().tensors, configured_limits().seconds) == (1, 20.0)
    with pytest.raises(Refusal) as caught:
        load_checkpoint(data)
    assert caught.value.code == "too-large"
    monkeypatch.setenv("SANE_LIMITS", "")
    assert configured_limits() == DEFAULT_LIMITS
    assert len(load_checkpoint(data).tensors) == 2
