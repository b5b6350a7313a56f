"""Products of weights that no sign flip changes: messages between units along the weights that join them.

Where an activation is odd, a unit may change the sign of all its weights, so a weight alone says only its size.
What the signs do say, products say: a unit's bias times its weight, a weight times both units it joins. Each unit
carries a vector that flips as the unit does, at first a linear function of the weights it has to itself, then also
of its neighbours' vectors times the weights between, as in a forward and a backward pass. Products of what flips
alike do not flip.

This goes beyond the linear layers of universal neural functionals, which are not concerned with signs. Networks
without sign flips get the same messages, since products of weights are what a network computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sane_engine.baselines.functional.spaces import Index, Piece, Space, Spaces

_LETTERS = "abcdefghijklnopqrstuvwxy"  # m counts models, z channels
Stream = tuple[Space, int | None]
"""Units, and the sign vector that flips them."""


@dataclass(frozen=True)
class _End:
    """A unit index of a piece: its stream, and the letters of the stream's indices in the piece."""

    stream: Stream
    letters: str


def _ends(spaces: Spaces, piece: Piece) -> list[_End]:
    """The unit indices of a piece: all but those that only choose a family member."""
    space = spaces.spaces[piece.space]
    outer = {position for index in space for position in index.within}
    ends = []
    for position, index in enumerate(space):
        if position in outer:
            continue
        chain = sorted({*index.within, position})
        own = tuple(
            Index(space[p].group, space[p].size, tuple(chain.index(w) for w in space[p].within)) for p in chain
        )
        ends.append(_End((own, piece.signs[position]), "".join(_LETTERS[p] for p in chain)))
    return ends


class Products(nn.Module):
    """Invariant (to signs) and equivariant (to permutations) products, as further channels of the spaces.

    Attributes:
        spaces: The index spaces of the weights, and those of the units where no tensor lives.
        widths: How many products there are in each.
    """

    def __init__(self, places: Spaces, channels: int, hops: int) -> None:
        """Find the units and what joins them.

        Args:
            places: Where the weights live.
            channels: Length of a unit's vector.
            hops: How many times neighbours are heard.
        """
        super().__init__()
        self.channels, self.hops = channels, hops
        streams: dict[Stream, int] = {}
        self._own: list[tuple[Piece, str, int, str]] = []
        self._edges: list[tuple[Piece, str, tuple[int, int], tuple[str, str]]] = []
        for piece in places.pieces:
            read = "".join(_LETTERS[p] for p in range(len(places.spaces[piece.space])))
            ends = _ends(places, piece)
            for end in ends:
                if all(other is end or other.stream[1] is None for other in ends):
                    number = streams.setdefault(end.stream, len(streams))
                    self._own.append((piece, read, number, end.letters))
            if len(ends) == 2:
                first, second = (streams.setdefault(end.stream, len(streams)) for end in ends)
                self._edges.append((piece, read, (first, second), (ends[0].letters, ends[1].letters)))
        self.streams = tuple(streams)
        missing = dict.fromkeys(space for space, _ in self.streams if space not in places.spaces)
        self.spaces = (*places.spaces, *missing)
        self.widths = [0] * len(self.spaces)
        for space, _ in self.streams:
            self.widths[self.spaces.index(space)] += channels
        for piece, *_ in self._edges:
            self.widths[piece.space] += channels
        seen = (hops + 1) * channels
        self.first = nn.ModuleList(nn.Linear(piece.width, channels, bias=False) for piece, *_ in self._own)
        self.messages = nn.ModuleList(
            nn.Linear(channels, channels * piece.width, bias=False)
            for _ in range(hops)
            for piece, *_ in self._edges
            for _ in range(2)
        )
        self.squares = nn.ModuleList(nn.Linear(seen, 2 * channels, bias=False) for _ in self.streams)
        self.left = nn.ModuleList(nn.Linear(seen, channels, bias=False) for _ in self._edges)
        self.right = nn.ModuleList(nn.Linear(seen, channels, bias=False) for _ in self._edges)
        self.middle = nn.ModuleList(nn.Linear(piece.width, channels, bias=False) for piece, *_ in self._edges)

    def forward(self, values: Sequence[Tensor]) -> list[Tensor | None]:
        """Products of weights that are scaled, not centred.

        Args:
            values: For each space of the weights ``[m, *sizes, width]``.

        Returns:
            For each of :attr:`spaces` ``[m, *sizes, widths]``, or ``None`` where there are no products.
        """
        models = len(values[0])
        start = [
            values[0].new_zeros((models, *(index.size for index in space), self.channels))
            for space, _ in self.streams
        ]
        weights = [_weights(values, piece) for piece, *_ in self._own]
        for weight, (_, read, number, letters), linear in zip(weights, self._own, self.first, strict=True):
            own = linear(torch.einsum(f"m{read}z->m{letters}z", weight))
            start[number] = start[number] + own * (own[0, ..., 0].numel() / weight[0, ..., 0].numel())
        history = [[_bounded(vector)] for vector in start]
        weights = [_weights(values, piece) for piece, *_ in self._edges]
        messages = iter(self.messages)
        for _ in range(self.hops):
            heard = list(start)
            for weight, (piece, read, ends, both) in zip(weights, self._edges, strict=True):
                for here, there in ((0, 1), (1, 0)):
                    vector = next(messages)(history[ends[there]][-1]).unflatten(-1, (piece.width, self.channels))
                    equation = f"m{read}Z,m{both[there]}Zz->m{both[here]}z"
                    message = torch.einsum(equation, weight, vector)
                    summed = weight[0, ..., 0].numel() * piece.width / message[0, ..., 0].numel()
                    heard[ends[here]] = heard[ends[here]] + message / summed**0.5
            for known, vector in zip(history, heard, strict=True):
                known.append(_bounded(vector))
        vectors = [torch.cat(known, dim=-1) for known in history]
        parts: list[list[Tensor]] = [[] for _ in self.spaces]
        for (space, _), vector, linear in zip(self.streams, vectors, self.squares, strict=True):
            left, right = linear(vector).chunk(2, dim=-1)
            parts[self.spaces.index(space)].append(left * right)
        joints = zip(self.left, self.right, self.middle, strict=True)
        for weight, (piece, read, ends, both), joint in zip(weights, self._edges, joints, strict=True):
            factors = (vectors[ends[0]], vectors[ends[1]], weight)
            left, right, middle = (linear(value) for linear, value in zip(joint, factors, strict=True))
            equation = f"m{both[0]}z,m{both[1]}z,m{read}z->m{read}z"
            parts[piece.space].append(torch.einsum(equation, left, right, middle))
        return [torch.cat(part, dim=-1) if part else None for part in parts]


def _weights(values: Sequence[Tensor], piece: Piece) -> Tensor:
    return values[piece.space].narrow(-1, piece.start, piece.width)


def _bounded(vector: Tensor) -> Tensor:
    """No longer than √channels, in the same direction, so that many hops stay finite."""
    return vector / (vector.square().mean(dim=-1, keepdim=True) + 1).sqrt()
