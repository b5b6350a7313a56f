"""Permutations of a network's hidden units, acting on its tokens.

To permute hidden units is to permute tokens within a layer *and* entries within tokens; a flip changes the sign of
both. For a layout with a known symmetry, a bank of random permutations is drawn once, each as the index of where
every entry comes from, so that any number of models are permuted by one gather.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sane_engine.sane.normalisation import Statistics
from sane_engine.symmetry import Symmetry
from sane_engine.symmetry.permutations import permute
from sane_engine.tokens import Layout

BANK = 512
"""Permutations drawn for a layout."""

BANK_ENTRIES = 1 << 25
"""… and fewer for long sequences: at most this many entries of indices are kept."""


@dataclass(frozen=True)
class TokenPermutations:
    """A bank of k permutations of tokens ``[n, d]``.

    Attributes:
        source: Where each entry comes from, int32 ``[k, n·d]``; padding stays.
        sign: Its sign, int8 ``[k, n·d]``.
        centre: The standardised value that stands for a weight of 0, negated: a tensor's mean over its standard
            deviation, float32 ``[n·d]``. Signs change about it.
    """

    source: Tensor
    sign: Tensor
    centre: Tensor

    def __len__(self) -> int:
        return len(self.source)

    def apply(self, tokens: Tensor, which: Tensor) -> Tensor:
        """Permute standardised tokens ``[b, n, d]``, each model by the permutation ``which`` int64 ``[b]`` says."""
        sign = self.sign[which].float()
        moved = tokens.flatten(1).gather(1, self.source[which].long())
        # −w standardised is −x − 2·mean/std.
        return (moved * sign + (sign - 1.0) * self.centre).view_as(tokens)


def draw_permutations(
    symmetry: Symmetry, layout: Layout, statistics: Statistics, generator: torch.Generator
) -> TokenPermutations:
    """Draw a bank for one layout.

    Args:
        symmetry: Of the layout's networks; sign flips are drawn where it allows them.
        layout: Of the tokens.
        statistics: What the tokens are standardised by, one row for all models.
        generator: What to draw from.
    """
    n, d = layout.n_tokens, layout.token_size
    count = max(1, min(BANK, BANK_ENTRIES // max(1, n * d)))
    # Every entry carries its own number (from 1 on, so that it can have a sign) through the permutation of tensors.
    exact = replace(
        layout, slots=tuple(replace(slot, dtype=torch.float64) if slot.view else slot for slot in layout.slots)
    )
    numbers = torch.arange(1, n * d + 1, dtype=torch.float64).reshape(n, d)
    carried = {slot.name: torch.zeros(slot.shape, dtype=slot.dtype) for slot in layout.slots if slot.layer < 0}
    tensors = exact.unfold(numbers, carried)
    source = torch.empty(count, n * d, dtype=torch.int32)
    sign = torch.ones(count, n * d, dtype=torch.int8)
    padding = ~layout.mask().flatten()
    own = torch.arange(n * d, dtype=torch.int32)
    for i in range(count):
        moved = exact.fold(permute(symmetry, tensors, symmetry.random(generator))).flatten()
        source[i] = torch.where(padding, own, (moved.abs() - 1).int())
        sign[i] = torch.where(padding, 1, moved.sign().to(torch.int8))
    mean, std = statistics.of_entries(layout)
    return TokenPermutations(source, sign, (mean / std).float().flatten())
