"""What each method reaches on an embedded zoo, measured once over seeds: the backdrop of a user's samples."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, cast

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from pages.components.sampling_trace import SPACES
from pages.components.show import show_caption, show_table
from sane_engine.workspace import assets_root

if TYPE_CHECKING:
    from sane_engine.sampling.spaces import SpaceName

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

    @property
    def said(self) -> str:
        """For captions."""
        return (
            f"the best that any method reaches, {self.seeds} seeds of {self.n} samples, anchors {self.anchors} "
            "(benchmarks.sampling_frontier)"
        )

    def at(self, novelty: float) -> pd.DataFrame:
        """Accuracy of each method at a novelty, between its two neighbouring settings; NaN beyond them."""
        rows = []
        for (method, space), part in self.points.groupby(["method", "space"], sort=False):
            ordered = part.sort_values("level")
            value = _passages(ordered["novelty"].to_numpy(), ordered["accuracy"].to_numpy(), novelty)
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
                edges.setdefault(f"best known, {SPACES[cast('SpaceName', space)]}", []).append(
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


def _passages(x: NDArray[np.float64], y: NDArray[np.float64], at: float) -> float:
    """The best value where a line through settings passes ``at``; NaN where it does not."""
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


def frontier_table(frontier: Frontier) -> None:
    """What each method reaches, closed until it is asked for."""
    with st.expander("What each method reaches on this zoo"):
        show_table(frontier.table(), "frontier")
        show_caption(
            f"Accuracy at epoch 0 at a novelty · mean of {frontier.seeds} seeds of {frontier.n} samples · anchors "
            f"{frontier.anchors} · empty where no setting reaches that novelty · benchmarks.sampling_frontier"
        )
