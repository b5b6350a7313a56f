"""One cell of a probe table: a representation on one outer split with one seed, kept on disk when it is done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sane_engine.checkpoint import Refusal
from sane_engine.probing.held_out import Bench, Split, probe_split
from sane_engine.probing.result import ProbeResult
from sane_engine.probing.targets import Target
from sane_engine.progress import CancelCheck, Progress, stop_if
from sane_engine.representations.protocol import Features
from sane_engine.representations.registry import Entry
from sane_engine.workspace import atomic_file, workspace_root

if TYPE_CHECKING:
    from sane_engine.zoo import Zoo

# Raised when scores or features come out differently for the same key.
_FORMAT = 1
# Wider features are made again rather than kept: raw weights of a zoo are the zoo once more.
_WIDEST_KEPT = 1200


@dataclass(frozen=True)
class Options:
    """What all cells of a table share.

    Attributes:
        folds: Inner folds.
        seed: Of the outer splits and the inner folds.
        level: Nominal coverage.
    """

    folds: int = 5
    seed: int = 0
    level: float = 0.9


@dataclass(frozen=True)
class Cell:
    """A representation on one outer split.

    Attributes:
        entry: The representation.
        number: Which outer split.
        seed: Of the representation.
        split: Who is fitted on and who is scored.
    """

    entry: Entry
    number: int
    seed: int
    split: Split


def zoo_folder(zoo_digest: str) -> Path:
    """Where the workspace keeps probes of a zoo."""
    return workspace_root() / "probes" / zoo_digest[:16]


def digest_of(*parts: Any) -> str:
    """Hex digits that name plain values; they change with the format of what is kept."""
    return hashlib.sha256(json.dumps([_FORMAT, *parts], sort_keys=True).encode()).hexdigest()[:24]


def _settings(cell: Cell) -> Any:
    config: Any = getattr(cell.entry.make(cell.seed), "config", None)
    return None if config is None else config.to_json()


def features_key(zoo: Zoo, cell: Cell) -> str:
    """Names the features of a cell: zoo, representation, its version and settings, and what it was fitted on."""
    split = cell.split.hash if cell.entry.depends_on_training else ""
    seed = cell.seed if cell.entry.seeded else 0
    return digest_of(zoo.digest, cell.entry.name, cell.entry.version, _settings(cell), split, seed)


def features_of(zoo: Zoo, cell: Cell, *, progress: Progress, cancelled: CancelCheck | None = None) -> Features:
    """The features of all rows, fitted on the cell's training rows; from disk where they are kept.

    Raises:
        Refusal: The representation cannot be made of this zoo.
        Cancelled: The caller asked to stop.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file, save_file

    path = zoo_folder(zoo.digest) / "features" / f"{cell.entry.name}-{features_key(zoo, cell)}.safetensors"
    with suppress(OSError, KeyError, SafetensorError):  # not there, or damaged: made again
        return load_file(path)["features"]
    train = zoo.select(np.flatnonzero(~cell.split.test))
    made = cell.entry.make(cell.seed).fit(train, progress=progress, cancelled=cancelled)
    stop_if(cancelled)
    features = made.transform(zoo, progress=progress, cancelled=cancelled)
    if features.shape[1] <= _WIDEST_KEPT:
        with atomic_file(path) as temporary:
            save_file({"features": np.ascontiguousarray(features)}, temporary)
    return features


def score_cell(
    zoo: Zoo,
    cell: Cell,
    targets: Sequence[Target],
    options: Options,
    *,
    progress: Progress,
    cancelled: CancelCheck | None = None,
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The scores of all targets, each as the plain values of a :class:`ProbeResult`; from disk where known.

    Returns:
        The scores, and why the targets that this split cannot score have none: a rare class, a sparse column.

    Raises:
        Refusal: The representation cannot be made of this zoo.
        Cancelled: The caller asked to stop; finished targets stay.
    """
    kept = Kept(zoo.digest, digest_of(features_key(zoo, cell), cell.split.hash, vars(options)), cell)
    # The scale of a property follows from its values: a rule that changed must not be answered from before.
    missing = [t for t in targets if kept.found.get(t.name, {}).get("scale") != t.scale]
    skipped: dict[str, str] = {}
    if missing:
        features = features_of(zoo, cell, progress=progress, cancelled=cancelled)
        bench = Bench(features, cell.split, folds=options.folds, seed=options.seed, cancelled=cancelled)
        for target in missing:
            stop_if(cancelled)
            try:
                result = probe_split(
                    features,
                    target,
                    cell.split,
                    level=options.level,
                    seed=options.seed,
                    bench=bench,
                    cancelled=cancelled,
                )
            except Refusal as refusal:
                skipped[target.name] = refusal.line()
            else:
                kept.add(result)
    return [kept.found[target.name] for target in targets if target.name not in skipped], skipped


def _whole(content: Any) -> bool:
    return isinstance(content, dict) and all(isinstance(scores, dict) for scores in content.values())


class Kept:
    """Finished scores of one cell, one JSON file."""

    def __init__(self, zoo_digest: str, key: str, cell: Cell) -> None:
        self._cell = cell
        self._path = zoo_folder(zoo_digest) / "cells" / f"{cell.entry.name}-{cell.number}-{cell.seed}-{key}.json"
        self.found: dict[str, dict[str, Any]] = {}
        with suppress(OSError, ValueError):  # not there, or damaged: scored again
            content = json.loads(self._path.read_text(encoding="utf-8"))
            self.found = content if _whole(content) else {}

    def add(self, result: ProbeResult, notes: Sequence[str] = ()) -> None:
        """Keep one more."""
        identity = {"representation": self._cell.entry.name, "split": self._cell.number, "seed": self._cell.seed}
        values = result.to_json()
        values["notes"] = [*values["notes"], *notes]
        values["fold_seed"] = values.pop("seed")
        self.found[result.target] = identity | values
        with atomic_file(self._path) as temporary:
            temporary.write_text(json.dumps(self.found) + "\n", encoding="utf-8")
