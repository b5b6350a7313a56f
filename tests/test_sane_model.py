"""The autoencoder, its config, its loss and its views."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sane_zoos import SMALL, stacked
from torch.nn import functional as F

from sane_engine import tokenize_batch
from sane_engine.checkpoint import Refusal
from sane_engine.sane import Sane, SaneConfig, encoder_record, load_encoder
from sane_engine.sane.augmentation import (
    Jitter,
    MultiplicativeNoise,
    RandomErasing,
    RandomWindow,
    TokenMixing,
    View,
)
from sane_engine.sane.loss import entry_weights, masked_mean_squared_error, nt_xent
from sane_engine.sane.normalisation import Normalizer, fit_statistics, own_statistics

CONFIG = SaneConfig(token_size=10, latent=4, d_model=16, layers=2, heads=2, feedforward=32, window=16)


@pytest.fixture
def encoder() -> Sane:
    return Sane(CONFIG).eval()


def test_config_goes_to_json_and_back(tmp_path: Path) -> None:
    config = SaneConfig(latent=7, loss_normalisation="layer", halo=3)
    assert SaneConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    (tmp_path / "config.json").write_text('{"latent": 7}')
    assert SaneConfig.from_file(tmp_path / "config.json") == SaneConfig(latent=7)


@pytest.mark.parametrize(
    "wrong",
    [
        {"heads": 5}, {"latent": 0}, {"latent": 2.5}, {"halo": 32}, {"gamma": 1.5}, {"loss_normalisation": "model"},
        {"learning_rate": 0.0}, {"depth": 3}, {"gamma": 0.5, "batch_size": 1}, {"dropout": 1.0},
    ],
)  # fmt: skip
def test_config_refuses_what_cannot_be(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(reversed(wrong))):
        SaneConfig.from_json(wrong)


def test_config_file_that_is_no_config(tmp_path: Path) -> None:
    for text in ("{", "[1]"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match="JSON"):
            SaneConfig.from_file(tmp_path / "config.json")


def test_initial_weights_come_from_the_seed_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(1)
    first = Sane(CONFIG)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = Sane(CONFIG)
    assert torch.equal(state, torch.get_rng_state())
    assert first.digest == second.digest
    assert Sane(replace(CONFIG, seed=1)).digest != first.digest


def test_digest_is_of_what_is_computed_not_of_how_it_was_trained() -> None:
    assert Sane(replace(CONFIG, steps=7, noise=0.9)).digest == Sane(CONFIG).digest
    for change in ({"heads": 4}, {"max_wavelength": 100.0}, {"halo": 2}):
        assert Sane(replace(CONFIG, **change)).digest != Sane(CONFIG).digest
    moved = Sane(CONFIG)
    with torch.no_grad():
        moved.projection_out.bias[0] += 1e-6
    assert moved.digest != Sane(CONFIG).digest


def test_shapes(encoder: Sane) -> None:
    tokens, positions = torch.randn(3, 12, 10), torch.randint(0, 9, (12, 3))
    z, output, projected = encoder(tokens, positions)
    assert z.shape == (3, 12, 4)
    assert output.shape == (3, 12, 10)
    assert projected.shape == (3, CONFIG.projection)
    assert torch.allclose(encoder.encode(tokens, positions.expand(3, -1, -1)), z, atol=1e-6)


@pytest.mark.parametrize("positions", [[1e6, 300.0, 0.25], [0.5, 0.5, 0.5]])
def test_any_position_can_be_embedded(encoder: Sane, positions: list[float]) -> None:
    z = encoder.encode(torch.randn(1, 2, 10), torch.tensor([positions, [0.0, 0.0, 0.0]]))
    assert z.isfinite().all()


def test_near_positions_have_near_embeddings(encoder: Sane) -> None:
    tokens = torch.randn(1, 1, 10)
    here, near, far = (encoder.encode(tokens, torch.tensor([[p, 2.0, 1.0]])) for p in (5.0, 5.01, 9.0))
    assert (here - near).norm() < 0.1 * (here - far).norm()


def test_masked_tokens_do_not_touch_the_others(encoder: Sane) -> None:
    tokens, positions = torch.randn(2, 9, 10), torch.arange(27).view(9, 3)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[:, 6:] = False
    padded = tokens.clone()
    padded[:, 6:] = 100.0
    short = encoder.encode(tokens[:, :6], positions[:6])
    assert torch.allclose(encoder.encode(padded, positions, mask)[:, :6], short, atol=1e-5)
    assert torch.allclose(encoder.decode(short, positions[:6]), encoder.decode(
        F.pad(short, (0, 0, 0, 3), value=7.0), positions, mask)[:, :6], atol=1e-5)  # fmt: skip
    z = encoder.encode(padded, positions, mask)
    assert torch.allclose(encoder.project(z, mask), encoder.project(short), atol=1e-5)


def test_wrong_shapes_are_named(encoder: Sane) -> None:
    with pytest.raises(ValueError, match=r"\[batch, tokens, 10\]"):
        encoder.encode(torch.zeros(1, 5, 11), torch.zeros(5, 3))
    with pytest.raises(ValueError, match="positions"):
        encoder.encode(torch.zeros(2, 5, 10), torch.zeros(4, 3))
    with pytest.raises(ValueError, match="latents"):
        encoder.decode(torch.zeros(2, 5, 10), torch.zeros(5, 3))


def test_encoder_on_disk_is_the_encoder(tmp_path: Path) -> None:
    batch = tokenize_batch(stacked(5), 10)
    encoder = Sane(
        CONFIG,
        normalizer=Normalizer({"abc": fit_statistics([batch])}),
        position_range=(9.0, 1.0, 11.0),
        provenance={"zoo": "synthetic"},
    ).eval()
    encoder.save(tmp_path / "encoder")
    loaded = load_encoder(tmp_path / "encoder")
    assert loaded.digest == encoder.digest == encoder_record(tmp_path / "encoder")["digest"]
    assert (loaded.config, loaded.position_range) == (encoder.config, encoder.position_range)
    assert loaded.provenance == {"zoo": "synthetic"}
    assert not loaded.training
    tokens, positions = torch.randn(2, 7, 10), torch.randint(0, 9, (7, 3))
    assert torch.equal(loaded.encode(tokens, positions), encoder.encode(tokens, positions))
    assert {path.suffix for path in (tmp_path / "encoder").iterdir()} == {".safetensors", ".json"}


def test_broken_encoders_are_refused(tmp_path: Path, encoder: Sane) -> None:
    with pytest.raises(Refusal) as refusal:
        load_encoder("no-such-encoder")
    assert refusal.value.code == "no-encoder"
    folder = tmp_path / "encoder"
    encoder.save(folder)
    record = encoder_record(folder)
    weights = (folder / "encoder.safetensors").read_bytes()
    for text, data in (
        ("{", weights),
        ("{}", weights),
        (json.dumps({**record, "config": {**record["config"], "d_model": 20}}), weights),
        (json.dumps({**record, "digest": "0" * 64}), weights),
        (json.dumps(record), weights[:-9]),
    ):
        (folder / "encoder.json").write_text(text)
        (folder / "encoder.safetensors").write_bytes(data)
        with pytest.raises(Refusal) as refusal:
            load_encoder(folder)
        assert refusal.value.code == "broken-encoder"
        assert "\n" not in refusal.value.line()


def test_normaliser_standardises_each_tensor_and_comes_back() -> None:
    tensors = stacked(20)
    tensors["fc.bias"] = torch.full((20, 4), 0.1)
    tensors["conv.bias"] = 1e4 + tensors["conv.bias"]
    batch = tokenize_batch(tensors, 10)
    statistics = fit_statistics([batch])
    normalised = statistics.apply(batch.tokens, batch.layout)
    component = batch.layout.component_of_entry()
    for number, slot in enumerate(batch.layout.slots):
        values = normalised[:, component == number]
        assert abs(float(values.mean())) < 1e-3
        assert float(values.std()) == pytest.approx(0.0 if slot.name == "fc.bias" else 1.0, abs=2e-2)
        expected = tensors[slot.name].double().std(correction=0) if slot.name != "fc.bias" else 1.0
        assert float(statistics.std[number]) == pytest.approx(float(expected), rel=1e-6)
    assert (normalised[:, component == -1] == 0).all()
    back = statistics.undo(normalised, batch.layout)
    assert torch.allclose(back, batch.tokens.double(), rtol=1e-6, atol=1e-6)


def test_normaliser_fitted_in_parts_is_the_same() -> None:
    tensors = stacked(21)
    parts = [
        {name: tensor[rows] for name, tensor in tensors.items()}
        for rows in (slice(0, 1), slice(1, 9), slice(9, 21))
    ]
    whole = fit_statistics([tokenize_batch(tensors, 10)])
    in_parts = fit_statistics(tokenize_batch(part, 10) for part in parts)
    assert torch.allclose(whole.mean, in_parts.mean, rtol=1e-12, atol=1e-14)
    assert torch.allclose(whole.std, in_parts.std, rtol=1e-12)


def test_own_statistics_are_each_models_own() -> None:
    tensors = stacked(3)
    tensors["fc.weight"][1] *= 50
    batch = tokenize_batch(tensors, 10)
    statistics = own_statistics(batch.tokens, batch.layout)
    alone = own_statistics(batch.tokens[1:2], batch.layout)
    assert torch.allclose(statistics.std[1], alone.std[0], rtol=1e-12)
    slot = [slot.name for slot in batch.layout.slots].index("fc.weight")
    assert float(statistics.std[1, slot]) == pytest.approx(
        float(tensors["fc.weight"][1].std(correction=0)), rel=1e-5
    )


def view(b: int = 4, n: int = 20, d: int = 6) -> View:
    tokens = torch.randn(b, n, d)
    positions = torch.arange(n)[:, None].expand(b, n, 3).float()
    return View(
        tokens,
        tokens,
        torch.ones(b, n, d, dtype=torch.bool),
        torch.ones(b, n, d),
        positions,
        positions[..., 1].long(),
    )


def test_noise_and_erasing_leave_the_target_clean() -> None:
    clean = view()
    for augmentation in (MultiplicativeNoise(0.2), RandomErasing(1.0, 0.5)):
        shown = augmentation(clean, torch.Generator().manual_seed(0))
        again = augmentation(clean, torch.Generator().manual_seed(0))
        assert torch.equal(shown.target, clean.tokens)
        assert not torch.equal(shown.tokens, clean.tokens)
        assert torch.equal(shown.tokens, again.tokens)


def test_mixing_changes_target_and_tokens_alike_and_keeps_the_variance() -> None:
    clean = view(200, 30)
    mixed = TokenMixing(1.0)(clean, torch.Generator().manual_seed(0))
    assert torch.equal(mixed.tokens, mixed.target)
    assert not torch.equal(mixed.tokens, clean.tokens)
    assert float(mixed.tokens.std()) == pytest.approx(float(clean.tokens.std()), rel=0.02)
    # Token by token: the first is a combination of first tokens of models only.
    first = view(3, 2)
    first.tokens[:, 1] = 0.0
    mixed = TokenMixing(1.0)(first, torch.Generator().manual_seed(0))
    assert (mixed.tokens[:, 1] == 0).all()
    assert (mixed.tokens[:, 0] != 0).any()
    same = TokenMixing(0.0)(clean, torch.Generator().manual_seed(0))
    assert torch.equal(same.tokens, clean.tokens)


def test_jitter_moves_target_and_tokens_alike_and_spares_padding() -> None:
    clean = view(100, 30)
    mask = clean.mask.clone()
    mask[:, :, 4:] = False
    moved = Jitter(0.5)(replace(clean, mask=mask), torch.Generator().manual_seed(0))
    assert torch.equal(moved.tokens, moved.target)
    assert torch.equal(moved.tokens[..., 4:], clean.tokens[..., 4:])
    assert float((moved.tokens - clean.tokens)[..., :4].std()) == pytest.approx(0.5, rel=0.02)


def test_noise_has_the_size_it_says() -> None:
    clean = view(50, 50)
    relative = MultiplicativeNoise(0.1)(clean, torch.Generator().manual_seed(0)).tokens / clean.tokens - 1
    assert float(relative.std()) == pytest.approx(0.1, rel=0.02)


def test_erasing_hits_the_share_it_says_with_rectangles() -> None:
    clean = view(400)
    erased = RandomErasing(0.5, 0.5)(clean, torch.Generator().manual_seed(0)).tokens == 0
    assert 0.3 < float(erased.flatten(1).any(dim=1).float().mean()) < 0.6
    for one in erased:
        rows, columns = one.any(dim=1), one.any(dim=0)
        assert torch.equal(one, rows[:, None] & columns[None])
        assert rows.sum() <= 11
        assert columns.sum() <= 4


def test_random_window_moves_everything_together_and_reaches_both_ends() -> None:
    clean = view(300)
    cut = RandomWindow(5)(clean, torch.Generator().manual_seed(0))
    assert cut.tokens.shape == (300, 5, 6)
    starts = cut.positions[:, 0, 0].long()
    assert set(starts.tolist()) == set(range(16))
    for i in (0, 17, 299):
        assert torch.equal(cut.tokens[i], clean.tokens[i, starts[i] : starts[i] + 5])
    assert RandomWindow(20)(clean, torch.Generator()) is clean


def test_padding_does_not_count() -> None:
    output, target = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    weight = torch.ones(2, 3, 4)
    weight[:, :, 2:] = 0
    loss = masked_mean_squared_error(output, target, weight)
    output[:, :, 2:] = 1e6
    assert float(masked_mean_squared_error(output, target, weight)) == float(loss)
    assert float(loss) == pytest.approx(float(F.mse_loss(output[:, :, :2], target[:, :, :2])))


def test_what_counts_the_same_in_the_loss() -> None:
    layout = tokenize_batch(stacked(1), 10).layout
    mask = layout.mask()
    entry, token, layer = (entry_weights(layout, kind) for kind in ("entry", "token", "layer"))
    for weight in (entry, token, layer):
        assert (weight[~mask] == 0).all()
        assert float(weight.sum()) == pytest.approx(float(mask.sum()), rel=1e-5)
    assert entry[mask].unique().numel() == 1
    assert torch.allclose(token.sum(dim=1), token.sum(dim=1)[0].expand(len(token)))
    per_layer = torch.zeros(len(layout.layers)).index_add_(0, layout.layer_of_token(), layer.sum(dim=1))
    assert torch.allclose(per_layer, per_layer[0].expand(len(per_layer)))


def test_contrastive_loss_is_the_formula() -> None:
    first, second = torch.randn(3, 5), torch.randn(3, 5)
    rows = [*first.numpy(), *second.numpy()]
    unit = [row / np.linalg.norm(row) for row in rows]
    total = 0.0
    for i in range(6):
        similar = [math.exp(float(unit[i] @ unit[j]) / 0.2) for j in range(6)]
        total += -math.log(similar[(i + 3) % 6] / (sum(similar) - similar[i]))
    assert float(nt_xent(first, second, 0.2)) == pytest.approx(total / 6, rel=1e-5)


def test_small_zoo_has_the_shapes_the_tests_rely_on() -> None:
    assert tokenize_batch(stacked(2, SMALL), 10).layout.n_tokens > 16
