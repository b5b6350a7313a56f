"""Samplers that look at what they drew: the best of several, and rounds in which the best become anchors."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from sane_engine.checkpoint import Refusal
from sane_engine.progress import stop_if
from sane_engine.sampling.batch_norm import Condition, networks
from sane_engine.sampling.draws import Context, Method, Sampler, drawn
from sane_engine.sampling.kde import KernelDensity
from sane_engine.sampling.spaces import Space
from sane_engine.sampling.task import Images, Task, evenly_spaced

IMAGES = 256
"""Validation images that draws are compared on."""


def required(task: Task | None) -> Task:
    """The task, which must be known.

    Raises:
        Refusal: It is not (``no-task``).
    """
    if task is None:
        raise Refusal(
            "no-task",
            "Samples have to be run here, and the zoo does not say how or on what.",
            "Use one of the methods that only look at weights, such as kde-token.",
        )
    return task


def _losses(space: Space, task: Task, vectors: Tensor, condition: Condition, seed: int) -> Tensor:
    some = evenly_spaced(len(task.validation), IMAGES)
    part = Images(task.validation.images[some], task.validation.labels[some])
    return task.score(networks(space, vectors, task, condition, seed=seed)[0], part)[1]


@dataclass(frozen=True)
class Subsampled:
    """Of several draws, the one with the least loss on validation images.

    Attributes:
        base: What is drawn from.
        candidates: Draws for each sample; sample number k is the best of its own, however many are asked for.
    """

    base: Method = field(default_factory=lambda: KernelDensity(temperature=0.6))
    candidates: int = 32

    def fit(self, context: Context) -> BestOf:
        """Fit the base."""
        return BestOf(self.base.fit(context), context, self.candidates)


class BestOf:
    """See :class:`Subsampled`."""

    def __init__(self, base: Sampler, context: Context, candidates: int) -> None:
        self._base, self._space, self._task = base, context.space, required(context.task)
        self._condition, self._candidates, self._seed = context.condition, max(1, candidates), context.seed

    def draw(self, generator: torch.Generator) -> Tensor:
        """The best of some draws."""
        vectors = torch.stack([self._base.draw(generator) for _ in range(self._candidates)])
        losses = _losses(self._space, self._task, vectors, self._condition, self._seed)
        return vectors[int(losses.argmin())]


@dataclass(frozen=True)
class Bootstrapped:
    """Rounds in which the best draws take the place of the anchors, ranked by their loss on validation images.

    The published code returns bootstrapped samples unranked; here each round keeps its best.

    Attributes:
        base: What is drawn from, fitted again in each round.
        rounds: How many.
        population: Draws a round.
        keep: How many of them are the next round's anchors.
        candidates: Draws for each final sample, as in :class:`Subsampled`.
    """

    base: Method = field(default_factory=lambda: KernelDensity(temperature=0.7))
    rounds: int = 3
    population: int = 200
    keep: int = 40
    candidates: int = 8

    def fit(self, context: Context) -> BestOf:
        """Go through the rounds."""
        task = required(context.task)
        sampler = self.base.fit(context)
        for number in range(self.rounds):
            stop_if(context.cancelled)
            vectors = drawn(sampler, context.seed, 0, self.population, "bootstrap", number)
            losses = _losses(context.space, task, vectors, context.condition, context.seed)
            order = losses.argsort(stable=True)
            sampler = self.base.fit(replace(context, vectors=vectors[order[: max(2, self.keep)]]))
            context.progress(number + 1, self.rounds, "bootstrapping")
        return BestOf(sampler, context, self.candidates)
