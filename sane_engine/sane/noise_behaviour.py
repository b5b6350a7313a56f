"""What networks do with noise: numbers computed from weights and architecture, without data or labels.

Targets of the auxiliary head, where the zoo says how to run its models.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.func import vmap
from torch.nn import functional as F

from sane_engine.zoo.activations import ACTIVATION_FUNCTIONS
from sane_engine.zoo.architectures import SmallCNN, as_architecture, build
from sane_engine.zoo.spec import SpecError

if TYPE_CHECKING:
    from sane_engine.sane.training_set import Rows
    from sane_engine.zoo import Zoo

INPUTS = 64
"""Standard normal images, the same for all models."""

MODELS_AT_ONCE = 64
_SATURATED = 2.0
_FLOOR = 1e-12


@torch.no_grad()
def noise_behaviour(zoo: Zoo, rows: Rows) -> Tensor | None:
    """Behaviour of some models of one layout: float32 ``[len(rows), k]``; ``None`` unless they are plain chains.

    Of each layer: logarithms of the mean absolute pre-activation and of its spread over units and over inputs, the
    shares that are saturated and negative, the log path norm up to there. Of the outputs: quantiles, mean and
    spread of their entropy, the mean largest probability and margin, how often the commonest class wins.
    """
    try:
        architecture = as_architecture(zoo.architecture or {})
    except (SpecError, TypeError, ValueError):
        return None
    network = build(architecture)
    if not isinstance(network, SmallCNN):
        return None
    if {p.name: p.shape for p in zoo.signature(int(rows[0]))} != dict(architecture.shapes):
        return None
    noise = torch.randn(INPUTS, *architecture.input_shape, generator=torch.Generator().manual_seed(0))
    told = zoo.table["activation"].to_numpy() if "activation" in zoo.table else [architecture.activation] * len(zoo)
    parts = []
    for first in range(0, len(rows), MODELS_AT_ONCE):
        some = rows[first : first + MODELS_AT_ONCE]
        stacked = {name: tensor.float() for name, tensor in zoo.stacked(some).items()}
        found = torch.empty(0)
        for activation in sorted({str(told[row]) for row in some}):
            mine = torch.tensor([str(told[row]) == activation for row in some])
            values = _of_models(network, {n: t[mine] for n, t in stacked.items()}, noise, activation)
            found = found if len(found) else torch.zeros(len(some), values.shape[1])
            found[mine] = values
        parts.append(found)
    return torch.cat(parts)


def _of_models(network: SmallCNN, stacked: Mapping[str, Tensor], noise: Tensor, activation: str) -> Tensor:
    function = ACTIVATION_FUNCTIONS.get(activation, network.activation)

    def layers(tensors: dict[str, Tensor]) -> list[Tensor]:
        hidden, seen = noise, []
        for name in (*network.convolution_names, *network.fully_connected_names):
            module: Any = network.get_submodule(name)
            weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
            if name in network.convolution_names:
                out = F.conv2d(hidden, weight, bias, module.stride, module.padding)
            else:
                out = F.linear(hidden.flatten(1), weight, bias)
            seen.append(out)
            hidden = function(out)
        return seen

    outputs = vmap(layers)(dict(stacked))
    parts = [_of_layer(out) for out in outputs]
    return torch.cat([*parts, _path_norms(network, stacked), _of_outputs(outputs[-1])], dim=1).nan_to_num(0.0)


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


def _path_norms(network: SmallCNN, stacked: Mapping[str, Tensor]) -> Tensor:
    """Log of the mean over units of the sum over paths of products of |w|, up to each layer: ``[m, layers]``."""
    size: Tensor | None = None
    parts = []
    for name in (*network.convolution_names, *network.fully_connected_names):
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
