"""Standardised tokens: every tensor of a network by its own mean and standard deviation.

Layers differ by orders of magnitude in scale; unstandardised, the loss would see only the largest. The statistics
are those of the training rows of the zoo, one pair for each tensor (so the weights, the bias and the running
statistics that share a token each have their own). A network of another layout has no such statistics: it is
standardised by its own, tensor by tensor, which says nothing of its scale but keeps its shape.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from sane_engine.tokens import Layout, TokenBatch

CONSTANT = 1e-7
"""A tensor whose standard deviation is below this part of its mean is constant to float32's precision."""

PART_ENTRIES = 1 << 22
"""Entries that are held in float64 at a time."""


def structure(layout: Layout) -> str:
    """What makes two layouts the same to an encoder: names and shapes, but not dtypes or integer buffers."""
    slots = [(slot.name, list(slot.shape), slot.layer) for slot in layout.slots if slot.layer >= 0]
    text = json.dumps([layout.token_size, slots])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation of each tensor of one layout.

    Attributes:
        mean: ``[c]`` or, of each model for itself, ``[m, c]``; float64, one entry a slot of the layout.
        std: Likewise; 1 where the tensor is constant.
    """

    mean: Tensor
    std: Tensor

    def apply(self, tokens: Tensor, layout: Layout) -> Tensor:
        """Standardise ``[m, n, d]``; padding stays 0. float32 out."""
        result = torch.empty(tokens.shape, dtype=torch.float32)
        for part in _parts(tokens):
            mean, std = self._of(layout.component_of_entry()[part])
            result[:, part] = ((tokens[:, part].double() - mean) / std).float()
        return result

    def undo(self, tokens: Tensor, layout: Layout) -> Tensor:
        """The inverse of :meth:`apply`, in float64."""
        mean, std = self.of_entries(layout)
        return tokens.double() * std + mean

    def of_entries(self, layout: Layout) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each entry, ``[n, d]`` or ``[m, n, d]``; 0 and 1 at padding."""
        return self._of(layout.component_of_entry())

    def _of(self, component: Tensor) -> tuple[Tensor, Tensor]:
        # Padding has component −1: the last entry, mean 0 and standard deviation 1.
        mean = torch.cat((self.mean, torch.zeros_like(self.mean[..., :1])), dim=-1)
        std = torch.cat((self.std, torch.ones_like(self.std[..., :1])), dim=-1)
        return mean[..., component], std[..., component]


def _parts(tokens: Tensor) -> list[slice]:
    """Ranges of tokens small enough that float64 copies of them cost little memory, also in a huge network."""
    m, n, d = tokens.shape
    length = max(1, PART_ENTRIES // max(1, m * d))
    return [slice(first, min(first + length, n)) for first in range(0, n, length)]


def _sums(values: Tensor, layout: Layout, centre: Tensor | None = None) -> Tensor:
    """Sum the true entries of ``[m, n, d]``, or their squares about a centre, by component: ``[m, c]``, float64.

    Args:
        values: ``[m, n, d]``.
        layout: Of the values.
        centre: ``[c]`` or ``[m, c]``: sum squared distances from it instead of the values.
    """
    # One component more, which collects the padding and is cut off.
    total = torch.zeros(len(values), len(layout.slots) + 1, dtype=torch.float64)
    for part in _parts(values):
        component = layout.component_of_entry()[part]
        block = values[:, part].double()
        if centre is not None:
            block = (block - Statistics(centre, centre)._of(component)[0]).square()
        index = torch.where(component < 0, len(layout.slots), component)
        total.index_add_(1, index.flatten(), block.flatten(1))
    return total[:, :-1]


def own_statistics(tokens: Tensor, layout: Layout) -> Statistics:
    """Mean and standard deviation of each tensor of each model: ``[m, c]`` from tokens ``[m, n, d]``."""
    count = _sums(layout.mask()[None], layout).clamp(min=1)
    mean = _sums(tokens, layout) / count
    # Two passes: squares about the mean lose no digits where it is large beside the spread.
    return _guard(mean, (_sums(tokens, layout, centre=mean) / count).sqrt())


def _guard(mean: Tensor, std: Tensor) -> Statistics:
    varies = std > CONSTANT * mean.abs()
    return Statistics(mean, torch.where(varies & (std > 0), std, torch.ones_like(std)))


def fit_statistics(batches: Iterable[TokenBatch]) -> Statistics:
    """Mean and standard deviation of each tensor over all models of batches that share a layout.

    Raises:
        ValueError: There is no batch.
    """
    seen = 0
    mean = squares = torch.zeros(0)
    count = torch.zeros(0)
    for batch in batches:
        layout = batch.layout
        entries = _sums(layout.mask()[None], layout)[0].clamp(min=1)
        each = _sums(batch.tokens, layout) / entries
        centre = each.mean(dim=0)
        spread = _sums(batch.tokens, layout, centre=centre).sum(dim=0)
        m = len(batch.tokens)
        if not seen:
            mean, squares, count = centre, spread, entries
        else:
            # Chan, Golub and LeVeque's update: batches of any size merge without cancellation.
            shift = centre - mean
            squares = squares + spread + shift**2 * count * (seen * m / (seen + m))
            mean = mean + shift * (m / (seen + m))
        seen += m
    if not seen:
        raise ValueError("no models to take the mean and standard deviation of")
    return _guard(mean, (squares / (count * seen)).sqrt())


class Normalizer:
    """Standardises the layouts it was fitted on by their statistics, every other network by its own.

    Attributes:
        statistics: By :func:`structure` of a layout.
    """

    def __init__(self, statistics: Mapping[str, Statistics]) -> None:
        self.statistics = dict(statistics)

    def knows(self, layout: Layout) -> bool:
        """Whether the statistics of this layout were fitted."""
        return structure(layout) in self.statistics

    def normalise(self, tokens: Tensor, layout: Layout) -> tuple[Tensor, Statistics]:
        """Standardise ``[m, n, d]`` and say by what, which is needed to undo it."""
        statistics = self.statistics.get(structure(layout))
        if statistics is None:
            statistics = own_statistics(tokens, layout)
        return statistics.apply(tokens, layout), statistics

    def state(self) -> dict[str, Tensor]:
        """The statistics as named tensors: ``normalizer.<structure>.mean`` and ``.std``."""
        return {
            f"normalizer.{key}.{name}": getattr(statistics, name)
            for key, statistics in self.statistics.items()
            for name in ("mean", "std")
        }

    @classmethod
    def from_state(cls, tensors: Mapping[str, Tensor]) -> Normalizer:
        """The inverse of :meth:`state`; other tensors are ignored."""
        keys = [name.split(".")[1] for name in tensors if name.startswith("normalizer.") and name.endswith(".mean")]
        return cls(
            {key: Statistics(tensors[f"normalizer.{key}.mean"], tensors[f"normalizer.{key}.std"]) for key in keys}
        )
