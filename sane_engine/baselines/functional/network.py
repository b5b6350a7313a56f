"""A network that reads weights: an equivariant trunk, pooled, and an invariant head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sane_engine.baselines.functional.layer import EquivariantMap
from sane_engine.baselines.functional.products import Products
from sane_engine.baselines.functional.spaces import Space, Spaces
from sane_engine.symmetry.spec import Symmetry

_SMALLEST = 0.01  # a logarithm's floor, in units of the channel's spread
_LARGEST = 10.0  # beyond it, an input is cut


class Functional(nn.Module):
    """A universal neural functional with one invariant output vector a model.

    Permuting units does not change what it says, nor does changing the signs of units where the symmetry has sign
    flips: it is given the sizes of such weights and products of them
    (:mod:`~sane_engine.baselines.functional.products`), never their signs. Layers are residual, with a norm over
    the channels of each entry before each nonlinearity; pooling is the mean over the entries of every space.
    """

    def __init__(
        self,
        symmetry: Symmetry,
        shapes: Mapping[str, Sequence[int]],
        *,
        channels: int = 32,
        depth: int = 3,
        hops: int = 2,
        features: int = 64,
        outputs: int = 1,
        dropout: float = 0.1,
        rank: int | None = 256,
    ) -> None:
        """Build it for one architecture.

        Args:
            symmetry: Of the networks to read.
            shapes: Name → shape of their floating-point tensors.
            channels: Numbers at each entry of each space.
            depth: Equivariant layers.
            hops: See :class:`Products`; 0 for sizes alone.
            features: Length of the invariant vector.
            outputs: Numbers predicted from it, linearly.
            dropout: In the head.
            rank: See :class:`EquivariantMap`.

        Raises:
            ValueError: The symmetry belongs to another network.
        """
        super().__init__()
        self.places = Spaces(symmetry, shapes)
        self.odd = self.places.odd_channels()
        for number, width in enumerate(self.places.widths):
            self.register_buffer(f"centre{number}", torch.zeros(width))
            self.register_buffer(f"spread{number}", torch.ones(width))
        self.products = Products(self.places, channels, hops) if hops else None
        spaces: Sequence[Space] = self.products.spaces if self.products else self.places.spaces
        more = self.products.widths if self.products else [0] * len(spaces)
        weights = [*self.places.widths, *[0] * (len(spaces) - len(self.places.widths))]
        inputs = [3 * width + extra for width, extra in zip(weights, more, strict=True)]
        hidden = [channels] * len(spaces)
        self.layers = nn.ModuleList(
            EquivariantMap(spaces, inputs if number == 0 else hidden, hidden, rank=rank) for number in range(depth)
        )
        self.norms = nn.ModuleList(nn.ModuleList(nn.LayerNorm(channels) for _ in spaces) for _ in range(depth))
        self.head = nn.Sequential(
            nn.LayerNorm(len(spaces) * channels),
            nn.Dropout(dropout),
            nn.Linear(len(spaces) * channels, features),
            nn.GELU(),
            nn.Dropout(dropout),
        )
        self.output = nn.Linear(features, outputs)

    @torch.no_grad()
    def standardise(self, stacked: Mapping[str, Tensor]) -> None:
        """Take every channel's spread (and mean, where signs do not flip) from training models ``[m, …]``."""
        for number, value in enumerate(self._gather(stacked)):
            value = value.flatten(0, -2)
            centre = torch.where(self.odd[number], torch.zeros(()), value.mean(dim=0))
            spread = (value - centre).square().mean(dim=0).sqrt()
            self.get_buffer(f"centre{number}").copy_(centre)
            self.get_buffer(f"spread{number}").copy_(torch.where(spread > 0, spread, torch.ones(())))

    def features(self, stacked: Mapping[str, Tensor]) -> Tensor:
        """Invariant vectors ``[m, features]`` of models ``[m, …]``."""
        scaled = [
            (value - self.get_buffer(f"centre{number}")) / self.get_buffer(f"spread{number}")
            for number, value in enumerate(self._gather(stacked))
        ]
        values = [_sizes(value, odd) for value, odd in zip(scaled, self.odd, strict=True)]
        if self.products is not None:
            products = self.products([value.clamp(-_LARGEST, _LARGEST) for value in scaled])
            values += [value for value in products[len(values) :] if value is not None]
            values = [
                value if product is None or value is product else torch.cat([value, product], dim=-1)
                for value, product in zip(values, products, strict=True)
            ]
        values = self.layers[0](values)
        for layer, norms in zip(self.layers[1:], self.norms, strict=False):
            changes = layer([F.gelu(norm(value)) for norm, value in zip(_list(norms), values, strict=True)])
            values = [value + change for value, change in zip(values, changes, strict=True)]
        values = [F.gelu(norm(value)) for norm, value in zip(_list(self.norms[-1]), values, strict=True)]
        pooled = [value.flatten(1, -2).mean(dim=1) if value.ndim > 2 else value for value in values]
        result: Tensor = self.head(torch.cat(pooled, dim=-1))
        return result

    def forward(self, stacked: Mapping[str, Tensor]) -> Tensor:
        """Predictions ``[m, outputs]`` for models ``[m, …]``."""
        result: Tensor = self.output(self.features(stacked))
        return result

    def _gather(self, stacked: Mapping[str, Tensor]) -> list[Tensor]:
        return self.places.gather({name: stacked[name].float()[:, None] for name in self.places.shapes})


def _list(modules: nn.Module) -> nn.ModuleList:
    assert isinstance(modules, nn.ModuleList)
    return modules


def _sizes(value: Tensor, odd: Tensor) -> Tensor:
    """Three views of each channel: as it is, compressed, and the logarithm of its size; even where signs flip."""
    plain = torch.where(odd, value.abs(), value)
    compressed = plain.sign() * plain.abs().log1p()
    logarithm = (value.abs() + _SMALLEST).log()
    return torch.cat([plain.clamp(-_LARGEST, _LARGEST), compressed, logarithm], dim=-1)
