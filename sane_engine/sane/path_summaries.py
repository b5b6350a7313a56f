"""What reaches each layer of a plain chain from its input, told from the weights alone.

Sizes of single layers say little of a network; what counts is how signals grow and saturate on their way through
all of them. Three things are followed from layer to layer: the sum over paths of products of absolute weights (path
norm; Neyshabur et al. 2015, arXiv:1503.00036), the variance that independent inputs of variance 1 would have, with
and without saturation by a sigmoidal unit (mean field; Poole et al. 2016, arXiv:1606.05340), and the product of the
matrices. Kernels are summed over their window. No forward pass is made and no architecture is needed; none of the
numbers changes when hidden units are permuted or change sign.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sane_engine.tokens import TokenBatch

PATHS = 11
"""Numbers a layer."""

LARGEST = 2048
"""Units from which on the product of the matrices is not followed."""

_FLOOR = 1e-12


def path_summaries(batch: TokenBatch) -> Tensor:
    """Numbers of each layer of each model: float64 ``[m, L, PATHS]``; NaN from where the chain breaks.

    Of a layer's units: log mean path norm and its spread, log root mean square path and its spread, the mean,
    spread and maximum of the log standard deviation of pre-activations that saturate, the share of the bias in it;
    of the product of the matrices so far: largest, mean and fourth log singular value.
    """
    m = len(batch.tokens)
    first = next(slot for slot in batch.layout.slots if slot.name == batch.layout.layers[0].members[0])
    absolute = squares = saturated = torch.ones(m, first.width, dtype=torch.float64)
    product: Tensor | None = None
    parts: list[Tensor] = []
    for layer in batch.layout.layers:
        rows = batch.tokens[:, layer.start : layer.stop].reshape(m, layer.rows, -1)[..., : layer.width].double()
        lead = next(slot for slot in batch.layout.slots if slot.name == layer.members[0])
        matrix, bias = rows[..., : lead.width], rows[..., lead.width :].sum(dim=2)
        units = absolute.shape[1]
        if lead.width % units:
            unknown = torch.full((m, len(batch.layout.layers) - len(parts), PATHS), torch.nan, dtype=torch.float64)
            return torch.cat((torch.stack(parts, dim=1), unknown), dim=1) if parts else unknown
        # The inputs of one unit of the layer before stand together: a kernel, or a flattened image.
        kernels = matrix.reshape(m, layer.rows, units, lead.width // units)
        absolute = _through(kernels.abs().sum(dim=3), absolute)
        squares = _through(kernels.square().sum(dim=3), squares)
        variance = _through(kernels.square().sum(dim=3), saturated) + bias.square()
        size = _log(variance) / 2
        # The variance of erf of a Gaussian (Williams 1998), close to that of tanh.
        saturated = (2 / math.pi) * torch.asin(2 * variance / (1 + 2 * variance))
        summed = kernels.sum(dim=3)
        product = matrix if product is None else summed @ product
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
                    (_log(bias.square().mean(dim=1)) - _log(variance.mean(dim=1))) / 2,
                    *_singular(product),
                ),
                dim=1,
            )
        )
    return torch.stack(parts, dim=1)


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
