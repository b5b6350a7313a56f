"""What networks do with noise: numbers computed from weights and architecture, without data or labels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sane_engine.behaviour.answers import path_norms
from sane_engine.behaviour.networks import runner
from sane_engine.zoo.architecture_families import Architecture
from sane_engine.zoo.architectures import as_architecture

INPUTS = 64
"""Standard normal images, the same for all models."""

OF_LAYER, OF_OUTPUT = 6, 8
BEHAVIOUR = OF_LAYER + OF_OUTPUT
"""Numbers a layer."""

MODELS_AT_ONCE = 64
_SATURATED = 2.0
_FLOOR = 1e-12


@torch.no_grad()
def noise_behaviour(architecture: Mapping[str, Any], stacked: Mapping[str, Tensor]) -> Tensor:
    """Behaviour of models of one layout: float32 ``[m, layers, BEHAVIOUR]``.

    Of each layer: logarithms of the mean absolute pre-activation and of its spread over units and over inputs, the
    shares that are saturated and negative, the log path norm up to there. Of the outputs, with the last layer
    (NaN with the others): quantiles, mean and spread of their entropy, the mean largest probability and margin, how
    often the commonest class wins.

    Args:
        architecture: What :func:`~sane_engine.behaviour.networks.runnable` gave.
        stacked: Tensor name → ``[m, …]``.
    """
    known = as_architecture(architecture)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(INPUTS, *known.input_shape, generator=generator)
    tensors = {name: stacked[name].float() for name in known.shapes}
    m = len(next(iter(tensors.values())))
    chunks = [slice(first, first + MODELS_AT_ONCE) for first in range(0, m, MODELS_AT_ONCE)]
    return torch.cat([_of_models(known, {n: t[rows] for n, t in tensors.items()}, noise) for rows in chunks])


def _of_models(architecture: Architecture, stacked: Mapping[str, Tensor], noise: Tensor) -> Tensor:
    outputs = runner(architecture, stacked)(noise)
    of_layers = torch.stack([_of_layer(out) for out in outputs], dim=1)
    paths = (path_norms(stacked) * math.log(10)).float()
    of_layers = torch.cat((of_layers, paths[..., None]), dim=2)
    of_outputs = torch.full((len(of_layers), len(outputs), OF_OUTPUT), torch.nan)
    of_outputs[:, -1] = _of_outputs(outputs[-1])
    return torch.cat((of_layers, of_outputs), dim=2)


def _of_layer(out: Tensor) -> Tensor:
    """Five numbers of pre-activations ``[m, inputs, units, …]``."""
    flat = out.flatten(1)
    units = out.flatten(3).mean(dim=3) if out.ndim > 3 else out
    return torch.stack(
        (
            _log(flat.abs().mean(dim=1)),
            _log(units.mean(dim=1).std(dim=1)),
            _log(units.std(dim=1).mean(dim=1)),
            (flat.abs() > _SATURATED).float().mean(dim=1),
            (flat < 0).float().mean(dim=1),
        ),
        dim=1,
    )


def _log(values: Tensor) -> Tensor:
    return values.clamp(min=_FLOOR).log()


def _of_outputs(logits: Tensor) -> Tensor:
    """Eight numbers of outputs ``[m, inputs, classes]``."""
    chances = logits.softmax(dim=2)
    entropy = -(chances * _log(chances)).sum(dim=2)
    top = chances.topk(min(2, chances.shape[2]), dim=2).values
    winners = F.one_hot(logits.argmax(dim=2), logits.shape[2]).float().mean(dim=1)
    levels = torch.quantile(entropy, torch.tensor([0.1, 0.5, 0.9]), dim=1).T
    rest = (entropy.mean(1), entropy.std(1), top[..., 0].mean(1), (top[..., 0] - top[..., -1]).mean(1))
    return torch.cat((levels, torch.stack((*rest, winners.amax(dim=1)), dim=1)), dim=1)
