"""The models that sampling starts from: rows of a zoo, or checkpoints from anywhere, in one frame."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sane_engine.checkpoint import Checkpoint, Refusal
from sane_engine.sampling.query import matching_rows
from sane_engine.sane.training_set import Rows
from sane_engine.ties import once_each
from sane_engine.zoo.signature import Signature, signature_of, tie

if TYPE_CHECKING:
    from sane_engine.zoo import Zoo

FEWEST = 2
"""A distribution needs at least two points."""


@dataclass(frozen=True, eq=False)
class Anchors:
    """Models of one layout that samples are drawn around.

    Attributes:
        stacked: Tensor name → ``[m, *shape]``, not aligned.
        names: What to call each: model and epoch, or the checkpoint's name.
        rows: Row numbers in the zoo; ``None`` where the anchors came from elsewhere.
        description: How they were chosen, in a few words.
    """

    stacked: Mapping[str, Tensor]
    names: tuple[str, ...]
    rows: Rows | None
    description: str

    def __len__(self) -> int:
        return len(self.names)

    @property
    def digest(self) -> str:
        """Hex SHA-256 of names, shapes and weights."""
        state = hashlib.sha256()
        for name, tensor in self.stacked.items():
            state.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
            state.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return state.hexdigest()


def choose_anchors(zoo: Zoo, anchors: Any) -> Anchors:
    """Bring a selection of any kind into one form.

    Args:
        zoo: Where rows and queries are looked up.
        anchors: Row numbers, a Boolean mask, a query (``"top 10 %"``, ``'test_accuracy > 0.9'``; see
            :mod:`~sane_engine.sampling.query`), or loaded checkpoints (or their tensors).

    Raises:
        Refusal: Fewer than two models are chosen (``few-anchors``), they differ in layout (``mixed-layouts``), one
            has weights that are not finite (``non-finite-weights``), or the query is none (``bad-query``).
    """
    found = _of_rows(zoo, anchors) if not _are_models(anchors) else _of_models(anchors)
    if len(found) < FEWEST:
        raise Refusal(
            "few-anchors", f"{len(found)} models are chosen; sampling needs at least {FEWEST}.", "Choose more."
        )
    for name, tensor in found.stacked.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise Refusal(
                "non-finite-weights", f"An anchor has weights in {name!r} that are not finite.", "Leave it out."
            )
    return found


def _are_models(anchors: Any) -> bool:
    if isinstance(anchors, str) or not isinstance(anchors, Sequence) or not len(anchors):
        return False
    return all(isinstance(each, Checkpoint | Mapping) for each in anchors)


def _of_rows(zoo: Zoo, anchors: Any) -> Anchors:
    if isinstance(anchors, str):
        rows = matching_rows(zoo.table, anchors)
        description = " ".join(anchors.split())
    else:
        wanted = np.asarray(anchors)
        if wanted.dtype == bool:
            if wanted.shape != (len(zoo),):
                raise Refusal(
                    "bad-anchors", f"The mask has {len(wanted)} entries for {len(zoo)} rows.", "Give one a row."
                )
            wanted = np.flatnonzero(wanted)
        rows = wanted.astype(np.int64).reshape(-1)
        if len(rows) and not (rows.min() >= 0 and rows.max() < len(zoo)):
            raise Refusal("bad-anchors", "A chosen row is not in the zoo.", f"Rows run from 0 to {len(zoo) - 1}.")
        # The order of a selection says nothing; a draw must not depend on it.
        rows = np.unique(rows)
        description = f"{len(rows)} chosen rows"
    if len(rows) < FEWEST:
        return Anchors({}, tuple(str(r) for r in rows), rows, description)
    table = zoo.table
    names = tuple(f"{table['model'].iloc[r]} epoch {table['epoch'].iloc[r]}" for r in rows.tolist())
    return Anchors(zoo.stacked(rows), names, rows, description)


def _of_models(anchors: Sequence[Checkpoint | Mapping[str, Tensor]]) -> Anchors:
    models = [dict(each.tensors if isinstance(each, Checkpoint) else each) for each in anchors]
    names = tuple(each.name if isinstance(each, Checkpoint) else f"model {i}" for i, each in enumerate(anchors))
    # In the order of the names: files differ in the order of their tensors.
    if len({signature_of(dict(sorted(model.items()))) for model in models}) > 1:
        raise Refusal(
            "mixed-layouts",
            "The checkpoints differ in tensor names, shapes, dtypes or ties.",
            "Choose alike ones.",
        )
    stacked = once_each(models[0], lambda name, _: torch.stack([model[name] for model in models]))
    return Anchors(stacked, names, None, f"{len(models)} loaded checkpoints")


def in_order_of(anchors: Anchors, signature: Signature) -> Anchors:
    """Loaded anchors as a zoo's own rows would be: order of tensors, dtypes and ties are the signature's.

    A file has its tensors in any order, by name in most; the place of a token follows from the zoo's.
    """
    own = {
        p.name: anchors.stacked[p.name].to(getattr(torch, p.dtype), copy=True)
        for p in signature
        if p.tied_to is None
    }
    return replace(anchors, stacked=tie(own, signature))
