"""The page Predict, and the prediction on Inspect."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from safetensors.torch import save as to_safetensors
from streamlit.testing.v1 import AppTest
from test_pages import assert_healthy, texts
from tiny_zoo import network, tiny_zoo

from pages.components import state
from pages.components.predict_table import wide
from sane_engine.jobs import ACTIVE, cancel, find_job, jobs
from sane_engine.probing import ProbeTable, probe_table
from sane_engine.representations import representations
from sane_engine.zoo import load_zoo

Open = Callable[..., AppTest]


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SANE_WORKSPACE", str(tmp_path))
    return tmp_path


@pytest.fixture
def probed(workspace: Path, tiny_assets: Path) -> ProbeTable:
    """A table of the tiny zoo in the workspace."""
    return probe_table(load_zoo(tiny_assets / "zoos" / "tiny"), ["statistics", "raw"], outer_splits=3)


def test_without_a_table_it_says_how_to_make_one_and_makes_a_quick_one(app: Open, workspace: Path) -> None:
    shown = app("predict", zoo="tiny")
    assert "python -m sane_engine probe tiny" in texts(shown)
    next(b for b in shown.button if b.label.startswith("Probe what")).click().run(timeout=120)
    assert_healthy(shown)
    table = shown.dataframe[0].value
    assert {"Weight statistics s(W)", "Per-token PCA", "SANE, untrained"} == set(table["representation"])


def stop(name: str) -> None:
    """Cancel a job and wait until it is over: while it runs the page shows it in place of the button."""
    cancel(name)
    for _ in range(600):
        if find_job(name).state not in ACTIVE:
            return
        time.sleep(0.1)
    raise AssertionError("the job does not stop")


def test_the_full_probe_runs_as_a_job_and_its_table_appears(app: Open, workspace: Path, tiny_assets: Path) -> None:
    shown = app("predict", zoo="tiny")
    next(b for b in shown.button if b.label == "Probe all representations").click().run()
    assert_healthy(shown)
    (job,) = jobs()
    assert job.arguments == ("probe", "tiny")
    assert not [b for b in shown.button if b.label.startswith("Probe all")]
    stop(job.id)
    zoo = load_zoo(tiny_assets / "zoos" / "tiny")
    probe_table(zoo, ["statistics"], ["test_accuracy"], outer_splits=3)
    probe_table(zoo, ["raw"], ["test_accuracy"], outer_splits=3)  # as a job would, in its own process
    shown = app("predict", zoo="tiny")
    assert_healthy(shown)
    assert set(shown.dataframe[0].value["representation"]) == {"Weight statistics s(W)", "Raw weights"}
    others = len(representations()) - 2
    next(b for b in shown.button if b.label == f"Probe the other {others} representations").click().run()
    arguments = jobs()[0].arguments
    stop(jobs()[0].id)
    assert arguments[:4] == ("probe", "tiny", "--splits", "3")
    assert arguments.count("--representation") == others


def test_the_table_shows_mean_and_spread_and_what_it_stands_on(app: Open, probed: ProbeTable) -> None:
    shown = app("predict", zoo="tiny")
    assert_healthy(shown)
    table = shown.dataframe[0].value
    assert set(table["representation"]) == {"Weight statistics s(W)", "Raw weights"}
    assert table["test accuracy"].str.contains("±").all()
    said = texts(shown)
    for part in ("n = 12 models, 36 checkpoints", "3 splits by model", probed.record["split_hash"], "seed 0"):
        assert part in said
    shown.selectbox(key=state.PREDICT_SCORE).select("Mean absolute error").run()
    assert_healthy(shown)
    assert shown.query_params["score"] in ("Mean absolute error", ["Mean absolute error"])


def test_the_best_stands_first_whatever_the_score() -> None:
    cells = [("a", 0.9, 0.1), ("b", 0.95, 0.2)]
    summary = pd.DataFrame(
        [
            {"representation": n, "target": "epoch", "mean": m, "spread": 0.01, "mae": e, "mae_spread": 0.0}
            | {"n_features": 3, "coverage": 0.9}
            for n, m, e in cells
        ]
    )
    assert wide(summary, "mean")["representation"].tolist() == ["b", "a"]
    assert wide(summary, "mae")["representation"].tolist() == ["a", "b"]
    assert wide(summary, "mean")["epoch"].tolist() == ["0.950 ± 0.010", "0.900 ± 0.010"]


@pytest.mark.parametrize("by", ["sane", "weightwatcher", "statistics"])
def test_predictions_on_held_out_models_from_every_view(app: Open, workspace: Path, by: str) -> None:
    shown = app("predict", zoo="tiny", show="Prediction", by=by, target="test_accuracy")
    assert_healthy(shown)
    assert not shown.error
    assert [metric.label for metric in shown.metric][:4] == ["R²", "Kendall's τ", "Mean error", "Covered"]
    said = texts(shown)
    assert "held out" in said and "conformal" in said and "seed 0" in said


def test_a_category_is_classified(app: Open, workspace: Path) -> None:
    shown = app("predict", zoo="tiny", show="Prediction", target="activation")
    assert_healthy(shown)
    assert [metric.label for metric in shown.metric][:2] == ["Balanced accuracy", "Chance"]


@pytest.mark.parametrize("of", ["sane", "weightwatcher", "statistics"])
def test_one_feature_over_all_layers_or_one(app: Open, workspace: Path, of: str) -> None:
    shown = app("predict", zoo="tiny", show="One feature", of=of)
    assert_healthy(shown)
    assert "Spearman" in texts(shown)
    ranks = next(frame.value for frame in shown.dataframe if "feature" in frame.value.columns)
    assert ranks["Spearman's ρ"].abs().is_monotonic_decreasing
    shown.selectbox(key=state.FEATURE_LAYER).select("fc1").run()
    assert_healthy(shown)
    assert "layer" in shown.query_params


def test_another_zoo_stands_beside_in_a_colour_of_its_own(app: Open, workspace: Path) -> None:
    other = tiny_zoo().select(range(15))
    other.save(workspace / "zoos" / "other")
    shown = app("predict", zoo="tiny", show="One feature", of="statistics")
    shown.multiselect(key="feature-beside").select("other").run()
    assert_healthy(shown)
    said = texts(shown)
    assert "tiny: Spearman" in said and "other: Spearman" in said
    assert "n = 15 checkpoints of 5 models" in said
    assert shown.selectbox(key="feature-colour").value == "population"
    shown.selectbox(key=state.FEATURE_VIEW).select("weightwatcher").run()
    assert_healthy(shown)
    assert "other is left out: it has not been seen through" in texts(shown)


@pytest.mark.parametrize("query", [{"show": "x"}, {"by": "../x"}, {"target": "nothing", "show": "Prediction"}])
def test_a_broken_link_falls_back(app: Open, workspace: Path, query: dict[str, str]) -> None:
    shown = app("predict", zoo="tiny", **query)
    assert_healthy(shown)
    assert not shown.error


def _prediction(shown: AppTest) -> pd.DataFrame:
    return next(frame.value for frame in shown.dataframe if "predicted" in frame.value.columns)


def test_a_model_of_the_zoo_is_predicted_by_the_others(app: Open, workspace: Path) -> None:
    shown = app("inspect", zoo="tiny", model="5")
    assert_healthy(shown)
    said = texts(shown)
    if "Nothing is predicted" not in said:
        found = _prediction(shown)
        assert found["true"].iloc[0] == pytest.approx(float(tiny_zoo().table["test_accuracy"].iloc[5]))
        assert (found["from"].fillna(-9) <= found["predicted"]).all()
        assert "of 11 models, this one left out" in said


def test_a_network_unlike_the_zoo_gets_no_number(app: Open, workspace: Path) -> None:
    shown = app("inspect", zoo="tiny")
    wild = {name: tensor * 300.0 for name, tensor in network(3).items()}
    shown.file_uploader(key="checkpoints-0").set_value([("wild.safetensors", to_safetensors(wild), "")]).run(
        timeout=120
    )
    assert_healthy(shown)
    assert "Nothing is predicted" in texts(shown)
    other = {name.replace("fc", "dense"): tensor for name, tensor in network(3).items()}
    shown.file_uploader(key="checkpoints-1").set_value([("other.safetensors", to_safetensors(other), "")]).run(
        timeout=120
    )
    assert_healthy(shown)
    assert "another architecture than those of" in texts(shown)
