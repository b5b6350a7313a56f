"""Files made by hand to exhaust, confuse or mislead a reader."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from .case import LINK, Case, Files
from .makers import (
    field,
    npy,
    onnx_floats,
    onnx_model,
    onnx_tensor,
    safetensors_bytes,
    torch_bytes,
    varint,
    with_pickle,
    zip_bytes,
)

ONES = torch_bytes({"w": torch.ones(4)})
_TEXT = b"X\x01\x00\x00\x00w"


def _bzip2() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("a.pt", ONES)
    return buffer.getvalue()


def _declared_smaller(data: bytes) -> bytes:
    """A zip whose directory says that its entry is 10 bytes long once unpacked."""
    broken = bytearray(data)
    at = data.index(b"PK\x01\x02")
    broken[at + 24 : at + 28] = struct.pack("<I", 10)
    return bytes(broken)


def _declared_larger(data: bytes) -> bytes:
    broken = bytearray(data)
    at = data.index(b"PK\x01\x02")
    broken[at + 24 : at + 28] = struct.pack("<I", 2**31)
    return bytes(broken)


def _wrong_crc(data: bytes) -> bytes:
    broken = bytearray(data)
    at = data.index(b"PK\x01\x02")
    broken[at + 16 : at + 20] = b"\1\2\3\4"
    return bytes(broken)


def _many_entries(count: int) -> bytes:
    return zip_bytes({f"{i}.txt": b"" for i in range(count)}, deflate=False)


def _matryoshka(depth: int) -> bytes:
    data = zip_bytes({"m.pt": ONES})
    for _ in range(depth - 1):
        data = zip_bytes({"inner.zip": data})
    return data


def _nested_bomb() -> bytes:
    """Each level stays below the ratio that is allowed for one entry; together they are beyond any."""
    kernel = zip_bytes({f"{i}.pt": bytes(900_000) for i in range(60)})
    return zip_bytes({f"{i}.zip": kernel for i in range(400)})


def _deep(opcode: bytes, depth: int, close: bytes) -> bytes:
    return with_pickle(b"\x80\x02" + opcode * depth + close * (depth - 1) + b".")


def _laughs() -> bytes:
    """Lists that hold the one before twice: 2⁶⁰ entries for whoever walks without remembering where it was."""
    return with_pickle(b"\x80\x02]" + b"q\x000](h\x00h\x00e" * 60 + b".")


def _tuple_laughs() -> bytes:
    """The same of tuples, as a dict's key: hashing visits all of it."""
    return with_pickle(b"\x80\x02}N" + b"q\x01h\x01\x86" * 60 + b"K\x01s.")


def _amplified() -> bytes:
    """One long text, encoded again and again; every time it is copied."""
    text = b"X" + struct.pack("<I", 2_000_000) + b"a" * 2_000_000
    call = b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R"
    return with_pickle(b"\x80\x02" + text + b"q\x00](" + call * 4000 + b"e.")


def _long_integer() -> bytes:
    return with_pickle(b"\x80\x02\x8b" + struct.pack("<I", 2**31 - 1) + b"\x01.")


def _sparse(indices: object, values: object, size: tuple[int, ...], *, coalesced: object = None) -> bytes:
    """A sparse tensor that torch itself would not make."""

    class Made:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            parts = (indices, values, torch.Size(size))
            data = parts if coalesced is None else (*parts, coalesced)
            return (torch._utils._rebuild_sparse_tensor, (torch.sparse_coo, data))

    return torch_bytes({"w": Made()})


def _compressed(pointers: list[int], indices: list[int], size: tuple[int, ...]) -> bytes:
    class Made:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            data = (torch.tensor(pointers), torch.tensor(indices), torch.ones(len(indices)), torch.Size(size))
            return (torch._utils._rebuild_sparse_tensor, (torch.sparse_csr, data))

    return torch_bytes({"w": Made()})


def _safetensors(entries: Mapping[str, object], data: bytes) -> bytes:
    return safetensors_bytes(json.dumps(entries), data)


def _too_many_tensors() -> bytes:
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    return _safetensors({f"t{i}": entry for i in range(200_001)}, b"")


