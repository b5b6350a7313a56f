"""Latents as samplers make them: what a decoder is to be trained on if it is to decode samples.

An autoencoder that has only seen networks decodes what lies between them as it likes. So latents are moved in
training as a sampler moves them, and two things are asked of what comes out: that its weights are the weights
moved alike (or all samples would be decoded to the network they came from), and that it still does what that
network does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sane_engine.behaviour.networks import runnable
from sane_engine.checkpoint import Refusal
from sane_engine.sane.augmentation import View
from sane_engine.sane.config import SaneConfig

if TYPE_CHECKING:
    from sane_engine.sane.training_set import Group, TrainingSet
    from sane_engine.zoo import Zoo
    from sane_engine.zoo.chain_runner import ChainRunner

INPUTS = 64
"""Inputs a step on which networks are compared."""


def perturbed(
    latents: Tensor, target: Tensor, config: SaneConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Latents moved as samplers move them, and the weights moved alike.

    Args:
        latents: ``[b, n, k]``.
        target: Standardised tokens ``[b, n, d]`` of the same models.
        config: How much of each kind.
        generator: Where all of it is drawn from.

    Returns:
        ``[b, n, k]`` and ``[b, n, d]``.
    """
    b, n, _ = latents.shape
    if config.latent_swap > 0:
        # A share of its own for every model, so that the decoder knows a few strange tokens and many.
        share = config.latent_swap * torch.rand(b, 1, generator=generator)
        hit = (torch.rand(b, n, generator=generator) < share)[..., None].to(latents.device)
        partner = torch.randint(b, (b, n), generator=generator).to(latents.device)
        place = torch.arange(n, device=latents.device)
        latents = torch.where(hit, latents[partner, place], latents)
        target = torch.where(hit, target[partner, place], target)
    if config.latent_difference > 0:
        step = config.latent_difference * torch.rand(b, 1, 1, generator=generator).to(latents.device) / 2**0.5
        j, k = torch.randint(b, (2, b), generator=generator).to(latents.device)
        latents = latents + step * (latents[j] - latents[k])
        target = target + step * (target[j] - target[k])
    if config.latent_noise > 0:
        spread = latents.detach().std(dim=0, correction=0)
        noise = torch.randn(latents.shape, generator=generator).to(latents.device)
        latents = latents + config.latent_noise * spread * noise
    return latents, target


class FunctionMatch:
    """Compares what decoded networks answer with what the networks answered that they were moved from."""

    def __init__(self, zoo: Zoo, training: TrainingSet, config: SaneConfig) -> None:
        """Find out how to run each layout.

        Raises:
            Refusal: The zoo does not say how (``not-runnable``), its images are wanted and not at hand, or a
                network is longer than a window (``short-window``).
        """
        from sane_engine.zoo.architectures import ArchitectureSpec, as_architecture
        from sane_engine.zoo.chain_runner import ChainRunner

        self._groups: list[tuple[Group, ChainRunner]] = []
        for group in training.groups:
            found = runnable(zoo, group.rows) if group.statistics is not None else None
            architecture = as_architecture(found) if found is not None else None
            if not isinstance(architecture, ArchitectureSpec):
                raise Refusal(
                    "not-runnable",
                    "function_weight needs a zoo of plain chains that says its architecture and one activation, "
                    "and an encoder that standardises by the zoo's statistics.",
                    "Set function_weight to 0.",
                )
            if group.layout.n_tokens > config.window:
                raise Refusal(
                    "short-window",
                    f"A network of {group.layout.n_tokens} tokens cannot be run from a window of {config.window}.",
                    "Choose a longer window, or set function_weight to 0.",
                )
            self._groups.append((group, ChainRunner(architecture, architecture.activation)))
        self._images = _images(zoo) if config.function_inputs == "images" else None

    def loss(self, view: View, decoded: Tensor, generator: torch.Generator) -> Tensor:
        """Mean cross-entropy, in nats, of decoded networks under the answers of the view's own.

        Args:
            view: The networks that latents were moved from.
            decoded: Standardised tokens ``[b, n, d]``.
            generator: Of the inputs.
        """
        group, runner = self._groups[view.group]
        inputs = self._inputs(runner.architecture.input_shape, generator)
        with torch.no_grad():
            answers = runner(_networks(group, view.target), inputs).softmax(dim=2)
        return runner.losses(_networks(group, decoded), inputs, answers).mean()

    def _inputs(self, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
        if self._images is None:
            return torch.randn(INPUTS, *shape, generator=generator)
        return self._images[torch.randint(len(self._images), (INPUTS,), generator=generator)]


def _networks(group: Group, tokens: Tensor) -> Mapping[str, Tensor]:
    """Tensors of the networks; on the CPU, where small ones run."""
    assert group.statistics is not None
    mean, std = group.statistics.of_entries(group.layout)
    return group.layout.unfold(tokens.float().cpu() * std.float() + mean.float())


def _images(zoo: Zoo) -> Tensor:
    """The images the zoo was trained on; their labels are not looked at."""
    from sane_engine.zoo.task import data_of_zoo

    return data_of_zoo(zoo)[1].train_images
