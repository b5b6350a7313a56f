"""A layer's weights in some dozens of numbers: sizes, quantiles, singular values, companions.

These are what summary tokens hold and what the auxiliary head is to predict. All are computed from the weights
alone; most do not change when hidden units are permuted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sane_engine.sane.path_summaries import PATHS, path_summaries

if TYPE_CHECKING:
    from sane_engine.tokens import LayerSlot, Layout, TokenBatch

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
SPECTRUM = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
NORMS = (0.0, 0.25, 0.5, 0.75, 1.0)
STATISTICS = 5 + len(QUANTILES) + len(SPECTRUM) + 2 + 2 * len(NORMS) + 4
"""Numbers of a layer for itself."""

OF_WEIGHTS = STATISTICS + PATHS
"""Numbers of a layer that the weights alone tell."""

LARGEST_SPECTRUM = 2048
"""Singular values of matrices whose smaller side is longer than this are not computed; they count as typical."""

_FLOOR = 1e-12


def summarise(batch: TokenBatch) -> Tensor:
    """Summaries of each layer of each model: float32 ``[m, L, OF_WEIGHTS]``, not standardised; NaN where unknown.

    Of a layer's matrix ``[output channels, fan-in]``: log root mean square; relative to it the mean, the mean
    absolute value, the log maximum, the mean row and quantiles; quantiles of log singular values, log nuclear over
    Frobenius norm, log stable rank; quantiles of the log norms of rows and of columns. Of its companions (bias,
    norm): mean, standard deviation, log root mean square, log maximum. Then what :func:`path_summaries` tells.
    """
    return torch.cat((layer_statistics(batch), path_summaries(batch)), dim=2).float()


def layer_statistics(batch: TokenBatch) -> Tensor:
    """What :func:`summarise` says of each layer for itself: ``[m, L, STATISTICS]``."""
    return torch.stack([_layer(batch.tokens, batch.layout, layer) for layer in batch.layout.layers], dim=1)


def _layer(tokens: Tensor, layout: Layout, layer: LayerSlot) -> Tensor:
    m = len(tokens)
    rows = tokens[:, layer.start : layer.stop].reshape(m, layer.rows, -1)[..., : layer.width].double()
    lead = next(slot for slot in layout.slots if slot.name == layer.members[0])
    matrix, companions = rows[..., : lead.width], rows[..., lead.width :].flatten(1)
    flat = matrix.flatten(1)
    size = flat.square().mean(dim=1).sqrt().clamp(min=_FLOOR)
    relative = flat / size[:, None]
    levels = torch.tensor(QUANTILES, dtype=torch.float64)
    mean_row = matrix.mean(dim=1).square().mean(dim=1).sqrt() / size
    parts = [
        _log(size), relative.mean(dim=1), relative.abs().mean(dim=1), _log(relative.abs().amax(dim=1)),
        _log(mean_row), *_quantiles(relative, levels).unbind(1), *_spectrum(matrix).unbind(1),
    ]  # fmt: skip
    for dim in (2, 1):
        norms = _log(matrix.square().mean(dim=dim).sqrt())
        parts += _quantiles(norms, torch.tensor(NORMS, dtype=torch.float64)).unbind(1)
    if companions.shape[1]:
        spread = companions.square().mean(dim=1).sqrt()
        parts += [companions.mean(dim=1), companions.std(dim=1, correction=0)]
        parts += [_log(spread), _log(companions.abs().amax(dim=1))]
    else:
        parts += [torch.zeros(m, dtype=torch.float64)] * 4
    return torch.stack(parts, dim=1)


def _log(values: Tensor) -> Tensor:
    return values.clamp(min=_FLOOR).log()


def _quantiles(values: Tensor, levels: Tensor) -> Tensor:
    """Quantiles ``[m, q]`` of ``[m, k]``; of longer rows than torch sorts at once, by the sorted values nearest."""
    ordered = values.sort(dim=1).values
    place = levels * (values.shape[1] - 1)
    low = place.floor().long()
    high = place.ceil().long()
    return ordered[:, low] + (ordered[:, high] - ordered[:, low]) * (place - low)


def _spectrum(matrix: Tensor) -> Tensor:
    """Quantiles of log singular values, log nuclear norm over size, log stable rank: ``[m, len(SPECTRUM) + 2]``."""
    m, rows, width = matrix.shape
    if min(rows, width) > LARGEST_SPECTRUM:
        return torch.full((m, len(SPECTRUM) + 2), torch.nan, dtype=torch.float64)
    gram = matrix @ matrix.mT if rows <= width else matrix.mT @ matrix
    squares = torch.linalg.eigvalsh(gram).clamp(min=_FLOOR)
    values = squares.sqrt()
    levels = _quantiles(_log(values), torch.tensor(SPECTRUM, dtype=torch.float64))
    nuclear = _log(values.sum(dim=1)) - _log(squares.sum(dim=1).sqrt())
    stable = _log(squares.sum(dim=1) / squares.amax(dim=1))
    return torch.cat((levels, nuclear[:, None], stable[:, None]), dim=1)
