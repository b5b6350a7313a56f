"""What each method reaches: read between settings, never beyond them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sane_engine.sampling.frontier import Frontier, frontier_of


def frontier() -> Frontier:
    """Two methods in weight space: one falls with novelty, one passes 0.4 rad twice."""
    rows = [
        ("gaussian", "weights", 0.1, 0.2, 0.9), ("gaussian", "weights", 0.5, 0.6, 0.7),
        ("interpolation", "weights", 0.0, 0.5, 0.6), ("interpolation", "weights", 1.0, 0.3, 0.8),
        ("interpolation", "weights", 2.0, 0.7, 0.2),
    ]  # fmt: skip
    return Frontier(
        pd.DataFrame(rows, columns=["method", "space", "level", "novelty", "accuracy"]), "top 10 %", 5, 12
    )


def test_accuracy_is_read_between_neighbouring_settings_and_never_beyond() -> None:
    at = frontier().at(0.4).set_index("method")["accuracy"]
    assert at["gaussian"] == pytest.approx(0.8)
    # Passed at 0.7 on the way down and at 0.65 on the way up: the better one counts.
    assert at["interpolation"] == pytest.approx(0.7)
    assert np.isnan(frontier().at(0.65).set_index("method")["accuracy"]["gaussian"])


def test_the_best_line_is_the_upper_edge() -> None:
    (line,) = frontier().best.values()
    for _, row in line.iterrows():
        assert row["accuracy"] == pytest.approx(frontier().at(row["novelty"])["accuracy"].max())
    assert set(line["method"]) == {"gaussian", "interpolation"}


def test_a_frontier_belongs_to_one_zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "frontiers"
    folder.mkdir()
    points = frontier().points.to_dict(orient="list")
    found = {"zoo_digest": "abc", "anchors": "top 10 %", "seeds": 5, "n": 12, "points": points}
    (folder / "some.json").write_text(json.dumps(found), encoding="utf-8")
    monkeypatch.setenv("SANE_ASSETS", str(tmp_path))
    frontier_of.cache_clear()
    try:
        known = frontier_of("abc")
        assert known is not None and known.seeds == 5
        assert frontier_of("abd") is None
    finally:
        frontier_of.cache_clear()
