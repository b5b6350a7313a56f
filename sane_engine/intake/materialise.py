"""Views become runs of bytes that are laid out as the tensor will be in memory: the rows of the child's reply."""

from __future__ import annotations

import struct
from typing import Any

from sane_engine.intake import refusals
from sane_engine.intake.dtypes import ITEM_BYTES, STRUCT_FORMAT, SWAP_BYTES
from sane_engine.intake.limits import Limits
from sane_engine.intake.sources import Files
from sane_engine.intake.tree import Extent, TensorView

Row = list[Any]
"""``[name, dtype, shape, file, offset, n_bytes, tied]``; ``tied`` is the row that is the same tensor, or -1."""


def rows(tensors: dict[str, TensorView], files: Files, limits: Limits, *, header: bool = False) -> list[Row]:
    """Find, check and where needed copy the bytes of every tensor; tied tensors once.

    Args:
        tensors: Name → view.
        files: Where they lie.
        limits: Ceilings.
        header: Only describe them: ``file`` is -1, and no data is looked at.

    Raises:
        Refusal: ``too-large``, ``damaged`` or ``truncated``.
    """
    unique = {_identity(tensor): tensor for tensor in tensors.values()}
    logical = sum(tensor.n_bytes for tensor in unique.values())
    storages = {id(tensor.storage): tensor.storage for tensor in unique.values()}
    stored = sum(s.n_bytes if s.stored is None else s.stored for s in storages.values())
    ceiling = min(limits.tensor_bytes, limits.free_expansion_bytes + limits.expansion * stored)
    if logical > ceiling:
        raise refusals.too_large(f"{refusals.size(logical)} of tensors from {refusals.size(stored)} of data")
    result: list[Row] = []
    first: dict[object, int] = {}
    for name, tensor in tensors.items():
        tied = first.setdefault(_identity(tensor), len(result))
        if tied < len(result):
            result.append([name, *result[tied][1:6], tied])
        else:
            extent = Extent(-1, 0, tensor.n_bytes) if header else place(tensor, files)
            result.append([name, tensor.dtype, list(tensor.shape), extent.file, extent.offset, extent.n_bytes, -1])
    return result


def _identity(tensor: TensorView) -> object:
    # Tensors without entries share nothing, even where they share a storage.
    if tensor.elements == 0:
        return id(tensor)
    return id(tensor.storage), tensor.dtype, tensor.shape, tensor.stride, tensor.offset


def place(tensor: TensorView, files: Files) -> Extent:
    """Where the tensor's own bytes lie, little-endian and row-major."""
    if tensor.elements == 0:
        return Extent(0, 0, 0)
    storage, item = tensor.storage, ITEM_BYTES[tensor.dtype]
    if tensor.contiguous and not storage.big_endian:
        if storage.inline is not None:
            return files.blob.write([storage.inline])
        extent = storage.extent(files)
        return Extent(extent.file, extent.offset + tensor.offset * item, tensor.n_bytes)
    return files.blob.write([_gather(tensor, files)])


def contiguous(tensor: TensorView, files: Files) -> bytes:
    """The tensor's own bytes, little-endian and row-major, in memory."""
    if tensor.elements == 0:
        return b""
    if tensor.contiguous and tensor.storage.inline is None and not tensor.storage.big_endian:
        return files.read(place(tensor, files))
    return _gather(tensor, files)


def _gather(tensor: TensorView, files: Files) -> bytes:
    # numpy costs 0.1 s to import, which the ordinary checkpoint does not need.
    import numpy as np

    storage, item = tensor.storage, ITEM_BYTES[tensor.dtype]
    unit = SWAP_BYTES.get(tensor.dtype, item)
    last = tensor.offset + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride, strict=True))
    start, n_bytes = tensor.offset * item, (last + 1 - tensor.offset) * item
    if storage.inline is not None:
        raw = storage.inline[start : start + n_bytes]
    else:
        whole = storage.extent(files)
        raw = files.read(Extent(whole.file, whole.offset + start, n_bytes))
    # Elements as integers of their width: the bits are moved, never interpreted, so bfloat16 and NaN payloads stay.
    units = np.frombuffer(raw, dtype=f"{'>' if storage.big_endian else '<'}u{unit}")
    strided = np.lib.stride_tricks.as_strided(
        units,
        shape=(*tensor.shape, item // unit),
        strides=(*(step * item for step in tensor.stride), unit),
        writeable=False,
    )
    return strided.astype(f"<u{unit}", order="C").tobytes()


def scalar(tensor: TensorView, files: Files) -> float | int | bool | None:
    """The value of a 0-d tensor, or None for a type that Python has not."""
    if tensor.dtype not in STRUCT_FORMAT:
        return None
    value = struct.unpack("<" + STRUCT_FORMAT[tensor.dtype], files.read(place(tensor, files)))[0]
    return value if isinstance(value, bool | int | float) else None
