"""Training on latents moved as samplers move them."""

from __future__ import annotations

import copy

import pytest
import torch

from sane_engine.checkpoint import Refusal
from sane_engine.sane import SaneConfig, pretrain
from sane_engine.sane.perturbation import FunctionMatch, perturbed
from sane_engine.sane.training_set import TrainingSet, rows_of_split
from sane_engine.zoo import Zoo, load_zoo

SMALL = SaneConfig(
    latent=8, d_model=16, layers=1, heads=2, feedforward=32, steps=4, batch_size=8, gamma=0.0, align=False
)


@pytest.fixture(scope="module")
def digits() -> Zoo:
    zoo = load_zoo("digits")
    return zoo.select((zoo.table["epoch"] == zoo.table["epoch"].max()).to_numpy().nonzero()[0])


def with_options(**options: object) -> SaneConfig:
    return SaneConfig.from_json({**SMALL.to_json(), **options})


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_nothing_is_moved_unless_asked() -> None:
    latents, target = torch.randn(4, 5, 3), torch.randn(4, 5, 2)
    moved, wanted = perturbed(latents, target, SMALL, generator())
    assert torch.equal(moved, latents) and torch.equal(wanted, target)


@pytest.mark.parametrize("options", [{"latent_swap": 1.0}, {"latent_difference": 1.5}])
def test_weights_are_moved_as_their_latents_are(options: dict[str, float]) -> None:
    # With the identity for an encoder, latents are the weights; both must arrive at the same place.
    latents = torch.randn(6, 40, 3, generator=generator(1))
    moved, wanted = perturbed(latents, latents, with_options(**options), generator())
    assert torch.equal(moved, wanted) and not torch.equal(moved, latents)


def test_swapped_tokens_are_those_of_other_models_at_the_same_place() -> None:
    latents = torch.randn(6, 40, 3, generator=generator(1))
    moved, _ = perturbed(latents, latents, with_options(latent_swap=1.0), generator())
    same = (moved[:, None] == latents[None]).all(dim=3)
    assert bool(same.any(dim=1).all())
    from_others = ~same[torch.arange(6), torch.arange(6)]
    assert 0.1 < float(from_others.float().mean()) < 0.8


def test_noise_is_asked_to_be_ignored() -> None:
    latents, target = torch.randn(64, 9, 3, generator=generator(1)), torch.zeros(64, 9, 2)
    latents[..., 2] *= 100
    moved, wanted = perturbed(latents, target, with_options(latent_noise=0.5), generator())
    assert torch.equal(wanted, target)
    relative = (moved - latents).flatten(0, 1).std(dim=0) / latents.flatten(0, 1).std(dim=0)
    torch.testing.assert_close(relative, torch.full((3,), 0.5), rtol=0.2, atol=0)


@pytest.mark.parametrize("inputs", ["images", "noise"])
def test_networks_match_themselves_best(digits: Zoo, inputs: str) -> None:
    config = with_options(function_weight=1.0, function_inputs=inputs)
    training = TrainingSet(digits, rows_of_split(digits, "train"), config)
    match, view = FunctionMatch(digits, training, config), training.minibatch(0)
    own = match.loss(view, view.target, generator())
    decoded = (view.target + 0.3 * torch.randn(view.target.shape, generator=generator(2))).requires_grad_()
    other = match.loss(view, decoded, generator())
    assert float(own) < float(other.detach())
    (gradient,) = torch.autograd.grad(other, [decoded])
    assert bool(gradient.isfinite().all()) and float(gradient.abs().max()) > 0
    # Padding belongs to no network.
    assert float((gradient * ~view.mask).abs().max()) == 0


def test_what_cannot_be_run_is_refused(digits: Zoo) -> None:
    with pytest.raises(Refusal) as refusal:
        pretrain(digits, with_options(function_weight=1.0, window=16))
    assert refusal.value.code == "short-window"
    mixed = copy.copy(digits)
    mixed.table = digits.table.assign(activation=["tanh", "relu"] * (len(digits) // 2))
    with pytest.raises(Refusal) as refusal:
        pretrain(mixed, with_options(function_weight=1.0))
    assert refusal.value.code == "not-runnable"


def test_training_on_moved_latents_is_repeated_bit_for_bit(digits: Zoo) -> None:
    options = {"perturbation_weight": 0.5, "latent_difference": 1.0, "function_weight": 0.2}
    one, other = (pretrain(digits, with_options(**options)) for _ in range(2))
    assert one.digest == other.digest
    plain = pretrain(digits, SMALL)
    assert plain.digest != one.digest
