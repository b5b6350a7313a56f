"""Permutations and sign flips of a network's hidden units: make, compose, invert, apply."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from sane_engine.symmetry.spec import AxisSpec, Segment, Symmetry
from sane_engine.ties import memory_key


@dataclass(frozen=True)
class Permutations:
    """One element of a network's symmetry.

    Attributes:
        orders: For each group int64 ``[*context, size]``: the unit at new position i is the old order[i].
        flips: For each sign vector ±1, int8, of the shape of its group's orders, by new position.
    """

    orders: tuple[Tensor, ...]
    flips: tuple[Tensor, ...]

    def moved(self) -> int:
        """How many units do not stay where they are (a block's own move is not counted)."""
        return sum(int((order != torch.arange(order.shape[-1])).sum()) for order in self.orders)


def identity(symmetry: Symmetry) -> Permutations:
    """Everything stays."""
    shapes = [symmetry.family_shape(i) for i in range(len(symmetry.groups))]
    orders = tuple(torch.arange(shape[-1]).expand(shape).clone() for shape in shapes)
    return Permutations(orders, tuple(torch.ones(shapes[g], dtype=torch.int8) for g in symmetry.signs))


def random(symmetry: Symmetry, generator: torch.Generator, *, flips: bool = True) -> Permutations:
    """Uniform over the group."""
    shapes = [symmetry.family_shape(i) for i in range(len(symmetry.groups))]
    orders = tuple(
        torch.stack([torch.randperm(s[-1], generator=generator) for _ in range(prod(s[:-1]))]).reshape(s)
        for s in shapes
    )
    signs = [
        torch.randint(0, 2, shapes[g], generator=generator, dtype=torch.int8) * 2 - 1
        if flips
        else torch.ones(shapes[g], dtype=torch.int8)
        for g in symmetry.signs
    ]
    return Permutations(orders, tuple(signs))


def _sources(symmetry: Symmetry, permutations: Permutations) -> list[tuple[Tensor, ...]]:
    """For each group, where each new unit was: one index tensor for each context dimension and one for itself."""
    result = []
    for number, group in enumerate(symmetry.groups):
        shape = symmetry.family_shape(number)
        grid = torch.meshgrid(*(torch.arange(size) for size in shape), indexing="ij")
        position = dict(zip((*group.context, number), grid, strict=True))
        result.append(
            tuple(
                permutations.orders[member][tuple(position[c] for c in (*symmetry.groups[member].context, member))]
                for member in (*group.context, number)
            )
        )
    return result


def compose(symmetry: Symmetry, second: Permutations, first: Permutations) -> Permutations:
    """``first``, then ``second``."""
    sources = _sources(symmetry, second)
    orders = tuple(order[source] for order, source in zip(first.orders, sources, strict=True))
    flips = tuple(
        late * early[sources[group]]
        for late, early, group in zip(second.flips, first.flips, symmetry.signs, strict=True)
    )
    return Permutations(orders, flips)


def inverse(symmetry: Symmetry, permutations: Permutations) -> Permutations:
    """What undoes ``permutations``."""
    sources = _sources(symmetry, permutations)
    orders = []
    for number, source in enumerate(sources):
        shape = symmetry.family_shape(number)
        order = torch.empty(shape, dtype=torch.int64)
        order[source] = torch.arange(shape[-1]).expand(shape)
        orders.append(order)
    flips = []
    for flip, group in zip(permutations.flips, symmetry.signs, strict=True):
        back = torch.empty_like(flip)
        back[sources[group]] = flip
        flips.append(back)
    return Permutations(tuple(orders), tuple(flips))


def permute(symmetry: Symmetry, tensors: Mapping[str, Tensor], permutations: Permutations) -> dict[str, Tensor]:
    """Apply orders and flips to every tensor the symmetry names."""
    symmetry.check(tensors)
    # Beside each result what it was made of: memory that were given back could be that of the next tensor.
    done: dict[tuple[object, tuple[AxisSpec, ...]], tuple[Tensor, Tensor]] = {}
    result = {}
    for name, tensor in tensors.items():
        if name not in symmetry.tensors:
            result[name] = tensor
            continue
        key = (memory_key(tensor), symmetry.tensors[name])
        if key not in done:
            done[key] = tensor, permute_tensor(symmetry, symmetry.tensors[name], tensor, permutations)
        result[name] = done[key][1]
    return result


def permute_tensor(
    symmetry: Symmetry, axes: tuple[AxisSpec, ...], tensor: Tensor, permutations: Permutations
) -> Tensor:
    """Apply orders and flips to one tensor."""
    indices, signs = tensor_indices(symmetry, axes, permutations)
    out = tensor
    if all(index is None or index.ndim == 1 for index in indices):
        first, second = (*indices, None, None)[:2]
        if first is not None and second is not None and tensor.ndim > 2:  # one pass over rows instead of two
            rows = (first[:, None] * len(second) + second).flatten().to(tensor.device)
            out = out.flatten(0, 1).index_select(0, rows).reshape(tensor.shape)
            indices[:2] = [None, None]
        for dim, index in enumerate(indices):
            if index is not None:
                out = out.index_select(dim, index.to(tensor.device))
    else:
        grids = []
        for dim, size in enumerate(tensor.shape):
            index = indices[dim]
            if index is None or index.ndim == 1:
                line = torch.arange(size) if index is None else index
                index = line.reshape([-1 if d == dim else 1 for d in range(tensor.ndim)])
            grids.append(index.to(tensor.device))
        out = tensor[tuple(grids)]
    for sign in signs:
        out = out * sign.to(device=tensor.device, dtype=tensor.dtype)
    return out.clone() if out is tensor else out


def tensor_indices(
    symmetry: Symmetry, axes: tuple[AxisSpec, ...], permutations: Permutations
) -> tuple[list[Tensor | None], list[Tensor]]:
    """Where each entry comes from, and its sign.

    Returns:
        For each dimension ``None`` (stays), or indices ``[size]``, or indices broadcastable to the tensor where
        the order depends on another dimension; and sign tensors broadcastable to the tensor's shape.
    """
    rank = len(axes)

    def line(values: Tensor, dim: int) -> Tensor:
        return values.reshape([-1 if d == dim else 1 for d in range(rank)])

    indices: list[Tensor | None] = [None] * rank
    signs: list[Tensor] = []
    for dim, axis in enumerate(axes):
        if all(f.group is None for segment in axis for f in segment):
            continue
        sources: list[Tensor] = []
        flips: list[Tensor] = []
        start = 0
        for segment in axis:
            mine = _digits(segment)
            source, flip = torch.full([1] * rank, 0), torch.ones([1] * rank, dtype=torch.int8)
            for f, digit in zip(segment, mine, strict=True):
                if f.group is None:
                    source = source * f.size + line(digit, dim)
                    continue
                keys = []
                for outer in symmetry.groups[f.group].context:
                    at, place, digits = _place(axes, dim, segment, outer)
                    keys.append(line(digits[place], at))
                position = (*keys, line(digit, dim))
                source = source * f.size + permutations.orders[f.group][position]
                if f.sign is not None:
                    flip = flip * permutations.flips[f.sign][position]
            length = prod(f.size for f in segment)
            sources.append(source + start)
            flips.append(
                flip
                if flip.shape[dim] == length
                else flip.expand(*flip.shape[:dim], length, *flip.shape[dim + 1 :])
            )
            start += length
        index = _join(sources, dim)
        indices[dim] = index.flatten() if index.numel() == start else index
        if any(f.sign is not None for segment in axis for f in segment):
            signs.append(_join(flips, dim))
    return indices, signs


def _digits(segment: Segment) -> list[Tensor]:
    """The index of every factor, along a segment: int64 ``[length]`` each."""
    below = prod(f.size for f in segment)
    own = torch.arange(below)
    digits = []
    for f in segment:
        below //= f.size
        digits.append((own // below) % f.size)
    return digits


def _place(axes: tuple[AxisSpec, ...], dim: int, segment: Segment, outer: int) -> tuple[int, int, list[Tensor]]:
    """Where the context of a factor stands: in its own segment, or in an axis of one segment."""
    for place, f in enumerate(segment):
        if f.group == outer:
            return dim, place, _digits(segment)
    for other, axis in enumerate(axes):
        if other != dim and len(axis) == 1:
            for place, f in enumerate(axis[0]):
                if f.group == outer:
                    return other, place, _digits(axis[0])
    raise ValueError(f"group {outer} is not in this tensor")


def _join(pieces: list[Tensor], dim: int) -> Tensor:
    """Concatenate along ``dim`` what may be broadcast along the others."""
    shape = [max(piece.shape[d] for piece in pieces) for d in range(pieces[0].ndim)]
    return torch.cat(
        [piece.expand([piece.shape[d] if d == dim else size for d, size in enumerate(shape)]) for piece in pieces],
        dim,
    )
