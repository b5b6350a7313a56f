"""From the latents of tokens to those of layers and models: mean and standard deviation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sane_engine.tokens import Layout

# Numbers that are pooled at once (16 MB in double precision).
_AT_ONCE = 1 << 21


@dataclass(frozen=True)
class Selection:
    """Which tokens of a layout are encoded.

    Attributes:
        index: Their places in the sequence, ascending: ``[s]``.
        layer: The layer of each: ``[s]``.
        share: Of each layer, its part of all tokens of the layout: ``[L]``; what is left out counts too.
        limit: Most tokens a layer, or ``None`` where there was no limit.
        subsampled: Whether a token was left out.
    """

    index: Tensor
    layer: Tensor
    share: Tensor
    limit: int | None
    subsampled: bool


@dataclass(frozen=True)
class Pooled:
    """One model: ``layers`` ``[L, 2z]`` and ``model`` ``[2z]``, mean then standard deviation."""

    layers: npt.NDArray[np.float32]
    model: npt.NDArray[np.float32]


def select_tokens(layout: Layout, limit: int | None) -> Selection:
    """All tokens of a layout, or of each layer at most ``limit``, evenly spaced."""
    sizes = torch.tensor([layer.n_tokens for layer in layout.layers])
    kept = sizes if limit is None else sizes.clamp(max=limit)
    starts = torch.tensor([layer.start for layer in layout.layers])
    layer = torch.repeat_interleave(torch.arange(len(sizes)), kept)
    within = torch.arange(len(layer)) - (kept.cumsum(0) - kept)[layer]
    # The middle of each of ``kept`` equal parts of the layer; all of them where none is left out.
    index = starts[layer] + (2 * within + 1) * sizes[layer] // (2 * kept[layer])
    return Selection(index, layer, sizes.double() / sizes.sum(), limit, bool((kept < sizes).any()))


def pool(latents: Tensor, selection: Selection) -> list[Pooled]:
    """Mean ⊕ standard deviation of latents ``[m, s, z]`` over each layer and over the model.

    The model's are those of all its tokens, computed from the layers' (law of total variance), so that layers of
    which only some tokens were encoded keep their weight. Standard deviations are of the population (divisor n).
    """
    m, _, z = latents.shape
    count = torch.bincount(selection.layer, minlength=len(selection.share)).double()[:, None]

    # In double precision a stretch at a time: copies of all latents would be the largest thing in memory.
    parts = torch.split(torch.arange(len(selection.layer)), max(1, _AT_ONCE // max(1, m * z)))

    def average(of: Callable[[Tensor], Tensor]) -> Tensor:
        total = torch.zeros(m, len(selection.share), z, dtype=torch.float64)
        for part in parts:
            total.index_add_(1, selection.layer[part], of(part))
        return total / count

    mean = average(lambda part: latents[:, part].double())
    variance = average(lambda part: (latents[:, part] - mean[:, selection.layer[part]]).square())
    share = selection.share[:, None]
    overall = (mean * share).sum(dim=1)
    spread = ((variance + (mean - overall[:, None]).square()) * share).sum(dim=1)
    layers = torch.cat((mean, variance.sqrt()), dim=-1).float().numpy()
    models = torch.cat((overall, spread.sqrt()), dim=-1).float().numpy()
    return [Pooled(layers[i], models[i]) for i in range(m)]
