"""Whole models moved along whole models: differences, and mixtures of two or more anchors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sane_engine.checkpoint import Refusal
from sane_engine.sampling.draws import Context

_MOST_CONCENTRATED = 1e6
"""With more, every share is the same anyway."""


@dataclass(frozen=True)
class Difference:
    """An anchor moved by the difference of two others: ``z_i + h · (z_j − z_k) / √2``.

    The step of differential evolution (Storn and Price 1997). The difference of two independent points has twice
    the variance of one, hence the root.

    Attributes:
        step: ``h``; 0 is a copy of an anchor.
    """

    step: float = 0.6

    def fit(self, context: Context) -> DifferenceSampler:
        """Keep the anchors."""
        return DifferenceSampler(context.vectors, self.step)


class DifferenceSampler:
    """See :class:`Difference`."""

    def __init__(self, vectors: Tensor, step: float) -> None:
        self._vectors, self._step = vectors, step

    def draw(self, generator: torch.Generator) -> Tensor:
        """Three anchors, all different where there are three."""
        m = len(self._vectors)
        i, j, k = (
            torch.randperm(m, generator=generator)[:3]
            if m >= 3
            else torch.cat((torch.randperm(2, generator=generator), torch.randint(2, (1,), generator=generator)))
        ).tolist()
        return self._vectors[i] + self._step / 2**0.5 * (self._vectors[j] - self._vectors[k])


@dataclass(frozen=True)
class Interpolation:
    """A convex combination of some anchors, weights from a Dirichlet distribution.

    Attributes:
        among: How many anchors are mixed.
        concentration: Of the Dirichlet distribution: 1 is uniform, more draws towards the middle.
        reach: 1 stays between the anchors; more goes on beyond, away from their middle.
    """

    among: int = 2
    concentration: float = 1.0
    reach: float = 1.0

    def fit(self, context: Context) -> InterpolationSampler:
        """Keep the anchors.

        Raises:
            Refusal: There is no Dirichlet distribution of this concentration (``bad-parameter``).
        """
        if not 0 < self.concentration <= _MOST_CONCENTRATED:
            raise Refusal(
                "bad-parameter",
                f"concentration cannot be {self.concentration:g}.",
                f"Give a number above 0, up to {_MOST_CONCENTRATED:,.0f}.",
            )
        return InterpolationSampler(context.vectors, self)


class InterpolationSampler:
    """See :class:`Interpolation`."""

    def __init__(self, vectors: Tensor, parameters: Interpolation) -> None:
        self._vectors, self._parameters = vectors, parameters

    def draw(self, generator: torch.Generator) -> Tensor:
        """Some anchors, and how much of each."""
        count = max(2, min(self._parameters.among, len(self._vectors)))
        chosen = self._vectors[torch.randperm(len(self._vectors), generator=generator)[:count]]
        shares = _dirichlet(self._parameters.concentration, count, generator)
        weights = self._parameters.reach * (shares - 1 / count) + 1 / count
        return torch.einsum("a,ank->nk", weights, chosen)


def _dirichlet(concentration: float, count: int, generator: torch.Generator) -> Tensor:
    """Shares that add up to 1, from Gamma variates by Marsaglia and Tsang (2000); torch's own take no generator."""
    boost = concentration < 1
    shape = concentration + 1 if boost else concentration
    d = shape - 1 / 3
    c = 1 / (9 * d) ** 0.5
    values: list[float] = []
    while len(values) < count:
        x = float(torch.randn((), generator=generator))
        v = (1 + c * x) ** 3
        u = float(torch.rand((), generator=generator))
        if v > 0 and torch.tensor(u).log() < 0.5 * x * x + d - d * v + d * torch.tensor(v).log():
            values.append(d * v)
    result = torch.tensor(values)
    if not boost:
        return result / result.sum()
    # By logarithms: for a small concentration every variate is too small for a float, and 0 / 0 is no share.
    chance = torch.rand(count, generator=generator).clamp_min(1e-38).double()
    return torch.softmax(result.double().log() + chance.log() / max(concentration, 1e-300), dim=0).float()
