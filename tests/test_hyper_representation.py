"""The hyper-representation: learns, repeats itself, takes its own architecture only."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sane_zoos import symmetric_zoo, zoo

from sane_engine import Cancelled, Refusal
from sane_engine.baselines.hyper_representation import HyperConfig, HyperRepresentation

TINY = HyperConfig(latent=8, d_model=16, layers=1, heads=2, feedforward=32, steps=150, batch_size=16)


def test_training_lowers_both_losses_and_reconstructs_models_not_seen() -> None:
    models = zoo(72)
    config = HyperConfig(**{**TINY.to_json(), "gamma": 0.1, "learning_rate": 5e-3})
    found = HyperRepresentation(config).fit(models.select(range(48)))
    assert found.history[-1][0] < 0.8 * found.history[0][0]
    assert found.history[-1][1] < found.history[0][1]
    # Better than the mean of each tensor, which is 0, on models it has not seen.
    assert found.reconstruction_r2(models.select(range(48, 72))) > 0.03
    features = found.transform(models)
    assert features.shape == (72, 8) and features.dtype == np.float32
    assert np.isfinite(features).all()


def test_same_seed_same_vectors_and_rows_do_not_depend_on_company() -> None:
    models = symmetric_zoo(20)
    short = HyperConfig(**{**TINY.to_json(), "steps": 5})
    first, second = (HyperRepresentation(short, seed=1).fit(models) for _ in range(2))
    np.testing.assert_array_equal(first.transform(models), second.transform(models))
    np.testing.assert_allclose(first.transform(models.select([7])), first.transform(models)[[7]], atol=1e-6)
    of_config = HyperRepresentation(replace(short, seed=1)).fit(models)
    np.testing.assert_array_equal(of_config.transform(models), first.transform(models))
    other = HyperRepresentation(short, seed=2).fit(models)
    assert not np.allclose(first.transform(models), other.transform(models))


def test_the_global_random_state_stays() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    HyperRepresentation(HyperConfig(**{**TINY.to_json(), "steps": 2})).fit(symmetric_zoo(12))
    assert torch.equal(torch.get_rng_state(), before)


def test_another_architecture_is_refused_and_training_stops_when_asked() -> None:
    short = HyperConfig(**{**TINY.to_json(), "steps": 2})
    found = HyperRepresentation(short).fit(zoo(12))
    with pytest.raises(Refusal) as caught:
        found.transform(symmetric_zoo(6))
    assert caught.value.code == "foreign-layout"
    with pytest.raises(Cancelled):
        HyperRepresentation(short).fit(zoo(12), cancelled=lambda: True)
