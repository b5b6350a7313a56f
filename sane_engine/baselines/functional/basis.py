"""The basis of equivariant linear maps between two index spaces: valid partitions, split into two halves.

Zhou, Finn & Harrison, "Universal Neural Functionals" (2024, arXiv:2402.05232), theorem 3.1: the linear maps from
a tensor with indices i₁ … i_p to one with indices j₁ … j_q that commute with the permutations are spanned by one
map for each *valid* partition of all p + q indices, valid meaning that only indices of one group share a block.
Indices in a block are equal; a block of input indices alone is summed over, one of output indices is broadcast.

A partition is fixed by three things: how the input's indices are tied and which blocks are kept (the rest is
summed), how the output's are tied and which of its blocks come from the input (the rest is broadcast), and which
kept block goes where. So every map is a *reduction* into a middle space followed by an *expansion* out of it, and
all pairs of tensors that meet in a middle space share one matrix of channels: pooling happens once a tensor, not
once a pair.

Families (units in a head) need one more condition: two indices may be tied, or kept, only if the indices that
choose their family member are tied, or kept, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, permutations
from math import prod

import torch
from torch import Tensor

from sane_engine.baselines.functional.spaces import Index, Space


@dataclass(frozen=True)
class Pattern:
    """One half of a valid partition.

    Attributes:
        blocks: For each index of the space the number of its block, blocks numbered by first appearance.
        kept: The blocks that the middle space has as its indices, in its order.
        middle: The middle space.
    """

    blocks: tuple[int, ...]
    kept: tuple[int, ...]
    middle: Space


def partitions(space: Space) -> Iterator[tuple[int, ...]]:
    """All ways of tying the indices of a space: block numbers, by first appearance."""

    def grow(blocks: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        position = len(blocks)
        if position == len(space):
            yield blocks
            return
        index = space[position]
        for block in range(max(blocks, default=-1) + 2):
            members = [space[p] for p, b in enumerate(blocks) if b == block]
            if all(
                member.group == index.group and _same(member.within, index.within, blocks) for member in members
            ):
                yield from grow((*blocks, block))

    return grow(())


def _same(first: tuple[int, ...], second: tuple[int, ...], blocks: tuple[int, ...]) -> bool:
    return [blocks[p] for p in first] == [blocks[p] for p in second]


def reductions(space: Space) -> list[Pattern]:
    """All ways of getting from a space to a middle space, up to the order of its indices."""
    return [found[0] for found in _patterns(space)]


def expansions(space: Space) -> list[Pattern]:
    """All ways of getting from a middle space to a space; equal groups may be exchanged on the way."""
    return [pattern for found in _patterns(space) for pattern in found]


def _patterns(space: Space) -> Iterator[list[Pattern]]:
    for blocks in partitions(space):
        count = max(blocks, default=-1) + 1
        first = [blocks.index(block) for block in range(count)]
        outer = [{blocks[p] for p in space[position].within} for position in first]
        for size in range(count + 1):
            for chosen in combinations(range(count), size):
                if all(outer[block] <= set(chosen) for block in chosen):
                    yield _orders(space, blocks, chosen, first)


def _orders(space: Space, blocks: tuple[int, ...], chosen: tuple[int, ...], first: list[int]) -> list[Pattern]:
    """The orders of the kept blocks that give the same middle space: the least one, so that all patterns meet."""
    found: list[tuple[tuple[tuple[int, tuple[int, ...]], ...], Pattern]] = []
    for order in permutations(chosen):
        groups = [(len(space[first[b]].within), space[first[b]].group) for b in order]
        if groups != sorted(groups):
            continue
        middle = tuple(
            Index(
                space[first[b]].group,
                space[first[b]].size,
                tuple(order.index(blocks[p]) for p in space[first[b]].within),
            )
            for b in order
        )
        found.append((tuple((index.group, index.within) for index in middle), Pattern(blocks, order, middle)))
    least = min(key for key, _ in found)
    return [pattern for key, pattern in found if key == least]


_LETTERS = "abcdefghijklnopqrstuvwxy"  # m counts models, z channels


def reduce(value: Tensor, pattern: Pattern, space: Space) -> Tensor:
    """From ``[m, *space, c]`` to ``[m, *middle, c]``: diagonals of tied indices, means over what is not kept."""
    if pattern.kept == pattern.blocks:
        return value
    read = "".join(_LETTERS[block] for block in pattern.blocks)
    kept = "".join(_LETTERS[block] for block in pattern.kept)
    sizes = {block: index.size for block, index in zip(pattern.blocks, space, strict=True)}
    summed = prod(size for block, size in sizes.items() if block not in pattern.kept)
    result: Tensor = torch.einsum(f"m{read}z->m{kept}z", value)
    return result / summed if summed > 1 else result


def expand(value: Tensor, pattern: Pattern, space: Space) -> Tensor:
    """From ``[m, *middle, c]`` to what broadcasts to ``[m, *space, c]``: zero off the diagonals of tied indices."""
    count = max(pattern.blocks, default=-1) + 1
    places = sorted(range(len(pattern.kept)), key=lambda place: pattern.kept[place])
    value = value.permute(0, *(place + 1 for place in places), value.ndim - 1)
    first = [pattern.blocks.index(block) for block in range(count)]
    shape = [
        index.size if position == first[block] and block in pattern.kept else 1
        for position, (block, index) in enumerate(zip(pattern.blocks, space, strict=True))
    ]
    value = value.reshape(len(value), *shape, value.shape[-1])
    for position, block in enumerate(pattern.blocks):
        if position != first[block]:
            size = space[position].size
            diagonal = [size if p in (position, first[block]) else 1 for p in range(len(space))]
            value = value * torch.eye(size, dtype=value.dtype, device=value.device).reshape(*diagonal, 1)
    return value
