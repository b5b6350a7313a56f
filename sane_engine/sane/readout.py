"""The vector to predict from: random features of what an embedding tells, so that a line can follow a curve.

A ridge regression on an embedding cannot see that accuracy bends at its upper end. Random features of a kernel
(Rahimi and Recht 2007) let it, and make it a kernel regression: here of a sum of kernels (Matérn 3/2), one for each
kind of numbers, and one that sees most of them together. How many features a kernel has is how much it counts,
since a probe gives all features the same scale. All is fitted on the training models' embeddings, without labels.

Shares and widths were chosen by cross-validation on zoos that nothing is reported of (``digits-independent``, and
the specifications of ``digits-400`` and ``mnist`` with other seeds).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sane_engine.sane.embeddings import Embeddings
from sane_engine.sane.reactions import split_reactions

SHARES = {"answers": 0.4, "agreement": 0.2, "functions": 0.115, "together": 0.285}
"""Parts of the random features; where there are no reactions, all are of everything together."""

WIDTH = 0.5
"""Of a kernel: one over its length, in root mean squared distances of training models."""

_CLIP = 5.0


@dataclass(frozen=True)
class Readout:
    """Maps embeddings of models with the layers it was fitted on to vectors ``[k + r]``, float64 tensors.

    Attributes:
        mean: Of the numbers, ``[f]``.
        std: Likewise.
        linear: Which numbers the vector begins with as they are, standardised: int64 ``[k]``.
        frequencies: ``[f, r]``; 0 for the numbers that a feature does not see.
        phases: ``[r]``.
    """

    mean: Tensor
    std: Tensor
    linear: Tensor
    frequencies: Tensor
    phases: Tensor

    def apply(self, embeddings: Embeddings) -> NDArray[np.float32] | None:
        """``[m, k + r]``; ``None`` where the models have other layers than those it was fitted on."""
        kinds = _kinds(embeddings)
        if kinds is None or sum(block.shape[1] for block in kinds.values()) != len(self.mean):
            return None
        values = self._standardise(torch.cat(list(kinds.values()), dim=1))
        return (
            torch.cat((values[:, self.linear], (values @ self.frequencies + self.phases).cos()), 1).float().numpy()
        )

    def _standardise(self, values: Tensor) -> Tensor:
        return ((values - self.mean) / self.std).clamp(-_CLIP, _CLIP).nan_to_num(0.0)

    def state(self) -> dict[str, Tensor]:
        """As named tensors."""
        return {f"readout.{field.name}": getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_state(cls, tensors: Mapping[str, Tensor]) -> Readout | None:
        """The inverse of :meth:`state`; ``None`` where there is none among the tensors."""
        if "readout.mean" not in tensors:
            return None
        return cls(*(tensors[f"readout.{field.name}"] for field in fields(cls)))


def fit_readout(
    embeddings: Embeddings, features: int, seed: int, *, without: Collection[str] = ()
) -> Readout | None:
    """Fit on the embeddings of the training models; ``None`` where they differ in their layers.

    Args:
        embeddings: Of the training models.
        features: Random features.
        seed: What they are drawn by.
        without: Kernels, and kinds of numbers, to leave out: to find out what they are good for.
    """
    kinds = _kinds(embeddings)
    if kinds is None:
        return None
    values = torch.cat(list(kinds.values()), dim=1)
    mean, std = values.mean(dim=0), values.std(dim=0, correction=0)
    std = torch.where(std > 1e-6, std, torch.ones_like(std))
    place: dict[str, Tensor] = {}
    for name, block in kinds.items():
        start = sum(len(own) for own in place.values())
        place[name] = torch.arange(start, start + block.shape[1])
    values = ((values - mean) / std).clamp(-_CLIP, _CLIP)
    seen, counts = _seen(place, features, without)
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for own, count in zip(seen, counts, strict=True):
        distance = math.sqrt(2 * float(values[:, own].var(dim=0, correction=0).sum()))
        drawn = torch.randn(len(own), count, generator=generator, dtype=torch.float64)
        # A Gaussian over the root of a χ² of 3 degrees of freedom over 3: the spectrum of the Matérn kernel 3/2.
        chi = torch.randn(3, count, generator=generator, dtype=torch.float64).square().mean(dim=0).sqrt()
        part = torch.zeros(len(mean), count, dtype=torch.float64)
        part[own] = drawn / chi * (WIDTH / max(distance, 1e-12))
        parts.append(part)
    phases = 2 * math.pi * torch.rand(features, generator=generator, dtype=torch.float64)
    known = "answers" in place and "answers" not in without
    linear = place["answers"] if known else torch.zeros(0, dtype=torch.int64)
    return Readout(mean, std, linear, torch.cat(parts, dim=1), phases)


def _seen(place: Mapping[str, Tensor], features: int, without: Collection[str]) -> tuple[list[Tensor], list[int]]:
    """Which numbers each kernel sees, and how many features it has."""
    # Components of answers are many and wide: together with all others they would drown them. So would spreads of
    # latents, which are all there is to see, with summaries, where there are no reactions.
    left_out = {"functions", "spreads", *without} if "answers" in place else {*without}
    together = [own for name, own in place.items() if name not in left_out]
    seen = {name: place[name] for name in SHARES if name in place} | {"together": torch.cat(together)}
    seen = {name: own for name, own in seen.items() if name not in without}
    total = sum(SHARES[name] for name in seen)
    counts = [round(SHARES[name] / total * features) for name in seen]
    counts[-1] = features - sum(counts[:-1])
    return list(seen.values()), counts


def _kinds(embeddings: Embeddings) -> dict[str, Tensor] | None:
    """Float64 ``[m, …]`` of each kind: spreads of the latents of each layer, summaries, reactions to noise."""
    if not len(embeddings) or (embeddings.layer_count != embeddings.layers.shape[1]).any():
        return None
    latent = embeddings.layers.shape[2] // 2
    kinds = {"spreads": embeddings.layers[..., latent:]}
    if embeddings.summaries is not None:
        kinds["summaries"] = embeddings.summaries[..., latent:]
    if embeddings.reactions is not None:
        parts = split_reactions(embeddings.reactions.shape[2])
        kinds |= {
            name: embeddings.reactions[..., part]
            for name, part in zip(("answers", "agreement", "functions"), parts, strict=True)
        }
    return {name: torch.from_numpy(block.reshape(len(embeddings), -1)).double() for name, block in kinds.items()}
