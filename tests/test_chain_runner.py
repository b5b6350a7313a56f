"""Networks run by the zoo's own passes answer, and descend, as they do by autograd."""

from __future__ import annotations

import pytest
import torch

from sane_engine.sampling.task import Task
from sane_engine.zoo.activations import ACTIVATION_FUNCTIONS
from sane_engine.zoo.architectures import ArchitectureSpec, ConvSpec, forward_stacked
from sane_engine.zoo.chain_runner import ChainRunner

SPEC = ArchitectureSpec(convolutions=(ConvSpec(4, 5, 2, 1, pool=2), ConvSpec(3, 2)), hidden=(6,), classes=4)


def stack(models: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {name: 0.4 * torch.randn(models, *shape, generator=generator) for name, shape in SPEC.shapes.items()}


@pytest.mark.parametrize("activation", sorted(ACTIVATION_FUNCTIONS))
def test_logits_are_those_of_the_plain_pass(activation: str) -> None:
    runner, stacked = ChainRunner(SPEC, activation), stack(3)
    images = torch.randn(70, 1, 14, 14, generator=torch.Generator().manual_seed(0))
    expected = forward_stacked(SPEC, stacked, images, activation=activation)
    torch.testing.assert_close(runner(stacked, images), expected, rtol=1e-4, atol=1e-5)
    # The second call finds the first one's buffers.
    torch.testing.assert_close(runner(stacked, images[:9]), expected[:, :9], rtol=1e-4, atol=1e-5)


def test_losses_and_gradients_are_autograds() -> None:
    runner, stacked = ChainRunner(SPEC, "tanh"), stack(3)
    images = torch.randn(10, 1, 14, 14, generator=torch.Generator().manual_seed(0))
    labels, upstream = torch.arange(10) % 4, torch.tensor([1.0, -2.0, 0.5])
    found, expected = [], []
    for losses, into in (
        (lambda s: runner.losses(s, images, labels), found),
        (lambda s: Task.losses(runner(s, images), labels), expected),
    ):
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in stacked.items()}
        own = losses(leaves)
        into += [own.detach(), *torch.autograd.grad((own * upstream).sum(), list(leaves.values()))]
    for ours, autograds in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, autograds, rtol=1e-4, atol=1e-6)


def test_answers_may_be_chances() -> None:
    runner, stacked = ChainRunner(SPEC, "relu"), stack(2)
    images, labels = torch.randn(8, 1, 14, 14, generator=torch.Generator().manual_seed(1)), torch.arange(8) % 4
    sure = torch.nn.functional.one_hot(labels, 4).float().expand(2, 8, 4)
    torch.testing.assert_close(runner.losses(stacked, images, sure), runner.losses(stacked, images, labels))
    # What a network itself answers is where its cross-entropy is least.
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in stacked.items()}
    own = runner(stacked, images).softmax(dim=2)
    for gradient in torch.autograd.grad(runner.losses(leaves, images, own).sum(), list(leaves.values())):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-6)
