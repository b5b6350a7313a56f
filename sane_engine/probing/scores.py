"""A probe table as values: cells, their mean and spread, JSON and back. Loads no torch."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sane_engine.checkpoint import Refusal
from sane_engine.workspace import assets_root, atomic_file, workspace_root

FORMAT = "sane-explorer/probe-table/1"

METRICS = (
    "r2", "kendall_tau", "mae", "coverage", "width", "outside", "inner_r2", "balanced_accuracy", "accuracy",
    "chance", "inner_balanced_accuracy",
)  # fmt: skip
"""Scores of a probe, numeric ones first."""

_IDENTITY = ("representation", "target", "kind", "scale", "split", "seed", "method", "strength", "n_features")
_COUNTS = ("n_train_models", "n_train_checkpoints", "n_test_models", "n_test_checkpoints")


@dataclass(frozen=True)
class ProbeTable:
    """What a run of probes found.

    Attributes:
        record: The zoo, its digest, splits, seeds, split hash, versions; and how it was made.
        cells: One row a representation, property, split and seed, with :data:`METRICS` (NaN where one does not
            apply), numbers of models and checkpoints, and ``notes``.
        left_out: Representations that could not be made, and why.
    """

    record: Mapping[str, Any]
    cells: pd.DataFrame
    left_out: Mapping[str, str]

    @classmethod
    def of(
        cls, record: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], left_out: Mapping[str, str]
    ) -> ProbeTable:
        """From the plain values of probe results."""
        flat = [
            {name: row[name] for name in (*_IDENTITY, *_COUNTS)}
            | {metric: row["scores"].get(metric, np.nan) for metric in METRICS}
            | {"notes": " ".join(row["notes"])}
            for row in rows
        ]
        return cls(dict(record), pd.DataFrame(flat), dict(left_out))

    @property
    def targets(self) -> list[str]:
        """Properties in the order probed."""
        return list(dict.fromkeys(self.cells["target"]))

    @property
    def representations(self) -> list[str]:
        """Representations in the order probed."""
        return list(dict.fromkeys(self.cells["representation"]))

    def summary(self) -> pd.DataFrame:
        """Mean and spread over splits and seeds: one row a representation and property.

        Returns:
            ``representation``, ``target``, ``kind``, ``scale``, ``metric`` (what the headline is: ``"r2"`` or
            ``"balanced_accuracy"``), ``mean`` and ``spread`` of it (standard deviation over the cells, n − 1),
            ``cells`` (how many), then the mean of every metric and of the counts.
        """
        entries = []
        for (name, target), part in self.cells.groupby(["representation", "target"], sort=False):
            first = part.iloc[0]
            metric = "r2" if first["kind"] == "numeric" else "balanced_accuracy"
            values = part[metric].to_numpy(dtype=float)
            entries.append(
                {
                    "representation": name,
                    "target": target,
                    "kind": first["kind"],
                    "scale": first["scale"],
                    "metric": metric,
                    "mean": float(values.mean()),
                    "spread": float(values.std(ddof=1)) if len(values) > 1 else float("nan"),
                    "cells": len(values),
                    "n_features": round(float(part["n_features"].mean())),
                }
                | {other: float(part[other].mean()) for other in METRICS}
                | {f"{other}_spread": float(part[other].std(ddof=1)) for other in ("kendall_tau", "mae")}
                | {count: float(part[count].mean()) for count in _COUNTS}
            )
        return pd.DataFrame(entries)

    def merged(self, earlier: ProbeTable) -> ProbeTable:
        """This table with the cells of an earlier one that it lacks, if both are of the same zoo and splits."""
        same = (
            "zoo_digest",
            "split_hash",
            "seed",
            "outer_splits",
            "inner_folds",
            "encoder_seeds",
            "crossed",
            "level",
        )
        if any(self.record.get(name) != earlier.record.get(name) for name in same):
            return self
        identity = ["representation", "target", "split", "seed"]
        both = pd.concat([self.cells, earlier.cells], ignore_index=True).drop_duplicates(identity)
        left_out = {n: why for n, why in earlier.left_out.items() if n not in set(both["representation"])}
        return ProbeTable(self.record, both.reset_index(drop=True), {**left_out, **self.left_out})

    def to_json(self, **extra: Any) -> dict[str, Any]:
        """Record, summary and cells as plain values; NaN becomes null."""
        return {
            "format": FORMAT,
            **self.record,
            **extra,
            "left_out": dict(self.left_out),
            "table": _plain(self.summary()),
            "cells": _plain(self.cells),
        }

    def save(self, path: str | Path, **extra: Any) -> None:
        """Write one JSON file, atomically."""
        with atomic_file(path) as temporary:
            text = json.dumps(self.to_json(**extra), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
            temporary.write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> ProbeTable:
        """Read what :meth:`save` wrote.

        Raises:
            Refusal: The file is no such table (``not-a-probe-table``).
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise ValueError(f"format {content['format']!r}")
            cells = pd.DataFrame(content["cells"])
            for metric in METRICS:
                cells[metric] = pd.to_numeric(cells[metric]).astype(float)
            record = {k: v for k, v in content.items() if k not in {"format", "table", "cells", "left_out"}}
            return cls(record, cells, content["left_out"])
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise Refusal(
                "not-a-probe-table", f"{Path(path).name} cannot be read: {error}.", "Run `probe` again."
            ) from error


def _plain(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {
            str(name): None if isinstance(value, float) and not np.isfinite(value) else _rounded(value)
            for name, value in row.items()
        }
        for row in frame.to_dict("records")
    ]


def _rounded(value: Any) -> Any:
    return round(value, 6) if isinstance(value, float) else value


def known_table(zoo_digest: str, zoo_name: str = "") -> ProbeTable | None:
    """The table that ships for a zoo or lies in the workspace; ``None`` without any.

    Of both, the one with more in it, with the cells of the other where that is of the same splits.

    Args:
        zoo_digest: ``zoo.digest``; a table of other contents does not count.
        zoo_name: Name of the embedded zoo, if it is one.

    Raises:
        Refusal: The table that ships is damaged; a damaged one in the workspace counts as none.
    """
    tables = []
    if zoo_name and (shipped := assets_root() / "probes" / f"{zoo_name}.json").is_file():
        tables.append(ProbeTable.load(shipped))
    with suppress(Refusal):
        tables.append(ProbeTable.load(workspace_root() / "probes" / zoo_digest[:16] / "table.json"))
    own = [table for table in tables if table.record.get("zoo_digest") == zoo_digest]
    own.sort(key=lambda table: len(table.cells), reverse=True)
    return functools.reduce(ProbeTable.merged, own) if own else None
