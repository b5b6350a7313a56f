"""Modules rebuilt from the names and shapes of a state dict, so that they can be traced."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from sane_engine.symmetry.spec import Symmetry

Shapes = dict[str, tuple[int, ...]]

_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


class Unknown(Exception):
    """A family does not fit, and why."""


@dataclass(frozen=True)
class Rebuilt:
    """A network of a known family.

    Attributes:
        module: With exactly the tensors that were given.
        example: An input for it.
        restrict: What the shapes leave open is taken out of the symmetry here.
    """

    module: nn.Module
    example: Tensor
    restrict: Callable[[Symmetry], Symmetry] = lambda symmetry: symmetry


def layer(shapes: Shapes, prefix: str, groups: int = 1) -> nn.Module:
    """The layer a prefix stands for: convolution, linear layer or batch norm."""
    weight, bias = shapes[f"{prefix}.weight"], f"{prefix}.bias" in shapes
    if len(weight) == 4 and all(weight):
        inputs, padding = weight[1] * groups, (weight[2] // 2, weight[3] // 2)
        return nn.Conv2d(inputs, weight[0], weight[2:], padding=padding, groups=groups, bias=bias)
    if len(weight) == 2 and all(weight):
        return nn.Linear(weight[1], weight[0], bias=bias)
    if len(weight) == 1 and all(weight) and f"{prefix}.running_var" in shapes:
        return nn.BatchNorm2d(weight[0])
    raise Unknown(f"{prefix} is no convolution, linear layer or batch norm")


def prefixes(shapes: Shapes) -> list[str]:
    """Names of the layers, in file order."""
    if bad := [name for name in shapes if name.rpartition(".")[2] not in _NORM]:
        raise Unknown(f"{bad[0]} belongs to no known layer")
    return list(dict.fromkeys(name.rpartition(".")[0] for name in shapes))


def hang(root: nn.Module, prefix: str, child: nn.Module) -> None:
    """Put a layer where its name says."""
    *path, last = prefix.split(".")
    for part in path:
        if not hasattr(root, part):
            root.add_module(part, nn.Module())
        root = getattr(root, part)
    if hasattr(root, last):
        raise Unknown(f"{prefix} stands where another layer does")
    root.add_module(last, child)
