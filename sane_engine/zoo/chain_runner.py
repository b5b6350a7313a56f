"""Plain chains run many at once by the zoo's own passes: several times faster than autograd for small networks.

The passes have buffers of one size and keep what they saw last, so networks are borrowed from a few that lie ready;
two threads never have the same one.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sane_engine.zoo.architectures import ArchitectureSpec, forward_stacked
from sane_engine.zoo.stacked import StackedNetwork, unflatten

IMAGES_AT_ONCE = 64
"""More of them do not fit into the processor's cache."""

_READY = 4


class ChainRunner:
    """Runs stacks of networks ``[m, …]`` of one architecture."""

    def __init__(self, architecture: ArchitectureSpec, activation: str | None) -> None:
        self.architecture, self._activation = architecture, activation
        self._ready: list[StackedNetwork] = []
        self._lock = threading.Lock()

    def __call__(self, stacked: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """Logits ``[m, b, classes]`` of images ``[b, c, h, w]`` or ``[m, b, c, h, w]``; gradients flow."""
        wanted = torch.is_grad_enabled() and any(t.requires_grad for t in (images, *stacked.values()))
        if wanted or images.dim() == 5:
            return forward_stacked(self.architecture, stacked, images, activation=self._activation)
        parts = []
        with self._network(len(next(iter(stacked.values()))), IMAGES_AT_ONCE) as network:
            network.load(stacked)
            for piece in torch.split(images.flatten(1), IMAGES_AT_ONCE):
                filled = F.pad(piece, (0, 0, 0, IMAGES_AT_ONCE - len(piece)))
                parts.append(network.forward(filled[None]).transpose(1, 2)[:, : len(piece)].clone())
        return torch.cat(parts, dim=1)

    def losses(self, stacked: Mapping[str, Tensor], images: Tensor, answers: Tensor) -> Tensor:
        """Mean cross-entropy ``[m]`` on images ``[b, c, h, w]``; gradients flow to the networks.

        Args:
            stacked: The networks.
            images: Seen by all of them.
            answers: Labels ``[b]``, or chances ``[m, b, classes]`` for each network its own.
        """
        names = tuple(self.architecture.shapes)
        chances = answers
        if answers.dim() == 1:
            chances = F.one_hot(answers, self.architecture.classes).float()[None]
        found: Tensor = _Losses.apply(self, images, chances, *(stacked[name] for name in names))  # type: ignore[no-untyped-call]
        return found

    @contextmanager
    def _network(self, models: int, batch: int) -> Iterator[StackedNetwork]:
        with self._lock:
            fitting = [n for n in self._ready if (n.n_models, n.batch) == (models, batch)]
            network = fitting[0] if fitting else None
            if network is not None:
                self._ready.remove(network)
        network = network or StackedNetwork(self.architecture, models, batch, activation=self._activation)
        yield network
        with self._lock:
            self._ready = [network, *self._ready][:_READY]


class _Losses(torch.autograd.Function):
    """The loss and its gradient in one go: the buffers are free again when it returns."""

    @staticmethod
    def forward(ctx: Any, runner: ChainRunner, images: Tensor, chances: Tensor, *tensors: Tensor) -> Tensor:
        wanted = chances.transpose(1, 2)
        with runner._network(len(tensors[0]), len(images)) as network:
            network.load(dict(zip(runner.architecture.shapes, tensors, strict=True)))
            logits = network.forward(images.flatten(1)[None])
            losses = (logits.logsumexp(1) - (logits * wanted).sum(1)).mean(1)
            network.backward((torch.softmax(logits, dim=1) - wanted).div_(len(images)))
            ctx.save_for_backward(network.gradients.clone())
        ctx.architecture, ctx.dtypes = runner.architecture, [tensor.dtype for tensor in tensors]
        return losses

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (own,) = ctx.saved_tensors
        parts = unflatten(own * gradients[0][:, None], ctx.architecture).values()
        return (None, None, None, *(part.to(dtype) for part, dtype in zip(parts, ctx.dtypes, strict=True)))