def _external(location: str, **entries: str) -> bytes:
    pairs = {"location": location, **entries}
    fields = b"".join(field(13, field(1, key) + field(2, value)) for key, value in pairs.items())
    return onnx_model(field(5, onnx_tensor("w", 1, (2,), fields, field(14, 1))))


def _sharded(weight_map: Mapping[str, str], shards: Mapping[str, bytes]) -> Files:
    index = json.dumps({"weight_map": weight_map}).encode()
    return {"model.safetensors.index.json": index, **shards}


def _shard(*names: str) -> bytes:
    entries = {
        name: {"dtype": "F32", "shape": [1], "data_offsets": [4 * i, 4 * i + 4]} for i, name in enumerate(names)
    }
    return _safetensors(entries, bytes(4 * len(names)))


def _one(value: Tensor) -> bytes:
    return torch_bytes({"w": value})


FLOATS = onnx_floats("w", [1.0, 2.0], (2,))
BIG = "(" + "9" * 4000 + ",)"

_ZIPS: dict[str, tuple[str, Callable[[], bytes | Files]]] = {
    "compressed with bzip2": ("unsupported", _bzip2),
    "entry larger than declared": ("damaged", lambda: _declared_smaller(zip_bytes({"a.pt": ONES}))),
    "entry smaller than declared": ("too-large", lambda: _declared_larger(zip_bytes({"a.pt": ONES}))),
    "wrong checksum": ("damaged", lambda: _wrong_crc(zip_bytes({"a.pt": ONES}))),
    "wrong checksum of a torch file's pickle": ("damaged", lambda: _wrong_crc(ONES)),
    "something before the archive": ("damaged", lambda: b"\x01\x02\x03\x04" * 64 + zip_bytes({"a.pt": ONES})),
    "30,000 entries": ("too-large", lambda: _many_entries(30_000)),
    "two entries of one name": ("damaged", lambda: _twice()),
    "three archives deep": ("nested-archive", lambda: _matryoshka(3)),
    "thirty archives deep": ("nested-archive", lambda: _matryoshka(30)),
    "bombs in an archive": ("too-large", _nested_bomb),
    "a symbolic link as entry": ("no-checkpoints", lambda: _link_entry()),
}

_PICKLES: dict[str, tuple[str, Callable[[], bytes | Files]]] = {
    "lists, 200,000 deep": ("no-tensors", lambda: _deep(b"]", 200_000, b"a")),
    "tuples, 200,000 deep": ("no-tensors", lambda: with_pickle(b"\x80\x02)" + b"\x85" * 200_000 + b".")),
    "exponentially shared lists": ("no-tensors", _laughs),
    "exponentially shared tuples as a key": ("no-tensors", _tuple_laughs),
    "a text copied until memory ends": ("too-large", _amplified),
    "an integer of gigabytes": ("too-large", _long_integer),
    "a frame longer than the file": ("truncated", lambda: with_pickle(b"\x80\x04\x95" + b"\xff" * 7 + b"\x00")),
    "memo never written": ("damaged", lambda: with_pickle(b"\x80\x02h\x07.")),
    "APPEND to a number": ("damaged", lambda: with_pickle(b"\x80\x02K\x01K\x02a.")),
    "only marks": ("damaged", lambda: with_pickle(b"\x80\x02((((.")),
    "storage with a path as key": (
        "damaged",
        lambda: with_pickle(
            b"\x80\x02}" + _TEXT + b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x0b\x00\x00\x00../../../x/y"
            b"X\x03\x00\x00\x00cpuK\x04tQs."
        ),
    ),
    "33 axes": ("too-large", lambda: _one(torch.ones([1] * 33))),
    "a name of a million letters": ("no-tensors", lambda: torch_bytes({"x" * 1_000_000: torch.ones(1)})),
}

