"""The initialisers of an ONNX file: the weights of its graph.

Read by hand rather than by the ``onnx`` package, which copies the whole file into memory (and again for each array)
before anything can be counted. Here only the few fields that describe a tensor are looked at; the data stays where
it is. Weights in a second file are read only from the folder of the first, and never through a link's name.
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from sane_engine.intake import refusals
from sane_engine.intake.dtypes import FROM_ONNX, ITEM_BYTES
from sane_engine.intake.limits import Limits
from sane_engine.intake.protobuf import BYTES, FIXED32, FIXED64, VARINT, Field, Messages
from sane_engine.intake.sources import Source
from sane_engine.intake.sparse import sparse_coo
from sane_engine.intake.tree import Contents, Extent, Storage, TensorView, row_major, view

OpenBeside = Callable[[str], Source]

_MODEL_GRAPH, _MODEL_METADATA = 7, 14
_GRAPH_INITIALISER, _GRAPH_SPARSE = 5, 15
_DIMS, _TYPE, _NAME, _RAW, _EXTERNAL, _LOCATION = 1, 2, 8, 9, 13, 14
_PLAIN_DATA = {4: FIXED32, 10: FIXED64}
"""float_data and double_data: packed, they lie in the file as they will lie in memory."""
_VARINT_DATA = {5, 7, 11}
"""int32_data (also of every narrower type, and of float16's bits), int64_data, uint64_data."""


@dataclass
class _Tensor:
    name: str = ""
    code: int = 0
    dims: list[int] = field(default_factory=list)
    raw: Field | None = None
    plain: list[Field] = field(default_factory=list)
    varints: list[Field] = field(default_factory=list)
    external: dict[str, str] | None = None
    entries: dict[str, str] = field(default_factory=dict)


@dataclass
class _Reader:
    source: Source
    limits: Limits
    open_beside: OpenBeside | None
    contents: Contents
    beside: dict[str, Source] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.messages = Messages(self.source, self.limits.onnx_fields)
        self.tensors: dict[str, TensorView] = {}

    def model(self) -> bool:
        graphs = 0
        for part in self.messages.fields(0, self.source.size):
            if part.number == _MODEL_GRAPH and part.wire == BYTES:
                graphs += 1
                self.graph(part)
            elif part.number == _MODEL_METADATA and part.wire == BYTES:
                key, value = self.pair(part)
                self.contents.metadata[key] = value
        return graphs > 0

    def graph(self, whole: Field) -> None:
        for part in self.messages.fields(whole.start, whole.stop):
            if part.wire != BYTES or part.number not in {_GRAPH_INITIALISER, _GRAPH_SPARSE}:
                continue
            found = self.tensor(part) if part.number == _GRAPH_INITIALISER else self.sparse(part)
            if found is None:
                continue
            name, tensor = found
            if name in self.tensors:
                raise refusals.damaged("it names a tensor twice")
            self.tensors[name] = tensor
            if len(self.tensors) > self.limits.tensors:
                raise refusals.too_large(f"more than {self.limits.tensors:,} tensors")

    def pair(self, whole: Field) -> tuple[str, str]:
        texts = {1: "", 2: ""}
        for part in self.messages.fields(whole.start, whole.stop):
            if part.number in texts and part.wire == BYTES:
                texts[part.number] = self.messages.text(part, self.limits.literal_bytes)
        return texts[1], texts[2]

    def parts(self, whole: Field) -> _Tensor:
        found = _Tensor()
        outside = False
        for part in self.messages.fields(whole.start, whole.stop):
            if part.number == _DIMS:
                found.dims += self.messages.numbers(part, 10 * self.limits.dimensions)
                if len(found.dims) > self.limits.dimensions:
                    raise refusals.too_large(f"a tensor with more than {self.limits.dimensions} axes")
            elif part.number == _TYPE and part.wire == VARINT:
                found.code = part.value
            elif part.number == _NAME and part.wire == BYTES:
                found.name = self.messages.text(part, self.limits.literal_bytes)
            elif part.number == _RAW and part.wire == BYTES:
                found.raw = part
            elif part.number in _PLAIN_DATA and part.wire in {BYTES, _PLAIN_DATA[part.number]}:
                found.plain.append(part)
            elif part.number in _VARINT_DATA:
                found.varints.append(part)
            elif part.number == _EXTERNAL and part.wire == BYTES:
                key, value = self.pair(part)
                found.entries[key] = value
            elif part.number == _LOCATION and part.wire == VARINT:
                outside = part.value == 1
        found.external = found.entries if outside else None
        return found

    def tensor(self, whole: Field) -> tuple[str, TensorView] | None:
        parts = self.parts(whole)
        dtype = FROM_ONNX.get(parts.code, "")
        if not dtype:
            self.contents.ignored.append((parts.name, f"its type (number {parts.code} of ONNX) is not read"))
            return None
        # Without a storage yet: how large it has to be follows from the shape.
        endless = Storage(2**62, _unset)
        shape = view(endless, dtype, parts.dims, row_major(parts.dims), 0, self.limits)
        storage = self.storage(parts, dtype, shape.n_bytes)
        if storage.n_bytes != shape.n_bytes:
            raise refusals.damaged("a tensor's size and shape disagree")
        return parts.name, view(storage, dtype, shape.shape, shape.stride, 0, self.limits)

    def storage(self, parts: _Tensor, dtype: str, n_bytes: int) -> Storage:
        if parts.external is not None:
            return self.outside(parts.external, n_bytes)
        if parts.raw is not None:
            return _itself(Extent(self.source.index, parts.raw.start, parts.raw.n_bytes))
        if len(parts.plain) == 1:
            return _itself(Extent(self.source.index, parts.plain[0].start, parts.plain[0].n_bytes))
        if parts.plain:
            if sum(part.n_bytes for part in parts.plain) != n_bytes:
                raise refusals.damaged("a tensor's size and shape disagree")
            data = b"".join(self.messages.data(part, self.limits.literal_bytes) for part in parts.plain)
            return Storage(len(data), _unset, inline=data)
        item, mask = ITEM_BYTES[dtype], 2 ** (8 * ITEM_BYTES[dtype]) - 1
        if n_bytes > self.limits.literal_bytes:
            raise refusals.too_large(f"a tensor of {refusals.size(n_bytes)} that is written number by number")
        numbers: list[int] = []
        for part in parts.varints:
            numbers += self.messages.numbers(part, self.limits.literal_bytes)
        data = b"".join((number & mask).to_bytes(item, "little") for number in numbers)
        return Storage(len(data), _unset, inline=data)

    def outside(self, entries: dict[str, str], n_bytes: int) -> Storage:
        name = entries.get("location", "")
        if name in {"", ".", ".."} or any(c in name for c in "/\\\0:"):
            raise refusals.damaged("it names a file in another folder")
        if self.open_beside is None:
            raise refusals.external_data(name)
        if name not in self.beside:
            self.beside[name] = self.open_beside(name)
            total = self.source.size + sum(source.size for source in self.beside.values())
            if total > self.limits.file_bytes:
                raise refusals.too_large(refusals.size(total))
        source = self.beside[name]
        numbers = [entries.get("offset", "0"), entries.get("length", str(n_bytes))]
        if not all(re.fullmatch(r"[0-9]{1,18}", number) for number in numbers):
            raise refusals.damaged("the place of a tensor's data is no number")
        offset, length = map(int, numbers)
        if offset + length > source.size:
            raise refusals.truncated("the file beside it ends too early")
        return _itself(Extent(source.index, offset, length))

    def sparse(self, whole: Field) -> tuple[str, TensorView] | None:
        values = indices = None
        dims: list[int] = []
        for part in self.messages.fields(whole.start, whole.stop):
            if part.number == 1 and part.wire == BYTES:
                values = self.tensor(part)
            elif part.number == 2 and part.wire == BYTES:
                indices = self.tensor(part)
            elif part.number == 3:
                dims += self.messages.numbers(part, 10 * self.limits.dimensions)
        if values is None or indices is None:
            return None
        (name, found), (_, where) = values, indices
        if len(where.shape) == 1:
            # One number an entry: its place in the flattened tensor.
            count = 1
            for size in dims:
                count *= size
            flat = view(where.storage, where.dtype, (1, *where.shape), (0, *where.stride), 0, self.limits)
            dense = sparse_coo(flat, found, (count,), self.limits, sorted_once=False)
            return name, view(dense.storage, dense.dtype, dims, row_major(dims), 0, self.limits)
        if len(where.shape) != 2:
            raise refusals.damaged("the indices of a sparse tensor have an impossible shape")
        by_axis = view(where.storage, where.dtype, where.shape[::-1], where.stride[::-1], 0, self.limits)
        return name, sparse_coo(by_axis, found, tuple(dims), self.limits, sorted_once=False)


def _unset() -> Extent:
    raise refusals.damaged("a tensor has no data")


def _itself(extent: Extent) -> Storage:
    return Storage(extent.n_bytes, partial(_same, extent))


def _same(extent: Extent) -> Extent:
    return extent


def read_onnx(source: Source, limits: Limits, open_beside: OpenBeside | None) -> tuple[Contents, list[Source]]:
    """Read where the initialisers lie; Constant nodes and the weights of training graphs are not among them.

    Args:
        source: The file.
        limits: Ceilings.
        open_beside: Opens a file of the same folder, or None where there is no folder (an upload).

    Returns:
        The contents, and the files beside it that hold data, in the order of their names.

    Raises:
        Refusal: ``external-data``, ``not-a-checkpoint``, ``no-tensors``, ``damaged``, ``truncated`` or
            ``too-large``.
    """
    contents = Contents("onnx", {}, flat=True)
    reader = _Reader(source, limits, open_beside, contents)
    if not reader.model():
        raise refusals.unknown()
    if not reader.tensors and not contents.ignored:
        raise refusals.no_tensors("a graph without initialisers")
    contents.root = reader.tensors
    return contents, [reader.beside[name] for name in sorted(reader.beside)]
