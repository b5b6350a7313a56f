"""What every sampler is: something that turns a random generator into one vector a token.

A draw has a generator of its own, seeded from the seed, what is drawn and the draw's number. So draw number 7 is
the same whether 8 or 800 are asked for, and every token's anchor and noise are its own (the published code draws
the same anchor and noise for every token where a seed is fixed).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from sane_engine.progress import CancelCheck, Progress, no_progress
from sane_engine.zoo.hyperparameters import derived_seed

if TYPE_CHECKING:
    from sane_engine.sampling.batch_norm import Condition
    from sane_engine.sampling.spaces import Space
    from sane_engine.sampling.task import Task
    from sane_engine.zoo import Zoo


@dataclass(frozen=True, eq=False)
class Context:
    """What a method may look at when it is fitted.

    Attributes:
        vectors: Of the anchors: ``[m, n, k]``.
        space: Where they lie.
        task: What the networks are for; ``None`` where the zoo does not say.
        seed: Of everything that is drawn while fitting.
        zoo: Where a method that steers towards a property learns it; ``None`` where there is none.
        row: Any row of the anchors' layout in it.
        condition: What running statistics of batch norm are measured on.
        progress: Called with the work done.
        cancelled: Asked between steps.
    """

    vectors: Tensor
    space: Space
    task: Task | None
    seed: int
    zoo: Zoo | None = None
    row: int = 0
    condition: Condition = "auto"
    progress: Progress = no_progress
    cancelled: CancelCheck | None = None

    @property
    def layers(self) -> Tensor:
        """Layer of each token, int64 ``[n]``."""
        return self.space.frame.layout.layer_of_token()


class Sampler(Protocol):
    """A fitted method."""

    def draw(self, generator: torch.Generator) -> Tensor:
        """One model as vectors ``[n, k]``; everything random comes from the generator."""


class Method(Protocol):
    """A method with its parameters, a frozen dataclass."""

    def fit(self, context: Context) -> Sampler:
        """Make a sampler of the anchors."""


def generator_of(seed: int, *purpose: object) -> torch.Generator:
    """A generator for one purpose, unrelated to that of any other purpose or seed."""
    return torch.Generator().manual_seed(derived_seed(seed, "sample", *purpose))


def drawn(sampler: Sampler, seed: int, first: int, last: int, *purpose: object) -> Tensor:
    """Draws number ``first`` to ``last − 1``: ``[last − first, n, k]``."""
    return torch.stack([sampler.draw(generator_of(seed, *purpose, number)) for number in range(first, last)])


def pick(vectors: Tensor, generator: torch.Generator, groups: Tensor) -> Tensor:
    """One anchor's vector for every token, ``[n, k]``, tokens of one group from the same anchor.

    Args:
        vectors: ``[m, n, k]``.
        generator: Where the choice comes from.
        groups: Group of each token, int64 ``[n]``, from 0.
    """
    m, n, _ = vectors.shape
    chosen = torch.randint(m, (int(groups.max()) + 1,), generator=generator)[groups]
    return vectors[chosen, torch.arange(n)]


def spread(vectors: Tensor) -> Tensor:
    """Standard deviation of the anchors, coordinate by coordinate: ``[n, k]``."""
    return vectors.std(dim=0, correction=0)
