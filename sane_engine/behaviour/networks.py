"""Running many networks of a zoo at once, and seeing what each layer makes of its input."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from sane_engine.zoo.activations import ACTIVATION_FUNCTIONS
from sane_engine.zoo.architecture_families import Architecture
from sane_engine.zoo.architecture_spec import ArchitectureSpec, ConvSpec
from sane_engine.zoo.architectures import as_architecture, build, stacked_layers
from sane_engine.zoo.spec import ACTIVATIONS, SpecError

if TYPE_CHECKING:
    from sane_engine.zoo import Zoo

Run = Callable[[Tensor], list[Tensor]]
"""Images ``[b, c, h, w]`` to the outputs ``[m, b, …]`` of each layer of m networks; the last are the logits."""

MODELS_AT_ONCE = 64


def architecture_of(zoo: Zoo) -> Architecture | None:
    """How to run the networks of a zoo; ``None`` where it does not say, or says what does not fit its tensors."""
    try:
        architecture = as_architecture(zoo.architecture or {})
    except (SpecError, TypeError, ValueError):
        return None
    if not zoo.architecture or not len(zoo) or len(zoo.layout_groups()) > 1:
        return None
    shapes = {p.name: p.shape for p in zoo.signature(0)}
    return architecture if shapes == dict(architecture.shapes) else None


def runnable(zoo: Zoo, rows: NDArray[np.int64]) -> dict[str, Any] | None:
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


def by_activation(zoo: Zoo, architecture: Architecture) -> Iterator[tuple[Architecture, NDArray[np.int64]]]:
    """The rows that share an activation, with how to run them; rows that name none have the architecture's own."""
    told = zoo.table["activation"].tolist() if "activation" in zoo.table else []
    known = [name if name in ACTIVATIONS else architecture.activation for name in told]
    names = np.asarray(known or [architecture.activation] * len(zoo), dtype=object)
    for name in sorted(set(names.tolist())):
        yield replace(architecture, activation=name), np.flatnonzero(names == name).astype(np.int64)


def plainest_architecture(shapes: Mapping[str, tuple[int, ...]], *, stride: int = 1) -> ArchitectureSpec | None:
    """The plainest chain that weights of these shapes can belong to: tanh, stride 1, no padding, no pooling.

    For weights of which nothing else is known. The side of the images follows from the first fully connected layer
    backwards.

    Args:
        shapes: Tensor name → shape, of convolutions ``conv1`` … and fully connected layers ``fc1`` ….
        stride: Of the first convolution, if there is one; the images are larger for it.

    Returns:
        ``None`` where the shapes are not those of such a chain.
    """
    kernels = [shapes[n] for n in shapes if n.startswith("conv") and n.endswith(".weight")]
    matrices = [shapes[n] for n in shapes if n.startswith("fc") and n.endswith(".weight")]
    if not matrices or any(len(s) != 4 or s[2] != s[3] for s in kernels) or any(len(s) != 2 for s in matrices):
        return None
    places, channels = matrices[0][1], kernels[-1][0] if kernels else 1
    side = round((places / channels) ** 0.5)
    side += sum(s[2] - 1 for s in kernels[1:])
    side = (side - 1) * stride + kernels[0][2] if kernels else 1
    inputs = (kernels[0][1], side, side) if kernels else (1, 1, places)
    try:
        found = ArchitectureSpec(
            inputs,
            tuple(ConvSpec(s[0], s[2], stride=1 if number else stride) for number, s in enumerate(kernels)),
            tuple(s[0] for s in matrices[:-1]),
            matrices[-1][0],
        )
    except SpecError:
        return None
    return found if {n: tuple(s) for n, s in shapes.items()} == dict(found.shapes) else None


def runner(architecture: Architecture, stacked: Mapping[str, Tensor]) -> Run:
    """How to run m networks on the same images.

    Args:
        architecture: With their activation.
        stacked: Tensor name → float32 ``[m, …]``.

    Returns:
        Outputs are those of convolutions and fully connected layers, before the activation.
    """
    if isinstance(architecture, ArchitectureSpec):
        return lambda images: list(stacked_layers(architecture, stacked, images))
    with torch.device("meta"):
        network = build(architecture)
    return lambda images: _one_by_one(network, stacked, images)


def _one_by_one(network: nn.Module, stacked: Mapping[str, Tensor], images: Tensor) -> list[Tensor]:
    found: list[list[Tensor]] = []
    seen: list[Tensor] = []
    hooks = [module.register_forward_hook(lambda _m, _i, out: seen.append(out)) for module in weighted(network)]
    try:
        for row in range(len(next(iter(stacked.values())))):
            seen.clear()
            functional_call(network, {name: tensor[row] for name, tensor in stacked.items()}, (images,))
            found.append(list(seen))
    finally:
        for hook in hooks:
            hook.remove()
    return [torch.stack(outs) for outs in zip(*found, strict=True)]


def weighted(network: nn.Module) -> list[nn.Module]:
    """Its convolutions and fully connected layers, in order."""
    return [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]


def weight_names(stacked: Mapping[str, Tensor]) -> list[str]:
    """Names of the weights of convolutions and fully connected layers of stacked models, in order."""
    return [name for name, tensor in stacked.items() if name.endswith("weight") and tensor.dim() > 2]


def floats(stacked: Mapping[str, Any]) -> dict[str, Tensor]:
    """Stacked tensors as float32 where they are of floating point."""
    return {n: t.float() if t.is_floating_point() else t for n, t in stacked.items()}
