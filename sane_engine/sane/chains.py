"""A network as a plain chain of matrices, as far as its tokens tell: no architecture is needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from sane_engine.tokens import TokenBatch


@dataclass(frozen=True)
class Link:
    """One layer of a chain, of m models.

    Attributes:
        kernels: ``[m, out, units, k]``: the weights from each unit of the layer before; its k are the places of a
            kernel, or of a flattened image.
        bias: ``[m, out]``; 0 where there is none.
    """

    kernels: Tensor
    bias: Tensor


def chain(batch: TokenBatch) -> Iterator[Link]:
    """The layers of a chain, float64; ends where a layer does not fit on the one before.

    A convolution of one input channel is one unit of all its places, any other first layer as many units as inputs.
    """
    m = len(batch.tokens)
    units = 0
    for layer in batch.layout.layers:
        rows = batch.tokens[:, layer.start : layer.stop].reshape(m, layer.rows, -1)[..., : layer.width].double()
        lead = next(slot for slot in batch.layout.slots if slot.name == layer.members[0])
        units = units or lead.width
        if lead.width % units:
            return
        kernels = rows[..., : lead.width].reshape(m, layer.rows, units, lead.width // units)
        yield Link(kernels, rows[..., lead.width :].sum(dim=2))
        units = layer.rows
