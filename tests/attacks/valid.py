"""Unusual files that are all right: each has exactly these tensors."""

from __future__ import annotations

import io
import json
import pickle
import struct
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from .case import Case, Files
from .makers import (
    field,
    onnx_floats,
    onnx_model,
    onnx_tensor,
    rewritten,
    safetensors_bytes,
    torch_bytes,
    varint,
    zip_bytes,
)

Made = tuple[bytes | Files, Mapping[str, Tensor]]

W = torch.arange(12.0).reshape(3, 4)
NAMES = (
    *("=HYPERLINK(1)", "+1", "@SUM(A1)", "![x](http://x.invalid/x.png)", "<script>alert(1)</script>", "`code`"),
    *("../../etc/passwd", "/absolute", "C:\\windows", "a\u202eb", "new\nline", "", " ", "\x9b31m", "$x^2$", "名前"),
    *("__metadata", "state_dict", "x" * 1000),
)
"""Names that would do something in a spreadsheet, a page, a terminal or a shell."""


def _random(dtype: torch.dtype, shape: tuple[int, ...] = (3, 5)) -> Tensor:
    """Arbitrary bits, NaNs with payload included."""
    size = int(np.prod(shape)) * dtype.itemsize
    raw = torch.randint(0, 256, (size,), dtype=torch.uint8, generator=torch.Generator().manual_seed(size))
    return raw.view(dtype).reshape(shape)


def _types(*names: str) -> dict[str, Tensor]:
    return {name: _random(getattr(torch, name)) for name in names}


_PLAIN = _types("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8")
_SMALL = _types("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu")
_NEW = _types("uint16", "uint32", "uint64", "complex64")


def _views() -> Made:
    base = torch.arange(24.0).reshape(6, 4)
    state = {"rows": base[1:3], "columns": base[:, 1:3], "turned": base.T, "wide": torch.ones(2).expand(3, 2)}
    return torch_bytes(state), state


def _tied() -> Made:
    state = {"embedding": W, "head": W}
    return torch_bytes(state), state


def _sparse(tensor: Tensor, *, legacy: bool = False) -> Made:
    return torch_bytes({"w": tensor, "b": W}, legacy=legacy), {"w": tensor.to_dense(), "b": W}


def _repeated(dtype: torch.dtype) -> Tensor:
    values = torch.tensor([1, 2, 3, 4]).to(dtype)
    return torch.sparse_coo_tensor(torch.tensor([[0, 2, 0, 0], [1, 1, 1, 0]]), values, (3, 2))


def _hybrid() -> Tensor:
    return torch.sparse_coo_tensor(torch.tensor([[2, 0]]), torch.arange(8.0).reshape(2, 4), (3, 4)).coalesce()


def _partly_quantised() -> Made:
    quantised = torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8)
    return torch_bytes({"w": W, "q": quantised}), {"w": W}


def _numpy_in_pickle() -> Made:
    return pickle.dumps({"w": W.numpy(), "lr": 0.1}), {"w": W}


def _named(names: tuple[str, ...]) -> Mapping[str, Tensor]:
    return {name: torch.full((2,), float(i)) for i, name in enumerate(names)}


def _safetensors_sorted(state: Mapping[str, Tensor]) -> Made:
    """The official writer orders by type and name; offsets say the order that is expected back."""
    data = save(dict(state))
    header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    header.pop("__metadata__", None)
    order = sorted(header, key=lambda name: header[name]["data_offsets"])
    return data, {name: state[name] for name in order}


def _with_four_bits() -> Made:
    header = {
        "w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        "q": {"dtype": "F4", "shape": [4], "data_offsets": [4, 6]},
    }
    return safetensors_bytes(json.dumps(header), struct.pack("<f", 1.5) + b"\0\0"), {"w": torch.tensor([1.5])}


def _npz(compressed: bool) -> Made:
    arrays = {
        "fortran": np.asfortranarray(np.arange(20, dtype="<f4").reshape(4, 5)),
        "scalar": np.array(5.5),
        "big": np.arange(6, dtype=">f4").reshape(2, 3),
        "none": np.empty((0, 3), dtype="<f2"),
        "waves": np.array([1 + 2j, 3 - 4j], dtype=">c16"),
        "flags": np.array([True, False]),
    }
    table = np.zeros(3, dtype=[("a", "<f4"), ("b", "<i8")])
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **arrays, table=table, words=np.array(["a"]))
    expected = {
        name: torch.from_numpy(array.astype(array.dtype.newbyteorder("="))) for name, array in arrays.items()
    }
    return buffer.getvalue(), expected