_SPARSE: dict[str, tuple[str, Callable[[], bytes | Files]]] = {
    "index outside": ("damaged", lambda: _sparse(torch.tensor([[0, 9]]), torch.ones(2), (4,))),
    "negative index": ("damaged", lambda: _sparse(torch.tensor([[0, -1]]), torch.ones(2), (4,))),
    "more values than indices": ("damaged", lambda: _sparse(torch.tensor([[0, 1]]), torch.ones(3), (4,))),
    "indices that are no integers": ("damaged", lambda: _sparse(torch.ones(1, 2), torch.ones(2), (4,))),
    "indices of more axes than the tensor": (
        "damaged",
        lambda: _sparse(torch.zeros(2, 1, dtype=torch.int64), torch.ones(1), (4,)),
    ),
    "says that it is in order": (
        "damaged",
        lambda: _sparse(torch.tensor([[3, 1]]), torch.ones(2), (4,), coalesced=True),
    ),
    "no tensor inside": ("damaged", lambda: _sparse([[0]], torch.ones(1), (4,))),
    "a petabyte once dense": (
        "too-large",
        lambda: _sparse(torch.zeros(1, 1, dtype=torch.int64), torch.ones(1), (2**48,)),
    ),
    "a gigabyte once dense": (
        "too-large",
        lambda: _sparse(torch.zeros(1, 1, dtype=torch.int64), torch.ones(1), (2**28,)),
    ),
    "negative size": ("damaged", lambda: _sparse(torch.zeros(1, 1, dtype=torch.int64), torch.ones(1), (-4,))),
    "rows that end before they begin": ("damaged", lambda: _compressed([0, 2, 1], [0], (2, 3))),
    "rows with a column outside": ("damaged", lambda: _compressed([0, 1, 2], [0, 3], (2, 3))),
    "rows that promise more than there is": ("damaged", lambda: _compressed([0, 1, 9], [0, 1], (2, 3))),
    "quantised weights only": (
        "quantised",
        lambda: _one(torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8)),
    ),
}

_HEADERS: dict[str, tuple[str, Callable[[], bytes | Files]]] = {
    "200,001 tensors": ("too-large", _too_many_tensors),
    "data behind the end": (
        "truncated",
        lambda: _safetensors({"w": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}, b"\0" * 8),
    ),
    "a size of 4,000 digits": ("damaged", lambda: npy(f"{{'descr':'<f4','fortran_order':False,'shape':{BIG}}}")),
    "a header of numbers": ("not-a-checkpoint", lambda: safetensors_bytes("[1, 2, 3]   ", b"")),
    "an entry that is a number": ("damaged", lambda: safetensors_bytes('{"w": 5}', b"")),
    "sizes whose product wraps round": (
        "too-large",
        lambda: _safetensors({"w": {"dtype": "F32", "shape": [2**32, 2**32], "data_offsets": [0, 0]}}, b""),
    ),
    "a size that is a fraction": (
        "damaged",
        lambda: _safetensors({"w": {"dtype": "F32", "shape": [0.5], "data_offsets": [0, 2]}}, b"\0\0"),
    ),
    "only a type of four bits": (
        "no-tensors",
        lambda: _safetensors({"w": {"dtype": "F4", "shape": [4], "data_offsets": [0, 2]}}, b"\0\0"),
    ),
    "metadata that is no text": ("damaged", lambda: safetensors_bytes('{"__metadata__": {"a": 5}}', b"")),
    "an array with a huge header": ("damaged", lambda: npy("{'descr':" + " " * 20_000 + "'<f4'}")),
    "an array whose header is code": ("damaged", lambda: npy("(lambda: 1)()")),
    "an array of two columns only": ("no-tensors", lambda: _columns()),
    "an array of text only": ("no-tensors", lambda: _savez(np.array(["a", "b"]))),
}

