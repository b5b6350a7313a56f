"""An item as one zip that another workspace takes in.

The zip holds ``item.json`` (kind, name, and of every file its size and sha256) and the files under ``files/``.
Equal items give equal bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

from sane_engine.checkpoint import Refusal
from sane_engine.inventory.items import Item, find_item
from sane_engine.progress import CancelCheck, Progress, no_progress, stop_if
from sane_engine.workspace import atomic_file

FORMAT = "sane-explorer/item/1"
MANIFEST, FILES = "item.json", "files/"
CHUNK = 1024 * 1024

# What may be in an item of a kind. Nothing else goes out, and nothing else comes in: no folders, no other suffix.
# Code never travels: the model.py of samples is made again, from their record, where they are taken in.
_EMBEDDINGS = r"(embeddings|sane-reference|layer-points|projection-(models|layers)-(umap|pca))\.safetensors"
EXPORTABLE: dict[str, re.Pattern[str]] = {
    "zoo": re.compile(r"(zoo|symmetry)\.json|properties\.parquet|weights(-\d{1,5})?\.safetensors"),
    "encoder": re.compile(r"encoder\.(json|safetensors)"),
    "embeddings": re.compile(rf"embeddings\.json|weightwatcher\.parquet|{_EMBEDDINGS}"),
    "samples": re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}\.(safetensors|pt|json|md)"),
}
_DATE = (1980, 1, 1, 0, 0, 0)


def export_item(
    key: str,
    target: str | os.PathLike[str] | BinaryIO,
    *,
    progress: Progress = no_progress,
    cancelled: CancelCheck | None = None,
) -> Item:
    """Write a zoo, an encoder, embeddings or a set of samples as one zip.

    Code is left out: the ``model.py`` of samples is written again, from their record, where they are taken in.

    Args:
        key: ``kind/name``, such as ``zoo/mine``.
        target: A path, which is replaced whole or not at all, or a binary file.
        progress: Called with bytes.
        cancelled: Asked between pieces.

    Raises:
        Refusal: There is no such item (``no-item``), its kind cannot be exported (``not-exportable``), it was
            replaced meanwhile (``item-changed``), or the disk is full (``disk-full``).
        Cancelled: ``cancelled`` answered true.
    """
    item = find_item(key)
    if item.kind.name not in EXPORTABLE:
        raise Refusal(
            "not-exportable",
            f"Of the kind {item.kind.name} nothing is exported.",
            f"Export one of {', '.join(EXPORTABLE)}.",
        )
    if not isinstance(target, (str, os.PathLike)):
        _write(item, target, progress, cancelled)
        return item
    with atomic_file(target) as temporary, temporary.open("wb") as stream:
        _write(item, stream, progress, cancelled)
    return item


def _write(item: Item, stream: BinaryIO, progress: Progress, cancelled: CancelCheck | None) -> None:
    allowed = EXPORTABLE[item.kind.name]
    marker = item.path / item.kind.marker
    try:
        before = marker.stat()
        names = sorted(path.name for path in item.path.iterdir() if path.is_file() and allowed.fullmatch(path.name))
        files: dict[str, dict[str, Any]] = {}
        done = 0
        with zipfile.ZipFile(stream, "w") as archive:
            for name in names:
                sha, size = hashlib.sha256(), 0
                with (
                    (item.path / name).open("rb") as source,
                    archive.open(_entry(FILES + name), "w", force_zip64=True) as out,
                ):
                    while piece := source.read(CHUNK):
                        stop_if(cancelled)
                        out.write(piece)
                        sha.update(piece)
                        size += len(piece)
                        progress(min(done + size, item.bytes), item.bytes, name)
                done += size
                files[name] = {"bytes": size, "sha256": sha.hexdigest()}
            manifest = {"format": FORMAT, "kind": item.kind.name, "name": item.name, "files": files}
            archive.writestr(_entry(MANIFEST), json.dumps(manifest, indent=1))
        after = marker.stat()
    except FileNotFoundError as error:
        raise _changed(item) from error
    if (before.st_ino, before.st_mtime_ns) != (after.st_ino, after.st_mtime_ns):
        raise _changed(item)


def digest_of_files(kind: str, folder: Path) -> str:
    """SHA-256 of the names and contents of all files that an item of a kind takes along."""
    total = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file() and EXPORTABLE[kind].fullmatch(path.name):
            with path.open("rb") as stream:
                total.update(f"{path.name} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _DATE)
    # Weights hardly shrink; names and tables in JSON do.
    entry.compress_type = zipfile.ZIP_DEFLATED if name.endswith((".json", ".md")) else zipfile.ZIP_STORED
    entry.external_attr = 0o644 << 16
    return entry


def _changed(item: Item) -> Refusal:
    return Refusal(
        "item-changed", f"{item.label} was replaced or removed while it was exported.", "Export it again."
    )
