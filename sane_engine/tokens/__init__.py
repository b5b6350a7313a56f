"""Tensors ↔ token sequence, exactly.

A layer is a matrix [output channels, fan-in] with one more column for each tensor that has one value a channel
(bias, norm statistics). Each row becomes one token, or several where it is longer than ``token_size``. Every
floating-point tensor is tokenised and comes back bit for bit.
"""

from __future__ import annotations

from sane_engine.tokens.grouping import OutputAxis
from sane_engine.tokens.layout import LayerSlot, Layout, TensorSlot
from sane_engine.tokens.sequence import (
    TokenBatch,
    TokenSequence,
    detokenize,
    detokenize_batch,
    layout_of,
    output_axes_of,
    tokenize,
    tokenize_batch,
)

__all__ = [
    "LayerSlot",
    "Layout",
    "OutputAxis",
    "TensorSlot",
    "TokenBatch",
    "TokenSequence",
    "detokenize",
    "detokenize_batch",
    "layout_of",
    "output_axes_of",
    "tokenize",
    "tokenize_batch",
]
