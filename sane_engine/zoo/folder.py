"""Reader of a folder, or a zip, of checkpoints that were never meant to be a zoo, with CSV files if there are any.

Every file is read once, by the intake, to know what it holds: whatever it refuses is listed in :attr:`Zoo.dropped`.
Of a folder the tensors stay in a bounded cache and are read again when needed; of a zip they stay in memory.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sane_engine.checkpoint import Refusal
from sane_engine.progress import CancelCheck, Progress, no_progress, stop_if
from sane_engine.zoo.files import CheckpointFiles, TensorCache, families
from sane_engine.zoo.metadata import MAX_CSV_BYTES, Properties, assemble, read_csv
from sane_engine.zoo.native import SYMMETRY
from sane_engine.zoo.signature import Signature, signature_of
from sane_engine.zoo.sources import MemorySource
from sane_engine.zoo.zoo import Zoo

if TYPE_CHECKING:
    from sane_engine.checkpoint import Checkpoint

# Relative path, row of the CSV, properties the file states itself.
_Row = tuple[str, Mapping[str, Any], Mapping[str, Any]]

MAX_FILES = 100_000
_INDEX = ".safetensors.index.json"
_MAX_INDEX_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class _Listing:
    """What lies in a folder, relative to it: possible checkpoints, and CSV files."""

    files: list[str]
    csvs: list[str]


def _list(root: Path, cancelled: CancelCheck | None) -> _Listing:
    """All files below ``root`` in name order; hidden ones and links to elsewhere are left out.

    Shards that an index names are read through the index, so they are not listed themselves.
    """
    files: list[str] = []
    csvs: list[str] = []
    shards: set[str] = set()
    for folder, folders, names in os.walk(root):
        stop_if(cancelled)
        folders[:] = sorted(f for f in folders if not f.startswith((".", "__")))
        for name in sorted(names):
            path = Path(folder) / name
            relative = path.relative_to(root).as_posix()
            if name.startswith(".") or path.is_symlink() or not path.is_file() or relative == SYMMETRY:
                continue
            (csvs if name.lower().endswith(".csv") else files).append(relative)
            if name.endswith(_INDEX):
                shards |= {(path.parent / s).relative_to(root).as_posix() for s in _shards(path)}
        if len(files) > MAX_FILES:
            raise Refusal(
                "zoo-too-many-files", f"There are more than {MAX_FILES:,} files.", "Choose a smaller folder."
            )
    return _Listing([f for f in files if f not in shards], csvs)


def _shards(index: Path) -> set[str]:
    """File names in a safetensors index; nothing if it is damaged, the intake will say so."""
    try:
        if index.stat().st_size > _MAX_INDEX_BYTES:
            return set()
        named = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        return {s for s in named if isinstance(s, str) and "/" not in s and "\\" not in s}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return set()


def _read_all(
    root: Path, files: list[str], progress: Progress, cancelled: CancelCheck | None
) -> Iterator[tuple[str, Checkpoint | Refusal]]:
    """Read files in order, in one child process of the intake."""
    from sane_engine.intake import load_each

    with closing(load_each([root / f for f in files], cancelled=cancelled)) as read:
        for done, (file, outcome) in enumerate(zip(files, read, strict=True)):
            stop_if(cancelled)
            progress(done, len(files), f"reading {file}")
            if isinstance(outcome, Refusal):
                yield file, outcome
            elif len(outcome) > 1:
                held = f"It holds {len(outcome)} checkpoints."
                yield file, Refusal("several-checkpoints", held, "Unpack it here.")
            else:
                yield file, outcome[0]
    progress(len(files), len(files), f"{len(files)} files read")


def _csv_properties(read: Iterator[tuple[str, bytes]]) -> tuple[Properties, list[tuple[str, str]]]:
    """All CSV files that speak of files; one that cannot be read is listed instead of stopping the rest."""
    properties = Properties()
    refused: list[tuple[str, str]] = []
    for name, content in read:
        try:
            frame = read_csv(content, name)
        except Refusal as refusal:
            refused.append((name, refusal.line()))
            continue
        if frame is None:
            refused.append((name, "this CSV has no column that names a file ('file')"))
        else:
            properties.add(frame, name)
    return properties, refused


def load_folder(
    path: Path,
    *,
    name: str | None = None,
    progress: Progress = no_progress,
    cancelled: CancelCheck | None = None,
) -> Zoo:
    """Open a folder or zip of checkpoints.

    A CSV with a ``file`` column gives properties; ``group`` keeps files together in the split; ``test_acc`` and its
    kin are also understood as ``test_accuracy``. Model and epoch come from the CSV, else from names such as
    ``epoch_020.pth``, else from the file itself.

    Args:
        path: The folder, or a zip file.
        name: What to call it, and its only model if files have no names of their own; by default as the path.
        progress: Called for every file.
        cancelled: Asked between files.

    Raises:
        Refusal: Nothing in it is a checkpoint (``zoo-empty``), it is one file that is no zip (``not-a-zoo``), or
            the zip cannot be read.
        Cancelled: ``cancelled`` answered true.
    """
    if path.is_dir():
        return _load_directory(path, name, progress, cancelled)
    if not zipfile.is_zipfile(path):
        raise _one_file(path)
    return _load_zip(path, name or path.stem, progress, cancelled)


def _load_directory(root: Path, name: str | None, progress: Progress, cancelled: CancelCheck | None) -> Zoo:
    root = root.resolve()
    listing = _list(root, cancelled)
    too_large = [(c, "larger than 64 MB") for c in listing.csvs if (root / c).stat().st_size > MAX_CSV_BYTES]
    small = [c for c in listing.csvs if c not in dict(too_large)]
    properties, refused = _csv_properties((c, (root / c).read_bytes()) for c in small)
    properties.among(listing.files)
    dropped = [*too_large, *refused]
    rows: list[_Row] = []
    signatures: list[Signature] = []
    paths: list[Path] = []
    digests: dict[int, str] = {}
    cache = TensorCache()
    for file, outcome in _read_all(root, listing.files, progress, cancelled):
        given = properties.of(file)
        if isinstance(outcome, Refusal):
            dropped.append((file.encode("utf-8", "replace").decode("utf-8"), outcome.line()))
            continue
        if reason := _diverged(outcome):
            dropped.append((file.encode("utf-8", "replace").decode("utf-8"), reason))
            continue
        cache.put(len(rows), outcome.tensors)
        digests[len(rows)] = outcome.provenance.sha256
        # A file name need not be Unicode on disk; in a table that is written and hashed it must be.
        rows.append((file.encode("utf-8", "replace").decode("utf-8"), given, outcome.properties))
        signatures.append(signature_of(outcome.tensors))
        paths.append(root / file)
    family, known = families(signatures)
    source = CheckpointFiles(tuple(paths), family, known, cache, digests)
    return _zoo(name or root.name, rows, source, properties, dropped, "folder")


def _load_zip(path: Path, called: str, progress: Progress, cancelled: CancelCheck | None) -> Zoo:
    from sane_engine.intake import load_checkpoints

    stop_if(cancelled)
    progress(0, 1, f"reading {path.name}")
    with _opened(path) as archive:
        members = archive.infolist()
        if _is_one_checkpoint([m.filename for m in members]):
            raise _one_file(path)
        if any(m.filename.endswith("/result.json") for m in members):
            raise Refusal(
                "zoo-zipped-modelzoos", "This zip holds a modelzoos folder.", "Unpack it and open the folder."
            )
        properties, dropped = _csv_properties(_zipped_csvs(archive, members))
    checkpoints = load_checkpoints(path, cancelled=cancelled)
    progress(1, 1, f"{len(checkpoints)} checkpoints read")
    csvs = {*properties.files, *dict(dropped)}
    ignored = dict.fromkeys(pair for c in checkpoints for pair in c.provenance.ignored)
    files = {m.filename for m in members if not m.is_dir()}
    dropped += [(name, reason) for name, reason in ignored if name in files and name not in csvs]
    names = [c.name for c in checkpoints]
    if len(names) == 1:
        # The intake calls the only checkpoint of a zip by the zip's name; the CSV calls it by its own.
        names = sorted(files - csvs - {name for name, _ in ignored})[:1] or names
    found = list(zip(names, checkpoints, strict=True))
    properties.among(names)
    for name, checkpoint in found:
        properties.of(name)  # a CSV's row of a diverged model is not one of a missing file
        if reason := _diverged(checkpoint):
            dropped.append((name, reason))
    whole = [(name, checkpoint) for name, checkpoint in found if not _diverged(checkpoint)]
    rows: list[_Row] = [(name, properties.of(name), checkpoint.properties) for name, checkpoint in whole]
    source = MemorySource.of_models([checkpoint.tensors for _, checkpoint in whole])
    return _zoo(called, rows, source, properties, dropped, "zip")


def _diverged(checkpoint: Checkpoint) -> str:
    """Why a checkpoint has no place in a zoo although it was read; empty if it has one.

    One network with weights that are no numbers would leave the whole zoo without a map.
    """
    count = checkpoint.properties.get("non_finite", 0)
    return f"diverged: {count} of its weights are infinite or not a number" if count else ""


def _opened(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError) as error:
        raise Refusal("damaged", f"The archive {path.name} is damaged.", "Download or copy it again.") from error


def _is_one_checkpoint(names: list[str]) -> bool:
    """Whether a zip is not an archive of files but one torch or numpy file."""
    return any(n.endswith("/data.pkl") for n in names) or (bool(names) and all(n.endswith(".npy") for n in names))


def _one_file(path: Path) -> Refusal:
    return Refusal("not-a-zoo", f"{path.name} is one file, not a zoo.", "Give a folder or a zip of checkpoints.")


def _zipped_csvs(archive: zipfile.ZipFile, members: list[zipfile.ZipInfo]) -> Iterator[tuple[str, bytes]]:
    left = MAX_CSV_BYTES
    for member in members:
        if member.filename.lower().endswith(".csv") and not member.filename.startswith("__MACOSX/"):
            try:
                with archive.open(member) as file:
                    # The declared size is the archive's own word; all of them together stay below the limit.
                    content = file.read(left + 1)
                left -= min(left, len(content))
                yield member.filename, content
            except (OSError, RuntimeError, zipfile.BadZipFile, NotImplementedError, EOFError):
                yield member.filename, b""


def _zoo(
    name: str,
    rows: list[_Row],
    source: CheckpointFiles | MemorySource,
    properties: Properties,
    dropped: list[tuple[str, str]],
    reader: str,
) -> Zoo:
    if not rows:
        first = f" ({dropped[0][0]}: {dropped[0][1]})" if dropped else ""
        raise Refusal("zoo-empty", f"There is no checkpoint in {name}{first}.", "Choose a folder that holds some.")
    dropped = [*dropped, *properties.unused()]
    table = assemble(rows, name)
    refused = pd.DataFrame(dropped, columns=["model", "reason"], dtype="str")
    provenance = {"reader": reader, "csv": properties.files, "checkpoints": len(rows), "dropped": len(refused)}
    if "split" in table.columns and _straddles(table):
        table = table.rename(columns={"split": "given_split"})
        provenance["note"] = "The CSV splits files of one model or group; a split by model was drawn instead."
    return Zoo(name, table, source, provenance=provenance, dropped=refused)


def _straddles(table: pd.DataFrame) -> bool:
    groups = table["group"] if "group" in table.columns else table["model"]
    return bool((table.groupby(groups.astype(str).to_numpy())["split"].nunique().to_numpy() > np.int64(1)).any())
