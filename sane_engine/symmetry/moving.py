"""What a symmetry consists of, and what alignment by it did to a network: tables for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sane_engine.checkpoint import Refusal
from sane_engine.symmetry.aligning import distance, match
from sane_engine.symmetry.permutations import Permutations, permute_tensor
from sane_engine.symmetry.spec import Factor, Symmetry

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Movement:
    """One network before and after alignment to a reference.

    Attributes:
        aligned: The network in the order of the reference; it computes the same.
        permutations: What was done to it.
        distance_before: Of the network to the reference, see :func:`~sane_engine.symmetry.aligning.distance`.
        distance_after: Of the aligned network to the reference.
        groups: One row a group: ``group``, ``units``, ``moved`` and ``flipped`` (fractions of its units; flipped is
            missing where signs are fixed).
        moved: Fraction of the permutable neurons that changed place.
        flipped: Fraction of the neurons whose sign is free that changed it; NaN where no sign is free.
    """

    aligned: dict[str, Tensor]
    permutations: Permutations
    distance_before: float
    distance_after: float
    groups: pd.DataFrame
    moved: float
    flipped: float


def movement(
    tensors: Mapping[str, Tensor],
    reference: Mapping[str, Tensor],
    symmetry: Symmetry,
    *,
    seed: int = 0,
    permutations: Permutations | None = None,
) -> Movement:
    """Align a network to a reference and say what moved.

    Args:
        tensors: The network to move.
        reference: The network that stays; same names and shapes.
        symmetry: Of both.
        seed: See :func:`~sane_engine.symmetry.aligning.match`.
        permutations: How to align, if not by weight matching.

    Raises:
        Refusal: A weight is infinite or not a number (``non-finite``): nothing is nearest to it.
        ValueError: A tensor is missing or has another shape.
    """
    import pandas as pd

    for who, mapping in (("network to move", tensors), ("reference", reference)):
        if not all(bool(torch.isfinite(mapping[name]).all()) for name in symmetry.tensors if name in mapping):
            raise Refusal(
                "non-finite", f"The {who} has weights that are infinite or not a number.", "Choose another one."
            )
    found = match(tensors, reference, symmetry, seed=seed) if permutations is None else permutations
    aligned = symmetry.permute(tensors, found)
    flipped_units: dict[int, Tensor] = {}
    for number, flip in zip(symmetry.signs, found.flips, strict=True):
        # A group may have several sign vectors; a unit has flipped where one of its signs has.
        flipped_units[number] = (flip < 0) | flipped_units.get(number, torch.zeros(flip.shape, dtype=torch.bool))
    rows, totals = [], dict.fromkeys(("neurons", "moved", "signs", "flipped"), 0)
    for number, group in enumerate(symmetry.groups):
        units = prod(symmetry.family_shape(number))
        moved = _moved(symmetry, found, number)
        flipped = int(flipped_units[number].sum()) if number in flipped_units else None
        rows.append((group.label, units, moved / units, None if flipped is None else flipped / units))
        if number not in symmetry.blocks:
            totals["neurons"] += units
            totals["moved"] += moved
        if flipped is not None:
            totals["signs"] += units
            totals["flipped"] += flipped
    table = pd.DataFrame(rows, columns=["group", "units", "moved", "flipped"])
    return Movement(
        aligned,
        found,
        distance(tensors, reference),
        distance(aligned, reference),
        table.astype({"flipped": "float64"}),
        totals["moved"] / max(totals["neurons"], 1),
        totals["flipped"] / totals["signs"] if totals["signs"] else float("nan"),
    )


def _moved(symmetry: Symmetry, permutations: Permutations, number: int) -> int:
    """Units that changed place; one inside a block has also moved when its block has."""
    axes = tuple(
        ((Factor(symmetry.groups[member].size, member),),) for member in (*symmetry.groups[number].context, number)
    )
    places = torch.arange(prod(symmetry.family_shape(number))).reshape(symmetry.family_shape(number))
    return int((permute_tensor(symmetry, axes, places, permutations) != places).sum())


def groups_table(symmetry: Symmetry) -> pd.DataFrame:
    """What can be exchanged: one row a group.

    Returns:
        Columns ``group`` (where it was found first), ``kind`` (``"neurons"``, or ``"blocks"`` such as attention
        heads), ``units``, ``inside`` (the blocks that the units lie in, else empty), ``signs`` (whether they may
        flip), ``tensors`` (names of all tensors that it touches).
    """
    import pandas as pd

    touched: dict[int, list[str]] = {number: [] for number in range(len(symmetry.groups))}
    for name, axes in symmetry.tensors.items():
        for number in dict.fromkeys(f.group for axis in axes for segment in axis for f in segment):
            if number is not None:
                touched[number].append(name)
    rows = [
        (
            group.label,
            "blocks" if number in symmetry.blocks else "neurons",
            prod(symmetry.family_shape(number)),
            ", ".join(symmetry.groups[outer].label for outer in group.context),
            number in symmetry.signs,
            ", ".join(touched[number]),
        )
        for number, group in enumerate(symmetry.groups)
    ]
    return pd.DataFrame(rows, columns=["group", "kind", "units", "inside", "signs", "tensors"])
