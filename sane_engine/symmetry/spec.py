"""What a symmetry is: groups of exchangeable units, and where each of them stands in each tensor.

A tensor axis is a concatenation of segments, a segment is a row-major product of factors, and a factor is either
fixed or belongs to a :class:`Group`. All factors of one group are permuted alike. A group with a context (the units
inside an attention head, the channels inside a convolution group) has one permutation for each index of its
context.

Convention: a permuted tensor reads ``new[i] = flip[i] · old[order[i]]`` along an axis, and a family is indexed by
the *new* position of its context.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from sane_engine.symmetry.permutations import Permutations

_FORMAT = 1


@dataclass(frozen=True)
class Group:
    """Units that may be exchanged with each other.

    Attributes:
        size: How many there are (in each family member, if there is a context).
        context: Numbers of the groups whose index picks the family member; empty for a plain permutation.
        label: Where it was found first, for people: ``"layer1.0.conv1.weight[0]"``.
    """

    size: int
    context: tuple[int, ...] = ()
    label: str = ""


@dataclass(frozen=True)
class Factor:
    """One index of a segment.

    Attributes:
        size: Its range.
        group: Number of the group that permutes it; ``None`` where the order is fixed.
        sign: Number of the sign vector that flips it; ``None`` where it does not flip.
    """

    size: int
    group: int | None = None
    sign: int | None = None


Segment = tuple[Factor, ...]
AxisSpec = tuple[Segment, ...]


@dataclass(frozen=True)
class Symmetry:
    """The permutations and sign flips of hidden units that leave a network's function as it is.

    Attributes:
        groups: What can be permuted.
        signs: For each sign vector the number of the group whose units it flips (same shape as its orders).
        tensors: Tensor name → its axes. Tensors that are not named here are not touched.
        notes: What was not understood, and was therefore left fixed.
    """

    groups: tuple[Group, ...]
    signs: tuple[int, ...]
    tensors: Mapping[str, tuple[AxisSpec, ...]]
    notes: tuple[str, ...] = ()

    # ---- what was found -----------------------------------------------------------------------------------------

    def family_shape(self, group: int) -> tuple[int, ...]:
        """Shape of a group's orders: ``[*context sizes, size]``."""
        found = self.groups[group]
        return (*(self.groups[outer].size for outer in found.context), found.size)

    @property
    def blocks(self) -> frozenset[int]:
        """Groups that exchange whole blocks (heads, convolution groups): the context of another group."""
        return frozenset(outer for group in self.groups for outer in group.context)

    @property
    def n_neurons(self) -> int:
        """Hidden units that can be permuted. A head's units count once, as units, not again as part of the head."""
        blocks = self.blocks
        return sum(prod(self.family_shape(i)) for i in range(len(self.groups)) if i not in blocks)

    @property
    def n_blocks(self) -> int:
        """Blocks of units that can be permuted: heads and convolution groups."""
        return sum(prod(self.family_shape(i)) for i in self.blocks)

    @property
    def is_trivial(self) -> bool:
        """Whether nothing can be permuted."""
        return not self.groups

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape a tensor must have."""
        return tuple(sum(prod(f.size for f in segment) for segment in axis) for axis in self.tensors[name])

    def check(self, tensors: Mapping[str, Tensor]) -> None:
        """Make sure that ``tensors`` are those of this network.

        Raises:
            ValueError: A tensor is missing or has another shape.
        """
        for name in self.tensors:
            if name not in tensors:
                raise ValueError(f"this symmetry belongs to another network: there is no tensor {name!r}")
            if tuple(tensors[name].shape) != self.shape(name):
                raise ValueError(
                    f"this symmetry belongs to another network: {name!r} has shape {tuple(tensors[name].shape)}, "
                    f"not {self.shape(name)}"
                )

    # ---- acting -------------------------------------------------------------------------------------------------

    def identity(self) -> Permutations:
        """The permutation that leaves everything where it is."""
        from sane_engine.symmetry.permutations import identity

        return identity(self)

    def random(self, generator: torch.Generator, *, flips: bool = True) -> Permutations:
        """A uniformly random permutation, with random sign flips where they are allowed."""
        from sane_engine.symmetry.permutations import random

        return random(self, generator, flips=flips)

    def compose(self, second: Permutations, first: Permutations) -> Permutations:
        """``first``, then ``second``."""
        from sane_engine.symmetry.permutations import compose

        return compose(self, second, first)

    def inverse(self, permutations: Permutations) -> Permutations:
        """What undoes ``permutations``."""
        from sane_engine.symmetry.permutations import inverse

        return inverse(self, permutations)

    def permute(self, tensors: Mapping[str, Tensor], permutations: Permutations) -> dict[str, Tensor]:
        """The same network with its hidden units in another order.

        Args:
            tensors: Tensor name → tensor of the shape given by this symmetry; others are passed on as they are.
            permutations: Orders and flips.

        Returns:
            New tensors; the computed function is the same. Tied tensors stay tied.

        Raises:
            ValueError: A tensor is missing or has another shape.
        """
        from sane_engine.symmetry.permutations import permute

        return permute(self, tensors, permutations)

    # ---- on disk ------------------------------------------------------------------------------------------------

    def to_json(self) -> str:
        """As text; :meth:`from_json` gives back an equal symmetry."""
        return json.dumps(
            {
                "format": _FORMAT,
                "groups": [[g.size, list(g.context), g.label] for g in self.groups],
                "signs": list(self.signs),
                "tensors": {
                    name: [[[[f.size, f.group, f.sign] for f in segment] for segment in axis] for axis in axes]
                    for name, axes in self.tensors.items()
                },
                "notes": list(self.notes),
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Symmetry:
        """Read what :meth:`to_json` wrote.

        Raises:
            ValueError: The text is not a symmetry, or contradicts itself.
        """
        try:
            data = json.loads(text)
            if data["format"] != _FORMAT:
                raise ValueError(f"symmetry format {data['format']!r} is not {_FORMAT}")
            symmetry = cls(
                tuple(
                    Group(int(size), tuple(map(int, context)), str(label))
                    for size, context, label in data["groups"]
                ),
                tuple(map(int, data["signs"])),
                {str(name): tuple(_axis(axis) for axis in axes) for name, axes in data["tensors"].items()},
                tuple(map(str, data["notes"])),
            )
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"not a symmetry: {error}") from error
        symmetry._validate()
        return symmetry

    def _validate(self) -> None:
        for number, group in enumerate(self.groups):
            for outer in group.context:
                if not 0 <= outer < len(self.groups) or not set(self.groups[outer].context) <= set(group.context):
                    raise ValueError(f"group {number} depends on a group that does not exist or is not enclosed")
        if any(not 0 <= group < len(self.groups) for group in self.signs):
            raise ValueError("a sign vector belongs to no group")
        for name, axes in self.tensors.items():
            factors = [f for axis in axes for segment in axis for f in segment]
            present = {f.group for f in factors if f.group is not None}
            for f in factors:
                if f.group is None:
                    continue
                if not 0 <= f.group < len(self.groups) or f.size != self.groups[f.group].size:
                    raise ValueError(f"{name} names a group that does not fit")
                if not set(self.groups[f.group].context) <= present:
                    raise ValueError(f"{name} lacks what group {f.group} depends on")
                if f.sign is not None and not (0 <= f.sign < len(self.signs) and self.signs[f.sign] == f.group):
                    raise ValueError(f"{name} names a sign vector of another group")


def _axis(data: Any) -> AxisSpec:
    def number(value: Any) -> int | None:
        return None if value is None else int(value)

    return tuple(
        tuple(Factor(int(size), number(group), number(sign)) for size, group, sign in segment) for segment in data
    )
