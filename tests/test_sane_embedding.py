"""Embedding any model: batches, windows, foreign layouts, pooling, files; and what is left after decoding."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sane_zoos import SMALL, WIDE, stacked, symmetric_zoo, zoo

from sane_engine import tokenize_batch
from sane_engine.checkpoint import Refusal
from sane_engine.progress import Cancelled
from sane_engine.sane import (
    Embeddings,
    Sane,
    SaneConfig,
    decode_models,
    decoded_accuracy,
    embed,
    embedding,
    plan_windows,
    pooling,
    pretrain,
    reconstruction,
)
from sane_engine.sane.positions import rescaled_positions
from sane_engine.sane.scorecard import scorecard
from sane_engine.zoo import Zoo
from sane_engine.zoo.architectures import as_architecture, build

CONFIG = SaneConfig(
    token_size=10, latent=4, d_model=16, layers=2, heads=2, feedforward=32, window=64,
    steps=5, batch_size=8, gamma=0.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def small_zoo() -> Zoo:
    return zoo()


@pytest.fixture(scope="module")
def encoder(small_zoo: Zoo) -> Sane:
    return pretrain(small_zoo, CONFIG)


def one(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, torch.Tensor]:
    return {name: tensor[0] for name, tensor in stacked(1, shapes, seed).items()}


LONG = {"conv.weight": (200, 1, 3, 3), "fc.weight": (7, 45), "scale": ()}


def test_result_does_not_depend_on_the_batch_size(encoder: Sane) -> None:
    models = [one(SMALL), one(SMALL, 1), one(WIDE), one(LONG)]
    expected = embed(encoder, models, batch_size=1)
    for batch_size in (2, 3, 7, 1000):
        found = embed(encoder, models, batch_size=batch_size)
        assert np.allclose(found.models, expected.models, atol=1e-5)
        assert np.allclose(found.layers, expected.layers, atol=1e-5, equal_nan=True)
    alone = [embed(encoder, model) for model in models]
    assert np.allclose(np.concatenate([each.models for each in alone]), expected.models, atol=1e-5)


def test_result_does_not_depend_on_how_much_is_held_in_memory(
    encoder: Sane, small_zoo: Zoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = embed(encoder, small_zoo)
    monkeypatch.setattr(embedding, "CHUNK_BYTES", 1)
    monkeypatch.setattr(pooling, "_AT_ONCE", 1)
    pieces = embed(encoder, small_zoo)
    np.testing.assert_allclose(pieces.models, whole.models, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(pieces.layers, whole.layers, rtol=1e-5, atol=1e-6)


def test_short_sequences_are_encoded_whole(encoder: Sane, small_zoo: Zoo) -> None:
    batch = tokenize_batch(small_zoo.stacked([0, 5]), 10)
    tokens, _ = encoder.normalizer.normalise(batch.tokens, batch.layout)
    with torch.no_grad():
        expected = encoder.encode(tokens, batch.positions)
    found = embed(encoder, batch, keep_tokens=True)
    assert np.allclose(found.tokens, expected.numpy(), atol=1e-6)
    assert not found.foreign.any()
    assert found.notes == ()


def test_long_sequences_are_their_windows_and_a_wide_window_is_the_unwindowed_result(encoder: Sane) -> None:
    batch = tokenize_batch([one(LONG)], 10)
    n = batch.layout.n_tokens
    assert n > 3 * CONFIG.window
    tokens, _ = encoder.normalizer.normalise(batch.tokens, batch.layout)
    positions = rescaled_positions(batch.positions, encoder.position_range)
    windowed = embed(encoder, batch, keep_tokens=True).tokens
    with torch.no_grad():
        for w in plan_windows(n, CONFIG.window):
            part = encoder.encode(tokens[:, w.start : w.stop], positions[w.start : w.stop])
            core = part[0, w.core_start - w.start : w.core_stop - w.start].numpy()
            assert np.allclose(windowed[0, w.core_start : w.core_stop], core, atol=1e-5)
        whole = encoder.encode(tokens, positions).numpy()
    assert np.allclose(embed(encoder, batch, keep_tokens=True, window=n).tokens, whole, atol=1e-5)
    assert np.abs(windowed - whole).max() > 1e-4, "windows made no difference: this test shows nothing"


def test_more_context_comes_nearer_to_the_unwindowed_result(encoder: Sane) -> None:
    batch = tokenize_batch([one(LONG)], 10)
    whole = embed(encoder, batch, keep_tokens=True, window=batch.layout.n_tokens).tokens
    errors = [
        float(
            np.abs(embed(encoder, batch, keep_tokens=True, window=2 * halo + 20, halo=halo).tokens - whole).mean()
        )
        for halo in (0, 20, 60, 100)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.6 * errors[0]


def test_pooling_is_mean_and_standard_deviation_over_layers_and_models(encoder: Sane, small_zoo: Zoo) -> None:
    found = embed(encoder, small_zoo, keep_tokens=True)
    layout = tokenize_batch(small_zoo.stacked([0]), 10).layout
    for i in (0, 41):
        latents = found.tokens[i].astype(np.float64)
        assert np.allclose(found.models[i], np.r_[latents.mean(0), latents.std(0)], atol=1e-5)
        for j, layer in enumerate(layout.layers):
            part = latents[layer.start : layer.stop]
            assert np.allclose(found.layers[i, j], np.r_[part.mean(0), part.std(0)], atol=1e-5)
    assert found.layer_names == (("conv", "fc"),)
    assert found.layerwise.shape == (60, 2 * 8)
    assert found.zoo_digest == small_zoo.digest
    assert found.encoder_digest == encoder.digest


def test_every_kind_of_input_gives_the_same(encoder: Sane, small_zoo: Zoo) -> None:
    expected = embed(encoder, small_zoo.select([3, 1])).models
    models = [small_zoo.tensors(3), small_zoo.tensors(1)]
    assert np.allclose(embed(encoder, models).models, expected, atol=1e-6)
    assert np.allclose(embed(encoder, tokenize_batch(models, 10)).models, expected, atol=1e-6)
    assert np.allclose(embed(encoder, models[0]).models, expected[:1], atol=1e-6)


def test_order_is_kept_where_layouts_alternate(encoder: Sane) -> None:
    models = [one(SMALL if i % 2 else WIDE, seed=i) for i in range(5)]
    found = embed(encoder, models)
    for i, model in enumerate(models):
        assert np.allclose(found.models[i], embed(encoder, model).models[0], atol=1e-5)
    assert found.foreign.tolist() == [True, False, True, False, True]
    assert found.layer_count.tolist() == [3, 2, 3, 2, 3]
    assert found.names_of(0) == ("conv", "fc", "last")
    assert np.isnan(found.layers[1, 2]).all()
    assert not np.isnan(found.layers[0]).any()
    assert any(note.startswith("3 of 5 models") and "own mean" in note for note in found.notes)
    with pytest.raises(ValueError, match="differ in their layers"):
        _ = found.layerwise
    assert found.tokens is None
    with pytest.raises(ValueError, match="share a layout"):
        embed(encoder, models, keep_tokens=True)
    assert embed(encoder, models[1]).tokens is not None, "few latents of one layout are kept unasked"
    assert embed(encoder, models[1], keep_tokens=False).tokens is None


def test_half_precision_is_not_foreign(encoder: Sane, small_zoo: Zoo) -> None:
    half = {name: tensor.half() for name, tensor in small_zoo.tensors(0).items()}
    found = embed(encoder, half)
    assert not found.foreign.any()
    assert np.allclose(found.models, embed(encoder, small_zoo.tensors(0)).models, atol=1e-2)


def test_scale_of_a_foreign_network_does_not_matter_and_no_value_overflows(encoder: Sane) -> None:
    model = one(WIDE)
    large = {name: tensor * 1e4 for name, tensor in model.items()}
    assert np.allclose(embed(encoder, model).models, embed(encoder, large).models, atol=1e-4)
    constant = {name: torch.full_like(tensor, 3.0) for name, tensor in model.items()}
    assert np.isfinite(embed(encoder, constant).models).all()


def test_foreign_positions_become_relative_depth() -> None:
    positions = tokenize_batch([one(LONG)], 10).positions
    rescaled = rescaled_positions(positions, (29.0, 1.0, 23.0))
    assert rescaled.amax(dim=0).tolist() == pytest.approx([29.0, 1.0, 23.0])
    assert rescaled[0].tolist() == [0.0, 0.0, 0.0]
    halfway = len(positions) // 2
    assert float(rescaled[halfway, 0]) == pytest.approx(29.0 * halfway / (len(positions) - 1))
    short = positions[:, 1] == 1
    assert positions[short, 2].max() > 23, "the layer is small: this test shows nothing"
    assert torch.equal(rescaled_positions(positions[:5], (29.0, 1.0, 23.0))[:, 2], positions[:5, 2].float())


def test_large_layers_can_be_thinned_out_and_this_is_said(encoder: Sane) -> None:
    model = one(LONG)
    whole = embed(encoder, model)
    same = embed(encoder, model, max_tokens_per_layer=10_000)
    assert np.array_equal(same.models, whole.models)
    assert same.notes == whole.notes
    thinned = embed(encoder, model, max_tokens_per_layer=50, keep_tokens=True)
    layers = tokenize_batch([model], 10).layout.layers
    assert thinned.tokens.shape[1] == sum(min(50, layer.n_tokens) for layer in layers) < 200
    assert any("50 evenly spaced" in note for note in thinned.notes)
    assert np.abs(thinned.models - whole.models).max() < 0.5 * np.abs(whole.models).max()
    weights = np.array([layer.n_tokens for layer in layers])
    z = CONFIG.latent
    assert np.allclose(
        thinned.models[0, :z], (thinned.layers[0, :, :z] * weights[:, None]).sum(0) / weights.sum(), atol=1e-5
    )


def test_progress_rises_to_the_end_and_cancelling_stops(encoder: Sane, small_zoo: Zoo) -> None:
    for models in (small_zoo, [one(LONG), one(WIDE)]):
        seen: list[tuple[int, int]] = []
        embed(encoder, models, batch_size=2, progress=lambda done, total, _, seen=seen: seen.append((done, total)))
        done = [each[0] for each in seen]
        assert done == sorted(done)
        assert len(set(done)) > 4
        assert seen[-1][0] == seen[-1][1]
        with pytest.raises(Cancelled):
            embed(encoder, models, cancelled=lambda: True)


def test_what_cannot_be_embedded_is_refused(encoder: Sane) -> None:
    model = one(SMALL)
    model["fc.bias"][2] = float("inf")
    with pytest.raises(Refusal, match=r"Model 1 .*'fc.bias'") as refusal:
        embed(encoder, [one(SMALL), model])
    assert refusal.value.code == "non-finite-weights"
    with pytest.raises(Refusal) as refusal:
        embed(encoder, [])
    assert refusal.value.code == "no-models"
    with pytest.raises(ValueError, match="10"):
        embed(encoder, tokenize_batch([one(SMALL)], 11))


def test_embeddings_go_to_disk_and_back(encoder: Sane, tmp_path: Path) -> None:
    for models, keep in (([one(SMALL), one(WIDE)], False), ([one(SMALL)], True)):
        found = embed(encoder, models, keep_tokens=keep)
        found.save(tmp_path / "embeddings.safetensors")
        loaded = Embeddings.load(tmp_path / "embeddings.safetensors")
        for name, value in vars(found).items():
            if isinstance(value, np.ndarray):
                assert np.array_equal(getattr(loaded, name), value, equal_nan=value.dtype.kind == "f"), name
                assert getattr(loaded, name).dtype == value.dtype
            else:
                assert getattr(loaded, name) == value, name


def test_files_that_are_no_embeddings_are_refused(encoder: Sane, tmp_path: Path) -> None:
    path = tmp_path / "embeddings.safetensors"
    embed(encoder, one(SMALL)).save(path)
    data = path.read_bytes()
    for content, code in (
        (data[:-5], "broken-embeddings"),
        (b"", "broken-embeddings"),
        (b"x" * 99, "broken-embeddings"),
    ):
        path.write_bytes(content)
        with pytest.raises(Refusal) as refusal:
            Embeddings.load(path)
        assert refusal.value.code == code
    encoder.save(tmp_path / "encoder")
    with pytest.raises(Refusal) as refusal:
        Embeddings.load(tmp_path / "encoder" / "encoder.safetensors")
    assert refusal.value.code == "not-embeddings"


def test_embeddings_are_read_without_torch(encoder: Sane, tmp_path: Path) -> None:
    embed(encoder, one(SMALL)).save(tmp_path / "e.safetensors")
    code = (
        "import sys; from sane_engine.sane import Embeddings, encoder_record\n"
        f"assert len(Embeddings.load({str(tmp_path / 'e.safetensors')!r})) == 1\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).resolve().parent.parent)


def exact(zoo_: Zoo) -> Sane:
    """An encoder as wide as its tokens, which starts as the identity."""
    return pretrain(zoo_, replace(CONFIG, latent=10, steps=1, learning_rate=1e-12))


def test_decoding_undoes_encoding_in_the_models_own_scale(small_zoo: Zoo) -> None:
    batch = tokenize_batch(small_zoo.stacked([0, 7, 59]), 10)
    decoded = decode_models(exact(small_zoo), batch)
    for name, tensor in small_zoo.stacked([0, 7, 59]).items():
        assert decoded[name].dtype == tensor.dtype
        assert torch.allclose(decoded[name], tensor, atol=1e-4), name


def test_reconstruction_stands_beside_principal_components(small_zoo: Zoo, encoder: Sane) -> None:
    table = reconstruction(encoder, small_zoo).set_index(["method", "split", "layer"])
    assert set(table.index.get_level_values("method")) == {"sane", "pca", "pca-layer", "pca-position"}
    assert set(table.index.get_level_values("layer")) == {"all", "conv", "fc"}
    by_hand = encoder.aligner.align(tokenize_batch(small_zoo.stacked(np.arange(40)), 10))
    tokens = encoder.normalizer.normalise(by_hand.tokens, by_hand.layout)[0].flatten(0, 1).double()
    centred = tokens - tokens.mean(dim=0)
    basis = torch.linalg.svd(centred, full_matrices=False).Vh[: CONFIG.latent]
    error = (centred - centred @ basis.T @ basis) * by_hand.layout.mask().repeat(40, 1)
    expected = 1 - float(error.square().sum() / tokens.square().sum())
    assert table.loc[("pca", "train", "all"), "r2"] == pytest.approx(expected, abs=1e-5)
    assert (table["r2_weight"] <= table["r2"] + 1e-6).all()
    finer = [table.loc[(method, "train", "all"), "r2"] for method in ("pca", "pca-layer", "pca-position")]
    assert finer == sorted(finer)
    everything = reconstruction(exact(small_zoo), small_zoo)
    assert (everything["r2"] > 0.9999).all()


def test_without_training_models_there_is_nothing_to_fit_controls_on(small_zoo: Zoo, encoder: Sane) -> None:
    held_out = small_zoo.select(range(40, 60))
    table = reconstruction(encoder, held_out)
    assert set(table["method"]) == {"sane"}
    assert table["r2"].notna().all() and table["r2_weight"].isna().all()
    whole = reconstruction(encoder, small_zoo).set_index(["method", "split", "layer"])["r2"]
    np.testing.assert_allclose(
        table.set_index(["method", "split", "layer"])["r2"], whole.loc["sane"].loc[["validation", "test"]]
    )
    card = scorecard(encoder, held_out)
    assert set(card["test"]["r2"]) == {"sane"} and card["test"]["r2_weight"] == {}


def test_controls_that_know_only_some_layouts_do_not_stand_beside_what_knows_all() -> None:
    small, wide = stacked(12), stacked(12, WIDE)
    models = [{name: t[i] for name, t in (small if i % 2 else wide).items()} for i in range(12)]
    table = zoo(12).table
    encoder = pretrain(Zoo.from_models("both", table, models), replace(CONFIG, steps=1, batch_size=2))
    one_sided = table.assign(split=["train" if i % 2 and i < 8 else "test" for i in range(12)])
    found = reconstruction(encoder, Zoo.from_models("both", one_sided, models)).set_index(["split", "layer"])
    assert set(found.loc[("train", "all"), "method"]) == {"sane", "pca", "pca-layer", "pca-position"}
    assert found.loc[[("test", "all")], "method"].tolist() == ["sane"]


def test_reconstruction_of_another_architecture_is_refused(encoder: Sane) -> None:
    with pytest.raises(Refusal) as refusal:
        reconstruction(encoder, zoo(12, WIDE))
    assert refusal.value.code == "foreign-zoo"


def test_numbers_below_one_are_named(encoder: Sane, small_zoo: Zoo) -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        embed(encoder, small_zoo, batch_size=0)
    with pytest.raises(ValueError, match="max_tokens_per_layer must be at least 1"):
        embed(encoder, small_zoo, max_tokens_per_layer=0)


def test_decoded_accuracy_is_of_the_network_that_each_row_names() -> None:
    tanh = symmetric_zoo(12)
    images, labels = torch.randn(40, 1, 6, 6), torch.randint(3, (40,))
    named = tanh.with_columns(activation=["relu", None, "tanh"] * 4, split="test")
    encoder = pretrain(tanh.with_columns(split="train"), replace(CONFIG, steps=2))
    found = decoded_accuracy(encoder, named, images, labels)
    assert found["row"].tolist() == list(range(12))
    for row in range(12):
        own = {name: tensor.float() for name, tensor in named.tensors(row).items()}
        network = build(as_architecture({**named.architecture, "activation": "relu" if row % 3 == 0 else "tanh"}))
        network.load_state_dict(own)
        expected = (network(images).argmax(dim=1) == labels).float().mean()
        assert found["original"][row] == pytest.approx(float(expected))
