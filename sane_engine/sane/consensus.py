"""What a population agrees on: the answers of its networks to images of nothing, and how near one comes to them.

Networks that learnt the same task answer alike also where there is nothing to see, the better ones more so. So the
mean answer of the training models to fixed noise is a reference that needs neither data nor labels, and how far a
network strays from it says how good it is. Hidden units may stand in any order: only outputs are compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sane_engine.behaviour.answers import white_and_smooth
from sane_engine.zoo.architectures import forward_stacked

IMAGES = 192
"""Images of each kind, the same for all models."""

KINDS = ("white", "smooth", "strokes")
OF_KIND = 4
AGREEMENT = OF_KIND * len(KINDS)
"""Numbers a model."""

MODELS_AT_ONCE = 64
# exp(−30) is no chance at all; a network that is certain and wrong must not outweigh all others.
_LEAST = -30.0
_TINY = 1e-6
_CURVE_POINTS = 40
_MOST_STROKES = 3


def noise_images(shape: tuple[int, int, int], seed: int = 0) -> Tensor:
    """White noise, smooth noise and pen strokes, :data:`IMAGES` of each: ``[3 · IMAGES, c, h, w]``.

    Each kind has about zero mean and unit variance, as the standardised images that networks are trained on.
    """
    channels, height, width = shape
    generator = torch.Generator().manual_seed(seed)
    white, smooth = white_and_smooth(shape, IMAGES, generator)
    drawn = _strokes(height, width, generator)[:, None].expand(-1, channels, -1, -1)
    return torch.cat((white, smooth, (drawn - drawn.mean()) / drawn.std()))


def _strokes(height: int, width: int, generator: torch.Generator) -> Tensor:
    """One to three Bézier curves an image, drawn with a soft pen: ``[IMAGES, h, w]``."""
    size = torch.tensor([height, width], dtype=torch.float32)
    corners = (0.2 + 0.6 * torch.rand(IMAGES, _MOST_STROKES, 4, 2, generator=generator)) * size
    count = torch.randint(1, _MOST_STROKES + 1, (IMAGES,), generator=generator)
    t = torch.linspace(0, 1, _CURVE_POINTS)
    weights = torch.stack(((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3))
    points = torch.einsum("pt,nspd->nstd", weights, corners)
    rows, columns = torch.arange(height).float(), torch.arange(width).float()
    distance = (points[..., 0, None, None] - rows[:, None]).square() + (
        points[..., 1, None, None] - columns
    ).square()
    nearest = distance.amin(dim=2)
    nearest[torch.arange(_MOST_STROKES) >= count[:, None]] = torch.inf
    return torch.exp(-nearest.amin(dim=1) / (2 * (min(height, width) / 28) ** 2))


@torch.no_grad()
def answers(
    architecture: Mapping[str, Any], stacked: Mapping[str, Tensor], images: Tensor, *, activation: str | None = None
) -> Tensor:
    """Logits ``[m, images, classes]`` of models of one layout; what is infinite or not a number becomes 0."""
    m = len(next(iter(stacked.values())))
    parts = [
        forward_stacked(
            architecture,
            {name: tensor[first : first + MODELS_AT_ONCE].float() for name, tensor in stacked.items()},
            images,
            activation=activation,
        )
        for first in range(0, m, MODELS_AT_ONCE)
    ]
    return torch.nan_to_num(torch.cat(parts), nan=0.0, posinf=0.0, neginf=0.0)


def _standardised(logits: Tensor) -> Tensor:
    centred = logits - logits.mean(dim=2, keepdim=True)
    scale: Tensor = centred.flatten(1).std(dim=1).clamp(min=_TINY)
    return centred / scale[:, None, None]


@dataclass(frozen=True)
class Consensus:
    """The mean answers of the training models.

    Attributes:
        log_chances: Mean of their log probabilities ``[images, classes]``.
        logits: Mean of their logits, each model's standardised ``[images, classes]``.
    """

    log_chances: Tensor
    logits: Tensor

    @classmethod
    def of(cls, logits: Tensor) -> Consensus:
        """From the training models' :func:`answers` ``[m, images, classes]``."""
        log_chances = logits.log_softmax(dim=2).clamp(min=_LEAST).mean(dim=0)
        return cls(log_chances, _standardised(logits).mean(dim=0))

    def agreement(self, logits: Tensor) -> Tensor:
        """How near :func:`answers` ``[m, images, classes]`` come to it: ``[m, AGREEMENT]``.

        Of each kind of image: the share on which the first choice is the same, logarithms of the cross entropy in
        both directions, and the correlation of standardised logits.
        """
        own, standard = logits.log_softmax(dim=2).clamp(min=_LEAST), _standardised(logits)
        size = len(self.logits) // len(KINDS)
        found = []
        for part in (slice(first * size, (first + 1) * size) for first in range(len(KINDS))):
            theirs, ours = self.log_chances[part], own[:, part]
            same = (ours.argmax(dim=2) == theirs.argmax(dim=1)).float().mean(dim=1)
            given = -(theirs.softmax(dim=1) * ours).sum(dim=2).mean(dim=1)
            taken = -(ours.exp() * theirs).sum(dim=2).mean(dim=1)
            a, b = standard[:, part].flatten(1), self.logits[part].flatten()
            a, b = a - a.mean(dim=1, keepdim=True), b - b.mean()
            correlation = (a @ b) / (a.norm(dim=1) * b.norm()).clamp(min=_TINY)
            found += [same, given.clamp(min=_TINY).log(), taken.clamp(min=_TINY).log(), correlation]
        return torch.stack(found, dim=1)
