"""What is not loaded: every refusal has its code, one line, and nothing of this machine in it."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attacks
import numpy as np
import pytest
import torch
from attacks import global_call, rewritten, safetensors_bytes, torch_bytes, with_pickle, zip_bytes
from torch import nn

from sane_engine.checkpoint import Refusal
from sane_engine.intake import Limits, load_checkpoint, load_checkpoints, load_each
from sane_engine.progress import Cancelled

STATE = {"layer.weight": torch.randn(30, 40), "layer.bias": torch.randn(30)}
ZIP, LEGACY = torch_bytes(STATE), torch_bytes(STATE, legacy=True)


def tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("weights.pt"), io.BytesIO())
    return buffer.getvalue()


def optimizer() -> dict[str, object]:
    model = nn.Linear(3, 2)
    adam = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    adam.step()
    return adam.state_dict()


def torchscript() -> bytes:
    return zip_bytes(
        {"net/data.pkl": b"\x80\x02}.", "net/version": b"3", "net/constants.pkl": b"", "net/code/a.py": b""}
    )


def header(**changes: object) -> bytes:
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes
    return safetensors_bytes(json.dumps({"w": entry}), b"\0" * 8)


def npy(text: str, data: bytes = b"") -> bytes:
    encoded = text.encode()
    return zip_bytes({"w.npy": b"\x93NUMPY\x01\x00" + struct.pack("<H", len(encoded)) + encoded + data})


REBUILD = "ctorch._utils\n_rebuild_tensor_v2\n"
STORAGE = "(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"


def tensor(shape: str, stride: str, offset: str = "K\x00") -> bytes:
    """A pickle with one hand-written tensor over a storage of four floats."""
    return f"\x80\x02}}X\x01\x00\x00\x00w{REBUILD}({STORAGE}{offset}{shape}{stride}\x89}}tRs.".encode("latin-1")


CASES: dict[str, tuple[str, bytes | Callable[[], bytes]]] = {
    "nothing": ("empty", b""),
    "one byte": ("text", b"x"),
    "half a torch zip": ("truncated", ZIP[: len(ZIP) // 2]),
    "half a legacy file": ("truncated", LEGACY[: len(LEGACY) // 2]),
    "a legacy file cut in its pickle": ("truncated", LEGACY[:200]),
    "half a safetensors": ("truncated", header()[:-3]),
    "a safetensors cut in its header": ("truncated", header()[:20]),
    "git lfs": ("lfs-pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"),
    "web page": ("html-page", b"\n <!DOCTYPE html><html><body>Sign in</body></html>"),
    "text": ("text", b"just some words\n" * 500),
    "json": ("text", b'{"a": 1}'),
    "words that look like opcodes": ("text", b"cat\ndog\nindex\n"),
    "noise": ("not-a-checkpoint", np.random.default_rng(0).integers(128, 255, 9000).astype("u1").tobytes()),
    "zeros": ("damaged", b"\0" * 5000),
    "gzip": ("unsupported", gzip.compress(ZIP)),
    "tar": ("unsupported", tar),
    "onnx": ("unsupported", b"\x08\x07\x12\x07pytorch\x1a\x051.9.0:\x10"),
    "hdf5": ("unsupported", b"\x89HDF\r\n\x1a\n" + b"\0" * 100),
    "torchscript": ("torchscript", torchscript),
    "encrypted": ("encrypted", attacks.encrypted_zip),
    "empty zip": ("empty-archive", zip_bytes({})),
    "zip with a folder only": ("empty-archive", zip_bytes({"folder/": b""})),
    "zip of notes": ("no-checkpoints", zip_bytes({"readme.txt": b"hello", "a.html": b"<html>"})),
    "zip in zip": ("nested-archive", zip_bytes({"inner.zip": zip_bytes({"m.pt": ZIP})})),
    "zip with one truncated": ("truncated", zip_bytes({"m.pt": ZIP[:3000], "notes.txt": b"x"})),
    "overlapping entries": ("damaged", attacks.overlapping_zip),
    "bomb": ("too-large", zip_bytes({"zeros.pt": bytes(30_000_000)})),
    "losses": ("no-tensors", torch_bytes({"train_losses": [1.0, 2.0], "epoch": 3})),
    "a number": ("no-tensors", torch_bytes(5)),
    "a cycle": ("no-tensors", b"\x80\x02]q\x00h\x00a."),
    "optimizer": ("optimizer-only", lambda: torch_bytes(optimizer())),
    "optimizer in a dict": ("optimizer-only", lambda: torch_bytes({"optimizer": optimizer(), "epoch": 1})),
    "whole module": ("pickled-code", lambda: torch_bytes(nn.Linear(2, 2))),
    "plain pickle of tensors": ("pickled-code", pickle.dumps(STATE)),
    "system call": ("pickled-code", with_pickle(global_call("posix", "system", b"X\x04\x00\x00\x00true\x85"))),
    "system call, old": ("pickled-code", b"cposix\nsystem\n(S'true'\ntR."),
    "system call by INST": ("pickled-code", b"(S'true'\niposix\nsystem\n."),
    "system call, protocol 4": (
        "pickled-code",
        with_pickle(b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R."),
    ),
    "getattr": ("pickled-code", with_pickle(global_call("builtins", "getattr"))),
    "tensor constructor": ("pickled-code", with_pickle(global_call("torch", "FloatTensor", b"K\x64\x85"))),
    "torch.Tensor constructor": ("pickled-code", with_pickle(global_call("torch", "Tensor", b"K\x64\x85"))),
    "storage constructor": ("pickled-code", with_pickle(global_call("torch", "FloatStorage", b"K\x64\x85"))),
    "load from bytes": ("pickled-code", with_pickle(global_call("torch.storage", "_load_from_bytes"))),
    "bytearray": ("pickled-code", with_pickle(b"\x80\x05\x96\x02\x00\x00\x00\x00\x00\x00\x00ab.")),
    "bytearray by name": ("pickled-code", with_pickle(global_call("builtins", "bytearray"))),
    "extension registry": ("pickled-code", with_pickle(b"\x80\x02\x82\x01.")),
    "result called again": ("pickled-code", with_pickle(global_call("collections", "OrderedDict", b")R)"))),
    "unknown opcode": ("damaged", with_pickle(b"\x80\x02\xff.")),
    "stack underflow": ("damaged", with_pickle(b"\x80\x02R.")),
    "huge literal": ("too-large", with_pickle(b"\x80\x04\x8e\x00\x00\x00\x00\x00\x01\x00\x00.")),
    "storage too small": ("damaged", rewritten(ZIP, {"data/0": b"short"})),
    "storage missing": ("damaged", rewritten(ZIP, {"data/0": None})),
    "flipped bit": ("damaged", lambda: ZIP.replace(STATE["layer.bias"].numpy().tobytes(), b"\1" * 120)),
    "view outside": ("damaged", with_pickle(tensor("K\x05\x85", "K\x01\x85"))),
    "offset outside": ("damaged", with_pickle(tensor("K\x04\x85", "K\x01\x85", "K\x01"))),
    "negative stride": ("damaged", with_pickle(tensor("K\x02\x85", "J\xff\xff\xff\xff\x85"))),
    "boolean size": ("damaged", with_pickle(tensor("\x88\x85", "K\x01\x85"))),
    "stride 0 terabytes": ("too-large", with_pickle(tensor("J\x00\x00\x00\x7f\x85", "K\x00\x85"))),
    "stride 0 gigabytes": ("too-large", with_pickle(tensor("J\x00\x00\x00\x10\x85", "K\x00\x85"))),
    "header overlaps": (
        "damaged",
        safetensors_bytes(
            '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
            b"\0" * 4,
        ),
    ),
    "header twice": (
        "damaged",
        safetensors_bytes(
            '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
            b"\0" * 8,
        ),
    ),
    "header shape": ("damaged", header(shape=[3])),
    "header negative shape": ("damaged", header(shape=[-2, -1])),
    "header offsets": ("damaged", header(data_offsets=[8, 0])),
    "header deep": ("damaged", safetensors_bytes('{"a":' + "[" * 100_000, b"")),
    "bytes behind": ("damaged", header() + b"x"),
    "no tensors": ("no-tensors", safetensors_bytes("{}", b"")),
    "shard elsewhere": ("damaged", b'{"weight_map": {"w": "../../etc/passwd"}}'),
    "npy code": ("damaged", npy("__import__('os').system('true')")),
    "npy shape": ("damaged", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (9,)}", b"\0" * 8)),
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """All cases through one child, which must survive every one of them."""
    folder = tmp_path_factory.mktemp("hostile-place")
    for i, (_, content) in enumerate(CASES.values()):
        (folder / f"{i:03d}.pt").write_bytes(content() if callable(content) else content)
    return dict(zip(CASES, load_each(sorted(folder.iterdir())), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_a_refusal_has_a_code_and_one_line(case: str, outcomes: dict[str, object]) -> None:
    refusal = outcomes[case]
    assert isinstance(refusal, Refusal), refusal
    assert refusal.code == CASES[case][0], refusal.line()
    line = refusal.line()
    assert len(line) <= 200
    assert line.isprintable()
    assert str(refusal)[0].isupper() or ": " in str(refusal)
    assert refusal.hint.endswith((".", "…"))
    assert "hostile-place" not in line
    assert "stumbled" not in line
    assert "/" not in line.replace(".pt / .pth", "")


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
