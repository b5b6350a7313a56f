"""One encoder for networks of any architecture: trained on several zoos, at home in none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sane_zoos import SMALL, WIDE, stacked, zoo

from sane_engine import Refusal
from sane_engine.__main__ import main
from sane_engine.baselines.sane_layers import embedding_features, reference_of
from sane_engine.sane import Sane, SaneConfig, embed, load_encoder, pretrain, reconstruction
from sane_engine.sane.training_set import TrainingSet, rows_of_split
from sane_engine.zoo import Zoo, combine_zoos

CONFIG = SaneConfig(
    token_size=10, latent=6, d_model=16, layers=1, heads=2, feedforward=16, window=16, steps=30, batch_size=8,
    universal=True, align=False, gamma=0.0, permute=0.5, scale_features=True, summary_weight=0.3,
    auxiliary_weight=0.3, learning_rate=3e-3,
)  # fmt: skip
OTHER = {"a.weight": (7, 5), "a.bias": (7,), "b.weight": (3, 7), "c.weight": (2, 3)}


def named(name: str, one: Zoo) -> Zoo:
    one.name = name
    return one


@pytest.fixture(scope="module")
def both() -> Zoo:
    return combine_zoos([named("small", zoo(24)), named("wide", zoo(18, WIDE)), named("again", zoo(12, seed=1))])


@pytest.fixture(scope="module")
def trained(both: Zoo) -> Sane:
    return pretrain(both, CONFIG)


def test_a_combined_zoo_has_all_models_and_groups_layouts_across_zoos(both: Zoo) -> None:
    parts = [zoo(24), zoo(18, WIDE), zoo(12, seed=1)]
    assert both.table["zoo"].value_counts().to_dict() == {"small": 24, "wide": 18, "again": 12}
    assert both.table["split"].tolist() == [s for part in parts for s in part.table["split"]]
    assert [len(rows) for rows in both.layout_groups()] == [36, 18]
    for row, (part, own) in {3: (0, 3), 30: (1, 6), 50: (2, 8)}.items():
        expected = parts[part].tensors(own)
        assert list(both.tensors(row)) == list(expected)
        assert all(torch.equal(both.tensors(row)[name], expected[name]) for name in expected)
    mixed = both.stacked([53, 1, 44, 0])
    for place, row in enumerate([53, 1, 44, 0]):
        assert torch.equal(mixed["fc.weight"][place], both.tensors(row)["fc.weight"])
    with pytest.raises(Refusal, match="differ in tensor names"):
        both.stacked([0, 30])


def test_thinning_draws_the_same_checkpoints_for_the_same_seed() -> None:
    parts = [named("small", zoo(24)), named("wide", zoo(18, WIDE))]
    drawn = [combine_zoos(parts, most=10, seed=seed).table["model"].tolist() for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(drawn[0]) == 20
    assert len(combine_zoos(parts[:1], most=10)) == 10
    with pytest.raises(Refusal, match="called small"):
        combine_zoos([parts[0], parts[0]])


def test_a_network_of_another_architecture_is_no_foreigner(trained: Sane) -> None:
    models = [{name: tensor[i] for name, tensor in stacked(3, OTHER, 5).items()} for i in range(3)]
    found = embed(trained, models)
    assert not found.foreign.any()
    assert not found.notes
    assert np.isfinite(found.models).all()
    table = embedding_features(found, reference_of(trained)).drop(columns=["row", "layer", "name", "reason"])
    assert np.isfinite(table.to_numpy(dtype=float)).all()


def test_what_it_sees_in_training_is_what_it_sees_in_use(both: Zoo, trained: Sane) -> None:
    training = TrainingSet(both, rows_of_split(both, "train"), CONFIG)
    view = training.view(1, np.array([2]))
    summaries = view.summaries
    assert summaries is not None
    places = torch.stack([view.positions[0][view.layer[0] == i].mean(dim=0) for i in range(3)])
    with torch.inference_mode():
        latents, _ = trained.encode_with_summaries(view.tokens, view.positions, summaries, places)
    row = int(training.groups[1].rows[2])
    found = embed(trained, [both.tensors(row)], window=latents.shape[1])
    assert found.tokens is not None
    assert np.allclose(found.tokens[0], latents[0].numpy(), atol=1e-4)


def test_it_sees_how_large_weights_are(both: Zoo, trained: Sane) -> None:
    model = both.tensors(0)
    larger = {name: 3.0 * tensor for name, tensor in model.items()}
    found = embed(trained, [model, larger, {name: tensor.clone() for name, tensor in model.items()}])
    assert np.allclose(found.models[0], found.models[2], atol=1e-5)
    assert np.abs(found.models[0] - found.models[1]).max() > 1e-3


def test_it_reconstructs_architectures_it_never_saw(trained: Sane) -> None:
    foreign = reconstruction(trained, zoo(30, OTHER, seed=9))
    score = foreign[(foreign["layer"] == "all") & (foreign["split"] == "test")].set_index("method")["r2"]
    assert score["sane"] > 0.3


def test_it_survives_the_disk_with_its_reference(trained: Sane, tmp_path: Path) -> None:
    trained.save(tmp_path / "universal")
    loaded = load_encoder(tmp_path / "universal")
    assert loaded.digest == trained.digest
    first, second = reference_of(trained), reference_of(loaded)
    assert first is not None and second is not None
    assert np.array_equal(first.components, second.components)
    assert first.encoder_digest == trained.digest
    assert reference_of(Sane(SaneConfig(token_size=10, latent=6, d_model=16, heads=2))) is None


def test_what_belongs_to_one_layout_is_refused() -> None:
    for field in ({"align": True}, {"readout": 8}, {"noise_behaviour": True}):
        with pytest.raises(ValueError, match="universal"):
            SaneConfig.from_json({**CONFIG.to_json(), **field})


def test_the_command_takes_several_zoos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    zoo(24).save(tmp_path / "small")
    named("wide", zoo(18, {**SMALL, **WIDE})).save(tmp_path / "wide")
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG.to_json(), "steps": 2}))
    argv = ["pretrain", str(tmp_path / "small"), str(tmp_path / "wide"), "--config", str(tmp_path / "config.json")]
    assert main([*argv, "--checkpoints", "12", "--quiet"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert [part["checkpoints"] for part in made["provenance"]["zoos"]] == [12, 12]
    assert made["provenance"]["command"].startswith("python -m sane_engine pretrain small wide --")
    assert str(tmp_path) not in json.dumps(made["provenance"])
    assert load_encoder("combined-sane").config.universal
