"""Smaller symmetries out of larger ones: units fixed, groups tied, no flips. Less freedom is never wrong."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from sane_engine.symmetry.spec import Factor, Symmetry


def without_signs(symmetry: Symmetry) -> Symmetry:
    """The same symmetry, where the order may change but no sign."""
    return replace(symmetry, signs=(), tensors=_changed(symmetry, lambda factor: replace(factor, sign=None)))


def tied(symmetry: Symmetry, classes: Sequence[Collection[int]], fixed: Collection[int] = ()) -> Symmetry:
    """Groups of one class are permuted alike, and some are not permuted at all.

    Args:
        symmetry: Without signs and contexts.
        classes: Numbers of groups of equal size; a group stands in one class at most.
        fixed: Numbers of groups whose order is to stay, with all of their class.

    Raises:
        ValueError: There are signs or contexts, or a class has groups of several sizes.
    """
    if symmetry.signs or symmetry.blocks:
        raise ValueError("only groups without signs and contexts are tied")
    owner = {group: group for group in range(len(symmetry.groups))}
    for members in classes:
        if len({symmetry.groups[group].size for group in members}) > 1:
            raise ValueError("groups of several sizes cannot be tied")
        owner |= dict.fromkeys(members, min(members, default=0))
    still = {owner[group] for group in fixed}
    kept = sorted(set(owner.values()) - still)
    number = {group: kept.index(owner[group]) if owner[group] in kept else None for group in owner}

    def change(factor: Factor) -> Factor:
        return factor if factor.group is None else replace(factor, group=number[factor.group])

    tensors = {
        name: axes
        for name, axes in _changed(symmetry, change).items()
        if any(f.group is not None for axis in axes for segment in axis for f in segment)
    }
    return replace(symmetry, groups=tuple(symmetry.groups[group] for group in kept), tensors=tensors)


def _changed(
    symmetry: Symmetry, change: Callable[[Factor], Factor]
) -> dict[str, tuple[tuple[tuple[Factor, ...], ...], ...]]:
    return {
        name: tuple(tuple(tuple(change(f) for f in segment) for segment in axis) for axis in axes)
        for name, axes in symmetry.tensors.items()
    }
