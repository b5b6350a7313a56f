"""What ships under assets is what its records, and the README, say it is."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from sane_engine import embed, load_encoder, load_zoo
from sane_engine.demo import load_precomputed
from sane_engine.sampling import prepare, task_of
from sane_engine.sampling.novelty import reference_of
from sane_engine.sampling.sampling import draw_vectors
from sane_engine.sampling.spaces import decode_models
from sane_engine.sane import SaneConfig, reconstruction
from sane_engine.sane.scorecard import scorecard
from sane_engine.workspace import assets_root
from sane_engine.zoo.architectures import evaluate
from sane_engine.zoo.datasets import load_dataset

PAIRS = [("digits", "digits-sane", 300, 0.97), ("digits-independent", "digits-independent-sane", 100, 0.93)]


@pytest.mark.parametrize(("zoo_name", "encoder_name", "models", "bar"), PAIRS)
def test_encoder_reconstructs_models_it_has_not_seen(
    zoo_name: str, encoder_name: str, models: int, bar: float
) -> None:
    zoo, encoder = load_zoo(zoo_name), load_encoder(encoder_name)
    assert zoo.table["model"].nunique() >= models
    assert (zoo.table.groupby("model")["epoch"].nunique() >= 6).all()
    assert encoder.provenance["zoo_digest"] == zoo.digest
    card = scorecard(encoder, zoo)
    assert card["test"]["r2"]["sane"] >= bar
    assert card["test"]["accuracy"]["loss_points_mean"] <= 1.0
    recorded = encoder.provenance["metrics"]
    for split, scores in card.items():
        for measure in ("r2", "r2_weight"):
            assert scores[measure] == pytest.approx(recorded[split][measure], abs=2e-3)
        assert scores["accuracy"]["original"] == pytest.approx(recorded[split]["accuracy"]["original"], abs=2e-3)


@pytest.mark.parametrize(("zoo_name", "encoder_name", "models", "bar"), PAIRS)
def test_what_is_kept_is_what_the_engine_computes(
    zoo_name: str, encoder_name: str, models: int, bar: float
) -> None:
    zoo, encoder = load_zoo(zoo_name), load_encoder(encoder_name)
    kept = load_precomputed(zoo_name, encoder_name)
    assert kept is not None
    rows = np.random.default_rng(0).choice(len(zoo), 20, replace=False)
    fresh = embed(encoder, zoo.select(rows))
    # Kept as half precision, so to three digits.
    np.testing.assert_allclose(kept.embeddings.models[rows], fresh.models, rtol=5e-3, atol=5e-3)
    np.testing.assert_allclose(kept.embeddings.layers[rows], fresh.layers, rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize("zoo_name", [pair[0] for pair in PAIRS])
def test_accuracies_in_the_table_are_those_of_the_weights(zoo_name: str) -> None:
    zoo = load_zoo(zoo_name)
    data = load_dataset("digits")
    rows = np.random.default_rng(1).choice(len(zoo), 50, replace=False)
    accuracy, loss = evaluate(zoo.architecture, zoo.stacked(rows), data.test_images, data.test_labels)
    table = zoo.table.iloc[rows]
    np.testing.assert_allclose(accuracy.numpy(), table["test_accuracy"], atol=1e-6)
    np.testing.assert_allclose(loss.numpy(), table["test_loss"], rtol=1e-4, atol=1e-6)
    assert table["test_accuracy"].max() - table["test_accuracy"].min() > 0.5, "from poor to excellent"


@pytest.mark.parametrize("zoo_name", [pair[0] for pair in PAIRS])
def test_no_model_is_in_two_splits(zoo_name: str) -> None:
    table = load_zoo(zoo_name).table
    assert (table.groupby("model")["split"].nunique() == 1).all()
    assert set(table["split"]) == {"train", "validation", "test"}


@pytest.mark.parametrize("encoder_name", [pair[1] for pair in PAIRS])
def test_configurations_that_ship_are_those_of_the_encoders_that_ship(encoder_name: str) -> None:
    config = SaneConfig.from_file(assets_root() / "configs" / f"{encoder_name}.json")
    assert load_encoder(encoder_name).config == config


def test_the_universal_encoder_takes_any_network() -> None:
    encoder = load_encoder("universal")
    assert encoder.config == SaneConfig.from_file(assets_root() / "configs" / "universal.json")
    assert len(encoder.provenance["zoos"]) >= 6
    folder = assets_root() / "encoders" / "universal"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 1_200_000
    generator = torch.Generator().manual_seed(0)
    shapes = {"a.weight": (12, 3, 7, 7), "bn.weight": (12,), "bn.running_var": (12,), "attention": (40, 40)}
    network = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    found = embed(encoder, [network])
    assert not found.foreign.any()
    assert np.isfinite(found.layers).all()
    zoo = load_zoo("digits-independent")
    scores = reconstruction(encoder, zoo, np.flatnonzero(zoo.table["split"] == "test")[:30])
    assert scores[scores["layer"] == "all"].set_index("method")["r2"]["sane"] > 0.85


def test_records_carry_how_they_were_made() -> None:
    kept = load_precomputed("digits", "digits-sane")
    assert kept is not None
    encoders = [load_encoder(name).provenance for name in ("digits-sane", "universal")]
    for record in (load_zoo("digits").provenance, *encoders, kept.record):
        assert record["command"].startswith("python -m sane_engine ")
        assert record["commit"] and "dirty" not in record["commit"]
        assert json.dumps(record)


def test_the_encoder_for_sampling_beats_its_twin() -> None:
    """One setting of the table in docs/sampling-encoder.md: as novel, and far more accurate."""
    zoo, encoder = load_zoo("digits"), load_encoder("digits-sampling")
    assert encoder.config == SaneConfig.from_file(assets_root() / "configs" / "sampling.json")
    task = task_of(zoo)
    found = {}
    for space, step in (("latents", 1.2), ("weights", 1.0)):
        prepared = prepare(
            encoder, zoo, method="difference", parameters={"step": step}, space=space, seed=3, task=task
        )
        stacked = decode_models(prepared.space, draw_vectors(prepared, 8))
        reference = reference_of(zoo, prepared.space.frame, [prepared.space], row=prepared.row)
        found[space] = (
            float(task.score(stacked, task.test)[0].mean()),
            float(reference.nearest(stacked).angle.mean()),
        )
    assert found["latents"][0] > found["weights"][0] + 0.03
    assert found["latents"][1] > found["weights"][1] - 0.05
