"""Rows of a child's reply become torch tensors: the only place of the intake that reads weights with torch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from sane_engine.intake import refusals
from sane_engine.intake.materialise import Row


def read_tensors(rows: list[Row], files: list[Path]) -> tuple[dict[str, Tensor], int]:
    """Read every tensor from where the child found it.

    The file may have changed since the child looked; the worst that can come of it is other numbers, or a refusal.

    Returns:
        Name → tensor in the order of ``rows``, tied names sharing one object, and the number of entries that are
        NaN or infinite.

    Raises:
        Refusal: ``truncated`` or ``damaged``.
    """
    tensors: list[Tensor] = []
    streams: dict[int, IO[bytes]] = {}
    non_finite = 0
    try:
        for _name, dtype, shape, file, offset, n_bytes, tied in rows:
            if tied >= 0:
                tensors.append(tensors[tied])
                continue
            if n_bytes and file not in streams:
                for other in streams.values():
                    other.close()
                streams = {file: files[file].open("rb")}
            tensor = _read(streams[file], dtype, shape, offset, n_bytes) if n_bytes else _nothing(dtype, shape)
            tensors.append(tensor)
            non_finite += _count_non_finite(tensor)
    except OSError:
        raise refusals.unreadable() from None
    finally:
        for stream in streams.values():
            stream.close()
    return {row[0]: tensor for row, tensor in zip(rows, tensors, strict=True)}, non_finite


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise refusals.damaged(f"the type {refusals.printable(name, 20)} is not known to this torch")
    return dtype


def _nothing(dtype: str, shape: list[int]) -> Tensor:
    if math.prod(shape):
        raise refusals.damaged("a tensor has no data")
    return torch.empty(shape, dtype=_dtype(dtype))


def _read(stream: IO[bytes], dtype: str, shape: list[int], offset: int, n_bytes: int) -> Tensor:
    kind = _dtype(dtype)
    if math.prod(shape) * kind.itemsize != n_bytes:
        raise refusals.damaged("a tensor's size and shape disagree")
    raw = torch.empty(n_bytes, dtype=torch.uint8)
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


def _count_non_finite(tensor: Tensor) -> int:
    if tensor.dtype in {torch.float16, torch.bfloat16, torch.float32, torch.float64}:
        return int(tensor.numel() - torch.isfinite(tensor).sum())
    return 0
