"""What networks do with noise: numbers computed from weights and architecture, without data or labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.func import vmap
from torch.nn import functional as F

from sane_engine.zoo.activations import ACTIVATION_FUNCTIONS
from sane_engine.zoo.architectures import SmallCNN, as_architecture, build
from sane_engine.zoo.spec import ArchitectureSpec, SpecError

if TYPE_CHECKING:
    from sane_engine.sane.training_set import Rows
    from sane_engine.zoo import Zoo

INPUTS = 64
"""Standard normal images, the same for all models."""

OF_LAYER, OF_OUTPUT = 6, 8
BEHAVIOUR = OF_LAYER + OF_OUTPUT
"""Numbers a layer."""

MODELS_AT_ONCE = 64
_SATURATED = 2.0
_FLOOR = 1e-12


def runnable(zoo: Zoo, rows: Rows) -> dict[str, Any] | None:
    """How to run some models of one layout; ``None`` unless they are plain chains that share an activation."""
    try:
        architecture = as_architecture(zoo.architecture or {})
    except (SpecError, TypeError, ValueError):
        return None
    if not isinstance(architecture, ArchitectureSpec):
        return None
    if {p.name: p.shape for p in zoo.signature(int(rows[0]))} != dict(architecture.shapes):
        return None
    told = set(zoo.table["activation"].iloc[rows]) if "activation" in zoo.table else {architecture.activation}
    if len(told) > 1 or not told <= set(ACTIVATION_FUNCTIONS):
        return None
    return replace(architecture, activation=told.pop()).to_json()


@torch.no_grad()
def noise_behaviour(architecture: Mapping[str, Any], stacked: Mapping[str, Tensor]) -> Tensor:
    """Behaviour of models of one layout: float32 ``[m, layers, BEHAVIOUR]``.

    Of each layer: logarithms of the mean absolute pre-activation and of its spread over units and over inputs, the
    shares that are saturated and negative, the log path norm up to there. Of the outputs, with the last layer
    (NaN with the others): quantiles, mean and spread of their entropy, the mean largest probability and margin, how
    often the commonest class wins.

    Args:
        architecture: What :func:`runnable` gave.
        stacked: Tensor name → ``[m, …]``.
    """
    network = build(architecture)
    assert isinstance(network, SmallCNN)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(INPUTS, *network.architecture.input_shape, generator=generator)
    tensors = {name: stacked[name].float() for name in network.architecture.shapes}
    m = len(next(iter(tensors.values())))
    chunks = [slice(first, first + MODELS_AT_ONCE) for first in range(0, m, MODELS_AT_ONCE)]
    return torch.cat([_of_models(network, {n: t[rows] for n, t in tensors.items()}, noise) for rows in chunks])


def _of_models(network: SmallCNN, stacked: Mapping[str, Tensor], noise: Tensor) -> Tensor:
    names = (*network.convolution_names, *network.fully_connected_names)

    def layers(tensors: dict[str, Tensor]) -> list[Tensor]:
        hidden, seen = noise, []
        for name in names:
            module: Any = network.get_submodule(name)
            weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
            if name in network.convolution_names:
                out = F.conv2d(hidden, weight, bias, module.stride, module.padding)
            else:
                out = F.linear(hidden.flatten(1), weight, bias)
            seen.append(out)
            hidden = network.activation(out)
        return seen

    outputs = vmap(layers)(dict(stacked))
    of_layers = torch.stack([_of_layer(out) for out in outputs], dim=1)
    of_layers = torch.cat((of_layers, _path_norms(names, stacked)[..., None]), dim=2)
    of_outputs = torch.full((len(of_layers), len(names), OF_OUTPUT), torch.nan)
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


def _path_norms(names: tuple[str, ...], stacked: Mapping[str, Tensor]) -> Tensor:
    """Log of the mean over units of the sum over paths of products of |w|, up to each layer: ``[m, layers]``."""
    size: Tensor | None = None
    parts = []
    for name in names:
        weight = stacked[f"{name}.weight"].abs().double()
        if weight.ndim > 3:
            weight = weight.flatten(3).sum(dim=3)
        if size is None:
            size = torch.ones(len(weight), weight.shape[2], dtype=torch.float64)
        # Flattened images: each channel stands for a run of inputs.
        weight = weight.reshape(len(weight), weight.shape[1], size.shape[1], -1).sum(dim=3)
        size = torch.einsum("moi,mi->mo", weight, size)
        parts.append(_log(size.mean(dim=1)))
    return torch.stack(parts, dim=1).float()


def _of_outputs(logits: Tensor) -> Tensor:
    """Eight numbers of outputs ``[m, inputs, classes]``."""
    chances = logits.softmax(dim=2)
    entropy = -(chances * _log(chances)).sum(dim=2)
    top = chances.topk(min(2, chances.shape[2]), dim=2).values
    winners = F.one_hot(logits.argmax(dim=2), logits.shape[2]).float().mean(dim=1)
    levels = torch.quantile(entropy, torch.tensor([0.1, 0.5, 0.9]), dim=1).T
    rest = (entropy.mean(1), entropy.std(1), top[..., 0].mean(1), (top[..., 0] - top[..., -1]).mean(1))
    return torch.cat((levels, torch.stack((*rest, winners.amax(dim=1)), dim=1)), dim=1)
