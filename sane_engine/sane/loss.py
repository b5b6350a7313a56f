"""What training minimises: (1 − γ)·reconstruction + γ·contrast."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from sane_engine.sane.config import LossNormalisation

if TYPE_CHECKING:
    from sane_engine.tokens import Layout


def entry_weights(layout: Layout, normalisation: LossNormalisation) -> Tensor:
    """How much each entry of a token sequence counts: ``[n, d]``, 0 at padding, mean 1 over the true entries.

    ``"entry"`` counts every weight the same, ``"token"`` every token, ``"layer"`` every layer. They are those
    of the whole sequence, so that a layer of which a window shows only a part counts for that part.
    """
    mask = layout.mask().float()
    if normalisation == "entry":
        weight = mask
    elif normalisation == "token":
        weight = mask / mask.sum(dim=1, keepdim=True).clamp(min=1)
    else:
        layer = layout.layer_of_token()
        entries = torch.zeros(len(layout.layers)).index_add_(0, layer, mask.sum(dim=1))
        weight = mask / entries.clamp(min=1)[layer][:, None]
    return weight * (mask.sum() / weight.sum())


def masked_mean_squared_error(output: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Mean of the squared errors ``[b, n, d]``, weighted by entry; what has weight 0 does not count at all."""
    return ((output - target).square() * weight).sum() / weight.sum()


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Normalised temperature-scaled cross entropy (Chen et al. 2020, arXiv:2002.05709) of two views ``[b, c]``.

    Row i of one view should be nearest, in cosine, to row i of the other, among the 2b − 1 other rows.
    """
    both = F.normalize(torch.cat((first, second)).float(), dim=1)
    similarity = both @ both.T / temperature
    similarity = similarity.masked_fill(torch.eye(len(both), dtype=torch.bool, device=both.device), float("-inf"))
    partner = torch.arange(len(both), device=both.device).roll(len(first))
    return F.cross_entropy(similarity, partner)