def _big_endian() -> Made:
    swapped = W.numpy().byteswap().tobytes()
    return rewritten(torch_bytes({"w": W}), {"byteorder": b"big", "data/0": swapped}), {"w": W}


def _nested() -> Made:
    first, second = torch_bytes({"w": W}), save({"w": W + 1})
    inner = zip_bytes({"a.pt": first, "notes.txt": b"hello"})
    return zip_bytes({"run.zip": inner, "b.safetensors": second}), {
        "run.zip/a.pt/w": W,
        "b.safetensors/w": W + 1,
    }


def _sharded() -> Made:
    shards = {"1.safetensors": save({"a": W}), "2.safetensors": save({"b": W + 1})}
    weight_map = {"a": "1.safetensors", "b": "2.safetensors"}
    index = json.dumps({"weight_map": weight_map}).encode()
    return {"model.safetensors.index.json": index, **shards}, {"a": W, "b": W + 1}


def _typed(code: int, number: int, content: bytes, expected: Tensor) -> Made:
    tensor = onnx_tensor("w", code, tuple(expected.shape), field(number, content) if content else b"")
    return onnx_model(field(5, tensor)), {"w": expected}


def _varints(values: list[int]) -> bytes:
    return b"".join(map(varint, values))


def _onnx_unpacked() -> Made:
    """float_data as proto2 writers put it: a tag before every number."""
    data = b"".join(varint(4 << 3 | 5) + struct.pack("<f", value) for value in (1.0, 2.5, -3.0))
    return onnx_model(field(5, onnx_tensor("w", 1, (3,), data))), {"w": torch.tensor([1.0, 2.5, -3.0])}


def _onnx_external() -> Made:
    pairs = {"location": "m.onnx.data", "offset": "16", "length": "48"}
    fields = b"".join(field(13, field(1, key) + field(2, value)) for key, value in pairs.items())
    model = onnx_model(field(5, onnx_tensor("w", 1, (3, 4), fields, field(14, 1))))
    return {"m.onnx": model, "m.onnx.data": bytes(16) + W.numpy().tobytes()}, {"w": W}


def _onnx_sparse(linear: bool) -> Made:
    dense = torch.zeros(2, 3)
    dense[0, 2], dense[1, 1] = 5.0, 7.0
    values = onnx_tensor("w", 1, (2,), field(9, struct.pack("<2f", 5.0, 7.0)))
    shape, where = ((2,), (2, 4)) if linear else ((2, 2), (0, 2, 1, 1))
    indices = onnx_tensor("", 7, shape, field(9, struct.pack(f"<{len(where)}q", *where)))
    return onnx_model(field(15, field(1, values) + field(2, indices) + field(3, 2) + field(3, 3))), {"w": dense}


def _onnx_mixed() -> Made:
    """Weights beside what is not read: text, four bits, a node, an input."""
    graph = [
        field(1, field(1, "x") + field(2, "y") + field(4, "Relu")),
        onnx_floats("a", [1.0, 2.0], (2,)),
        field(5, onnx_tensor("text", 8, (1,), field(6, "hello"))),
        field(5, onnx_tensor("q", 22, (2,), field(9, b"1"))),
        field(11, field(1, "x")),
        onnx_floats("b", [], (0, 3)),
        onnx_floats("c", [9.0], ()),
    ]
    expected = {"a": torch.tensor([1.0, 2.0]), "b": torch.empty(0, 3), "c": torch.tensor(9.0)}
    return onnx_model(*graph), expected


