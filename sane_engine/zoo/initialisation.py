"""Weights before training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from math import prod, sqrt
from typing import Any

import torch
from torch import Tensor, nn

from sane_engine.zoo.architecture_families import Architecture


def _uniform(weight: Tensor, *, generator: torch.Generator) -> Tensor:
    bound = 1 / sqrt(weight[0].numel())
    return weight.uniform_(-bound, bound, generator=generator)


def _normal(weight: Tensor, *, generator: torch.Generator) -> Tensor:
    return weight.normal_(0, 1 / sqrt(weight[0].numel()), generator=generator)


# The gain stays that of a ReLU for Kaiming and 1 for Xavier, whatever the activation: the schemes shall differ.
_SCHEMES: Mapping[str, Callable[..., Any]] = {
    "uniform": _uniform,
    "normal": _normal,
    "kaiming_uniform": partial(nn.init.kaiming_uniform_, nonlinearity="relu"),
    "kaiming_normal": partial(nn.init.kaiming_normal_, nonlinearity="relu"),
    "xavier_uniform": nn.init.xavier_uniform_,
    "xavier_normal": nn.init.xavier_normal_,
}


def initialise(architecture: Architecture, scheme: str, seed: int) -> dict[str, Tensor]:
    """Draw the parameters of one network.

    Biases are uniform in ±1/√fan_in under every scheme, as ``torch.nn`` draws them: a bias that starts at exactly
    zero would tell how long a model was trained. Batch norm begins as the identity.

    Args:
        architecture: The network.
        scheme: ``uniform`` (±1/√fan_in, torch's own default), ``normal`` (standard deviation 1/√fan_in), or a
            Kaiming or Xavier variant.
        seed: The same seed gives the same parameters.

    Returns:
        Parameter or buffer name → tensor, float32 except for counters, in the order of the state dict.
    """
    generator = torch.Generator().manual_seed(seed)
    parameters: dict[str, Tensor] = {}
    fan_in = 1
    norms = set(architecture.norms)
    with torch.no_grad():
        for name, shape in architecture.shapes.items():
            parameter = torch.empty(shape)
            module, _, leaf = name.rpartition(".")
            if module in norms:
                parameter = torch.full(shape, 1.0 if leaf in ("weight", "running_var") else 0.0)
                if name in architecture.counters:
                    parameter = parameter.long()
            elif len(shape) > 1:
                fan_in = prod(shape[1:])
                _SCHEMES[scheme](parameter, generator=generator)
            else:
                # The bias follows its weight, so this is still the weight's fan-in.
                parameter.uniform_(-1 / sqrt(fan_in), 1 / sqrt(fan_in), generator=generator)
            parameters[name] = parameter
    return parameters
