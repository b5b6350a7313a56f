"""How large a token's weights are, as features beside the token.

A transformer's layer norms see directions, not sizes, and the size of a row of weights tells much of how long and
how well it was trained. Five numbers say it outright. They are computed from the standardised token by the encoder
itself, so whatever encodes tokens has them, and a permuted or noisy token has those of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor

SCALE_FEATURES = 5

_FLOOR = 1e-4


def scale_features(tokens: Tensor) -> Tensor:
    """Log standard deviation, mean, mean absolute value, log maximum and log root mean square: ``[..., 5]``.

    Args:
        tokens: Standardised, ``[..., d]``. Padding is 0 and counts: a token's share of it is the same in all models
            of a layout.
    """
    size = tokens.abs()
    logs = torch.stack((tokens.std(dim=-1), size.amax(dim=-1), tokens.square().mean(dim=-1).sqrt()), dim=-1)
    logs = logs.clamp(min=_FLOOR).log()
    mean, absolute = tokens.mean(dim=-1), size.mean(dim=-1)
    return torch.stack((logs[..., 0], mean, absolute, logs[..., 1], logs[..., 2]), dim=-1)
