"""Equivariant linear layers between the weights of a network, built from its symmetry alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from sane_engine.baselines.functional.basis import Pattern, expand, expansions, reduce, reductions
from sane_engine.baselines.functional.spaces import Space, Spaces
from sane_engine.symmetry.spec import Symmetry


class EquivariantMap(nn.Module):
    """All equivariant linear maps between functions on the index spaces of a network.

    Every basis map of :mod:`~sane_engine.baselines.functional.basis` between every pair of spaces has its own
    matrix of channels. Means stand for the sums of the paper, so that a layer's scale does not grow with the
    network; the span is the same. Biases are the maps from nothing: one for each way of broadcasting.
    """

    def __init__(
        self,
        spaces: Sequence[Space],
        widths_in: Sequence[int],
        widths_out: Sequence[int],
        *,
        rank: int | None = None,
    ) -> None:
        """Find the basis.

        Args:
            spaces: Index spaces.
            widths_in: Channels in each.
            widths_out: Channels out of each.
            rank: Largest rank of the matrix between all channels that meet in one middle space; ``None`` for the
                whole basis. With a rank, cost grows linearly with the number of tensors instead of quadratically.
        """
        super().__init__()
        self.spaces, self.widths_out = tuple(spaces), tuple(widths_out)
        middles: dict[Space, int] = {}
        self._read: list[list[tuple[int, Pattern]]] = []
        self._write: list[list[tuple[int, Pattern]]] = []
        for number, space in enumerate(self.spaces):
            for pattern in reductions(space):
                place = middles.setdefault(pattern.middle, len(middles))
                if place == len(self._read):
                    self._read.append([])
                    self._write.append([])
                self._read[place].append((number, pattern))
            for pattern in expansions(space):
                self._write[middles[pattern.middle]].append((number, pattern))
        self.mixing = nn.ModuleList()
        for middle, place in middles.items():
            inputs = sum(widths_in[number] for number, _ in self._read[place])
            outputs = sum(widths_out[number] for number, _ in self._write[place])
            if rank is not None and rank < inputs * outputs / (inputs + outputs):
                narrow = nn.Linear(inputs, rank, bias=False)
                self.mixing.append(nn.Sequential(narrow, nn.Linear(rank, outputs, bias=not middle)))
            else:
                self.mixing.append(nn.Linear(inputs, outputs, bias=not middle))

    @property
    def n_maps(self) -> int:
        """How many basis maps there are between all pairs of spaces (biases not counted)."""
        return sum(len(read) * len(write) for read, write in zip(self._read, self._write, strict=True))

    def forward(self, values: Sequence[Tensor]) -> list[Tensor]:
        """Functions ``[m, *sizes, widths_in]`` to functions ``[m, *sizes, widths_out]``, one for each space."""
        results: list[Tensor | None] = [None] * len(self.spaces)
        for read, write, mixing in zip(self._read, self._write, self.mixing, strict=True):
            pooled = [reduce(values[number], pattern, self.spaces[number]) for number, pattern in read]
            mixed = mixing(torch.cat(pooled, dim=-1) if len(pooled) > 1 else pooled[0])
            parts = mixed.split([self.widths_out[number] for number, _ in write], dim=-1)
            for part, (number, pattern) in zip(parts, write, strict=True):
                expanded = expand(part, pattern, self.spaces[number])
                known = results[number]
                results[number] = expanded if known is None else known + expanded
        shapes = [(*value.shape[:-1], width) for value, width in zip(values, self.widths_out, strict=True)]
        return [
            result.expand(shape) if result is not None else values[0].new_zeros(shape)
            for result, shape in zip(results, shapes, strict=True)
        ]


class EquivariantLayer(nn.Module):
    """An equivariant linear layer on weight tensors with channels: the whole basis between all pairs of tensors.

    Permuting the units of the input permutes those of the output in the same way. Indices that no group acts on
    are channels: each has its own coefficients.
    """

    def __init__(
        self,
        symmetry: Symmetry,
        shapes: Mapping[str, Sequence[int]],
        channels_in: int,
        channels_out: int,
        *,
        rank: int | None = None,
    ) -> None:
        """Build the layer.

        Args:
            symmetry: Of the network.
            shapes: Name → shape of every tensor.
            channels_in: Numbers at each entry of each tensor.
            channels_out: The same, after the layer.
            rank: See :class:`EquivariantMap`.

        Raises:
            ValueError: The symmetry belongs to another network.
        """
        super().__init__()
        self.channels_out = channels_out
        self.places = Spaces(symmetry, shapes)
        widths = self.places.widths
        self.map = EquivariantMap(
            self.places.spaces, [w * channels_in for w in widths], [w * channels_out for w in widths], rank=rank
        )

    def forward(self, stacked: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors ``[m, channels_in, …]`` to tensors ``[m, channels_out, …]``."""
        return self.places.scatter(self.map(self.places.gather(stacked)), self.channels_out)
