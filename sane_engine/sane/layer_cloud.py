"""What the layers of many networks look like to an encoder: their middle, their spread, their main directions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from sane_engine.sane.embeddings import Embeddings

COMPONENTS = 3


@dataclass(frozen=True)
class LayerCloud:
    """All layers of the networks that a universal encoder was trained on; f = 2 · latent.

    Attributes:
        mean: ``[f]``.
        rms: Root mean square distance to it, ``[]``.
        components: Principal axes, orthonormal rows ``[3, f]``; each has its largest entry positive.
        explained: Share of the variance along each ``[3]``.
    """

    mean: Tensor
    rms: Tensor
    components: Tensor
    explained: Tensor

    def state(self) -> dict[str, Tensor]:
        """As named tensors."""
        return {f"cloud.{field.name}": getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_state(cls, tensors: Mapping[str, Tensor]) -> LayerCloud | None:
        """The inverse of :meth:`state`; ``None`` where there is none among the tensors."""
        if "cloud.mean" not in tensors:
            return None
        return cls(*(tensors[f"cloud.{field.name}"] for field in fields(cls)))


def fit_cloud(embeddings: Embeddings) -> LayerCloud:
    """Of the embeddings of the training models, which may have any layers.

    Raises:
        ValueError: Fewer than two layers.
    """
    real = np.arange(embeddings.layers.shape[1])[None, :] < embeddings.layer_count[:, None]
    cloud = torch.from_numpy(embeddings.layers[real]).double()
    if len(cloud) < 2:
        raise ValueError("a cloud needs at least two layers")
    mean = cloud.mean(dim=0)
    centred = cloud - mean
    variance, axes = torch.linalg.eigh(centred.T @ centred / len(cloud))
    axes = axes.flip(1)[:, :COMPONENTS].T
    # The sign of an eigenvector is arbitrary: the largest entry is +.
    axes = axes * axes.gather(1, axes.abs().argmax(dim=1, keepdim=True)).sign()
    share = variance.flip(0)[:COMPONENTS].clamp(min=0) / variance.sum().clamp(min=1e-300)
    rms = centred.square().sum(dim=1).mean().sqrt()
    return LayerCloud(mean.float(), rms.float(), axes.float().contiguous(), share.float())
