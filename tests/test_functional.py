"""Functionals: invariant on any architecture, independent of the batch, and able to learn."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import Ridge
from symmetry_networks import CASES, GPT, mlp, resnet18, small_cnn
from torch import Tensor

from sane_engine.baselines.functional import Functional, FunctionalConfig, FunctionalRepresentation
from sane_engine.checkpoint import Refusal
from sane_engine.progress import Cancelled
from sane_engine.symmetry import Symmetry, find_symmetry, symmetry_of_zoo
from sane_engine.zoo import Zoo
from sane_engine.zoo.architectures import as_architecture

ARCHITECTURES = {
    "mlp": mlp,
    "small-cnn": small_cnn,
    "resnet-18": lambda: resnet18(width=4),
    "gpt-2": lambda: GPT(width=16, heads=2, depth=1),
}


def built(name: str) -> tuple[Symmetry, dict[str, Tensor], Functional]:
    """A functional for a network, and three random models of its layout."""
    module = ARCHITECTURES[name]().eval()
    symmetry = find_symmetry(module, CASES[name].example())
    generator = torch.Generator().manual_seed(0)
    state = {key: value for key, value in module.state_dict().items() if value.is_floating_point()}
    stacked = {key: torch.randn(3, *value.shape, generator=generator) for key, value in state.items()}
    torch.manual_seed(0)
    functional = Functional(symmetry, {k: v.shape for k, v in state.items()}, channels=6, features=8, outputs=2)
    functional.standardise(stacked)
    return symmetry, stacked, functional.eval()


@pytest.mark.parametrize("name", ARCHITECTURES)
@torch.no_grad()
def test_functionals_are_invariant_to_permutations_and_sign_flips(name: str) -> None:
    symmetry, stacked, functional = built(name)
    generator = torch.Generator().manual_seed(5)
    moved: dict[str, list[Tensor]] = {key: [] for key in stacked}
    for model in range(3):
        tensors = {key: value[model] for key, value in stacked.items()}
        for key, value in symmetry.permute(tensors, symmetry.random(generator)).items():
            moved[key].append(value)
    features = functional.features(stacked)
    error = functional.features({key: torch.stack(value) for key, value in moved.items()}) - features
    assert float(error.abs().max()) < 1e-4 * float(features.abs().max())
    # shuffling the rows of one tensor alone makes another network, and another vector
    key = next(key for key, value in stacked.items() if value.ndim > 2)
    scrambled = {**stacked, key: stacked[key].flip(1)}
    difference = functional.features(scrambled) - features
    assert float(difference.abs().max()) > 1e-3 * float(features.abs().max())


@torch.no_grad()
def test_one_flipped_weight_is_noticed() -> None:
    _, stacked, functional = built("small-cnn")
    changed = {**stacked, "2.weight": stacked["2.weight"].clone()}
    changed["2.weight"][:, 0, 0] *= -1
    assert float((functional.features(changed) - functional.features(stacked)).abs().max()) > 1e-3


@torch.no_grad()
def test_models_do_not_see_each_other() -> None:
    _, stacked, functional = built("mlp")
    alone = functional({key: value[1:2] for key, value in stacked.items()})
    assert torch.allclose(functional(stacked)[1:2], alone, atol=1e-5)


def synthetic(models: int = 240, seed: int = 0) -> Zoo:
    """Two-layer networks in random order of their units; the target is a function of what order cannot change."""
    architecture = as_architecture(
        {"input_shape": [1, 4, 4], "convolutions": [{"out": 4, "kernel": 2, "stride": 2, "padding": 0}],
         "hidden": [6], "classes": 3, "activation": "relu", "dropout": 0.0}
    )  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    stacked = {
        name: torch.randn(models, *shape, generator=generator) for name, shape in architecture.shapes.items()
    }
    stacked["fc1.weight"] *= torch.randn(models, 1, 1, generator=generator).exp()
    paths = torch.einsum("mkj,mjh->mkh", stacked["fc2.weight"].abs(), stacked["fc1.weight"].abs())
    target = paths.mean(dim=(1, 2)).log() + stacked["conv1.bias"].square().mean(dim=1)
    table = pd.DataFrame({"model": [f"m{i}" for i in range(models)], "activation": "relu", "norm": target.numpy()})
    return Zoo.from_stacked("synthetic", table, stacked, architecture=architecture.to_json())


def r2(predicted: np.ndarray, true: np.ndarray) -> float:
    return float(1 - ((predicted - true) ** 2).sum() / ((true - true.mean()) ** 2).sum())


QUICK = FunctionalConfig(channels=8, depth=2, hops=1, features=16, members=1, steps=150, learning_rate=1e-2, seed=1)


@pytest.fixture(scope="module")
def fitted() -> FunctionalRepresentation:
    return FunctionalRepresentation("norm", config=QUICK).fit(synthetic().select(slice(0, 180)))


def test_a_functional_learns_what_order_cannot_change(fitted: FunctionalRepresentation) -> None:
    zoo = synthetic()
    test = zoo.select(slice(180, 240))
    truth = test.table["norm"].to_numpy()
    assert r2(fitted.predict(test)[:, 0], truth) > 0.8
    flat = np.concatenate([tensor.flatten(1).numpy() for tensor in zoo.stacked().values()], axis=1)
    naive = Ridge(100.0).fit(flat[:180], zoo.table["norm"][:180]).predict(flat[180:])
    assert r2(naive, truth) < 0.3, "the order of the units gives the target away"
    features = fitted.transform(test)
    assert features.shape == (60, 16)
    assert features.dtype == np.float32
    # the same networks with their units in another order: nothing changes, whatever it learnt
    symmetry = symmetry_of_zoo(test)
    stacked, generator = test.stacked(), torch.Generator().manual_seed(0)
    models = [
        symmetry.permute({k: v[i] for k, v in stacked.items()}, symmetry.random(generator)) for i in range(60)
    ]
    other = Zoo.from_models("permuted", test.table, models)
    np.testing.assert_allclose(fitted.transform(other), features, atol=1e-4)


def test_the_same_seed_gives_the_same_functional(fitted: FunctionalRepresentation) -> None:
    zoo = synthetic().select(slice(0, 60))
    short = FunctionalConfig(channels=4, depth=1, hops=1, features=4, members=2, steps=10)
    state = torch.get_rng_state()
    first, second = (FunctionalRepresentation("norm", config=short).fit(zoo).predict(zoo) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert torch.equal(torch.get_rng_state(), state), "training moved the global generator"


def test_targets_may_be_missing_here_and_there() -> None:
    zoo = synthetic(40)
    norm = zoo.table["norm"].to_numpy().copy()
    norm[::3] = np.nan
    config = FunctionalConfig(channels=4, depth=1, hops=0, features=4, members=1, steps=5)
    fitted = FunctionalRepresentation("norm", config=config).fit(zoo.with_columns(norm=norm))
    assert np.isfinite(fitted.predict(zoo)).all()


def broken(change: str) -> tuple[Zoo, str]:
    zoo = synthetic(12)
    stacked: Mapping[str, Tensor] = {name: tensor.clone() for name, tensor in zoo.stacked().items()}
    if change == "not-finite":
        stacked["fc1.bias"][7, 2] = float("nan")
        return Zoo.from_stacked("z", zoo.table, stacked), "norm"
    if change == "mixed-layouts":
        models = [zoo.tensors(i) for i in range(11)] + [{"other": torch.zeros(3)}]
        return Zoo.from_models("z", zoo.table, models), "norm"
    if change == "no-symmetry":
        table = zoo.table.assign(norm=np.arange(12.0))
        return Zoo.from_stacked("z", table, {"scale": torch.rand(12, 3)}), "norm"
    return (zoo.select([0, 1]), "norm") if change == "too-few-models" else (zoo, "activation")


@pytest.mark.parametrize("code", ["not-finite", "mixed-layouts", "too-few-models", "no-target", "no-symmetry"])
def test_what_cannot_be_learnt_is_refused(code: str) -> None:
    zoo, target = broken(code)
    with pytest.raises(Refusal) as refusal:
        FunctionalRepresentation(target, config=QUICK).fit(zoo)
    assert refusal.value.code == code


def test_another_architecture_is_refused(fitted: FunctionalRepresentation) -> None:
    table = pd.DataFrame({"model": ["a", "b"]})
    other = Zoo.from_stacked("other", table, {"weight": torch.zeros(2, 3)})
    with pytest.raises(Refusal, match="other tensors"):
        fitted.transform(other)


def test_training_reports_and_can_be_stopped() -> None:
    reports: list[tuple[int, int]] = []
    zoo = synthetic(30)
    config = FunctionalConfig(channels=4, depth=1, hops=0, features=4, members=2, steps=10)
    FunctionalRepresentation("norm", config=config).fit(zoo, progress=lambda d, t, m: reports.append((d, t)))
    assert reports == [(done, 20) for done in range(1, 21)]
    with pytest.raises(Cancelled):
        FunctionalRepresentation("norm", config=config).fit(zoo, cancelled=lambda: True)
