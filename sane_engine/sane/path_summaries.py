"""What reaches each layer of a plain chain from its input, and its output from each layer; from the weights alone.

Sizes of single layers say little of a network; what counts is how signals grow and saturate on their way through
all of them. Four things are followed from layer to layer: the sum over paths of products of absolute weights (path
norm; Neyshabur et al. 2015, arXiv:1503.00036), the variance that independent inputs of variance 1 would have, with
and without saturation by a sigmoidal unit (mean field; Poole et al. 2016, arXiv:1606.05340), the product of the
matrices, and noise that is sent in at the layer and goes through the rest of the chain. Kernels are summed over
their places. That is not what the network computes (pooling, strides, and which activation it has are not known),
but near.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sane_engine.sane.chains import Link, chain
from sane_engine.tokens import TokenBatch

REACH = 11
"""Numbers of what reaches a layer."""

OUTPUT = 8
"""Numbers of what a layer sends to the output."""

PATHS = REACH + OUTPUT
"""Numbers a layer."""

LARGEST = 2048
"""Units from which on the product of the matrices is not followed."""

NOISE = 128
"""Noise vectors sent in at each layer, the same for all models."""

_FLOOR = 1e-12


def path_summaries(batch: TokenBatch) -> Tensor:
    """Numbers of each layer of each model: float64 ``[m, L, PATHS]``; NaN where the chain is broken.

    Of what reaches a layer's units: log mean path norm and its spread, log root mean square path and its spread,
    the mean, spread and maximum of the log standard deviation of pre-activations that saturate, the share of the
    bias in it; of the product of the matrices so far: largest, mean and fourth log singular value. Of the outputs
    for noise sent in at this layer: log spread over inputs, of the mean, and over classes; mean and spread of the
    entropy; mean largest probability and margin; how often the commonest class wins.
    """
    links = list(chain(batch))
    found = torch.full((len(batch.tokens), len(batch.layout.layers), PATHS), torch.nan, dtype=torch.float64)
    for number, values in enumerate(_reach(links)):
        found[:, number, :REACH] = values
    # Where the chain breaks off, its last layer is not the output.
    if len(links) == len(batch.layout.layers) and links[-1].kernels.shape[1] > 1:
        for number in range(len(links)):
            found[:, number, REACH:] = _sent(links[number:])
    return found


def _reach(links: list[Link]) -> list[Tensor]:
    """What reaches each layer: ``[m, REACH]`` each."""
    m, _, units, _ = links[0].kernels.shape
    absolute = squares = saturated = torch.ones(m, units, dtype=torch.float64)
    product: Tensor | None = None
    parts: list[Tensor] = []
    for link in links:
        absolute = _through(link.kernels.abs().sum(dim=3), absolute)
        power = link.kernels.square().sum(dim=3)
        squares = _through(power, squares)
        variance = _through(power, saturated) + link.bias.square()
        size = _log(variance) / 2
        # The variance of erf of a Gaussian (Williams 1998), close to that of tanh.
        saturated = (2 / math.pi) * torch.asin(2 * variance / (1 + 2 * variance))
        product = link.kernels.flatten(2) if product is None else link.kernels.sum(dim=3) @ product
        parts.append(
            torch.stack(
                (
                    _log(absolute.mean(dim=1)),
                    _log(absolute).std(dim=1, correction=0),
                    _log(squares.mean(dim=1)) / 2,
                    _log(squares).std(dim=1, correction=0),
                    size.mean(dim=1),
                    size.std(dim=1, correction=0),
                    size.amax(dim=1),
                    (_log(link.bias.square().mean(dim=1)) - _log(variance.mean(dim=1))) / 2,
                    *_singular(product),
                ),
                dim=1,
            )
        )
    return parts


def _sent(links: list[Link]) -> Tensor:
    """What the rest of a chain makes of noise: ``[m, OUTPUT]``."""
    first = links[0].kernels.flatten(2)
    noise = torch.randn(NOISE, first.shape[2], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    out = noise @ first.mT + links[0].bias[:, None]
    for link in links[1:]:
        out = out.tanh() @ link.kernels.sum(dim=3).mT + link.bias[:, None]
    chances = out.softmax(dim=2)
    entropy = -(chances * _log(chances)).sum(dim=2)
    top = chances.topk(2, dim=2).values
    winners = torch.nn.functional.one_hot(out.argmax(dim=2), out.shape[2]).double().mean(dim=1)
    return torch.stack(
        (
            _log(out.std(dim=1).mean(dim=1)),
            _log(out.mean(dim=1).std(dim=1)),
            _log(out.std(dim=2).mean(dim=1)),
            entropy.mean(dim=1),
            entropy.std(dim=1),
            top[..., 0].mean(dim=1),
            (top[..., 0] - top[..., 1]).mean(dim=1),
            winners.amax(dim=1),
        ),
        dim=1,
    )


def _through(weights: Tensor, values: Tensor) -> Tensor:
    return torch.einsum("moi,mi->mo", weights, values)


def _log(values: Tensor) -> Tensor:
    return values.clamp(min=_FLOOR).log()


def _singular(product: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Largest, mean and fourth log singular value, ``[m]`` each."""
    m, rows, width = product.shape
    if min(rows, width) > LARGEST:
        unknown = torch.full((m,), torch.nan, dtype=torch.float64)
        return unknown, unknown, unknown
    gram = product @ product.mT if rows <= width else product.mT @ product
    values = _log(torch.linalg.eigvalsh(gram).flip(1)) / 2
    return values[:, 0], values.mean(dim=1), values[:, min(3, values.shape[1] - 1)]
