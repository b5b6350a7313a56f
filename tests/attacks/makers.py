"""How files of every container are put together, and taken apart, byte by byte."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from pathlib import Path

import torch


class Payload:
    """Unpickling this writes a file: the positive control that a pickle can run code at all."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, (f"import pathlib; pathlib.Path({str(self.marker)!r}).write_text('it ran')",))


def torch_bytes(content: object, *, legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def zip_bytes(members: dict[str, bytes], *, deflate: bool = True) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def rewritten(data: bytes, changes: dict[str, bytes | None]) -> bytes:
    """A torch zip with entries (named without the root folder) replaced, or left out where None."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for name in list(members):
        rest = name.partition("/")[2]
        if rest in changes:
            replacement = changes[rest]
            if replacement is None:
                del members[name]
            else:
                members[name] = replacement
    return zip_bytes(members, deflate=False)


def with_pickle(program: bytes) -> bytes:
    """A torch zip whose pickle is ``program`` and whose only storage is 16 bytes."""
    return rewritten(torch_bytes({"weight": torch.zeros(4)}), {"data.pkl": program})


def safetensors_bytes(header: str, data: bytes) -> bytes:
    encoded = header.encode()
    return struct.pack("<Q", len(encoded)) + encoded + data


def global_call(module: str, name: str, arguments: bytes = b")") -> bytes:
    """Protocol-2 pickle of ``module.name(*arguments)`` in a dict, written by hand."""
    return b"\x80\x02}X\x01\x00\x00\x00wc" + f"{module}\n{name}\n".encode() + arguments + b"Rs."


def endless(opcodes: int) -> bytes:
    """A legacy torch file whose pickle keeps a reader busy."""
    head = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2)
    return head + b"\x80\x02" + b"N0" * (opcodes // 2) + b"}."


def encrypted_zip() -> bytes:
    """A zip whose entry bears the flag of a password; the bytes themselves do not matter."""
    data = bytearray(zip_bytes({"weights.pt": b"secret" * 10}, deflate=False))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    return bytes(data)


def overlapping_zip() -> bytes:
    """Two directory entries that share one run of bytes: the trick of archives that unpack to petabytes."""
    data = zip_bytes({"a.pt": b"x" * 50, "b.pt": b"x" * 50}, deflate=False)
    first = data.index(b"PK\x01\x02")
    second = data.index(b"PK\x01\x02", first + 4)
    broken = bytearray(data)
    broken[second + 42 : second + 46] = data[first + 42 : first + 46]
    return bytes(broken)


def npy(header: str, data: bytes = b"") -> bytes:
    """An .npz with one array ``w`` whose header is ``header``."""
    encoded = header.encode()
    return zip_bytes({"w.npy": b"\x93NUMPY\x01\x00" + struct.pack("<H", len(encoded)) + encoded + data})


def varint(number: int) -> bytes:
    """A number as protocol buffers write it; a negative one has ten bytes."""
    number &= 2**64 - 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def field(number: int, value: int | bytes | str) -> bytes:
    """One field of a protocol buffer: a number, or bytes behind their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def onnx_tensor(name: str, code: int, dims: tuple[int, ...], *rest: bytes) -> bytes:
    """A TensorProto; ``rest`` are its data fields."""
    return b"".join(field(1, size) for size in dims) + field(2, code) + b"".join(rest) + field(8, name)


def onnx_model(*graph: bytes) -> bytes:
    """An ONNX file around the fields of a graph."""
    return field(1, 8) + field(2, "by hand") + field(7, b"".join(graph)) + field(8, field(2, 17))


def onnx_floats(name: str, values: list[float], dims: tuple[int, ...]) -> bytes:
    """The field of a graph with one float initialiser."""
    return field(5, onnx_tensor(name, 1, dims, field(9, struct.pack(f"<{len(values)}f", *values))))
