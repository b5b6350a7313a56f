"""Sparse tensors: their invariants are checked, then they are written out densely, once, under a ceiling.

torch loads them without looking at the indices unless it is told to, and an index outside of the tensor then writes
outside of its memory. Here every index is compared first. Only the coordinate, row- and column-compressed layouts
are read; block-sparse and batched ones are left out by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from sane_engine.intake import refusals
from sane_engine.intake.dtypes import ITEM_BYTES
from sane_engine.intake.limits import MIB, Limits
from sane_engine.intake.materialise import contiguous
from sane_engine.intake.sources import Files
from sane_engine.intake.tree import Extent, Opaque, Storage, TensorView, row_major, view

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ADDED = {
    "float64": "<f8",
    "float32": "<f4",
    "int64": "<i8",
    "int32": "<i4",
    "int16": "<i2",
    "int8": "<i1",
    "uint8": "<u1",
}
"""Types in which entries that are given twice are added up, as torch does, in the file's order."""


def rebuild_sparse(layout: str, data: tuple[Any, ...], limits: Limits) -> TensorView | Opaque:
    """What ``torch._utils._rebuild_sparse_tensor`` would have made, dense.

    Raises:
        Refusal: ``damaged`` for parts that do not fit each other, ``too-large``.
    """
    if layout == "torch.sparse_coo" and len(data) in {3, 4}:
        indices, values, shape, coalesced = (*data, False)[:4]
        if not (isinstance(indices, TensorView) and isinstance(values, TensorView) and isinstance(shape, tuple)):
            raise refusals.damaged("a sparse tensor lacks a part")
        return sparse_coo(indices, values, shape, limits, sorted_once=coalesced is True)
    if layout in {"torch.sparse_csr", "torch.sparse_csc"} and len(data) == 4:
        pointers, indices, values, shape = data
        if not (
            isinstance(indices, TensorView)
            and isinstance(pointers, TensorView)
            and isinstance(values, TensorView)
            and isinstance(shape, tuple)
        ):
            raise refusals.damaged("a sparse tensor lacks a part")
        if len(shape) != 2 or len(values.shape) != 1:
            return Opaque("sparse tensor of blocks or batches")
        by_row = layout == "torch.sparse_csr"
        return _lazily(values, shape, limits, partial(_compressed, pointers, indices, by_row))
    return Opaque("sparse tensor of blocks or batches")


def sparse_coo(
    indices: TensorView, values: TensorView, shape: tuple[Any, ...], limits: Limits, *, sorted_once: bool
) -> TensorView:
    """The dense tensor of coordinates ``[k, nnz]`` and values ``[nnz, …]``.

    Args:
        indices: One row an axis; the first k axes of ``shape``.
        values: What stands there; further axes are dense.
        shape: Of the whole.
        limits: Ceilings.
        sorted_once: The file says that coordinates are in order and none comes twice, which is then checked.
    """
    return _lazily(values, shape, limits, partial(_coordinates, indices, sorted_once))


_Places = Callable[[TensorView, tuple[int, ...], Files], "tuple[NDArray[Any], bool]"]
"""From the values, the shape and the files to the flat place of each value, and whether places may repeat."""


def _lazily(values: TensorView, shape: tuple[Any, ...], limits: Limits, places: _Places) -> TensorView:
    item = ITEM_BYTES[values.dtype]
    storage = Storage(2**62, _not_located, stored=values.n_bytes)
    # A first look at the shape, against a storage without end; then the storage gets its size.
    tensor = view(storage, values.dtype, shape, row_major([n if type(n) is int else 0 for n in shape]), 0, limits)
    storage.n_bytes = tensor.elements * item
    storage.dense = lambda files: _densify(tensor, values, places, files)
    return tensor


def _not_located() -> Extent:
    raise AssertionError("a sparse tensor is written out before it is located")


