"""What the summary token of a layer holds, ready for an encoder: weights, paths, and behaviour on noise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sane_engine.sane.layer_summaries import OF_WEIGHTS, STATISTICS, layer_statistics, summarise
from sane_engine.sane.noise_behaviour import BEHAVIOUR, noise_behaviour
from sane_engine.sane.normalisation import structure
from sane_engine.sane.remembered import Remembered, keys_of
from sane_engine.tokens import Layout, TokenBatch, detokenize_batch

SUMMARY = OF_WEIGHTS + BEHAVIOUR
"""Numbers a layer."""


def summary_width(*, universal: bool) -> int:
    """Numbers a layer that an encoder's summary tokens hold."""
    return STATISTICS if universal else SUMMARY


_CLIP = 5.0
# Numbers of a network beyond which its summaries are not kept in memory.
_LARGEST_KNOWN = 1 << 16
_known = Remembered(8000)


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation that make numbers of order 1: ``[…]``, float32."""

    mean: Tensor
    std: Tensor

    def apply(self, values: Tensor) -> Tensor:
        """Standardise ``[m, …]``; outliers are clipped, what is unknown becomes typical (0)."""
        return ((values - self.mean) / self.std).clamp(-_CLIP, _CLIP).nan_to_num(0.0)


_UNFITTED = Scale(torch.zeros(()), torch.ones(()))
"""Of an encoder that was never trained: numbers as they are."""


def _of_weights(batch: TokenBatch) -> Tensor:
    """:func:`summarise`, which takes longer than all else that is made of small networks."""
    if batch.tokens[0].numel() > _LARGEST_KNOWN:
        return summarise(batch)
    context = f"{structure(batch.layout)} {batch.layout.token_size}"
    keys = keys_of(context, [batch.tokens])
    (found,) = _known.rows(keys, lambda places: (summarise(replace(batch, tokens=batch.tokens[places])),), 256)
    return found


def fit_scale(values: Tensor) -> Scale:
    """Mean and standard deviation over the first axis of ``[m, …]``, without what is unknown."""
    mean = values.nanmean(dim=0).nan_to_num(0.0)
    std = (values - mean).square().nanmean(dim=0).sqrt()
    return Scale(mean, torch.where(std > 1e-6, std, torch.ones_like(std)))


class Summariser:
    """Makes standardised summaries: layer by layer where the layout is known, by those of all layers elsewhere.

    Attributes:
        scales: By structure of the layout: ``[L, SUMMARY]``; under ``"any"``: ``[SUMMARY]``.
        architectures: By structure, how to run the networks of a layout; of others, behaviour is unknown.
        universal: Only what a layer says for itself, ``STATISTICS`` numbers instead of ``SUMMARY``, and no layout
            has a scale of its own.
    """

    def __init__(
        self,
        scales: Mapping[str, Scale] | None = None,
        architectures: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        universal: bool = False,
    ) -> None:
        self.universal = universal
        self.scales = dict(scales or {})
        self.architectures = dict(architectures or {})

    def raw(self, batch: TokenBatch) -> Tensor:
        """Summaries ``[m, L, SUMMARY]`` as they are; NaN where unknown."""
        if self.universal:
            return layer_statistics(batch).float()
        weights = _of_weights(batch)
        architecture = self.architectures.get(structure(batch.layout))
        if architecture is None:
            return torch.nn.functional.pad(weights, (0, BEHAVIOUR), value=torch.nan)
        return torch.cat((weights, noise_behaviour(architecture, detokenize_batch(batch))), dim=2)

    def standardise(self, raw: Tensor, layout: Layout) -> Tensor:
        """Of order 1, for an encoder."""
        scale = self.scales.get(structure(layout)) or self.scales.get("any", _UNFITTED)
        return scale.apply(raw)

    def summaries(self, batch: TokenBatch) -> Tensor:
        """Standardised summaries ``[m, L, SUMMARY]``."""
        return self.standardise(self.raw(batch), batch.layout)

    def state(self) -> dict[str, Tensor]:
        """The scales as named tensors: ``summary.<structure>.mean`` and ``.std``."""
        return {
            f"summary.{key}.{name}": getattr(scale, name)
            for key, scale in self.scales.items()
            for name in ("mean", "std")
        }

    @classmethod
    def from_state(
        cls,
        tensors: Mapping[str, Tensor],
        architectures: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        universal: bool = False,
    ) -> Summariser:
        """The inverse of :meth:`state`; other tensors are ignored."""
        keys = [name.split(".")[1] for name in tensors if name.startswith("summary.") and name.endswith(".mean")]
        scales = {key: Scale(tensors[f"summary.{key}.mean"], tensors[f"summary.{key}.std"]) for key in keys}
        return cls(scales, architectures, universal=universal)


def fit_summariser(
    raw: Iterable[tuple[str, Tensor]],
    architectures: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    universal: bool = False,
) -> Summariser:
    """Of the raw summaries ``[m, L, SUMMARY]`` of each layout, given with its structure."""
    scales: dict[str, Scale] = {}
    every = []
    for key, values in raw:
        scales.setdefault(key, fit_scale(values))
        every.append(values.flatten(0, 1))
    scales["any"] = fit_scale(torch.cat(every))
    return Summariser({"any": scales["any"]} if universal else scales, architectures, universal=universal)
