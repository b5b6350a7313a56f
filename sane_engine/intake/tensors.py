"""Rows of a child's reply become torch tensors: the only place of the intake that reads weights with torch."""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Sequence
from typing import IO

import torch
from torch import Tensor

from sane_engine.intake import refusals
from sane_engine.intake.materialise import Row

Opener = Callable[[], IO[bytes]]
_OWN_PAGES = 2**20


def read_tensors(rows: list[Row], opens: Sequence[Opener]) -> dict[str, Tensor]:
    """Read every tensor from where the child found it.

    The file may have changed since the child looked; the worst that can come of it is other numbers, or a refusal.

    Args:
        rows: The child's description of each.
        opens: For each file of the reply, a function that opens it.

    Returns:
        Name → tensor in the order of ``rows``, tied names sharing one object.

    Raises:
        Refusal: ``truncated``, ``damaged`` or ``unreadable``.
    """
    tensors: list[Tensor] = []
    streams: dict[int, IO[bytes]] = {}
    try:
        for row in rows:
            _name, _dtype, _shape, file, _offset, n_bytes, tied = row
            if tied >= 0:
                tensors.append(tensors[tied])
                continue
            if n_bytes and file not in streams:
                for other in streams.values():
                    other.close()
                streams = {file: opens[file]()}
            tensors.append(_tensor(row, streams.get(file)))
    except OSError:
        raise refusals.unreadable() from None
    finally:
        for stream in streams.values():
            stream.close()
    return {row[0]: tensor for row, tensor in zip(rows, tensors, strict=True)}


def read_one(row: Row, opens: Sequence[Opener]) -> Tensor:
    """Read one tensor; see :func:`read_tensors`."""
    try:
        if not row[5]:
            return _tensor(row, None)
        with opens[row[3]]() as stream:
            return _tensor(row, stream)
    except OSError:
        raise refusals.unreadable() from None


def _tensor(row: Row, stream: IO[bytes] | None) -> Tensor:
    _name, dtype, shape, _file, offset, n_bytes, _tied = row
    if not n_bytes or stream is None:
        return _nothing(dtype, shape)
    return _read(stream, dtype, shape, offset, n_bytes)


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise refusals.damaged(f"the type {refusals.printable(name, 20)} is not known to this torch")
    return dtype


def _nothing(dtype: str, shape: list[int]) -> Tensor:
    if math.prod(shape):
        raise refusals.damaged("a tensor has no data")
    return torch.empty(shape, dtype=_dtype(dtype))


def _room(n_bytes: int) -> Tensor:
    # Pages of its own for a large tensor, which go back when it goes: what is read one after the other would
    # otherwise leave holes in the heap that the next one just does not fit into.
    if n_bytes < _OWN_PAGES or not hasattr(mmap, "MAP_PRIVATE"):
        return torch.empty(n_bytes, dtype=torch.uint8)
    pages = mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=torch.uint8)


def _read(stream: IO[bytes], dtype: str, shape: list[int], offset: int, n_bytes: int) -> Tensor:
    kind = _dtype(dtype)
    if math.prod(shape) * kind.itemsize != n_bytes:
        raise refusals.damaged("a tensor's size and shape disagree")
    raw = _room(n_bytes)
    stream.seek(offset)
    buffer = raw.numpy().data  # a memoryview
    read = 0
    while read < n_bytes:
        count = stream.readinto(buffer[read:])  # type: ignore[attr-defined]  # a buffered reader; IO does not say so
        if not count:
            raise refusals.truncated()
        read += count
    if kind is torch.bool:
        # Any other byte in a bool tensor is undefined behaviour for torch's kernels.
        return (raw != 0).reshape(shape)
    return raw.view(kind).reshape(shape)


def count_non_finite(tensor: Tensor) -> int:
    """Entries that are NaN or infinite."""
    if tensor.dtype in {torch.float16, torch.bfloat16, torch.float32, torch.float64}:
        return int(tensor.numel() - torch.isfinite(tensor).sum())
    return 0
