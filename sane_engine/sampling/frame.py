"""One coordinate system for the networks of a layout: aligned, tokenised, standardised.

Every space starts from it and comes back to it, so what differs between them is the space alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from sane_engine.checkpoint import Refusal
from sane_engine.progress import CancelCheck, stop_if
from sane_engine.sane.normalisation import fit_statistics, structure
from sane_engine.sane.training_set import Rows
from sane_engine.symmetry import Symmetry, align_zoo, symmetry_of_zoo
from sane_engine.ties import once_each
from sane_engine.tokens import Layout, tokenize_batch

if TYPE_CHECKING:
    from sane_engine.sane import Sane
    from sane_engine.zoo import Zoo

Align = Literal["auto", "always", "never"]

TOKEN_SIZE = 37
"""Width of a token where no encoder says it."""

ROUNDS = 2
"""How often the reference is the mean of the models aligned to the one before (Procrustes analysis)."""

MOST_TRAINING_ENTRIES = 1 << 27
"""Statistics and references are made of as many training rows as have this many weights together."""

_LEAST_VARIANCE = 1e-8


@dataclass(frozen=True, eq=False)
class Frame:
    """How the networks of one layout become standardised tokens, and tokens networks.

    Attributes:
        layout: Of the tokens.
        mean: What is taken off every entry: ``[n, d]`` float32, 0 at padding.
        std: What every entry is divided by: ``[n, d]`` float32, 1 at padding.
        carried: Tensors that are not tokenised (integer buffers), for every network that is made.
        symmetry: Which hidden units may change places; ``None`` where networks are taken as they are.
        reference: What networks are aligned to; empty without a symmetry.
        notes: What a user should know of the alignment.
    """

    layout: Layout
    mean: Tensor
    std: Tensor
    carried: Mapping[str, Tensor]
    symmetry: Symmetry | None
    reference: Mapping[str, Tensor]
    notes: tuple[str, ...] = ()

    def align(self, stacked: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same networks, ``[m, …]`` a tensor, their hidden units in the order of the reference."""
        if self.symmetry is None:
            return dict(stacked)
        return _aligned(stacked, self.reference, self.symmetry)

    def tokens(self, stacked: Mapping[str, Tensor]) -> Tensor:
        """Standardised tokens ``[m, n, d]`` of networks that are aligned already.

        Raises:
            Refusal: Their tensors are others, in another order or tied in another way (``other-layout``).
        """
        batch = tokenize_batch(stacked, self.layout.token_size)
        if structure(batch.layout) != structure(self.layout):
            raise Refusal(
                "other-layout",
                "These networks differ from the others in their tensors, or in their order.",
                "Give networks of one layout, tensors in one order.",
            )
        return ((batch.tokens.float() - self.mean) / self.std) * self.layout.mask()

    def models(self, tokens: Tensor) -> dict[str, Tensor]:
        """Networks ``[m, …]`` a tensor from standardised tokens ``[m, n, d]``; gradients flow to the tokens.

        Running variances are kept positive: a network with a negative one computes nothing.
        """
        values = (tokens * self.std + self.mean).to(self.layout.dtype)
        carried = {name: tensor.expand(len(tokens), *tensor.shape) for name, tensor in self.carried.items()}
        stacked = self.layout.unfold(values, carried)
        return {
            name: tensor.clamp_min(_LEAST_VARIANCE) if name.endswith("running_var") else tensor
            for name, tensor in stacked.items()
        }


def frame_of(
    zoo: Zoo,
    row: int,
    *,
    encoder: Sane | None = None,
    align: Align = "auto",
    cancelled: CancelCheck | None = None,
) -> Frame:
    """The frame of the networks that share the layout of one row of a zoo.

    Everything is fitted on the zoo's training rows. An encoder that knows the layout brings its own statistics, and
    its own reference where it has one.

    Args:
        zoo: The zoo.
        row: Any row of the layout.
        encoder: Whose token width and statistics to use.
        align: ``"auto"`` aligns unless the zoo says that its models share their initialisation, in which case their
            hidden units correspond as they are.
        cancelled: Asked between steps.
    """
    size = encoder.config.token_size if encoder is not None else TOKEN_SIZE
    rows = training_rows(zoo, row)
    first = tokenize_batch(zoo.stacked(rows[:1]), size)
    layout = first.layout
    stop_if(cancelled)
    symmetry, reference, notes = _alignment(zoo, rows, layout, encoder, align)
    stop_if(cancelled)
    if encoder is not None and encoder.normalizer.knows(layout):
        statistics = encoder.normalizer.normalise(first.tokens, layout)[1]
    else:
        read = _evenly(rows, layout)
        finite, stacked = finite_stack(zoo, read)
        notes = with_note(notes, len(read) - len(finite))
        if symmetry is not None:
            stacked = _aligned(stacked, reference, symmetry)
        statistics = fit_statistics([tokenize_batch(stacked, size)])
    component = layout.component_of_entry()
    mean = torch.cat((statistics.mean, torch.zeros(1, dtype=torch.float64)))[component]
    std = torch.cat((statistics.std, torch.ones(1, dtype=torch.float64)))[component]
    carried = {name: tensor[0] for name, tensor in first.carried.items()}
    return Frame(layout, mean.float(), std.float(), carried, symmetry, reference, notes)


