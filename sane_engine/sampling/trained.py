"""Samplers that learn: a map tuned on the loss of its own samples, and single samples refined the same way.

Tokens of different models do not fit together. A small map applied to every draw can learn to make them fit: its
loss is the task loss of the networks it makes, and a penalty holds each of them near what was drawn, or all draws
would end in one good model. What is learned is shared by all later draws, which cost nothing more.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from sane_engine.checkpoint import Refusal
from sane_engine.progress import stop_if
from sane_engine.sampling.batch_norm import has_batch_norm
from sane_engine.sampling.draws import Context, Method, Sampler, generator_of, spread
from sane_engine.sampling.gaussian import ShrunkGaussian
from sane_engine.sampling.kde import KernelDensity
from sane_engine.sampling.selection import required
from sane_engine.sampling.spaces import Space
from sane_engine.sampling.task import Task


@dataclass(frozen=True)
class Trained:
    """A base sampler followed by an affine map of each token, tuned on the task loss of its own samples.

    Attributes:
        base: What is drawn from.
        steps: Steps of Adam.
        learning_rate: At the start; falls to 0 linearly.
        closeness: Weight of the mean squared move, in units of the anchors' spread.
        batch: Networks a step.
        images: Images a step.
    """

    base: Method = field(default_factory=lambda: ShrunkGaussian(scale=1.2))
    steps: int = 600
    learning_rate: float = 0.02
    closeness: float = 0.02
    batch: int = 8
    images: int = 128

    def fit(self, context: Context) -> MappedSampler:
        """Tune the map."""
        task, base = _descendable(context), self.base.fit(context)
        _, n, k = context.vectors.shape
        result = MappedSampler(base, context.vectors, torch.zeros(n, k, k), torch.zeros(n, k))
        parameters = [result.matrix.requires_grad_(), result.shift.requires_grad_()]
        # Fused: one pass over the maps instead of a dozen.
        optimiser = torch.optim.Adam(parameters, lr=self.learning_rate, fused=True)
        scale = result.scale
        for step in range(self.steps):
            stop_if(context.cancelled)
            generator = generator_of(context.seed, "trained", step)
            for group in optimiser.param_groups:
                group["lr"] = self.learning_rate * (1 - step / self.steps)
            drawn = torch.stack([base.draw(generator) for _ in range(self.batch)])
            moved = result.map(drawn)
            loss = _task_loss(context.space, task, moved, self.images, generator)
            penalty = ((moved - drawn) / scale).square().mean()
            optimiser.zero_grad()
            # Named inputs: the decoder's own weights get no gradient.
            torch.autograd.backward(loss.mean() + self.closeness * penalty, inputs=parameters)
            optimiser.step()
            context.progress(step + 1, self.steps, "training the sampler")
        result.freeze()
        return result


class MappedSampler:
    """See :class:`Trained`. The map of a token is ``v + s ⊙ (A u + b)`` with ``u = (v − mean) / s``."""

    def __init__(self, base: Sampler, vectors: Tensor, matrix: Tensor, shift: Tensor) -> None:
        self._base = base
        self._mean = vectors.mean(dim=0)
        deviation = spread(vectors)
        # Coordinates in which the anchors do not differ (padding) are moved by nothing.
        self._moves = deviation > 1e-8
        self.scale = torch.where(self._moves, deviation, torch.ones_like(deviation))
        self.matrix, self.shift = matrix, shift

    def map(self, vectors: Tensor) -> Tensor:
        """``[b, n, k]`` to the same shape."""
        unit = (vectors - self._mean) / self.scale
        move = torch.einsum("bnk,nkj->bnj", unit, self.matrix) + self.shift
        return vectors + move * self.scale * self._moves

    def freeze(self) -> None:
        """Training is over."""
        self.matrix, self.shift = self.matrix.detach(), self.shift.detach()

    def draw(self, generator: torch.Generator) -> Tensor:
        """A draw of the base, mapped."""
        return self.map(self._base.draw(generator)[None])[0]


@dataclass(frozen=True)
class Refined:
    """Each draw moved down the task loss for some steps, through the decoder, held near where it was.

    In the space of weights this is a little training of each sample; it is the twin to compare with.

    Attributes:
        base: What is drawn from.
        steps: Steps of Adam for each draw.
        learning_rate: In units of the anchors' spread.
        closeness: As in :class:`Trained`.
        images: Images a step.
    """

    base: Method = field(default_factory=lambda: KernelDensity(temperature=0.8))
    steps: int = 15
    learning_rate: float = 0.05
    closeness: float = 0.02
    images: int = 64

    def fit(self, context: Context) -> RefiningSampler:
        """Fit the base."""
        return RefiningSampler(self, self.base.fit(context), context, _descendable(context))


class RefiningSampler:
    """See :class:`Refined`."""

    def __init__(self, parameters: Refined, base: Sampler, context: Context, task: Task) -> None:
        self._parameters, self._base, self._space, self._task = parameters, base, context.space, task
        self._scale = spread(context.vectors)

    def draw(self, generator: torch.Generator) -> Tensor:
        """Draw, then descend."""
        drawn = self._base.draw(generator)[None]
        move = torch.zeros_like(drawn, requires_grad=True)
        optimiser = torch.optim.Adam([move], lr=self._parameters.learning_rate)
        for _ in range(self._parameters.steps):
            loss = _task_loss(
                self._space, self._task, drawn + move * self._scale, self._parameters.images, generator
            )
            optimiser.zero_grad()
            torch.autograd.backward(loss.mean() + self._parameters.closeness * move.square().mean(), inputs=[move])
            optimiser.step()
        return (drawn + move * self._scale).detach()[0]


def _descendable(context: Context) -> Task:
    """The task, whose loss must be that of the networks as they will be run.

    Raises:
        Refusal: Running statistics, which are measured after the draw, stand between (``batch-norm``), or there is
            no task.
    """
    if has_batch_norm(slot.name for slot in context.space.frame.layout.slots):
        raise Refusal(
            "batch-norm",
            "This method cannot tune networks with batch norm: their statistics are measured after the draw.",
            "Use subsampled, or one of the methods that only look at weights.",
        )
    return required(context.task)


def _task_loss(space: Space, task: Task, vectors: Tensor, images: int, generator: torch.Generator) -> Tensor:
    """Cross-entropy ``[m]`` of the decoded networks on some images of the part to fit on."""
    index = torch.randint(len(task.fit), (images,), generator=generator)
    networks = space.frame.models(space.decode(vectors))
    return task.loss_to_descend(networks, task.fit.images[index], task.fit.labels[index])
