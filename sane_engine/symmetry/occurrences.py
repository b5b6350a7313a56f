"""Where the units of a group stand in a batch of tensors, as views with the units in front.

Everything here works on stacked tensors ``[m, …]`` (m models of one layout) and on views, so that permuting a
group's units is one gather written back in place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from sane_engine.symmetry.spec import Factor, Symmetry


@dataclass(frozen=True)
class Occurrence:
    """One place of one group.

    Attributes:
        tensor: Name of the tensor.
        group: Number of the group.
        sign: Number of the sign vector that flips the units here, or ``None``.
        dim: Axis of the tensor (the model axis not counted).
        start: Where the segment begins.
        sizes: Sizes of the segment's factors.
        place: Which factor is the group's.
        context: For each context group the (axis, factor) where it stands.
        context_sizes: Factor sizes of the axes named in ``context``.
        whole: Whether the axis is nothing but this group's units.
        others: Groups that stand elsewhere in the same tensor or segment.
        inside: Whether the segment also holds units that depend on this group (then they stand for it).
        coupled: Whether units elsewhere in the tensor depend on a context of this group.
    """

    tensor: str
    group: int
    sign: int | None
    dim: int
    start: int
    sizes: tuple[int, ...]
    place: int
    context: tuple[tuple[int, int], ...]
    context_sizes: tuple[tuple[int, ...], ...]
    whole: bool
    others: frozenset[int]
    inside: bool
    coupled: bool

    def view(self, stacked: Tensor) -> Tensor:
        """The units of this occurrence in a batch: a view ``[m, *context, size, …]``."""
        dim = self.dim + 1
        view = stacked
        if not self.whole:
            view = _split(stacked.narrow(dim, self.start, prod(self.sizes)), dim, self.sizes)
        moved = [dim + self.place]
        front = []
        for (axis, factor), sizes in zip(self.context, self.context_sizes, strict=True):
            if axis == self.dim:
                front.append(dim + factor)
                continue
            at = axis + 1 + (0 if axis < self.dim else len(self.sizes) - 1)
            view = _split(view, at, sizes)
            moved = [d + (len(sizes) - 1 if at < d else 0) for d in moved]
            front = [d + (len(sizes) - 1 if at < d else 0) for d in front]
            front.append(at + factor)
        sources = [*front, *moved]
        return view.movedim(sources, list(range(1, len(sources) + 1)))


def _split(tensor: Tensor, dim: int, sizes: tuple[int, ...]) -> Tensor:
    split: Tensor = tensor.unflatten(dim, sizes)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return split


def occurrences(symmetry: Symmetry) -> dict[int, list[Occurrence]]:
    """All places of every group, by group number."""
    found: dict[int, list[Occurrence]] = {number: [] for number in range(len(symmetry.groups))}
    for name, axes in symmetry.tensors.items():
        every = [
            (dim, index, f) for dim, axis in enumerate(axes) for index, segment in enumerate(axis) for f in segment
        ]
        for dim, axis in enumerate(axes):
            start = 0
            for index, segment in enumerate(axis):
                sizes = tuple(f.size for f in segment)
                for place, factor in enumerate(segment):
                    if factor.group is None:
                        continue
                    elsewhere = [(d, i, f) for d, i, f in every if f is not factor and f.group is not None]
                    context = tuple(
                        _place(symmetry, name, dim, segment, c) for c in symmetry.groups[factor.group].context
                    )
                    found[factor.group].append(
                        Occurrence(
                            *(name, factor.group, factor.sign, dim, start, sizes, place, context),
                            tuple(tuple(f.size for f in (segment if d == dim else axes[d][0])) for d, _ in context),
                            whole=len(axis) == 1 and len(segment) == 1,
                            others=frozenset(
                                f.group for d, i, f in elsewhere if f.group is not None and (d, i) != (dim, index)
                            ),
                            inside=any(_depends(symmetry, f, factor.group) for f in segment),
                            coupled=any(
                                _depends(symmetry, f, c)
                                for d, i, f in elsewhere
                                for c in symmetry.groups[factor.group].context
                                if d != dim
                            ),
                        )
                    )
                start += prod(sizes)
    return found


def _depends(symmetry: Symmetry, factor: Factor, outer: int) -> bool:
    return factor.group is not None and outer in symmetry.groups[factor.group].context


def _place(symmetry: Symmetry, name: str, dim: int, segment: tuple[Factor, ...], outer: int) -> tuple[int, int]:
    for place, factor in enumerate(segment):
        if factor.group == outer:
            return dim, place
    for other, axis in enumerate(symmetry.tensors[name]):
        if other != dim and len(axis) == 1:
            for place, factor in enumerate(axis[0]):
                if factor.group == outer:
                    return other, place
    raise ValueError(f"{name} does not tell group {outer}")


def take(tensor: Tensor, dim: int, index: Tensor) -> Tensor:
    """Entries of one axis. Along the last one a gather is several times faster than ``index_select``."""
    if dim == tensor.ndim - 1:
        return tensor.gather(dim, index.expand(*tensor.shape[:-1], len(index)))
    return tensor.index_select(dim, index)


def move(view: Tensor, order: Tensor) -> None:
    """Reorder units in place: ``view`` is ``[m, *context, size, …]``, ``order`` int64 ``[m, *context, size]``."""
    if len(order) == 1 and order.ndim == 2:
        view.copy_(view.index_select(1, order[0]))
        return
    grid = torch.meshgrid(*(torch.arange(size) for size in order.shape[:-1]), indexing="ij")
    view.copy_(view[(*(g[..., None] for g in grid), order)])


def flip(view: Tensor, signs: Tensor) -> None:
    """Flip units in place: ``signs`` is ±1 of shape ``[m, *context, size]``."""
    view.mul_(signs.to(view.dtype).reshape(*signs.shape, *(1,) * (view.ndim - signs.ndim)))


def permute_stacked(
    symmetry: Symmetry, stacked: Mapping[str, Tensor], orders: Mapping[int, Tensor], flips: Mapping[int, Tensor]
) -> dict[str, Tensor]:
    """Each model of a batch under its own permutation.

    Args:
        symmetry: The symmetry all models share.
        stacked: Tensor name → ``[m, …]``.
        orders: Group → ``[m, *context, size]``.
        flips: Sign vector → ±1 of the same shape.

    Returns:
        New tensors; those without permutable axes are passed on.
    """
    result = {name: tensor.clone() if name in symmetry.tensors else tensor for name, tensor in stacked.items()}
    for group, places in sorted(
        occurrences(symmetry).items(), key=lambda item: len(symmetry.groups[item[0]].context)
    ):  # blocks first, then what is inside them, by new position
        for place in places:
            view = place.view(result[place.tensor])
            move(view, orders[group])
            if place.sign is not None:
                flip(view, flips[place.sign])
    return result
