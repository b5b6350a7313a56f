"""Broken, foreign, hand-made and oversized files: each has one refusal that names what is wrong."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import tarfile
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from .case import Case
from .makers import (
    encrypted_zip,
    global_call,
    npy,
    overlapping_zip,
    rewritten,
    safetensors_bytes,
    torch_bytes,
    with_pickle,
    zip_bytes,
)

STATE = {"layer.weight": torch.linspace(-1, 1, 1200).reshape(30, 40), "layer.bias": torch.linspace(0, 1, 30)}
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


REBUILD = "ctorch._utils\n_rebuild_tensor_v2\n"
STORAGE = "(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"


def tensor(shape: str, stride: str, offset: str = "K\x00") -> bytes:
    """A pickle with one hand-written tensor over a storage of four floats."""
    return f"\x80\x02}}X\x01\x00\x00\x00w{REBUILD}({STORAGE}{offset}{shape}{stride}\x89}}tRs.".encode("latin-1")


_CASES: dict[str, tuple[str, bytes | Callable[[], bytes]]] = {
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
    "hdf5": ("unsupported", b"\x89HDF\r\n\x1a\n" + b"\0" * 100),
    "torchscript": ("torchscript", torchscript),
    "encrypted": ("encrypted", encrypted_zip),
    "empty zip": ("empty-archive", zip_bytes({})),
    "zip with a folder only": ("empty-archive", zip_bytes({"folder/": b""})),
    "zip of notes": ("no-checkpoints", zip_bytes({"readme.txt": b"hello", "a.html": b"<html>"})),
    "zip with one truncated": ("truncated", zip_bytes({"m.pt": ZIP[:3000], "notes.txt": b"x"})),
    "overlapping entries": ("damaged", overlapping_zip),
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


def cases() -> list[Case]:
    """Every file of this list."""

    def maker(content: bytes | Callable[[], bytes]) -> Callable[[object], bytes]:
        return lambda _marker: content() if callable(content) else content

    return [Case(name, "refusal", maker(content), code) for name, (code, content) in _CASES.items()]
