"""What file names and CSV files say about checkpoints: model, epoch, group, metrics."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

import pandas as pd

from sane_engine.checkpoint import Refusal
from sane_engine.zoo.table import LARGEST_EPOCH, UNDERSTOOD

MAX_CSV_BYTES = 64 * 1024 * 1024
MAX_CSV_CELLS = 20_000_000
# Columns that may name the file a row is about, the likeliest first.
FILE_COLUMNS = ("file", "filename", "path", "checkpoint", "name")
ACCURACIES = ("train_accuracy", "validation_accuracy", "test_accuracy")
# Columns with a meaning of their own, however they are capitalised.
_OURS = ("model", "epoch", "split", "group")
_SPLITS = {"val": "validation", "valid": "validation", "dev": "validation", "training": "train", "testing": "test"}

_WORD = r"(?:epochs?|ep|e|checkpoint|ckpt|chkpt)"
# At a word's start and end, so that resnet20, mnist3 or the hash a1e5 are no epochs.
_EPOCH = re.compile(rf"(?:^|[-_. ]){_WORD}[-_=]?0*(\d{{1,7}})(?=$|[-_. ])", re.IGNORECASE)
_STEP = re.compile(r"(?:^|[-_. ])(?:global_?)?steps?[-_=]?\d+(?=$|[-_. ])", re.IGNORECASE)
_EDGES = "-_. ="


def without_suffix(name: str) -> str:
    """The last path component without the suffix of a checkpoint; a number after a dot is no suffix."""
    leaf = PurePosixPath(name).name
    stem = re.sub(r"\.(safetensors\.index\.json)$", "", leaf, flags=re.IGNORECASE)
    return re.sub(r"\.[A-Za-z][A-Za-z0-9]{0,11}$", "", stem) or leaf


def model_and_epoch(name: str, root: str) -> tuple[str, int | None]:
    """Model and epoch that a relative path speaks of.

    ``runs/a/epoch_020.pth`` is model ``runs/a`` at epoch 20, ``model-e3.pt`` is ``model`` at 3, ``resnet20.th`` is
    ``resnet20`` at no known epoch, ``checkpoint_000012/weights`` is ``root`` at 12.

    Args:
        name: Path relative to the zoo, with forward slashes.
        root: What to call the model when the path has nothing but the epoch.
    """
    parts = [*PurePosixPath(name).parts[:-1], without_suffix(name)]
    for index in range(len(parts) - 1, -1, -1):
        match = _EPOCH.search(parts[index])
        if match is None:
            continue
        rest = parts[index][: match.start()] + parts[index][match.end() :]
        rest = _STEP.sub("", rest).strip(_EDGES)
        # Below an epoch's folder the file's own name says only what kind of file it is.
        kept = [*parts[:index], rest] if rest else parts[:index]
        return "/".join(kept) or root, int(match.group(1))
    return "/".join(parts), None


def _cells(content: bytes) -> int:
    """Most cells that a CSV can have: a short file with one wide row would otherwise fill the memory."""
    lines = widest = 0
    for line in io.BytesIO(content):
        lines += 1
        widest = max(widest, line.count(b",") + 1)
    return lines * widest


def read_csv(content: bytes, name: str) -> pd.DataFrame | None:
    """Rows of a CSV about files, indexed by the file they name; ``None`` if it has no such column.

    Raises:
        Refusal: It cannot be parsed (``zoo-csv``), or names a file twice (``zoo-csv-duplicate``).
    """
    if len(content) > MAX_CSV_BYTES:
        raise Refusal("zoo-csv", f"{name} is larger than 64 MB.", "Leave it out or make it smaller.")
    if _cells(content) > MAX_CSV_CELLS:
        raise Refusal(
            "zoo-csv", f"{name} has more than {MAX_CSV_CELLS:,} cells.", "Leave it out or make it smaller."
        )
    try:
        frame = pd.read_csv(io.BytesIO(content), skipinitialspace=True, encoding="utf-8-sig", low_memory=False)
    except (ValueError, UnicodeDecodeError, pd.errors.ParserError) as error:
        reason = " ".join(str(error).split())[:160]
        raise Refusal(
            "zoo-csv", f"{name} is no CSV that can be read ({reason}).", "Repair it or leave it out."
        ) from error
    if not isinstance(frame.index, pd.RangeIndex):
        # pandas would take the first columns for row labels and shift all others under the wrong name.
        raise Refusal(
            "zoo-csv", f"The rows of {name} have more values than its header.", "Repair it or leave it out."
        )
    frame.columns = pd.Index([str(c).strip() for c in frame.columns])
    by_lower = {c.lower(): c for c in reversed(list(frame.columns))}
    column = next((by_lower[c] for c in FILE_COLUMNS if c in by_lower), None)
    if column is None:
        return None
    frame = frame.rename(
        columns={by_lower[c]: c for c in _OURS if c in by_lower and c not in frame and by_lower[c] != column}
    )
    frame = frame.dropna(subset=[column])
    files = frame[column].astype(str).str.strip().str.replace("\\", "/", regex=False).str.removeprefix("./")
    if files.duplicated().any():
        twice = files[files.duplicated()].iloc[0]
        raise Refusal("zoo-csv-duplicate", f"{name} names {twice!r} twice.", "Keep one row a file.")
    return frame.drop(columns=[column]).set_axis(files.to_numpy(), axis=0)


class Properties:
    """The rows of all CSV files of a zoo, found by file name."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[str, Any]] = {}
        self._used: set[str] = set()
        self._ambiguous: set[str] = set()
        self.files: list[str] = []

    def add(self, frame: pd.DataFrame, csv: str) -> None:
        """Take the rows of a CSV; its file names are relative to the folder it lies in."""
        folder = PurePosixPath(csv).parent
        self.files.append(csv)
        for file, row in zip(frame.index, frame.to_dict(orient="records"), strict=True):
            self._rows[(folder / str(file)).as_posix()] = {str(k): v for k, v in row.items()}

    def among(self, files: Iterable[str]) -> None:
        """Say which files there are: a name that several of them bear, in different folders, tells none of them."""
        bearers = Counter(name for file in files for name in {PurePosixPath(file).name, without_suffix(file)})
        self._ambiguous = {name for name, count in bearers.items() if count > 1}

    def of(self, file: str) -> Mapping[str, Any]:
        """The row of a file: by its path, else by its name, with or without the suffix."""
        leaf = PurePosixPath(file)
        names = [name for name in (leaf.name, without_suffix(file)) if name not in self._ambiguous]
        for key in (file, leaf.with_suffix("").as_posix(), *names):
            if key in self._rows:
                self._used.add(key)
                return self._rows[key]
        return {}

    def unused(self) -> list[tuple[str, str]]:
        """Names in a CSV that are of no file, and why."""
        several = "several files bear this name: give the path from the CSV's folder"
        missing = "named in a CSV, but there is no such file"
        return [
            (key, several if key in self._ambiguous else missing) for key in self._rows if key not in self._used
        ]


