"""Summary tokens on their way through an encoder: one a layer, beside the tokens of every window."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from sane_engine.sane.model import Sane
    from sane_engine.sane.windows import Window
    from sane_engine.tokens import Layout


def layer_places(layout: Layout, positions: Tensor | None = None) -> Tensor:
    """Where the summary token of each layer stands: the mean position of the layer's tokens, float32 ``[L, 3]``.

    Args:
        layout: Of the tokens.
        positions: Of the tokens, ``[n, 3]``, if they are not the layout's own.
    """
    positions = (layout.positions() if positions is None else positions).float()
    return torch.stack([positions[layer.start : layer.stop].mean(dim=0) for layer in layout.layers])


def encode_windows(
    encoder: Sane,
    tokens: Tensor,
    positions: Tensor,
    summaries: Tensor,
    places: Tensor,
    plan: tuple[Window, ...],
    *,
    batch_size: int,
    between: Callable[[int], None],
) -> tuple[Tensor, Tensor]:
    """Latents of all tokens and of all summary tokens, on the CPU.

    Every window sees the summary tokens of all layers; a summary's latent is the mean over the windows, each
    counted by the tokens that it keeps.

    Args:
        encoder: With summary tokens.
        tokens: Standardised, ``[m, n, d]``.
        positions: ``[n, 3]``.
        summaries: Standardised, ``[m, L, s]``.
        places: ``[L, 3]``.
        plan: Windows of a sequence of length n.
        batch_size: Models encoded at once.
        between: Called before each batch with the number of tokens kept so far.

    Returns:
        ``[m, n, z]`` and ``[m, L, z]``.
    """
    m, n, _ = tokens.shape
    device = encoder.device
    latents = torch.empty(m, n, encoder.config.latent)
    beside = torch.zeros(m, summaries.shape[1], encoder.config.latent)
    kept = 0
    for first in range(0, m, batch_size):
        rows = slice(first, min(first + batch_size, m))
        for window in plan:
            between(kept)
            found, summary = encoder.encode_with_summaries(
                tokens[rows, window.start : window.stop].to(device),
                positions[window.start : window.stop].to(device),
                summaries[rows].to(device),
                places.to(device),
            )
            core = slice(window.core_start - window.start, window.core_stop - window.start)
            latents[rows, window.core_start : window.core_stop] = found[:, core].float().cpu()
            share = (window.core_stop - window.core_start) / n
            beside[rows] += share * summary.float().cpu()
            kept += (rows.stop - rows.start) * (window.core_stop - window.core_start)
    return latents, beside
