"""The one layer axis that all views share: the layers of the token layout, in file order.

A layer is a weight matrix with its companions (bias, running statistics, …), or a lone tensor. What each view needs
of it is here: which tensor holds the weights, which the biases.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

# Layers do not depend on how their rows are cut into tokens; any size gives the same axis.
_TOKEN_SIZE = 64


@dataclass(frozen=True)
class WeightLayer:
    """One layer of a network.

    Attributes:
        index: 0-based position in file order.
        name: Module prefix (``"layer1.0.conv1"``), or the tensor's own name.
        weight: Name of the tensor with the weights: the matrix of the layer, or its lone tensor.
        biases: Names of the layer's bias tensors.
        axis: The axis of ``weight`` that counts the output channels.
    """

    index: int
    name: str
    weight: str
    biases: tuple[str, ...]
    axis: int = 0


def _is_bias(tensor_name: str) -> bool:
    last = tensor_name.rsplit(".", 1)[-1]
    return last.startswith("bias") or last.endswith("_bias")


def shapes_of(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The tensors, or stand-ins without data where they lie in a file: a look at shapes need not read them."""
    from sane_engine.intake.lazy import LazyTensors

    return tensors.shapes() if isinstance(tensors, LazyTensors) else tensors


def weight_layers(tensors: Mapping[str, Tensor]) -> tuple[WeightLayer, ...]:
    """The layers of a state dict, in file order."""
    from sane_engine.tokens import layout_of

    layout = layout_of(shapes_of(tensors), _TOKEN_SIZE)
    slots = {slot.name: slot for slot in layout.slots}
    layers = []
    for slot in layout.layers:
        members = slot.members
        biases = tuple(name for name in members if _is_bias(name))
        candidates = [name for name in members if slots[name].role == "matrix"] or [
            name for name in members if name not in biases
        ]
        weight = candidates[0] if candidates else members[0]
        layers.append(
            WeightLayer(
                index=slot.index,
                name=slot.name,
                weight=weight,
                biases=tuple(name for name in biases if name != weight),
                axis=slots[weight].axis,
            )
        )
    return tuple(layers)
