"""What ``torch.save`` wrote before 1.6: five pickles in a row, then the storages, each behind its length."""

from __future__ import annotations

from dataclasses import dataclass, field

from sane_engine.intake import refusals
from sane_engine.intake.constructors import StorageClass, TypedStorage
from sane_engine.intake.limits import Limits
from sane_engine.intake.pickle_machine import read_pickle
from sane_engine.intake.sources import Source
from sane_engine.intake.tree import Contents, Extent, Storage

_PROTOCOL = 1001


@dataclass
class _Declared:
    storage: Storage
    count: int
    item_bytes: int
    extent: Extent | None = None
    parts: dict[tuple[int, int], Storage] = field(default_factory=dict)

    def locate(self) -> Extent:
        if self.extent is None:
            raise refusals.damaged("the data of a tensor is missing")
        return self.extent


def read_torch_legacy(source: Source, limits: Limits) -> Contents:
    """Read the pickles and walk over the storages.

    Raises:
        Refusal: ``pickled-code``, ``damaged``, ``truncated`` or ``too-large``.
    """
    declared: dict[str, _Declared] = {}
    big_endian = False

    def persistent_load(identity: object, /) -> TypedStorage:
        if not (isinstance(identity, tuple) and len(identity) == 6 and identity[0] == "storage"):
            # ("module", class, source, text) names the class of a whole pickled module.
            raise refusals.pickled_code("a whole module")
        _, kind, key, _location, count, part = identity
        if not isinstance(kind, StorageClass) or type(count) is not int or count < 0:
            raise refusals.damaged("a tensor's data is named in an unknown way")
        key = str(key)[:100] if isinstance(key, str | int) else ""
        n_bytes = count * kind.item_bytes
        if n_bytes > source.size:
            raise refusals.truncated()
        if key not in declared:
            entry = _Declared(Storage(n_bytes, _unset, big_endian), count, kind.item_bytes)
            entry.storage.locate = entry.locate
            declared[key] = entry
        whole = declared[key]
        if (whole.count, whole.item_bytes) != (count, kind.item_bytes):
            raise refusals.damaged("a tensor's data is declared twice")
        if part is None:
            return TypedStorage(whole.storage, kind.dtype)
        return TypedStorage(_part(whole, part), kind.dtype)

    stream = source.stream
    stream.seek(0)
    read_pickle(stream, limits, offer=False)
    if read_pickle(stream, limits, offer=False) != _PROTOCOL:
        raise refusals.damaged("an unknown version of torch's old format")
    system = read_pickle(stream, limits, offer=False)
    big_endian = isinstance(system, dict) and system.get("little_endian") is False
    root = read_pickle(stream, limits, persistent_load)
    keys = read_pickle(stream, limits, offer=False)
    if not isinstance(keys, list) or len(keys) != len(declared):
        raise refusals.damaged("its list of tensor data does not fit")
    offset = stream.tell()
    for key in keys:
        entry = declared.get(str(key)[:100] if isinstance(key, str | int) else "")
        if entry is None or entry.extent is not None:
            raise refusals.damaged("its list of tensor data does not fit")
        if int.from_bytes(source.read(offset, 8), "big" if big_endian else "little") != entry.count:
            raise refusals.damaged("a tensor's data has another size than declared")
        offset += 8
        entry.extent = Extent(source.index, offset, entry.storage.n_bytes)
        offset += entry.storage.n_bytes
        if offset > source.size:
            raise refusals.truncated()
    contents = Contents("torch-legacy", root)
    if offset < source.size:
        contents.ignored.append(("end of the file", f"{source.size - offset} bytes behind the last tensor"))
    return contents


def _part(whole: _Declared, part: object) -> Storage:
    # (key, offset, size): torch < 0.4 wrote views of one storage this way.
    if not (isinstance(part, tuple) and len(part) == 3):
        raise refusals.damaged("a part of a tensor's data is named in an unknown way")
    _, first, count = part
    if type(first) is not int or type(count) is not int or first < 0 or count < 0 or first + count > whole.count:
        raise refusals.damaged("a part of a tensor's data lies outside it")
    start, n_bytes = first * whole.item_bytes, count * whole.item_bytes

    def locate() -> Extent:
        extent = whole.locate()
        return Extent(extent.file, extent.offset + start, n_bytes)

    # One object a part, so that tied tensors are recognised by it.
    return whole.parts.setdefault((first, count), Storage(n_bytes, locate, whole.storage.big_endian))


def _unset() -> Extent:
    raise refusals.damaged("the data of a tensor is missing")
