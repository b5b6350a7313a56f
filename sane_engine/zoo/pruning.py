"""Magnitude pruning: the smallest weights of a trained network set to zero."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def prune_by_magnitude(stacked: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    """Copies with the smallest weights of each model, over all its layers together, set to zero.

    Biases (one value a row) stay: they are few, and pruning convention leaves them.

    Args:
        stacked: Parameter name → ``[m, …]``.
        sparsity: Fraction of each model's weights to set to zero, rounded to whole weights.

    Raises:
        ValueError: ``sparsity`` is not within [0, 1].
    """
    if not 0 <= sparsity <= 1:
        raise ValueError(f"sparsity must lie in [0, 1], not {sparsity}")
    weights = [name for name, tensor in stacked.items() if tensor.dim() > 2]
    pruned = {name: tensor.clone() for name, tensor in stacked.items()}
    if not weights:
        return pruned
    magnitudes = torch.cat([stacked[name].abs().flatten(1) for name in weights], dim=1)
    smallest = magnitudes.argsort(dim=1, stable=True)[:, : round(sparsity * magnitudes.shape[1])]
    # By position rather than by threshold: exact also where many weights are equal.
    kept = torch.ones_like(magnitudes, dtype=torch.bool).scatter_(1, smallest, False)
    parts = torch.split(kept, [stacked[name][0].numel() for name in weights], dim=1)
    for name, part in zip(weights, parts, strict=True):
        pruned[name].mul_(part.view_as(pruned[name]))
        # −0.0 would survive as a token entry that is not bit-equal to zero.
        pruned[name].add_(0.0)
    return pruned