def _integers(tensor: TensorView, files: Files, what: str) -> NDArray[Any]:
    import numpy as np

    if tensor.dtype not in {"int64", "int32"}:
        raise refusals.damaged(f"{what} of a sparse tensor are no whole numbers")
    raw = contiguous(tensor, files)
    return np.frombuffer(raw, dtype=f"<i{ITEM_BYTES[tensor.dtype]}").reshape(tensor.shape).astype(np.int64)


def _outside(numbers: NDArray[Any], size: int) -> bool:
    return bool(numbers.size) and (int(numbers.min()) < 0 or int(numbers.max()) >= size)


def _coordinates(
    indices: TensorView, sorted_once: bool, values: TensorView, shape: tuple[int, ...], files: Files
) -> tuple[NDArray[Any], bool]:
    import numpy as np

    if len(indices.shape) != 2 or not 0 <= indices.shape[0] <= len(shape):
        raise refusals.damaged("the indices of a sparse tensor have an impossible shape")
    axes, count = indices.shape
    if values.shape != (count, *shape[axes:]):
        raise refusals.damaged("a sparse tensor's values and indices disagree")
    table = _integers(indices, files, "the indices")
    if any(_outside(row, size) for row, size in zip(table, shape, strict=False)):
        raise refusals.damaged("an index of a sparse tensor lies outside of it")
    places = np.zeros(count, dtype=np.int64)
    for row, size in zip(table, shape, strict=False):
        places = places * size + row
    if sorted_once and not bool((np.diff(places) > 0).all()):
        raise refusals.damaged("a sparse tensor says that its indices are in order, and they are not")
    return places, not sorted_once


def _compressed(
    pointers: TensorView,
    indices: TensorView,
    by_row: bool,
    values: TensorView,
    shape: tuple[int, ...],
    files: Files,
) -> tuple[NDArray[Any], bool]:
    import numpy as np

    lines, length = shape if by_row else shape[::-1]
    if pointers.shape != (lines + 1,) or indices.shape != values.shape:
        raise refusals.damaged("a sparse tensor's values and indices disagree")
    ends, inside = _integers(pointers, files, "the pointers"), _integers(indices, files, "the indices")
    steps = np.diff(ends)
    if int(ends[0]) != 0 or int(ends[-1]) != inside.size or bool((steps < 0).any()) or _outside(inside, length):
        raise refusals.damaged("an index of a sparse tensor lies outside of it")
    line = np.repeat(np.arange(lines), steps)
    if not bool((np.diff(line * length + inside) > 0).all()):
        raise refusals.damaged("a sparse tensor's indices are not in order")
    return (line * length + inside if by_row else inside * lines + line), False


def _densify(tensor: TensorView, values: TensorView, places: _Places, files: Files) -> Extent:
    # numpy costs 0.1 s to import, which the ordinary checkpoint does not need.
    import numpy as np

    if max(tensor.n_bytes, values.n_bytes) > files.limits.sparse_bytes:
        raise refusals.too_large(f"a sparse tensor of {refusals.size(tensor.n_bytes)} once it is dense")
    where, repeated = places(values, tensor.shape, files)
    item = ITEM_BYTES[tensor.dtype]
    # Elements as bytes of their width: the bits are moved, never interpreted.
    block = values.elements // values.shape[0] if values.shape and values.shape[0] else 1
    given = np.frombuffer(contiguous(values, files), dtype=f"V{item}").reshape(-1, block)
    dense = np.zeros(tensor.elements // max(block, 1) * max(block, 1), dtype=f"V{item}").reshape(-1, max(block, 1))
    if repeated and len(np.unique(where)) != len(where):
        kind = _ADDED.get(tensor.dtype)
        if kind is None:
            raise refusals.unsupported(
                f"Sparse {tensor.dtype} tensors with an entry given twice", "Save the tensor after .coalesce()."
            )
        with np.errstate(all="ignore"):
            np.add.at(dense.view(kind), where, given.view(kind))
    elif dense.size:
        dense[where] = given
    return files.blob.write(_pieces(dense.view(np.uint8).reshape(-1)))


def _pieces(data: NDArray[Any]) -> Iterator[bytes]:
    for start in range(0, len(data), MIB):
        yield data[start : start + MIB].tobytes()
