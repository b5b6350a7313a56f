"""What is not loaded: every refusal has its code, one line, and nothing of this machine in it."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import attacks
import pytest
import torch
from attacks import global_call, torch_bytes, with_pickle, zip_bytes

from sane_engine.checkpoint import Refusal
from sane_engine.intake import Limits, load_checkpoint, load_checkpoints, load_each
from sane_engine.intake.load import _names
from sane_engine.progress import Cancelled

STATE = {"layer.weight": torch.randn(30, 40), "layer.bias": torch.randn(30)}
ZIP = torch_bytes(STATE)


def test_the_same_bytes_are_refused_in_one_call() -> None:
    with pytest.raises(Refusal, match=r"posix\.system") as caught:
        load_checkpoint(with_pickle(global_call("posix", "system")), name="model.pt")
    assert caught.value.code == "pickled-code"


@pytest.mark.parametrize("how", ["torch", "legacy", "pickle", "zipped"])
def test_pickled_code_does_not_run(tmp_path: Path, how: str) -> None:
    marker = tmp_path / "it-ran"
    content = {"state_dict": STATE, "extra": attacks.Payload(marker)}
    plain = pickle.dumps({"extra": attacks.Payload(marker)})
    pickle.loads(plain)
    assert marker.exists(), "the payload itself does not work, so the test would prove nothing"
    marker.unlink()
    data = plain if how == "pickle" else torch_bytes(content, legacy=how == "legacy")
    if how == "zipped":
        data = zip_bytes({"a.pt": data})
    with pytest.raises(Refusal, match=r"builtins\.exec") as caught:
        load_checkpoints(data)
    assert caught.value.code == "pickled-code"
    assert not marker.exists()


def test_one_bad_member_does_not_hide_the_good_ones(tmp_path: Path) -> None:
    marker = tmp_path / "it-ran"
    data = zip_bytes(
        {"good.pt": ZIP, "bad.pt": torch_bytes({"extra": attacks.Payload(marker)}), "cut.pt": ZIP[:2000]}
    )
    (checkpoint,) = load_checkpoints(data)
    assert list(checkpoint.tensors) == list(STATE)
    assert [name for name, _ in checkpoint.provenance.ignored] == ["bad.pt", "cut.pt"]
    assert not marker.exists()


def test_hostile_member_names_lead_nowhere(tmp_path: Path) -> None:
    names = ["../../escape.pt", "/etc/absolute.pt", "C:\\windows\\x.pt", "a\u202eb\n.pt", "same.pt", "./same.pt"]
    folder = tmp_path / "inner" / "most"
    folder.mkdir(parents=True)
    (folder / "archive.zip").write_bytes(zip_bytes({name: torch_bytes({"w": torch.ones(1)}) for name in names}))
    before = sorted(tmp_path.rglob("*"))
    found = [checkpoint.name for checkpoint in load_checkpoints(folder / "archive.zip")]
    assert len(set(found)) == len(names)
    assert all(name.isprintable() and ".." not in name and not name.startswith("/") for name in found)
    assert sorted(tmp_path.rglob("*")) == before


def test_thousands_of_members_of_one_name_are_told_apart_in_no_time() -> None:
    # Outside of the child that can be killed: what grows faster than the archive hangs the server.
    many = 20_000
    found = _names([*["../a.pt"] * many, "a.pt (3)", "b.pt", "a.pt"], "archive")
    assert len(set(found)) == many + 3
    assert found[:3] == ["a.pt", "a.pt (2)", "a.pt (3)"]
    assert found[many:] == ["a.pt (3) (2)", "b.pt", f"a.pt ({many + 1})"]
    assert _names(["a (2)", "a", "a", "a"], "archive") == ["a (2)", "a", "a (3)", "a (4)"]


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for source, code in [("absent.pt", "missing"), (".", "folder"), ("pipe", "unreadable")]:
        started = time.monotonic()
        with pytest.raises(Refusal) as caught:
            load_checkpoint(tmp_path / source)
        assert caught.value.code == code
        assert str(tmp_path) not in caught.value.line()
        assert time.monotonic() - started < 10


def test_a_slow_file_is_stopped_and_the_next_one_is_read(tmp_path: Path) -> None:
    (tmp_path / "0.pt").write_bytes(attacks.endless(9_000_000))
    (tmp_path / "1.pt").write_bytes(ZIP)
    limits = Limits(seconds=1.5, bytes_per_second=2**40)
    started = time.monotonic()
    slow, good = load_each([tmp_path / "0.pt", tmp_path / "1.pt"], limits=limits)
    assert isinstance(slow, Refusal)
    assert slow.code in {"took-too-long", "reader-died"}
    assert not isinstance(good, Refusal)
    assert time.monotonic() - started < 8


def test_a_pickle_has_a_ceiling_of_steps() -> None:
    with pytest.raises(Refusal, match="steps") as caught:
        load_checkpoint(attacks.endless(20_000), limits=Limits(pickle_opcodes=10_000))
    assert caught.value.code == "too-large"


def test_waiting_can_be_cancelled(tmp_path: Path) -> None:
    (tmp_path / "slow.pt").write_bytes(attacks.endless(9_000_000))
    started = time.monotonic()
    with pytest.raises(Cancelled):
        load_checkpoint(tmp_path / "slow.pt", cancelled=lambda: time.monotonic() - started > 0.5)
    assert time.monotonic() - started < 5


def test_memory_has_a_ceiling() -> None:
    data = torch_bytes({"w": torch.zeros(3000, 4000).T})
    with pytest.raises(Refusal) as caught:
        load_checkpoint(data, limits=Limits(memory_bytes=150 * 2**20))
    assert caught.value.code in {"too-large", "reader-died"}
    assert load_checkpoint(data).tensors["w"].shape == (4000, 3000)


@pytest.mark.parametrize(
    ("changes", "data"),
    [
        ({"file_bytes": 1000}, ZIP),
        ({"tensor_bytes": 1000}, ZIP),
        ({"tensors": 1}, ZIP),
        ({"archive_members": 1}, zip_bytes({"a.pt": ZIP, "b.pt": ZIP})),
        ({"archive_bytes": 1000}, zip_bytes({"a.pt": ZIP, "b.pt": ZIP})),
    ],
)
def test_every_ceiling_holds(changes: dict[str, int], data: bytes) -> None:
    with pytest.raises(Refusal) as caught:
        load_checkpoints(data, limits=Limits(**changes))
    assert caught.value.code == "too-large"


def test_the_ceiling_on_files_of_an_archive_is_not_one_on_tensors() -> None:
    assert len(load_checkpoint(ZIP, limits=Limits(archive_members=1)).tensors) == 2


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    load_checkpoints(zip_bytes({"a.pt": ZIP, "b.npz": ZIP}))
    with pytest.raises(Refusal):
        load_checkpoint(b"text")
    assert not list(tmp_path.iterdir())


def test_the_child_is_gone_once_its_reader_stops_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """… and before the private folder is removed, into which it might still write."""
    path = tmp_path / "a.pt"
    path.write_bytes(torch_bytes({"w": torch.ones(2)}))
    children: list[subprocess.Popen[bytes]] = []
    started = subprocess.Popen

    def noted(*arguments: Any, **keywords: Any) -> subprocess.Popen[bytes]:
        children.append(started(*arguments, **keywords))
        return children[-1]

    alive: list[bool] = []
    monkeypatch.setattr(subprocess, "Popen", noted)
    leave = tempfile.TemporaryDirectory.__exit__

    def watched(self: tempfile.TemporaryDirectory[str], *arguments: Any) -> None:
        alive.append(children[0].poll() is None)
        leave(self, *arguments)

    monkeypatch.setattr(tempfile.TemporaryDirectory, "__exit__", watched)
    reading = load_each([path] * 500)
    next(reading)
    reading.close()
    assert alive == [False]


def test_the_child_never_imports_torch() -> None:
    modules = "sys, sane_engine.intake, sane_engine.intake.worker"
    code = f"import {modules}; assert not {{'torch', 'numpy'}} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("path", "code"), [("a\0b", "missing"), ("a" * 5000, "unreadable")])
def test_paths_that_cannot_exist(path: str, code: str) -> None:
    with pytest.raises(Refusal) as caught:
        load_checkpoint(path)
    assert caught.value.code == code


def test_a_lone_tensor_is_called_one() -> None:
    with pytest.raises(Refusal, match="one tensor without a name"):
        load_checkpoint(torch_bytes(torch.ones(2)))
