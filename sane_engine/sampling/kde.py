"""Kernel density estimates around the anchors, with independent draws for a token, a layer, or a whole network.

A kernel density estimate is sampled by taking an anchor and adding noise of the bandwidth. What is taken together
decides what a sample is: a whole network with noise is nearly a copy of its anchor; a network whose every token
comes from another anchor is new, and works only as far as tokens of different models fit together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sane_engine.sampling.draws import Context, pick, spread

Unit = Literal["token", "layer", "sequence"]


@dataclass(frozen=True)
class KernelDensity:
    """Anchor plus Gaussian noise (Schürholt et al. 2022, arXiv:2209.14733, per token as in 2024, arXiv:2406.09997).

    Attributes:
        unit: What comes from one anchor: a ``"token"``, a ``"layer"`` or the whole ``"sequence"``.
        bandwidth: Standard deviation of the noise as a fraction of the anchors' own, coordinate by coordinate.
        temperature: How far draws lie from the anchors' mean, as a fraction of how far they would: 1 is the plain
            estimate, less trades novelty for accuracy (tokens of different models fit together less well the
            further they are from what all share), 0 is the mean.
    """

    unit: Unit = "token"
    bandwidth: float = 0.1
    temperature: float = 0.35

    def fit(self, context: Context) -> KernelSampler:
        """Keep the anchors and their spread."""
        n = context.vectors.shape[1]
        groups = {
            "token": torch.arange(n),
            "layer": context.layers,
            "sequence": torch.zeros(n, dtype=torch.int64),
        }[self.unit]
        return KernelSampler(context.vectors, groups, self.bandwidth, self.temperature)


class KernelSampler:
    """See :class:`KernelDensity`."""

    def __init__(self, vectors: Tensor, groups: Tensor, bandwidth: float, temperature: float) -> None:
        self._vectors, self._groups = vectors, groups
        self._mean, self._noise = vectors.mean(dim=0), bandwidth * spread(vectors)
        self._temperature = temperature

    def draw(self, generator: torch.Generator) -> Tensor:
        """An anchor for each group of tokens, noise for each coordinate."""
        centre = pick(self._vectors, generator, self._groups)
        point = centre + self._noise * torch.randn(centre.shape, generator=generator)
        return self._mean + self._temperature * (point - self._mean)
