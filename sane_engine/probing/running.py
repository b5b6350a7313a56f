"""All representations against all properties, on the same splits in the same run."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from sane_engine.checkpoint import Refusal
from sane_engine.probing.cells import Cell, Options, score_cell, zoo_folder
from sane_engine.probing.folds import grouped_folds, groups_of, split_hash
from sane_engine.probing.held_out import Split
from sane_engine.probing.scores import ProbeTable
from sane_engine.probing.targets import as_target, probe_targets
from sane_engine.progress import CancelCheck, Progress, no_progress, stop_if
from sane_engine.representations.registry import COMBINATION, Entry, representation, representations

if TYPE_CHECKING:
    from sane_engine.zoo import Zoo

_TICKS = 100


def probe_table(
    zoo: Zoo,
    names: Sequence[str] | None = None,
    targets: Sequence[str] | None = None,
    *,
    encoder_seeds: int = 3,
    outer_splits: int = 5,
    crossed: bool = False,
    seed: int = 0,
    folds: int = 5,
    level: float = 0.9,
    progress: Progress = no_progress,
    cancelled: CancelCheck | None = None,
) -> ProbeTable:
    """Probe every representation for every property.

    Every model is held out once: the groups are dealt into ``outer_splits`` folds, and everything, encoders
    included, is fitted on the other folds. All representations see the same splits. What is finished is kept in
    the workspace under digests of zoo, representation, settings and split, and not computed again.

    Args:
        zoo: The zoo; its own split is not used.
        names: Representations, by default all; ``"combination"`` is chosen from the others of this call.
        targets: Columns, by default test accuracy, epoch, gap and all hyper-parameters that vary.
        encoder_seeds: How many seeds of what is trained. They take turns over the splits …
        outer_splits: How many folds, at least 2.
        crossed: … or, with ``True``, every split is done with every seed, which takes as many times longer.
        seed: Of the outer splits and the inner folds.
        folds: Inner folds.
        level: Nominal coverage of the intervals.
        progress: Called with hundredths of cells.
        cancelled: Asked between all steps.

    Raises:
        Refusal: Unknown names, too few models, or no representation could be made (``nothing-probed``).
        Cancelled: The caller asked to stop.
    """
    from sane_engine.probing.combination import score_combination

    wanted = [*representations(), COMBINATION] if names is None else list(dict.fromkeys(names))
    entries = [representation(name) for name in wanted if name != COMBINATION]
    found_targets = [as_target(zoo.table, name) for name in (targets or probe_targets(zoo.table))]
    if not found_targets:
        raise Refusal("nothing-to-predict", "No property of this zoo varies.", "Give a zoo with a table.")
    options = Options(folds=folds, seed=seed, level=level)
    groups = groups_of(zoo.table)
    fold = grouped_folds(groups, outer_splits, seed)
    splits = [Split(groups, fold == number) for number in range(outer_splits)]

    def cells(entry: Entry) -> list[Cell]:
        seeds = max(1, encoder_seeds)
        return [
            Cell(entry, number, one, split)
            for number, split in enumerate(splits)
            for one in ([0] if not entry.seeded else range(seeds) if crossed else [number % seeds])
        ]

    total = sum(len(cells(entry)) for entry in entries) + (outer_splits if COMBINATION in wanted else 0)
    done = 0
    rows: list[dict[str, Any]] = []
    left_out: dict[str, str] = {}
    skipped: dict[str, str] = {}

    def report(part: int, of: int, message: str, /) -> None:
        progress(done * _TICKS + _TICKS * part // max(1, of), total * _TICKS, message)

    def table() -> ProbeTable:
        record = {
            "zoo": zoo.name,
            "zoo_digest": zoo.digest,
            "models": len(set(groups.tolist())),
            "checkpoints": len(zoo),
            "grouped_by": zoo.group_column,
            "split_hash": split_hash(groups, fold),
            "seed": seed,
            "outer_splits": outer_splits,
            "inner_folds": folds,
            "encoder_seeds": encoder_seeds,
            "crossed": crossed,
            "level": level,
            **({"skipped": dict(sorted(skipped.items()))} if skipped else {}),
            "versions": {"python": platform.python_version(), **{p: version(p) for p in ("numpy", "torch")}},
        }
        return ProbeTable.of(record, rows, left_out)

    for entry in entries:
        for cell in cells(entry):
            stop_if(cancelled)
            report(0, 1, f"{entry.label}, split {cell.number + 1}")
            if entry.name not in left_out:
                try:
                    scored, without = score_cell(
                        zoo, cell, found_targets, options, progress=report, cancelled=cancelled
                    )
                    rows += scored
                    skipped |= {name: f"split {cell.number + 1}: {why}" for name, why in without.items()}
                except Refusal as refusal:
                    left_out[entry.name] = refusal.line()
            done += 1
        if rows:
            _keep(table())
    if COMBINATION in wanted:
        usable = [entry for entry in entries if entry.name not in left_out]
        for number, split in enumerate(splits):
            stop_if(cancelled)
            report(0, 1, f"Combination, split {number + 1}")
            parts = [cell for entry in usable for cell in cells(entry) if cell.number == number]
            rows += score_combination(
                zoo, parts, split, rows, found_targets, options, progress=report, cancelled=cancelled
            )
            done += 1
    if not rows:
        reason = next(iter([*left_out.values(), *skipped.values()]), "")
        raise Refusal("nothing-probed", f"Nothing could be probed: {reason}", "Name others.")
    finished = table()
    _keep(finished)
    progress(total * _TICKS, total * _TICKS, "probed")
    return finished


def _keep(table: ProbeTable) -> None:
    """Add to the table that a page finds in the workspace; one of other splits is replaced."""
    path = zoo_folder(str(table.record["zoo_digest"])) / "table.json"
    if path.is_file():
        # One that is damaged, or of an earlier format, is replaced by what is found now.
        with suppress(Refusal):
            table = table.merged(ProbeTable.load(path))
    table.save(path)
