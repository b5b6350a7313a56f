"""What each method reaches: accuracy against novelty, measured over seeds, and read between settings."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sane_engine.workspace import assets_root

_STEPS = 60


@dataclass(frozen=True, eq=False)
class Frontier:
    """Means over seeds of every method, space and setting.

    Attributes:
        points: ``method``, ``space``, ``level``, ``novelty`` (radians), ``accuracy``, and ``…_std`` over seeds.
        anchors: How they were chosen.
        seeds: How many.
        n: Samples a seed and setting.
    """

    points: pd.DataFrame
    anchors: str
    seeds: int
    n: int

    def at(self, novelty: float) -> pd.DataFrame:
        """Accuracy of each method at a novelty, between its two neighbouring settings; NaN beyond them."""
        rows = []
        for (method, space), part in self.points.groupby(["method", "space"], sort=False):
            ordered = part.sort_values("level")
            value = accuracy_at(ordered["novelty"].to_numpy(), ordered["accuracy"].to_numpy(), novelty)
            rows.append({"method": method, "space": space, "accuracy": value})
        return pd.DataFrame(rows)

    @cached_property
    def best(self) -> dict[str, pd.DataFrame]:
        """For each space the upper edge of all its methods: ``novelty``, ``accuracy``, ``method``.

        It ends where fewer than half of the methods were turned that far: what is left says nothing of the best.
        """
        low, high = self.points["novelty"].min(), self.points["novelty"].max()
        edges: dict[str, list[dict[str, object]]] = {}
        for novelty in np.linspace(low, high, _STEPS):
            found = self.at(float(novelty)).dropna(subset="accuracy")
            for space, part in found.groupby("space", sort=False):
                methods = self.points.loc[self.points["space"] == space, "method"].nunique()
                if novelty > self.points["novelty"].median() and 2 * len(part) < methods:
                    continue
                top = int(part["accuracy"].to_numpy().argmax())
                edges.setdefault(str(space), []).append(
                    {
                        "novelty": novelty,
                        "accuracy": part["accuracy"].iloc[top],
                        "method": part["method"].iloc[top],
                    }
                )
        return {name: pd.DataFrame(rows) for name, rows in edges.items()}

    def table(self) -> pd.DataFrame:
        """One row a method and space, one column for each of five novelties."""
        levels = np.quantile(self.points["novelty"], (0.2, 0.35, 0.5, 0.65, 0.8)).round(2)
        result = self.at(float(levels[0]))[["method", "space"]]
        for level in levels:
            result[f"{level:.2f} rad"] = self.at(float(level))["accuracy"].to_numpy()
        return result


def accuracy_at(x: NDArray[np.float64], y: NDArray[np.float64], at: float) -> float:
    """Accuracy at a novelty, read between two settings next to each other; never beyond them.

    Args:
        x: Novelty of each setting of one method, in the order of its knob, ``[k]``.
        y: Accuracy likewise.
        at: A novelty. Where the method passes it twice on its way, the better passage counts.

    Returns:
        NaN where no two settings lie around it.
    """
    low, high = np.minimum(x[:-1], x[1:]), np.maximum(x[:-1], x[1:])
    hit = (low <= at) & (at <= high) & (high > low)
    if not hit.any():
        return np.nan
    share = (at - x[:-1][hit]) / (x[1:][hit] - x[:-1][hit])
    return float((y[:-1][hit] + share * (y[1:][hit] - y[:-1][hit])).max())


@lru_cache(maxsize=4)
def frontier_of(digest: str) -> Frontier | None:
    """The frontier of the zoo with this digest, or None where none was measured."""
    for path in sorted((assets_root() / "frontiers").glob("*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["zoo_digest"] == digest:
            return Frontier(pd.DataFrame(found["points"]), found["anchors"], found["seeds"], found["n"])
    return None
