"""The symmetry of a state dict that comes without its module: known families, told by names and proven by shapes.

A family rebuilds a module from the tensors' names and shapes; the module's own state dict must then have exactly
the same names and shapes. Which activation stood between two layers cannot be seen, so no sign flips are claimed.
Shapes do not show a skip connection: a plain chain is accepted only if no hidden layer keeps its width, or if it is
named like a VGG.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from sane_engine.symmetry.spec import Symmetry
from sane_engine.symmetry.tracing import find_symmetry

_UNKNOWN = "unknown: not aligned"
_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_CHAIN_NAME = re.compile(r"^(\w+\.)?\w+$")
_RESIDUAL_NAME = re.compile(r"res|block|shortcut|downsample|skip|attn|dense|layer\d+\.\d+|branch", re.I)


class _Unknown(Exception):
    """This family does not fit."""


def symmetry_of_tensors(tensors: Mapping[str, Tensor]) -> Symmetry:
    """The symmetry of a plain chain (MLP, CNN, VGG) or a ResNet, from its state dict alone.

    Args:
        tensors: Tensor name → tensor, in file order.

    Returns:
        The symmetry without sign flips; a trivial one whose note says "unknown: not aligned" where no family fits.
    """
    reasons = []
    for name, build in _FAMILIES.items():
        try:
            module, example = build({key: tuple(tensor.shape) for key, tensor in tensors.items()})
        except (_Unknown, IndexError, KeyError, ValueError) as error:
            reasons.append(f"{name}: {error}")
            continue
        shapes = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
        counters = {key for key in shapes if key.endswith("num_batches_tracked") and key not in tensors}
        if {k: s for k, s in shapes.items() if k not in counters} != {
            k: tuple(t.shape) for k, t in tensors.items()
        }:
            reasons.append(f"{name}: the rebuilt module has other tensors")
            continue
        return without_signs(find_symmetry(module, example))
    return Symmetry((), (), {}, (f"{_UNKNOWN} ({'; '.join(reasons)})",))


def without_signs(symmetry: Symmetry) -> Symmetry:
    """The same symmetry, where the order may change but no sign."""
    tensors = {
        name: tuple(tuple(tuple(replace(f, sign=None) for f in segment) for segment in axis) for axis in axes)
        for name, axes in symmetry.tensors.items()
    }
    return Symmetry(symmetry.groups, (), tensors, symmetry.notes)


Shapes = dict[str, tuple[int, ...]]


def _layer(shapes: Shapes, prefix: str, stride: int = 1) -> nn.Module:
    """The layer a prefix stands for: convolution, linear layer or batch norm."""
    weight, bias = shapes[f"{prefix}.weight"], f"{prefix}.bias" in shapes
    if len(weight) == 4 and weight[0] > 0:
        return nn.Conv2d(weight[1], weight[0], weight[2:], stride, (weight[2] // 2, weight[3] // 2), bias=bias)
    if len(weight) == 2:
        return nn.Linear(weight[1], weight[0], bias=bias)
    if len(weight) == 1 and f"{prefix}.running_var" in shapes:
        return nn.BatchNorm2d(weight[0])
    raise _Unknown(f"{prefix} is no convolution, linear layer or batch norm")


def _prefixes(shapes: Shapes) -> list[str]:
    if bad := [name for name in shapes if name.rpartition(".")[2] not in _NORM]:
        raise _Unknown(f"{bad[0]} belongs to no known layer")
    return list(dict.fromkeys(name.rpartition(".")[0] for name in shapes))


def _hang(root: nn.Module, prefix: str, layer: nn.Module) -> None:
    *path, last = prefix.split(".")
    for part in path:
        if not hasattr(root, part):
            root.add_module(part, nn.Module())
        root = getattr(root, part)
    root.add_module(last, layer)


class _Chain(nn.Module):
    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        self.order = _prefixes(shapes)
        width = 0
        vgg = all(re.match(r"(features|classifier)\.\d+$", prefix) for prefix in self.order)
        last = self.order[-1]
        self.ratio: dict[str, int] = {}
        for prefix in self.order:
            if not _CHAIN_NAME.match(prefix) or (_RESIDUAL_NAME.search(prefix) and not vgg):
                raise _Unknown(f"{prefix} is not named like a layer of a chain")
            layer = _layer(shapes, prefix)
            weight = shapes[f"{prefix}.weight"]
            if isinstance(layer, nn.BatchNorm2d):
                if weight[0] != width:
                    raise _Unknown(f"{prefix} does not follow a layer of its width")
            else:
                if width and weight[1] % width:
                    raise _Unknown(f"{prefix} does not take what comes before it")
                ratio = weight[1] // width if width else 1
                if ratio != 1 and len(weight) != 2:
                    raise _Unknown(f"{prefix} does not take what comes before it")
                if width and ratio == 1 and weight[0] == width and prefix != last and not vgg:
                    raise _Unknown(f"{prefix} keeps its width, so a skip connection cannot be excluded")
                self.ratio[prefix], width = ratio, weight[0]
            _hang(self, prefix, layer)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.ndim == 2
        for i, prefix in enumerate(self.order):
            layer = self.get_submodule(prefix)
            if isinstance(layer, nn.Linear) and not flat:
                x, flat = nn.functional.adaptive_avg_pool2d(x, (self.ratio[prefix], 1)).flatten(1), True
            x = layer(x[..., None, None]).flatten(1) if flat and isinstance(layer, nn.BatchNorm2d) else layer(x)
            x = torch.relu(x) if i + 1 < len(self.order) else x
        return x


def _chain(shapes: Shapes) -> tuple[nn.Module, Tensor]:
    module = _Chain(shapes)
    first = shapes[f"{module.order[0]}.weight"]
    return module, torch.randn(2, first[1], *((8, 8) if len(first) == 4 else ()))


class _ResNet(nn.Module):
    """torchvision's, timm's and the CIFAR variants' names: conv1, bn1, layer1.0.conv1, …, fc or linear."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        self.blocks: dict[str, list[str]] = {}
        self.cut = ""
        for prefix in _prefixes(shapes):
            block = re.match(r"layer\d+\.\d+(?=\.(conv|bn)\d$|\.(downsample|shortcut)\.[01]$)", prefix)
            if block:
                self.blocks.setdefault(block.group(), []).append(prefix.removeprefix(f"{block.group()}."))
            elif prefix not in ("conv1", "bn1", "fc", "linear"):
                raise _Unknown(f"{prefix} is not part of a ResNet")
            _hang(self, prefix, _layer(shapes, prefix))
        self.head = "fc" if hasattr(self, "fc") else "linear"
        if not self.blocks or not all(hasattr(self, name) for name in ("conv1", "bn1", self.head)):
            raise _Unknown("a stem, residual blocks or a head is missing")

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.get_submodule("bn1")(self.get_submodule("conv1")(x)))
        for block, layers in self.blocks.items():
            y, shortcut = x, x
            depth = sum(name.startswith("conv") for name in layers)
            for i in range(1, depth + 1):
                y = self.get_submodule(f"{block}.bn{i}")(self.get_submodule(f"{block}.conv{i}")(y))
                y = torch.relu(y) if i < depth else y
            for name in layers:
                if name.startswith(("downsample", "shortcut")):
                    shortcut = self.get_submodule(f"{block}.{name}")(shortcut)
            if shortcut.shape != y.shape:
                raise _Unknown(f"{block} changes its width without a projection")
            x = torch.relu(y + shortcut)
        out: Tensor = self.get_submodule(self.head)(x.mean((2, 3)))
        return out


def _resnet(shapes: Shapes) -> tuple[nn.Module, Tensor]:
    module, example = _ResNet(shapes), torch.randn(2, shapes["conv1.weight"][1], 8, 8)
    with torch.no_grad():
        module.eval()(example)
    return module, example


_FAMILIES: dict[str, Callable[[Shapes], tuple[nn.Module, Tensor]]] = {"ResNet": _resnet, "plain chain": _chain}