def _aligned(
    stacked: Mapping[str, Tensor], reference: Mapping[str, Tensor], symmetry: Symmetry
) -> dict[str, Tensor]:
    moved = align_zoo({name: stacked[name] for name in symmetry.tensors}, reference, symmetry)
    # What was tied has moved alike, but it is one tensor no more.
    return once_each(stacked, lambda name, tensor: moved.get(name, tensor))


def training_rows(zoo: Zoo, row: int) -> Rows:
    """The training rows that share the layout of ``row``; all rows of it if none of them is for training."""
    members = next(group for group in zoo.layout_groups() if row in group)
    rows = members[(zoo.table["split"].to_numpy() == "train")[members]]
    return rows if len(rows) else members


def finite_stack(zoo: Zoo, rows: Rows) -> tuple[Rows, dict[str, Tensor]]:
    """Those of the rows whose weights are finite, and their tensors: one that is not would spoil every mean.

    Raises:
        Refusal: There is none (``non-finite-weights``).
    """
    stacked = zoo.stacked(rows)
    finite = torch.ones(len(rows), dtype=torch.bool)
    for tensor in stacked.values():
        finite &= tensor.reshape(len(rows), -1).isfinite().all(dim=1)
    if bool(finite.all()):
        return rows, stacked
    if not bool(finite.any()):
        raise Refusal("non-finite-weights", "No training model has finite weights.", "Choose another zoo.")
    return rows[finite.numpy()], once_each(stacked, lambda _, tensor: tensor[finite])


def with_note(notes: tuple[str, ...], left_out: int) -> tuple[str, ...]:
    """Notes that say how many training rows are left out, once."""
    note = f"{left_out} training checkpoints left out: weights that are not finite"
    return notes if not left_out or note in notes else (*notes, note)


def _evenly(rows: Rows, layout: Layout) -> Rows:
    most = max(2, MOST_TRAINING_ENTRIES // (layout.n_tokens * layout.token_size))
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]


def _alignment(
    zoo: Zoo, rows: Rows, layout: Layout, encoder: Sane | None, align: Align
) -> tuple[Symmetry | None, dict[str, Tensor], tuple[str, ...]]:
    own = _of_encoder(encoder, layout)
    if own is not None and align != "never":
        return own[0], own[1], ("aligned to the encoder's reference",)
    shared = bool(zoo.provenance.get("spec", {}).get("shared_initialisation", False))
    if align == "never" or (align == "auto" and shared):
        return None, {}, ("not aligned: the models share their initialisation",) if shared else ("not aligned",)
    symmetry = symmetry_of_zoo(zoo, int(rows[0]))
    if symmetry.is_trivial:
        return None, {}, (f"not aligned: {'; '.join(symmetry.notes) or 'nothing can change places'}",)
    read = _evenly(rows, layout)
    finite, stacked = finite_stack(zoo, read)
    named = {name: stacked[name].float() for name in symmetry.tensors}
    notes = with_note(("aligned to the mean of the training models",), len(read) - len(finite))
    return symmetry, _mean_of_aligned(named, symmetry), notes


def _of_encoder(encoder: Sane | None, layout: Layout) -> tuple[Symmetry, dict[str, Tensor]] | None:
    aligner = getattr(encoder, "aligner", None)
    found = None if aligner is None else aligner.alignments.get(structure(layout))
    return None if found is None else (found.symmetry, dict(found.reference))


def _mean_of_aligned(stacked: Mapping[str, Tensor], symmetry: Symmetry) -> dict[str, Tensor]:
    """From the model of median size on, align all models and average them (Gower 1975)."""
    norms = torch.zeros(len(next(iter(stacked.values()))), dtype=torch.float64)
    for tensor in stacked.values():
        norms += tensor.double().flatten(1).square().sum(dim=1) / tensor.numel()
    start = int(norms.argsort(stable=True)[(len(norms) - 1) // 2])
    reference = {name: tensor[start].clone() for name, tensor in stacked.items()}
    for _ in range(ROUNDS):
        aligned = align_zoo(stacked, reference, symmetry)
        reference = {name: tensor.mean(dim=0) for name, tensor in aligned.items()}
    return reference


def unstack(stacked: Mapping[str, Tensor], index: int) -> dict[str, Tensor]:
    """One network of a stack, in memory of its own; tied tensors stay one object."""
    return once_each(stacked, lambda _, tensor: tensor[index].detach().clone())


__all__ = ["Align", "Frame", "finite_stack", "frame_of", "training_rows", "unstack", "with_note"]
