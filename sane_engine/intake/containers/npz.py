"""numpy's ``.npz``: a zip of arrays, each with a small header. Arrays of Python objects are pickles: left out."""

from __future__ import annotations

import ast
from functools import partial

from sane_engine.intake import refusals
from sane_engine.intake.dtypes import FROM_NUMPY
from sane_engine.intake.limits import Limits
from sane_engine.intake.tree import Contents, Extent, Storage, TensorView, row_major, view
from sane_engine.intake.zip_directory import ZipDirectory

_MAGIC = b"\x93NUMPY"
_HEADER_BYTES = 10_000
"""numpy's own ceiling for the literal it evaluates."""


def is_npz(directory: ZipDirectory) -> bool:
    """Whether every entry is an array."""
    return bool(directory.entries) and all(name.endswith(".npy") for name in directory.entries)


def read_npz(directory: ZipDirectory, limits: Limits) -> Contents:
    """Read the header of every array; names lose their ``.npy``.

    Raises:
        Refusal: ``damaged``, ``truncated`` or ``too-large``.
    """
    contents = Contents("npz", {}, flat=True)
    tensors: dict[str, TensorView] = {}
    for entry in directory.entries:
        name = entry.removesuffix(".npy")
        tensor = _array(directory, entry, limits)
        if isinstance(tensor, str):
            contents.ignored.append((name, tensor))
        else:
            tensors[name] = tensor
    contents.root = tensors
    return contents


def _array(directory: ZipDirectory, entry: str, limits: Limits) -> TensorView | str:
    head = next(directory.chunks(entry), b"")
    if not head.startswith(_MAGIC) or len(head) < 12:
        raise refusals.damaged("an array of the archive has no header")
    width = 2 if head[6] == 1 else 4
    length = int.from_bytes(head[8 : 8 + width], "little")
    start = 8 + width + length
    if length > _HEADER_BYTES or start > len(head):
        raise refusals.damaged("an array of the archive has no valid header")
    try:
        header = ast.literal_eval(head[8 + width : start].decode("latin-1").strip())
        descr, fortran, shape = header["descr"], header["fortran_order"], header["shape"]
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError):
        raise refusals.damaged("an array of the archive has no valid header") from None
    if not isinstance(descr, str) or not isinstance(shape, tuple):
        return "a table of several columns"
    dtype = FROM_NUMPY.get(descr.lstrip("<>|="), "")
    if not dtype:
        return (
            "an array of Python objects or text"
            if descr[1:2] in {"O", "U", "S"}
            else f"type {descr[:20]} is not read"
        )
    n_bytes = directory.entries[entry].file_size - start
    storage = Storage(n_bytes, partial(_locate, directory, entry, start), descr.startswith(">"))
    # A first look with plain strides makes sure that the shape is one, before strides are computed from it.
    tensor = view(storage, dtype, shape, row_major([n if type(n) is int else 0 for n in shape]), 0, limits)
    if tensor.n_bytes != n_bytes:
        raise refusals.damaged("an array's size and shape disagree")
    return view(storage, dtype, shape, row_major(shape[::-1])[::-1], 0, limits) if fortran else tensor


def _locate(directory: ZipDirectory, entry: str, start: int) -> Extent:
    extent = directory.extent(entry)
    return Extent(extent.file, extent.offset + start, extent.n_bytes - start)
