"""Models of one layout in one order of their hidden units: that of a reference network.

Networks that compute the same function can differ in the order (and, behind an odd activation, the signs) of their
hidden units. To an autoencoder of weights they are different networks, unless all are brought into one order
beforehand. The reference is the *mean of the aligned training models* (Procrustes analysis; Gower 1975): from a
training model of median size on, the models are aligned and averaged some rounds. No single model is as near to all
others, and none has to be chosen by its accuracy, which a label would have to tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sane_engine.progress import CancelCheck
from sane_engine.sane.normalisation import structure
from sane_engine.symmetry import Symmetry, align_zoo, symmetry_of_zoo
from sane_engine.tokens import Layout, TokenBatch, detokenize_batch, layout_of

if TYPE_CHECKING:
    from sane_engine.sane.training_set import Rows
    from sane_engine.zoo import Zoo

ROUNDS = 5
"""How often the reference is the mean of the models aligned to the one before."""

REFERENCE_ENTRIES = 1 << 27
"""The reference is made of as many training models as have this many weights together, evenly spaced."""


@dataclass(frozen=True)
class Alignment:
    """What the models of one layout are aligned to.

    Attributes:
        symmetry: Which of their hidden units may change places, and signs.
        reference: Tensor name → tensor, for every tensor that the symmetry names.
    """

    symmetry: Symmetry
    reference: Mapping[str, Tensor]


class Aligner:
    """Aligns models of the layouts it has a reference for, and leaves every other network as it is.

    Attributes:
        alignments: By :func:`~sane_engine.sane.normalisation.structure` of a layout.
    """

    def __init__(self, alignments: Mapping[str, Alignment] | None = None) -> None:
        self.alignments = dict(alignments or {})

    def knows(self, layout: Layout) -> bool:
        """Whether models of this layout are aligned."""
        return structure(layout) in self.alignments

    def align(self, batch: TokenBatch, *, cancelled: CancelCheck | None = None) -> TokenBatch:
        """The same networks with their hidden units in the order of the reference; others come back as they are.

        Every model comes out as it would alone.
        """
        alignment = self.alignments.get(structure(batch.layout)) if self.alignments else None
        if alignment is None:
            return batch
        tensors = detokenize_batch(batch)
        named = {name: tensors[name] for name in alignment.symmetry.tensors}
        aligned = align_zoo(named, alignment.reference, alignment.symmetry, cancelled=cancelled)
        return replace(batch, tokens=batch.layout.fold({**tensors, **aligned}))

    def state(self) -> dict[str, Tensor]:
        """The references as named tensors: ``reference.<structure>.<tensor name>``."""
        return {
            f"reference.{key}.{name}": tensor
            for key, alignment in self.alignments.items()
            for name, tensor in alignment.reference.items()
        }

    def symmetries(self) -> dict[str, str]:
        """The symmetries as JSON, by structure."""
        return {key: alignment.symmetry.to_json() for key, alignment in self.alignments.items()}

    @classmethod
    def from_state(cls, tensors: Mapping[str, Tensor], symmetries: Mapping[str, str]) -> Aligner:
        """The inverse of :meth:`state` and :meth:`symmetries`; other tensors are ignored.

        Raises:
            ValueError: A reference does not fit its symmetry.
        """
        alignments = {}
        for key, text in symmetries.items():
            symmetry, prefix = Symmetry.from_json(text), f"reference.{key}."
            reference = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
            symmetry.check(reference)
            alignments[key] = Alignment(symmetry, reference)
        return cls(alignments)


def symmetries_of(zoo: Zoo, rows: Rows, token_size: int) -> dict[str, Symmetry]:
    """The symmetry of each layout among some rows, by structure; without those that permit nothing."""
    found: dict[str, Symmetry] = {}
    for members in zoo.layout_groups():
        own = np.intersect1d(members, rows)
        if not len(own):
            continue
        key = structure(layout_of(zoo.tensors(int(own[0])), token_size))
        if key not in found:
            # A module that is rebuilt to be traced draws its weights from the global generator.
            with torch.random.fork_rng(devices=[]):
                found[key] = symmetry_of_zoo(zoo, int(own[0]))
    return {key: symmetry for key, symmetry in found.items() if not symmetry.is_trivial}


def fit_aligner(
    zoo: Zoo,
    rows: Rows,
    token_size: int,
    symmetries: Mapping[str, Symmetry],
    *,
    cancelled: CancelCheck | None = None,
) -> Aligner:
    """References made of some rows of a zoo, which should be those trained on.

    Args:
        zoo: The zoo.
        rows: The rows to make the references of.
        token_size: Width of a token; part of what makes a layout.
        symmetries: What :func:`symmetries_of` gave; other layouts are not aligned.
        cancelled: Asked between rounds.
    """
    alignments: dict[str, Alignment] = {}
    for members in zoo.layout_groups():
        own = np.intersect1d(members, rows)
        if not len(own):
            continue
        first = zoo.tensors(int(own[0]))
        key = structure(layout_of(first, token_size))
        # Of a layout in two precisions the first that is met makes the reference, as with its statistics.
        if key not in symmetries or key in alignments:
            continue
        size = sum(first[name].numel() for name in symmetries[key].tensors)
        most = max(1, min(len(own), REFERENCE_ENTRIES // max(1, size)))
        chosen = own[np.linspace(0, len(own) - 1, most).astype(np.int64)]
        tensors = zoo.stacked(chosen)
        stacked = {name: tensors[name].float() for name in symmetries[key].tensors}
        alignments[key] = Alignment(symmetries[key], _procrustes_mean(stacked, symmetries[key], cancelled))
    return Aligner(alignments)


def _procrustes_mean(
    stacked: Mapping[str, Tensor], symmetry: Symmetry, cancelled: CancelCheck | None
) -> dict[str, Tensor]:
    norms = torch.zeros(len(next(iter(stacked.values()))), dtype=torch.float64)
    for tensor in stacked.values():
        squares = tensor.double().flatten(1).square().sum(dim=1)
        norms += squares / squares.mean().clamp(min=1e-30)
    # The model of median size: the smallest are hardly trained, the largest stand apart.
    start = int(norms.argsort(stable=True)[(len(norms) - 1) // 2])
    reference = {name: tensor[start].clone() for name, tensor in stacked.items()}
    for _ in range(ROUNDS):
        aligned = align_zoo(stacked, reference, symmetry, cancelled=cancelled)
        reference = {name: tensor.mean(dim=0, dtype=torch.float64).float() for name, tensor in aligned.items()}
    return reference
