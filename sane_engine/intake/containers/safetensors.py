"""The safetensors format: eight bytes of length, a JSON header, raw data.

Checked here rather than by the library, because the child must not load torch and numpy has no bfloat16. The rules
are the format's own: every byte of the data belongs to exactly one tensor, and sizes agree with shapes.
https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from sane_engine.intake import refusals
from sane_engine.intake.dtypes import FROM_SAFETENSORS, ITEM_BYTES
from sane_engine.intake.limits import Limits
from sane_engine.intake.sources import Source
from sane_engine.intake.tree import Contents, Extent, Storage, TensorView, row_major, view

ORDER_KEY = "tensor_order"
"""Metadata entry of our own: a JSON list of the names in their order."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise refusals.damaged("its header has a name twice")
    return result


def read_safetensors(source: Source, limits: Limits) -> Contents:
    """Read the header; the data stays where it is.

    Returns:
        A flat tree in the order of the data, or in the one that :data:`ORDER_KEY` keeps.

    Raises:
        Refusal: ``truncated``, ``damaged`` or ``too-large``.
    """
    length = int.from_bytes(source.read(0, 8), "little")
    if length > limits.header_bytes:
        raise refusals.too_large(f"a header of {refusals.size(length)}")
    try:
        header = json.loads(source.read(8, length), object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise refusals.damaged("its header is not valid JSON") from None
    if not isinstance(header, dict):
        raise refusals.damaged("its header is not a table")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise refusals.damaged("its metadata is not a table of strings")
    if len(header) > limits.tensors:
        raise refusals.too_large(f"{len(header):,} tensors")
    order = metadata.pop(ORDER_KEY, "")
    start = 8 + length
    contents = Contents("safetensors", {}, metadata=metadata, flat=True)
    tensors: dict[str, TensorView] = {}
    end = 0
    for name, (first, last), entry in sorted(
        ((name, _offsets(entry), entry) for name, entry in header.items()), key=lambda item: item[1]
    ):
        if first != end:
            raise refusals.damaged("its tensors overlap or leave gaps")
        end = last
        dtype = FROM_SAFETENSORS.get(str(entry.get("dtype")), "")
        shape = entry.get("shape")
        if not isinstance(shape, list):
            raise refusals.damaged("a tensor has no shape")
        if not dtype:
            contents.ignored.append(
                (name, f"its type {refusals.printable(str(entry.get('dtype')), 20)} is not read")
            )
            continue
        data = Extent(source.index, start + first, last - first)
        tensor = view(Storage(data.n_bytes, partial(_itself, data)), dtype, shape, row_major(shape), 0, limits)
        if tensor.elements * ITEM_BYTES[dtype] != last - first:
            raise refusals.damaged("a tensor's size and shape disagree")
        tensors[name] = tensor
    if start + end > source.size:
        raise refusals.truncated()
    if start + end < source.size:
        raise refusals.damaged("there are bytes behind its last tensor")
    contents.root = _in_order(tensors, order)
    return contents


def _itself(extent: Extent) -> Extent:
    return extent


def _in_order(tensors: dict[str, TensorView], order: str) -> dict[str, TensorView]:
    """The order in which a network lists its tensors, which the official writer replaces by types and names."""
    try:
        names = json.loads(order)
    except (ValueError, RecursionError):
        return tensors
    if (
        not isinstance(names, list)
        or not all(isinstance(name, str) for name in names)
        or set(names) != set(tensors)
    ):
        return tensors
    return {name: tensors[name] for name in names}


def _offsets(entry: object) -> tuple[int, int]:
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    if (
        not isinstance(offsets, list)
        or len(offsets) != 2
        or not all(type(n) is int for n in offsets)
        or not 0 <= offsets[0] <= offsets[1]
    ):
        raise refusals.damaged("a tensor has impossible offsets")
    return offsets[0], offsets[1]
