"""Where the tokens of a network stand, for an encoder: as they are, or in the range it was trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from sane_engine.sane.model import Sane
    from sane_engine.tokens import Layout


def rescaled_positions(positions: Tensor, position_range: tuple[float, float, float]) -> Tensor:
    """Positions of a foreign network, in the range that an encoder was trained on.

    The place in the sequence and the layer become relative depths: first stays first, last becomes the last trained
    on, linear between. The place within a layer is compressed, likewise linearly, only in layers that are larger
    than the largest trained on: channel 3 of a small layer stays channel 3.

    Args:
        positions: Integers ``[n, 3]``: in the sequence, layer, within the layer.
        position_range: The largest of each in training.

    Returns:
        Fractions ``[n, 3]``, float32.
    """
    found = positions.double()
    token, layer, place = found.unbind(dim=1)
    last = torch.zeros(int(layer.max()) + 1, dtype=torch.float64)
    last.scatter_reduce_(0, positions[:, 1], place, "amax")
    scale = position_range[2] / last.clamp(min=max(position_range[2], 1.0))
    return torch.stack(
        (
            token * (position_range[0] / token.max().clamp(min=1)),
            layer * (position_range[1] / layer.max().clamp(min=1)),
            place * scale[positions[:, 1]],
        ),
        dim=1,
    ).float()


def positions_for(encoder: Sane, layout: Layout) -> Tensor:
    """The positions ``[n, 3]`` to give an encoder: a trained layout's own, any other's rescaled."""
    positions = layout.positions()
    return (
        positions.float()
        if encoder.normalizer.knows(layout)
        else rescaled_positions(positions, encoder.position_range)
    )
