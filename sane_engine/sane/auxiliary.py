"""A linear head that predicts, from what predictions are made of, numbers computed from the weights themselves.

It sees the mean latent of each layer and the latents of the summary tokens, and is thrown away after training. What
it leaves behind is latents that tell linearly how large the weights are, what their singular values are, and what
the network does with noise: no labels are used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from sane_engine.sane.training_set import TrainingSet


def layer_means(latents: Tensor, layer: Tensor, count: int) -> Tensor:
    """Mean latent of each layer, ``[b, count, z]``; 0 for a layer of which the window shows nothing.

    Args:
        latents: ``[b, w, z]``.
        layer: The layer of each token, int64 ``[b, w]``.
        count: How many layers there are.
    """
    index = layer[..., None].expand_as(latents)
    total = latents.new_zeros(len(latents), count, latents.shape[2]).scatter_add(1, index, latents)
    shown = latents.new_zeros(len(latents), count).scatter_add(1, layer, torch.ones_like(latents[..., 0]))
    return total / shown.clamp(min=1)[..., None]


class AuxiliaryHead(nn.Module):
    """One linear map for each layout of a training set: the latents of all layers to all targets.

    Args:
        training: Its layouts and targets.
        width: Latent numbers a layer: those of its mean, and of its summary token where there is one.
        seed: Fixes the first weights.
    """

    def __init__(self, training: TrainingSet, width: int, seed: int) -> None:
        super().__init__()
        self.layers = [len(group.layout.layers) for group in training.groups]
        sizes = [0 if group.targets is None else group.targets.shape[1] for group in training.groups]
        generator = torch.Generator().manual_seed(seed)
        with torch.device("meta"):
            self.maps = nn.ModuleList(
                nn.Linear(width * layers, size) for layers, size in zip(self.layers, sizes, strict=True)
            )
        self.to_empty(device="cpu")
        with torch.no_grad():
            for linear in self.maps:
                assert isinstance(linear, nn.Linear)
                nn.init.trunc_normal_(linear.weight, std=linear.in_features**-0.5, generator=generator)
                nn.init.zeros_(linear.bias)

    def loss(self, group: int, latents: Tensor, layer: Tensor, summaries: Tensor | None, targets: Tensor) -> Tensor:
        """Mean squared error of the targets ``[b, k]`` of models of one layout; see :func:`layer_means`."""
        means = layer_means(latents, layer, self.layers[group])
        seen = means if summaries is None else torch.cat((means, summaries), dim=2)
        predicted: Tensor = self.maps[group](seen.flatten(1))
        return (predicted - targets).square().mean()
