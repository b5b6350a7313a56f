"""The vector to predict from: few components of an embedding, and random features of them.

A layer's mean latents are many numbers, and most of what they tell of independently initialised networks is where
these happened to start. A ridge regression on few hundred models is better off with the leading principal
components of what matters: the summaries of the layers, and how far the latents of a layer's tokens are spread.
Behaviour counts most where it is known: it is what a network does, and all else is about it.
What it cannot do with any of them is follow what is not linear; random Fourier features (Rahimi and Recht 2007) let
it, and make it a kernel regression. All is fitted on the training models' embeddings, without labels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sane_engine.sane.embeddings import Embeddings
from sane_engine.sane.layer_summaries import OF_WEIGHTS

COMPONENTS = (20, 40, 128)
"""Most principal components: of spreads of latents, of what the weights alone tell, of behaviour on noise."""

WEIGHTS = (0.3, 0.3, 1.0)
"""How much each of the three counts in the kernel; chosen on one split of the zoo ``digits-400``."""

BANDWIDTH = 0.3
"""exp(−BANDWIDTH·‖x − y‖² / mean ‖x‖²) is the kernel that the random features make."""

_CLIP = 5.0


@dataclass(frozen=True)
class Readout:
    """Maps embeddings of models with the layers it was fitted on to vectors ``[k + r]``, float64 tensors.

    Attributes:
        mean: Of the spreads and summaries, ``[f]``.
        std: Likewise.
        axes: Weighted principal axes, ``[f, k]``, of each of the three kinds of numbers for itself.
        frequencies: ``[k, r]``.
        phases: ``[r]``.
    """

    mean: Tensor
    std: Tensor
    axes: Tensor
    frequencies: Tensor
    phases: Tensor

    def apply(self, embeddings: Embeddings) -> NDArray[np.float32] | None:
        """``[m, k + r]``; ``None`` where the models have other layers than those it was fitted on."""
        blocks = _blocks(embeddings)
        if blocks is None or sum(block.shape[1] for block in blocks) != len(self.mean):
            return None
        components = ((torch.cat(blocks, dim=1) - self.mean) / self.std).clamp(-_CLIP, _CLIP) @ self.axes
        features = (components @ self.frequencies + self.phases).cos()
        return torch.cat((components, features), dim=1).float().numpy()

    def state(self) -> dict[str, Tensor]:
        """As named tensors."""
        return {f"readout.{field.name}": getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_state(cls, tensors: Mapping[str, Tensor]) -> Readout | None:
        """The inverse of :meth:`state`; ``None`` where there is none among the tensors."""
        if "readout.mean" not in tensors:
            return None
        return cls(*(tensors[f"readout.{field.name}"] for field in fields(cls)))


def fit_readout(embeddings: Embeddings, features: int, seed: int) -> Readout | None:
    """Fit on the embeddings of the training models; ``None`` where they differ in their layers.

    Args:
        embeddings: Of the training models.
        features: Random features.
        seed: What they are drawn by.
    """
    blocks = _blocks(embeddings)
    if blocks is None:
        return None
    values = torch.cat(blocks, dim=1)
    mean, std = values.mean(dim=0), values.std(dim=0, correction=0)
    std = torch.where(std > 1e-6, std, torch.ones_like(std))
    axes = torch.zeros(len(mean), 0, dtype=torch.float64)
    start = 0
    for block, most, weight in zip(blocks, COMPONENTS, WEIGHTS, strict=False):
        rows = slice(start, start + block.shape[1])
        start = rows.stop
        part = ((block - mean[rows]) / std[rows]).clamp(-_CLIP, _CLIP)
        variance, basis = torch.linalg.eigh(part.T @ part / len(part))
        # What is not known of these models is the same for all, and has no variance.
        basis = basis.flip(1)[:, :most][:, (variance > 1e-9).flip(0)[:most]]
        # The sign of an eigenvector is arbitrary: the largest entry is +.
        basis = basis * basis.gather(0, basis.abs().argmax(dim=0, keepdim=True)).sign()
        placed = torch.zeros(len(mean), basis.shape[1], dtype=torch.float64)
        placed[rows] = weight * basis
        axes = torch.cat((axes, placed), dim=1)
    components = ((values - mean) / std).clamp(-_CLIP, _CLIP) @ axes
    size = float(components.square().sum(dim=1).mean().sqrt())
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(axes.shape[1], features, generator=generator, dtype=torch.float64)
    phases = 2 * math.pi * torch.rand(features, generator=generator, dtype=torch.float64)
    return Readout(mean, std, axes, drawn * (math.sqrt(2 * BANDWIDTH) / max(size, 1e-12)), phases)


def _blocks(embeddings: Embeddings) -> list[Tensor] | None:
    """Spreads of the latents of each layer, what its weights tell, and its behaviour: float64 ``[m, …]`` each."""
    if not len(embeddings) or (embeddings.layer_count != embeddings.layers.shape[1]).any():
        return None
    latent = embeddings.layers.shape[2] // 2
    blocks = [embeddings.layers[..., latent:]]
    if embeddings.summaries is not None:
        summaries = embeddings.summaries[..., latent:]
        blocks += [summaries[..., :OF_WEIGHTS], summaries[..., OF_WEIGHTS:]]
    return [torch.from_numpy(block.reshape(len(embeddings), -1)).double() for block in blocks]
