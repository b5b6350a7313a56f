"""What ``torch.save`` has written since 1.6: a zip with one pickle and one entry a storage."""

from __future__ import annotations

import io
from functools import partial

from sane_engine.intake import refusals
from sane_engine.intake.constructors import StorageClass, TypedStorage
from sane_engine.intake.limits import Limits
from sane_engine.intake.pickle_machine import read_pickle
from sane_engine.intake.tree import Contents, Storage
from sane_engine.intake.zip_directory import ZipDirectory


def torch_root(directory: ZipDirectory) -> str | None:
    """The folder inside the zip that makes it a torch file, or None.

    Raises:
        Refusal: ``torchscript`` or ``torch-export``.
    """
    names = directory.entries
    for name in names:
        root, _, rest = name.partition("/")
        if rest == "constants.pkl" or rest.startswith("code/"):
            raise refusals.torchscript()
        if rest in {"models/model.json", "archive_format"} or name == "serialized_exported_program.json":
            raise refusals.exported_program()
    for name in names:
        root, _, rest = name.partition("/")
        if rest == "data.pkl" and (f"{root}/version" in names or f"{root}/.format_version" in names):
            return root
    return None


def read_torch_zip(directory: ZipDirectory, root: str, limits: Limits) -> Contents:
    """Read the pickle; storages are checked when their tensors are kept.

    Raises:
        Refusal: ``pickled-code``, ``damaged``, ``truncated`` or ``too-large``.
    """
    order = directory.read(f"{root}/byteorder", 16) if f"{root}/byteorder" in directory.entries else b"little"
    storages: dict[str, Storage] = {}

    def persistent_load(identity: object, /) -> TypedStorage:
        if not (isinstance(identity, tuple) and len(identity) == 5 and identity[0] == "storage"):
            raise refusals.damaged("a tensor's data is named in an unknown way")
        _, kind, key, _location, count = identity
        entry = f"{root}/data/{key}"
        if not isinstance(kind, StorageClass) or type(count) is not int:
            raise refusals.damaged("a tensor's data is named in an unknown way")
        if entry not in directory.entries:
            raise refusals.damaged("the data of a tensor is missing")
        n_bytes = directory.entries[entry].file_size
        if count * kind.item_bytes != n_bytes:
            raise refusals.damaged("a tensor's data has another size than declared")
        if entry not in storages:
            storages[entry] = Storage(n_bytes, partial(directory.extent, entry), order.strip() == b"big")
        return TypedStorage(storages[entry], kind.dtype)

    pickle = directory.read(f"{root}/data.pkl", limits.pickle_bytes)
    return Contents("torch-zip", read_pickle(io.BytesIO(pickle), limits, persistent_load))
