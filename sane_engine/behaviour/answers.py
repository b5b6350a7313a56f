"""How networks answer noise: paths, activations of each layer, outputs. All of many networks at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sane_engine.behaviour.networks import weight_names

INPUTS = 96
"""Images of each kind of noise, the same for all models."""

SMOOTHNESS = 3
"""Pixels of smooth noise for each that is drawn, along a side."""

_SMOOTH = 1.5
_TINY = 1e-12
# Beyond this a tanh has all but stopped to answer.
_SATURATED = 2.0
_LARGEST = 38.0


def noise(shape: tuple[int, ...], seed: int) -> tuple[Tensor, Tensor]:
    """White noise, and noise that is smooth as images are: a network answers to the two differently."""
    return white_and_smooth(shape, INPUTS, torch.Generator().manual_seed(seed), least=2)


def white_and_smooth(
    shape: tuple[int, ...], count: int, generator: torch.Generator, *, least: int = 1
) -> tuple[Tensor, Tensor]:
    """Both kinds of noise, ``[count, c, h, w]`` each.

    Args:
        shape: Channels, height and width.
        count: Images of each kind.
        generator: Draws them.
        least: Values that smooth noise is made from along a side, at least.
    """
    white = torch.randn(count, *shape, generator=generator)
    sides = (max(least, (side + SMOOTHNESS - 1) // SMOOTHNESS) for side in shape[1:])
    coarse = torch.randn(count, shape[0], *sides, generator=generator)
    return white, _SMOOTH * F.interpolate(coarse, size=shape[1:], mode="bilinear")


@torch.no_grad()
def answers(outputs: Sequence[list[Tensor]], stacked: Mapping[str, Tensor], *, signs: bool = True) -> Tensor:
    """Numbers of many networks' answers: float32 ``[m, layers + kinds · (5 · layers + 11)]``.

    First the log path norm up to each layer. Then, for each kind of noise, of each layer: logarithms of the mean
    absolute pre-activation, of its standard deviation over units and over inputs, the share that is saturated and
    the share that is negative; and of the outputs: mean, spread and quantiles of the entropy, the largest
    probability and margin, spread over classes and inputs, how often the commonest class wins, and how many classes
    ever win.

    Args:
        outputs: For each kind of noise, those of all layers, ``[m, inputs, …]`` each; see
            :func:`~sane_engine.behaviour.networks.runner`.
        stacked: The networks' tensors, ``[m, …]``.
        signs: ``False`` makes every number independent of the signs of units, which with an odd activation mean
            nothing: root mean squares over units in place of standard deviations, and how uneven the shares of
            negative values of units are in place of their mean.
    """
    parts = [path_norms(stacked)]
    for layers in outputs:
        parts += [_of_layer(out, signs) for out in layers] + [_of_outputs(layers[-1])]
    return torch.cat(parts, dim=1).float()


def log10(values: Tensor) -> Tensor:
    """log10 with a floor, of what may have overflown."""
    return (values + _TINY).log10().nan_to_num(_LARGEST, _LARGEST, -_LARGEST)


def path_norms(stacked: Mapping[str, Tensor]) -> Tensor:
    """log10 of the mean over units of the sum over paths of products of |w|, up to each layer, without biases.

    Returns:
        ``[m, layers]``. Where a layer does not fit on the one before it (shortcuts), the mean goes on.
    """
    size: Tensor | None = None
    values = []
    for name in weight_names(stacked):
        rows = stacked[name].abs().double()
        rows = rows.flatten(3).sum(dim=3) if rows.dim() > 3 else rows
        if size is None:
            size = torch.ones(len(rows), rows.shape[2], dtype=torch.float64)
        # Flattened images: each channel stands for a run of inputs. A convolution has no such runs.
        flattened = stacked[name].dim() == 3 and rows.shape[2] % size.shape[1] == 0
        if rows.shape[2] != size.shape[1] and not flattened:
            size = size.mean(dim=1, keepdim=True)
        rows = rows.reshape(*rows.shape[:2], size.shape[1], -1).sum(dim=3)
        size = torch.einsum("moi,mi->mo", rows, size)
        values.append(log10(size.mean(dim=1)))
    return torch.stack(values, dim=1)


def _of_layer(out: Tensor, signs: bool) -> Tensor:
    """Five numbers of pre-activations ``[m, inputs, units, …]``: ``[m, 5]``."""
    flat = out.flatten(1)
    units = out.flatten(3).mean(dim=3) if out.dim() > 3 else out
    means = units.mean(dim=1)
    if signs:
        over_units, negative = means.std(dim=1), (flat < 0).float().mean(dim=1)
    else:
        shares = (out < 0).float().transpose(1, 2).flatten(2).mean(dim=2)
        over_units, negative = means.square().mean(dim=1).sqrt(), (shares - 0.5).abs().mean(dim=1)
    return torch.stack(
        (
            log10(flat.abs().mean(dim=1)),
            log10(over_units),
            log10(units.std(dim=1).mean(dim=1)),
            (flat.abs() > _SATURATED).float().mean(dim=1),
            negative,
        ),
        dim=1,
    )


def _of_outputs(logits: Tensor) -> Tensor:
    """Eleven numbers of outputs ``[m, inputs, classes]``: ``[m, 11]``."""
    finite = torch.nan_to_num(logits, nan=0.0, posinf=1e30, neginf=-1e30)
    chances = finite.softmax(dim=2)
    entropy = -(chances * chances.clamp(min=_TINY).log()).sum(dim=2)
    top = chances.topk(min(2, chances.shape[2]), dim=2).values
    counts = F.one_hot(finite.argmax(dim=2), finite.shape[2]).float().mean(dim=1)
    return torch.stack(
        (
            entropy.mean(dim=1),
            entropy.std(dim=1),
            *torch.quantile(entropy, torch.tensor([0.1, 0.5, 0.9]), dim=1),
            top[..., 0].mean(dim=1),
            (top[..., 0] - top[..., -1]).mean(dim=1),
            log10(finite.std(dim=2).mean(dim=1)),
            log10(finite.std(dim=1).mean(dim=1)),
            counts.amax(dim=1),
            (counts > 0).float().mean(dim=1),
        ),
        dim=1,
    )
