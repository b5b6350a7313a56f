"""One Gaussian over the anchors, its covariance shrunk to what so few points can tell."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sane_engine.sampling.draws import Context, spread


@dataclass(frozen=True)
class ShrunkGaussian:
    """Independent coordinates about the mean, drawn closer to it than the anchors lie.

    Attributes:
        scale: Standard deviation of a draw as a fraction of the anchors'.
    """

    scale: float = 0.5

    def fit(self, context: Context) -> GaussianSampler:
        """Mean and spread of the anchors."""
        v = context.vectors
        return GaussianSampler(v.mean(dim=0), self.scale * spread(v), v.new_zeros(0, *v.shape[1:]))


@dataclass(frozen=True)
class LowRankGaussian:
    """The anchors' own directions of largest variance, and independent noise for what they leave.

    Attributes:
        rank: Directions kept; at most one less than there are anchors.
        scale: Standard deviation of a draw as a fraction of the anchors', along the directions and across.
    """

    rank: int = 16
    scale: float = 0.7

    def fit(self, context: Context) -> GaussianSampler:
        """Principal directions of the flattened anchors."""
        v = context.vectors
        mean, deviation = v.mean(dim=0), spread(v)
        # Coordinates at unit spread, so that no tensor's scale decides what a direction is.
        unit = deviation.clamp_min(1e-12)
        flat = ((v - mean) / unit).flatten(1)
        rank = max(1, min(self.rank, len(v) - 1))
        _, values, directions = torch.linalg.svd(flat, full_matrices=False)
        # The sign of a singular vector is the solver's whim: its largest entry is made positive.
        directions = directions[:rank]
        largest = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True))
        factors = directions * torch.where(largest < 0, -1.0, 1.0) * values[:rank, None] / len(v) ** 0.5
        rest = (1 - factors.square().sum(dim=0)).clamp_min(0).sqrt().view_as(mean) * (deviation > 0)
        return GaussianSampler(mean, self.scale * rest * unit, self.scale * factors.view(-1, *mean.shape) * unit)


class GaussianSampler:
    """Mean plus independent noise plus a combination of directions."""

    def __init__(self, mean: Tensor, noise: Tensor, factors: Tensor) -> None:
        self._mean, self._noise, self._factors = mean, noise, factors

    def draw(self, generator: torch.Generator) -> Tensor:
        """One point."""
        point = self._mean + self._noise * torch.randn(self._mean.shape, generator=generator)
        weights = torch.randn(len(self._factors), generator=generator)
        return point + torch.einsum("r,rnk->nk", weights, self._factors)