_ONNX: dict[str, tuple[str, Callable[[], bytes | Files]]] = {
    "cut off": ("truncated", lambda: onnx_model(FLOATS)[:-9]),
    "cut off in a number": ("truncated", lambda: onnx_model(FLOATS)[:12] + b"\xff"),
    "fewer bytes than the shape": ("damaged", lambda: onnx_model(onnx_floats("w", [1.0], (2,)))),
    "a shape of petabytes": ("too-large", lambda: onnx_model(onnx_floats("w", [1.0], (2**40, 2**10)))),
    "a negative size": ("damaged", lambda: onnx_model(onnx_floats("w", [1.0], (-1,)))),
    "33 axes": ("too-large", lambda: onnx_model(onnx_floats("w", [1.0], (1,) * 33))),
    "one name twice": ("damaged", lambda: onnx_model(FLOATS, FLOATS)),
    "a field longer than its message": ("damaged", lambda: _long_field()),
    "a number without end": ("damaged", lambda: field(1, 8) + b"\x12" + b"\xff" * 40),
    "groups, which nobody writes": ("damaged", lambda: field(1, 8) + b"\x12\x00" + b"\x0b\x0c" * 20),
    "no graph": ("not-a-checkpoint", lambda: field(1, 8) + field(2, "nobody")),
    "a graph without weights": ("no-tensors", lambda: onnx_model(field(2, "empty"))),
    "text only": ("no-tensors", lambda: onnx_model(field(5, onnx_tensor("w", 8, (1,), field(6, "a"))))),
    "types of four bits only": (
        "no-tensors",
        lambda: onnx_model(field(5, onnx_tensor("w", 22, (2,), field(9, b"1")))),
    ),
    "data elsewhere, which is not here": ("external-data", lambda: _external("weights.bin")),
    "data in the folder above": ("damaged", lambda: {"m.onnx": _external("../weights.bin")}),
    "data at an absolute path": ("damaged", lambda: {"m.onnx": _external("/etc/hostname")}),
    "data behind a link": ("external-data", lambda: {"m.onnx": _external("d"), "d": LINK + b"/etc/hostname"}),
    "data that is too short": ("truncated", lambda: {"m.onnx": _external("d"), "d": b"\0" * 4}),
    "data at no number": ("damaged", lambda: {"m.onnx": _external("d", offset="-8"), "d": b"\0" * 8}),
    "data in an archive": ("external-data", lambda: zip_bytes({"m.onnx": _external("d"), "d": b"\0" * 8})),
    "two million fields": ("too-large", lambda: field(1, 8) + field(2, "x") + field(3, "") * 2_000_000),
    "a sparse index outside": ("damaged", lambda: onnx_model(field(15, _onnx_sparse((9,))))),
}

_SHARDS: dict[str, tuple[str, Callable[[], bytes | Files]]] = {
    "a shard is missing": ("missing-shard", lambda: _sharded({"a": "1.safetensors"}, {})),
    "a shard above the folder": ("damaged", lambda: _sharded({"a": "../1.safetensors"}, {})),
    "a shard by a Windows path": ("damaged", lambda: _sharded({"a": "C:\\1.safetensors"}, {})),
    "a shard is a pickle": ("unsupported", lambda: _sharded({"a": "1.bin"}, {"1.bin": ONES})),
    "a tensor that no shard has": (
        "damaged",
        lambda: _sharded({"a": "1.safetensors", "b": "1.safetensors"}, {"1.safetensors": _shard("a")}),
    ),
    "an index of nothing": ("damaged", lambda: _sharded({}, {})),
}


def _twice() -> bytes:
    import warnings

    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("a.pt", ONES)
        archive.writestr("a.pt", ONES)
    return buffer.getvalue()


def _link_entry() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        info = zipfile.ZipInfo("weights.pt")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/hostname")
    return buffer.getvalue()


def _savez(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, w=array)
    return buffer.getvalue()


def _columns() -> bytes:
    return _savez(np.zeros(3, dtype=[("a", "<f4"), ("b", "<i8")]))


def _long_field() -> bytes:
    inner = varint(8 << 3 | 2) + varint(500) + b"w"
    return field(1, 8) + field(7, field(5, inner)) + field(2, "x" * 600)


def _onnx_sparse(where: tuple[int, ...]) -> bytes:
    values = onnx_tensor("w", 1, (len(where),), field(9, struct.pack(f"<{len(where)}f", *where)))
    indices = onnx_tensor("", 7, (len(where),), field(9, struct.pack(f"<{len(where)}q", *where)))
    return field(1, values) + field(2, indices) + field(3, 4)


def cases() -> list[Case]:
    """Every file of these lists."""
    groups = {
        "zip": _ZIPS,
        "pickle": _PICKLES,
        "sparse, quantised": _SPARSE,
        "header": _HEADERS,
        "onnx": _ONNX,
        "shards": _SHARDS,
    }

    def maker(make: Callable[[], bytes | Files]) -> Callable[[object], bytes | Files]:
        return lambda _marker: make()

    return [
        Case(f"{group}: {name}", group, maker(make), code)
        for group, table in groups.items()
        for name, (code, make) in table.items()
    ]