_CASES: dict[str, Callable[[], Made]] = {
    "torch zip, every old type": lambda: (torch_bytes(_PLAIN), _PLAIN),
    "torch legacy, every old type": lambda: (torch_bytes(_PLAIN, legacy=True), _PLAIN),
    "torch zip, newer types": lambda: (torch_bytes(_NEW | _SMALL), _NEW | _SMALL),
    "torch zip, views": _views,
    "torch zip, tied weights": _tied,
    "torch zip, the other byte order": _big_endian,
    "torch zip, 32 axes": lambda: (torch_bytes({"w": torch.ones([1] * 32)}), {"w": torch.ones([1] * 32)}),
    "torch zip, hostile names": lambda: (torch_bytes(_named(NAMES)), _named(NAMES)),
    "torch zip, not finite": lambda: (
        torch_bytes({"w": torch.tensor([float("nan"), float("inf")])}),
        {"w": torch.tensor([float("nan"), float("inf")])},
    ),
    "torch legacy, bytes at its end": lambda: (torch_bytes({"w": W}, legacy=True) + b"more", {"w": W}),
    "torch zip, some quantised": _partly_quantised,
    "pickle of numpy arrays": _numpy_in_pickle,
    "sparse, coordinates": lambda: _sparse(W.to_sparse()),
    "sparse, coordinates, legacy": lambda: _sparse(W.to_sparse(), legacy=True),
    "sparse, rows": lambda: _sparse(W.to_sparse_csr()),
    "sparse, columns": lambda: _sparse(W.to_sparse_csc()),
    "sparse, bfloat16": lambda: _sparse(W.bfloat16().to_sparse()),
    "sparse, complex": lambda: _sparse((W + 1j).to_sparse()),
    "sparse, repeated entries": lambda: _sparse(_repeated(torch.float32)),
    "sparse, repeated integers": lambda: _sparse(_repeated(torch.int64)),
    "sparse, dense in its last axis": lambda: _sparse(_hybrid()),
    "sparse, nothing in it": lambda: _sparse(torch.zeros(3, 4).to_sparse()),
    "sparse, an axis of 0": lambda: _sparse(torch.zeros(3, 0).to_sparse()),
    "safetensors, every type": lambda: _safetensors_sorted(_PLAIN | _SMALL | _NEW),
    "safetensors, hostile names": lambda: _safetensors_sorted(_named(NAMES)),
    "safetensors, four bits beside": _with_four_bits,
    "safetensors, nothing in its tensors": lambda: _safetensors_sorted(
        {"w": torch.empty(0, 4), "s": torch.tensor(1.0)}
    ),
    "sharded": _sharded,
    "npz": lambda: _npz(compressed=False),
    "npz, compressed": lambda: _npz(compressed=True),
    "a zip in a zip": _nested,
    "onnx, raw": lambda: (onnx_model(onnx_floats("w", [1.0, 2.0], (2,))), {"w": torch.tensor([1.0, 2.0])}),
    "onnx, hostile names": lambda: (
        onnx_model(*(onnx_floats(name, [float(i)] * 2, (2,)) for i, name in enumerate(NAMES))),
        _named(NAMES),
    ),
    "onnx, beside what is not read": _onnx_mixed,
    "onnx, packed floats": lambda: _typed(1, 4, struct.pack("<3f", 1, 2, 3), torch.tensor([1.0, 2, 3])),
    "onnx, floats one by one": _onnx_unpacked,
    "onnx, packed doubles": lambda: _typed(11, 10, struct.pack("<2d", 1, 2), torch.tensor([1.0, 2]).double()),
    "onnx, half floats as numbers": lambda: _typed(
        10, 5, _varints([0x3C00, 0xC000]), torch.tensor([1.0, -2]).half()
    ),
    "onnx, negative integers": lambda: _typed(7, 7, _varints([-1, 5]), torch.tensor([-1, 5])),
    "onnx, small negative integers": lambda: _typed(
        3, 5, _varints([-1, 5]), torch.tensor([-1, 5], dtype=torch.int8)
    ),
    "onnx, truth values": lambda: _typed(9, 5, _varints([1, 0]), torch.tensor([True, False])),
    "onnx, bfloat16": lambda: _typed(16, 9, struct.pack("<2H", 0x3F80, 0xC000), torch.tensor([1.0, -2]).bfloat16()),
    "onnx, data in a second file": _onnx_external,
    "onnx, sparse by place": lambda: _onnx_sparse(linear=True),
    "onnx, sparse by axis": lambda: _onnx_sparse(linear=False),
}


def cases() -> list[Case]:
    """Every file of this list."""

    def case(name: str, make: Callable[[], Made]) -> Case:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch calls some kinds of tensors deprecated, or beta
            content, tensors = make()

        def maker(_marker: Path) -> bytes | Files:
            return content

        return Case(f"valid: {name}", "valid", maker, tensors=tensors, several=name == "a zip in a zip")

    return [case(name, make) for name, make in _CASES.items()]
