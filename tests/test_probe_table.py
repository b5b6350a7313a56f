"""The probe table: the same splits for all, resumed where it stopped, and a command that prints it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sane_zoos import symmetric_zoo

from sane_engine import Cancelled, Refusal, Zoo
from sane_engine.__main__ import main
from sane_engine.baselines import zoo_layer_features
from sane_engine.probing import ProbeTable, known_table, probe_table
from sane_engine.probing.cells import Cell, features_of
from sane_engine.probing.folds import groups_of
from sane_engine.probing.held_out import Split
from sane_engine.progress import no_progress
from sane_engine.representations import (
    WeightStatistics,
    WeightWatcherFeatures,
    layer_tables,
    registry,
    sane_encodings,
)
from sane_engine.sane.config import SaneConfig

TINY = SaneConfig(
    token_size=12, latent=4, d_model=16, layers=1, heads=2, feedforward=16, window=16, steps=3, batch_size=8
)


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SANE_WORKSPACE", str(tmp_path / "workspace"))
    return tmp_path


@pytest.fixture
def zoo() -> Zoo:
    one = symmetric_zoo(30)
    size = one.stacked(range(30))["fc2.weight"].square().sum((1, 2)).numpy()
    random = np.random.default_rng(0)
    return one.with_columns(
        test_accuracy=(size - size.min()) / np.ptp(size),
        learning_rate=10.0 ** random.uniform(-5, -1, 30),
        optimiser=np.where(size > np.median(size), "sgd", "adam"),
    )


def test_all_representations_share_the_splits_and_a_known_property_is_found(zoo: Zoo) -> None:
    table = probe_table(zoo, ["statistics", "raw", "combination"], outer_splits=3)
    assert table.targets == ["test_accuracy", "learning_rate", "optimiser"]
    tested = table.cells.groupby(["representation", "target"])["n_test_models"].sum()
    assert (tested == 30).all(), "every model is held out once"
    summary = table.summary().set_index(["representation", "target"])
    assert summary.loc[("statistics", "test_accuracy"), "mean"] > 0.8
    assert summary.loc[("statistics", "learning_rate"), "mean"] < 0.3
    assert summary.loc[("statistics", "learning_rate"), "scale"] == "log10"
    assert summary.loc[("statistics", "optimiser"), "metric"] == "balanced_accuracy"
    chosen = table.cells.query("representation == 'combination'")
    assert set(chosen["target"]) <= {"test_accuracy"}


def test_a_run_goes_on_where_it_stopped(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = registry.representation("statistics")
    fitted: list[int] = []
    real = entry.make

    def counting(seed: int) -> registry.Representation:
        made = real(seed)
        fit = made.fit

        def count(train: Zoo, **options: object) -> registry.Representation:
            fitted.append(len(train))
            return fit(train, **options)  # type: ignore[arg-type]

        made.fit = count  # type: ignore[method-assign]
        return made

    changed = registry.Entry(**{**vars(entry), "make": counting, "depends_on_training": True})
    monkeypatch.setattr(
        registry, "_ENTRIES", tuple(changed if e.name == entry.name else e for e in registry._ENTRIES)
    )
    stopped = False

    def stop_after_two() -> bool:
        return stopped or len(fitted) >= 2

    with pytest.raises(Cancelled):
        probe_table(zoo, ["statistics"], ["test_accuracy"], outer_splits=4, cancelled=stop_after_two)
    done = len(fitted)
    assert 1 <= done < 4
    first = probe_table(zoo, ["statistics"], ["test_accuracy"], outer_splits=4)
    assert len(fitted) <= 5
    again = probe_table(zoo, ["statistics"], ["test_accuracy"], outer_splits=4)
    assert len(fitted) <= 5
    pd.testing.assert_frame_equal(first.cells, again.cells)
    assert all(size < 30 for size in fitted), "no representation is fitted on held-out models"


@pytest.mark.parametrize("name", ["statistics", "weightwatcher"])
def test_what_fills_gaps_is_learnt_from_the_training_models_of_each_split(
    zoo: Zoo, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The means of weights stand in for spectra, which take seconds.
    monkeypatch.setattr(WeightWatcherFeatures, "_columns", WeightStatistics._columns)
    monkeypatch.setattr(
        layer_tables, "cached_spectra", lambda zoo, **_: zoo_layer_features(zoo, None, "statistics")
    )
    broken = dict(zoo.stacked(range(30)))
    broken["fc2.weight"] = broken["fc2.weight"].clone()
    broken["fc2.weight"][7] = torch.nan
    gap = Zoo.from_stacked("gap", zoo.table, broken)
    entry, groups = registry.representation(name), groups_of(gap.table)
    for number in range(3):
        split = Split(groups, np.arange(30) % 3 == number)
        own = entry.make(0).fit(gap.select(np.flatnonzero(~split.test))).transform(gap)
        kept = features_of(gap, Cell(entry, number, 0, split), progress=no_progress)
        np.testing.assert_array_equal(kept, own)


def test_encoder_seeds_take_turns_or_cross(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sane_encodings.SaneEncoding.__init__, "__kwdefaults__", {
        **sane_encodings.SaneEncoding.__init__.__kwdefaults__, "config": TINY,
    })  # fmt: skip
    turns = probe_table(zoo, ["sane-untrained"], ["test_accuracy"], encoder_seeds=2, outer_splits=3)
    assert turns.cells["seed"].tolist() == [0, 1, 0]
    crossed = probe_table(zoo, ["sane-untrained"], ["test_accuracy"], encoder_seeds=2, outer_splits=3, crossed=True)
    assert crossed.cells[["split", "seed"]].to_numpy().tolist() == [[i, s] for i in range(3) for s in (0, 1)]


def test_what_cannot_be_made_is_left_out_with_a_reason(zoo: Zoo) -> None:
    unknown = Zoo.from_stacked("unknown", zoo.table, zoo.stacked(range(30)))
    table = probe_table(unknown, ["behaviour", "statistics"], ["test_accuracy"], outer_splits=3)
    assert set(table.left_out) == {"behaviour"}
    assert table.representations == ["statistics"]
    with pytest.raises(Refusal) as caught:
        probe_table(unknown, ["behaviour"], ["test_accuracy"], outer_splits=3)
    assert caught.value.code == "nothing-probed"


def test_a_table_is_found_again_by_the_zoo_it_belongs_to(zoo: Zoo, tmp_path: Path) -> None:
    table = probe_table(zoo, ["statistics"], ["test_accuracy"], outer_splits=3)
    table.save(tmp_path / "table.json", command="made by a test")
    loaded = ProbeTable.load(tmp_path / "table.json")
    assert loaded.record["command"] == "made by a test"
    pd.testing.assert_frame_equal(loaded.summary(), table.summary(), atol=1e-5)
    found = known_table(zoo.digest)
    assert found is not None and found.record["split_hash"] == table.record["split_hash"]
    assert known_table("0" * 64) is None
    probe_table(zoo, ["raw"], ["test_accuracy"], outer_splits=3)
    found = known_table(zoo.digest)
    assert found is not None and set(found.representations) == {"raw", "statistics"}, "runs add up"
    probe_table(zoo, ["raw"], ["test_accuracy"], outer_splits=4)
    found = known_table(zoo.digest)
    assert found is not None and found.representations == ["raw"], "but not over different splits"
    (tmp_path / "table.json").write_text("{}")
    with pytest.raises(Refusal):
        ProbeTable.load(tmp_path / "table.json")


def test_the_command_prints_the_whole_table(zoo: Zoo, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    zoo.save(tmp_path / "zoo")
    words = ["probe", str(tmp_path / "zoo"), "--representation", "raw", "--representation", "statistics"]
    assert main([*words, "--target", "test_accuracy", "--splits", "3", "--json", "--quiet"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [row["representation"] for row in printed["table"]] == ["raw", "statistics"]
    assert printed["split_hash"] and printed["seed"] == 0 and printed["models"] == 30
    assert printed["command"].endswith(
        "--representation raw --representation statistics --target test_accuracy --splits 3 --seeds 3 --seed 0"
    )
    assert main(["probe", str(tmp_path / "zoo"), "--representation", "nothing", "--quiet"]) == 2
    assert "no representation 'nothing'" in capsys.readouterr().err


def test_a_property_that_one_split_cannot_score_costs_only_itself(zoo: Zoo) -> None:
    rare = np.where(np.arange(30) == 4, "rare", "usual")
    table = probe_table(zoo.with_columns(schedule=rare), ["statistics", "combination"], outer_splits=3)
    counts = table.cells.query("representation == 'statistics'")["target"].value_counts()
    assert counts["test_accuracy"] == 3
    assert counts.get("schedule", 0) < 3
    assert "schedule" in table.record["skipped"]
    assert not table.left_out
