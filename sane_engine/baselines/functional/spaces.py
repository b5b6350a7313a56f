"""The index spaces of a network: its tensors, sorted by which permutable indices they have.

A weight tensor becomes one or more *pieces* (one for each combination of the segments of its axes). A piece has
permutable indices, which a group of the symmetry acts on, and fixed ones (kernel positions, input channels, class
outputs), which nothing acts on. Pieces with the same permutable indices live in one *space*, side by side as
channels, their fixed entries as further channels: any linear map of channels commutes with the permutations. A
convolution ``[out, in, 3, 3]`` is a function of (out, in) with nine channels; its bias, and the weights of the
batch norm behind it, are three channels of a function of (out).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

import torch
from torch import Tensor

from sane_engine.symmetry.spec import AxisSpec, Factor, Segment, Symmetry


@dataclass(frozen=True)
class Index:
    """One permutable index of a space.

    Attributes:
        group: Number of the group that permutes it.
        size: Its range.
        within: Positions, in the same space, of the indices that choose the family member (its head, say).
    """

    group: int
    size: int
    within: tuple[int, ...] = ()


Space = tuple[Index, ...]


@dataclass(frozen=True)
class Piece:
    """A part of a tensor that lives in one space.

    Attributes:
        tensor: Its name.
        ranges: (start, length) along every axis of the tensor.
        sizes: Sizes of all its factors, in the order of the tensor's axes.
        order: Numbers of the factors: the permutable ones as the space has them, then the fixed ones.
        space: Number of the space.
        start: The first of its channels there.
        width: How many channels it has: the product of its fixed sizes.
        signs: For each index of the space the sign vector that flips its units here, or ``None``.
    """

    tensor: str
    ranges: tuple[tuple[int, int], ...]
    sizes: tuple[int, ...]
    order: tuple[int, ...]
    space: int
    start: int
    width: int
    signs: tuple[int | None, ...]

    @property
    def odd(self) -> bool:
        """Whether sign flips act on it."""
        return any(sign is not None for sign in self.signs)


class Spaces:
    """Which spaces a network has, and the way there and back.

    Attributes:
        spaces: The spaces, in order of first appearance.
        widths: How many channels the weights have in each.
        pieces: Where each part of each tensor lives.
    """

    def __init__(self, symmetry: Symmetry, shapes: Mapping[str, Sequence[int]]) -> None:
        """Sort the tensors.

        Args:
            symmetry: What may be permuted.
            shapes: Name → shape, in file order. Tensors the symmetry does not name are fixed.

        Raises:
            ValueError: A tensor of the symmetry is missing, or has another shape.
        """
        for name in symmetry.tensors:
            if name not in shapes or tuple(shapes[name]) != symmetry.shape(name):
                raise ValueError(f"this symmetry belongs to another network: {name!r} is missing or differs")
        numbers: dict[Space, int] = {}
        widths: list[int] = []
        pieces: list[Piece] = []
        self.shapes = {name: tuple(int(size) for size in shape) for name, shape in shapes.items()}
        for name, shape in self.shapes.items():
            axes = symmetry.tensors.get(name) or tuple(((Factor(size),),) for size in shape)
            for chosen in product(*(_ranges(axis) for axis in axes)):
                segments = [segment for _, segment in chosen]
                order, space = _indices(symmetry, segments)
                sizes = tuple(f.size for segment in segments for f in segment)
                number = numbers.setdefault(space, len(numbers))
                if number == len(widths):
                    widths.append(0)
                width = prod(sizes[position] for position in order[len(space) :])
                signs = [f.sign for segment in segments for f in segment]
                ranges = tuple(where for where, _ in chosen)
                pieces.append(
                    Piece(
                        name,
                        ranges,
                        sizes,
                        order,
                        number,
                        widths[number],
                        width,
                        tuple(signs[p] for p in order[: len(space)]),
                    )
                )
                widths[number] += width
        self.spaces: tuple[Space, ...] = tuple(numbers)
        self.widths = tuple(widths)
        self.pieces = tuple(pieces)

    def gather(self, stacked: Mapping[str, Tensor]) -> list[Tensor]:
        """Weights as functions on the spaces.

        Args:
            stacked: Name → ``[m, c, …]``: c channels for each entry of the tensor, m models.

        Returns:
            For each space ``[m, *sizes, c · width]``; the channels of an entry lie side by side.
        """
        parts: list[list[Tensor]] = [[] for _ in self.spaces]
        for piece in self.pieces:
            tensor = stacked[piece.tensor]
            models, channels = tensor.shape[:2]
            for axis, (start, length) in enumerate(piece.ranges):
                tensor = tensor.narrow(axis + 2, start, length)
            indices = len(self.spaces[piece.space])
            tensor = tensor.reshape(models, channels, *piece.sizes)
            order = [position + 2 for position in piece.order]
            tensor = tensor.permute(0, *order[:indices], *order[indices:], 1)
            parts[piece.space].append(tensor.reshape(*tensor.shape[: 1 + indices], piece.width * channels))
        return [torch.cat(part, dim=-1) for part in parts]

    def scatter(self, values: Sequence[Tensor], channels: int) -> dict[str, Tensor]:
        """The way back: functions ``[m, *sizes, channels · width]`` as tensors ``[m, channels, …]``."""
        models = len(values[0])
        result = {name: values[0].new_zeros((models, channels, *shape)) for name, shape in self.shapes.items()}
        for piece in self.pieces:
            value = values[piece.space].narrow(-1, piece.start * channels, piece.width * channels)
            value = value.reshape(models, *(piece.sizes[position] for position in piece.order), channels)
            back = [0] * len(piece.order)
            for place, position in enumerate(piece.order):
                back[position] = place + 1
            value = value.permute(0, value.ndim - 1, *back)
            target = result[piece.tensor]
            for axis, (start, length) in enumerate(piece.ranges):
                target = target.narrow(axis + 2, start, length)
            target.copy_(value.reshape(target.shape))
        return result

    def odd_channels(self) -> list[Tensor]:
        """For each space, which channels of the weights change sign: bool ``[width]``."""
        result = [torch.zeros(width, dtype=torch.bool) for width in self.widths]
        for piece in self.pieces:
            result[piece.space][piece.start : piece.start + piece.width] = piece.odd
        return result


def _ranges(axis: AxisSpec) -> list[tuple[tuple[int, int], Segment]]:
    """The segments of an axis with where they begin and how long they are."""
    result = []
    start = 0
    for segment in axis:
        length = prod(f.size for f in segment)
        result.append(((start, length), segment))
        start += length
    return result


def _indices(symmetry: Symmetry, segments: Sequence[Segment]) -> tuple[tuple[int, ...], Space]:
    """Factors in the order of the space (permutable, then fixed), and the space."""
    factors = [(axis, f) for axis, segment in enumerate(segments) for f in segment]
    permutable = sorted(
        (position for position, (_, f) in enumerate(factors) if f.group is not None),
        key=lambda position: (
            len(symmetry.groups[_group(factors[position][1])].context),
            factors[position][1].group,
        ),
    )
    fixed = [position for position, (_, f) in enumerate(factors) if f.group is None]
    space = []
    for position in permutable:
        axis, factor = factors[position]
        within = []
        for outer in symmetry.groups[_group(factor)].context:
            places = [p for p in permutable if factors[p][1].group == outer]
            # a unit's head stands in its own axis, or in another one
            own = [p for p in places if factors[p][0] == axis]
            within.append(permutable.index((own or places)[0]))
        space.append(Index(_group(factor), factor.size, tuple(within)))
    return (*permutable, *fixed), tuple(space)


def _group(factor: Factor) -> int:
    if factor.group is None:
        raise ValueError("a fixed factor has no group")
    return factor.group