def _numbers(column: pd.Series[Any]) -> pd.Series[Any]:
    """A column as float64, ``93 %`` as 93; NaN where it says no number."""
    if not pd.api.types.is_numeric_dtype(column):
        column = column.astype("str").str.strip().str.removesuffix("%")
    return pd.to_numeric(column, errors="coerce").astype(float)


def understood(table: pd.DataFrame) -> pd.DataFrame:
    """Add columns under the names this house understands where they are missing; nothing is taken away.

    Accuracies in percent become fractions, under our own name too. A ``split`` with other words than ours moves to
    ``given_split``.
    """
    table = table.copy()
    by_lower = {str(c).lower(): c for c in table.columns}
    for given, name in UNDERSTOOD.items():
        if given not in by_lower or name in table.columns:
            continue
        values = _numbers(table[by_lower[given]])
        if values.notna().any():
            table[name] = values
    for name in [name for name in ACCURACIES if name in table.columns]:
        values = _numbers(table[name])
        if values.notna().any():
            table[name] = values / 100 if 1 < values.max() <= 100 else values
    if "split" in table.columns:
        words = table["split"].astype(str).str.strip().str.lower().replace(_SPLITS)
        if words.isin(["train", "validation", "test"]).all():
            table["split"] = words
        else:
            table = table.rename(columns={"split": "given_split"})
    return table


def assemble(rows: Iterable[tuple[str, Mapping[str, Any], Mapping[str, Any]]], root: str) -> pd.DataFrame:
    """The table of a folder: what the CSV says first, then the file name, then the file itself.

    Args:
        rows: For each checkpoint its relative path, its CSV row, and its own properties.
        root: Name of the zoo.
    """
    records = []
    for file, given, own in rows:
        model, epoch = model_and_epoch(file, root)
        if epoch is None:
            stated = own.get("epoch")
            epoch = 0
            if isinstance(stated, int | float) and not isinstance(stated, bool):
                whole = abs(stated) < LARGEST_EPOCH and float(stated).is_integer()
                epoch = int(stated) if whole else 0
        record = {**{k: v for k, v in own.items() if k not in ("model", "split", "group", "file")}, **given}
        for key, value in (("model", model), ("epoch", epoch)):
            if pd.isna(record.get(key)) or (key == "epoch" and key not in given):
                record[key] = value
        records.append({**record, "file": file})
    table = pd.DataFrame.from_records(records)
    # Two files of one model at one epoch (steps within it, two formats, no epochs known) are called by their file;
    # they stay together in the split, for they may be near copies of each other.
    table["model"] = table["model"].astype(str)
    twice = table.duplicated(["model", "epoch"], keep=False)
    if twice.any() and "group" not in table:
        table["group"] = table["model"]
    table.loc[twice, "model"] = [PurePosixPath(f).as_posix() for f in table.loc[twice, "file"]]
    return understood(table)
