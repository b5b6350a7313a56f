"""The best combination: features put side by side, chosen for each property by inner cross-validation alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sane_engine.probing.cells import Cell, Kept, Options, digest_of, features_key, features_of
from sane_engine.probing.held_out import Bench, Split, probe_split
from sane_engine.probing.targets import MAIN, Target
from sane_engine.progress import CancelCheck, Progress, stop_if
from sane_engine.representations.protocol import Features, Representation
from sane_engine.representations.registry import COMBINATION, Entry

if TYPE_CHECKING:
    from sane_engine.zoo import Zoo

MOST_PARTS = 3
"""Representations put together at most."""

GAIN = 0.002
"""A further part must raise the inner R² by this much."""

# Controls and a twin; weights themselves, too wide to be worth trying; and what saw the labels of the inner folds.
_NOT_COMBINED = {"raw", "aligned", "token-pca", "sane-untrained", "sane", "sane-weights", "functional"}


def _never(seed: int) -> Representation:
    raise RuntimeError("a combination is made of other representations")


ENTRY = Entry(
    COMBINATION,
    "Best combination",
    f"Up to {MOST_PARTS} representations side by side, chosen on training models for each property.",
    "training",
    _never,
    depends_on_training=True,
    seeded=True,
)


def score_combination(
    zoo: Zoo,
    parts: Sequence[Cell],
    split: Split,
    rows: Sequence[Mapping[str, Any]],
    targets: Sequence[Target],
    options: Options,
    *,
    progress: Progress,
    cancelled: CancelCheck | None = None,
) -> list[dict[str, Any]]:
    """Combine representations for the main properties on one split: forward selection by inner R².

    Args:
        zoo: The zoo.
        parts: The cells of this split; of several seeds the first counts.
        split: Who is fitted on and who is scored.
        rows: Scores of these cells, for the first choice.
        targets: Properties; those that are not numeric and :data:`MAIN` are left out.
        options: Of the table.
        progress: Called with trials done.
        cancelled: Asked between trials.

    Returns:
        Plain values of one result a property.
    """
    first = {cell.entry.name: cell for cell in reversed(parts) if cell.entry.name not in _NOT_COMBINED}
    cells = {name: first[name] for name in dict.fromkeys(c.entry.name for c in parts) if name in first}
    if len(cells) < 2:
        return []
    number = next(iter(cells.values())).number
    names = sorted(features_key(zoo, cell) for cell in cells.values())
    own = Cell(ENTRY, number, max(cell.seed for cell in cells.values()), split)
    kept = Kept(zoo.digest, digest_of(zoo.digest, names, split.hash, vars(options)), own)
    wanted = [target for target in targets if target.name in MAIN and target.kind == "numeric"]
    features: dict[str, Features] = {}
    for done, target in enumerate(wanted):
        inner = {
            row["representation"]: row["scores"]["inner_r2"]
            for row in rows
            if row["target"] == target.name
            and row["split"] == number
            and row["representation"] in cells
            and row["seed"] == cells[row["representation"]].seed
        }
        if target.name in kept.found or not inner:
            continue
        if not features:
            features = {n: features_of(zoo, c, progress=progress, cancelled=cancelled) for n, c in cells.items()}
        progress(done, len(wanted), f"Combination for {target.name}")
        chosen = _choose(features, inner, target, split, options, cancelled)
        result = probe_split(
            np.concatenate([features[name] for name in chosen], axis=1),
            target,
            split,
            level=options.level,
            folds=options.folds,
            seed=options.seed,
            cancelled=cancelled,
        )
        kept.add(result, [f"Chosen: {', '.join(chosen)}."])
    return [kept.found[target.name] for target in wanted if target.name in kept.found]


def _choose(
    features: Mapping[str, Features],
    inner: Mapping[str, float],
    target: Target,
    split: Split,
    options: Options,
    cancelled: CancelCheck | None,
) -> list[str]:
    chosen = [max(inner, key=lambda name: inner[name])]
    best = inner[chosen[0]]
    train = target.known & ~split.test
    while len(chosen) < min(MOST_PARTS, len(features)):
        trials: dict[str, float] = {}
        for name in features:
            if name in chosen:
                continue
            stop_if(cancelled)
            together = np.concatenate([features[part] for part in (*chosen, name)], axis=1)
            trials[name] = _inner_r2(together, target, split, train, options, cancelled)
        winner = max(trials, key=lambda name: trials[name])
        if trials[winner] < best + GAIN:
            break
        chosen.append(winner)
        best = trials[winner]
    return chosen


def _inner_r2(
    together: Features,
    target: Target,
    split: Split,
    train: np.ndarray[Any, np.dtype[np.bool_]],
    options: Options,
    cancelled: CancelCheck | None,
) -> float:
    from sane_engine.probing.regression import fit_ridge

    bench = Bench(together, split, folds=options.folds, seed=options.seed, cancelled=cancelled)
    prepared, _ = bench.prepared(train)
    return fit_ridge(prepared, target.values[train].astype(np.float64)).r2
