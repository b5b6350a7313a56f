"""The networks of a zoo: one as a module, or many at once from stacked parameters."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from sane_engine.progress import CancelCheck, Progress, no_progress, stop_if
from sane_engine.zoo.activations import ACTIVATION_FUNCTIONS
from sane_engine.zoo.architecture_families import Architecture, architecture_from_json
from sane_engine.zoo.architecture_spec import ArchitectureSpec, ConvSpec
from sane_engine.zoo.resnet import SmallResNet
from sane_engine.zoo.resnet_spec import ResNetSpec
from sane_engine.zoo.stacked import StackedNetwork

__all__ = [
    "Architecture",
    "ArchitectureSpec",
    "ConvSpec",
    "ResNetSpec",
    "SmallCNN",
    "SmallResNet",
    "as_architecture",
    "build",
    "evaluate",
    "forward_stacked",
]

# Models evaluated side by side, and images a pass: chosen so that the working set stays within a core's cache.
_MODELS_AT_ONCE = 16
_IMAGES_AT_ONCE = 64
_IMAGES_OF_ONE = 1024


def as_architecture(architecture: Architecture | Mapping[str, Any]) -> Architecture:
    """The architecture itself, or the one a zoo's JSON describes.

    Raises:
        SpecError: The JSON describes none.
    """
    return architecture if isinstance(architecture, Architecture) else architecture_from_json(architecture)


class SmallCNN(nn.Module):
    """One network of a zoo: convolutions ``conv1`` …, then fully connected layers ``fc1`` ….

    An activation follows every layer but the last, after the pooling where there is pooling. Dropout precedes every
    fully connected layer; before the first, it may drop whole channels or nothing.
    """

    def __init__(self, architecture: ArchitectureSpec) -> None:
        super().__init__()
        self.architecture = architecture
        self.activation = ACTIVATION_FUNCTIONS[self.architecture.activation]
        self.dropout = nn.Dropout(self.architecture.dropout)
        of_features = {"units": nn.Dropout, "channels": nn.Dropout2d, "none": nn.Dropout}
        kind = self.architecture.flat_dropout
        self.feature_dropout = of_features[kind](0.0 if kind == "none" else self.architecture.dropout)
        channels = self.architecture.input_shape[0]
        self.convolution_names: list[str] = []
        self.fully_connected_names: list[str] = []
        for number, convolution in enumerate(self.architecture.convolutions, start=1):
            name = f"conv{number}"
            layer = nn.Conv2d(
                channels, convolution.out, convolution.kernel, convolution.stride, convolution.padding
            )
            self.add_module(name, layer)
            self.convolution_names.append(name)
            channels = convolution.out
        for number, (inputs, outputs) in enumerate(self.architecture.fully_connected, start=1):
            name = f"fc{number}"
            self.add_module(name, nn.Linear(inputs, outputs))
            self.fully_connected_names.append(name)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[b, classes]`` of images ``[b, c, h, w]``."""
        hidden = images
        for name, convolution in zip(self.convolution_names, self.architecture.convolutions, strict=True):
            hidden = self.get_submodule(name)(hidden)
            if convolution.pool > 1:
                hidden = F.max_pool2d(hidden, convolution.pool)
            hidden = self.activation(hidden)
        hidden = self.feature_dropout(hidden).flatten(1)
        first, *others = self.fully_connected_names
        hidden = self.get_submodule(first)(hidden)
        for name in others:
            hidden = self.get_submodule(name)(self.dropout(self.activation(hidden)))
        logits: Tensor = hidden
        return logits


def build(architecture: Architecture | Mapping[str, Any]) -> SmallCNN | SmallResNet:
    """The network as a module, in evaluation mode, initialised by torch; load a zoo's tensors into it."""
    architecture = as_architecture(architecture)
    if isinstance(architecture, ResNetSpec):
        return SmallResNet(architecture).eval()
    return SmallCNN(architecture).eval()


def forward_stacked(
    architecture: Architecture | Mapping[str, Any],
    stacked: Mapping[str, Tensor],
    images: Tensor,
    *,
    activation: str | None = None,
) -> Tensor:
    """Logits of many models at once, differentiable in parameters and images. Batch norm uses running statistics.

    Args:
        architecture: What all models share.
        stacked: Parameter name → ``[m, …]``.
        images: ``[b, c, h, w]``, seen by every model, or ``[m, b, c, h, w]``, a batch for each.
        activation: In place of the architecture's own, for a zoo that varies it.

    Returns:
        Logits ``[m, b, classes]``.
    """
    architecture = as_architecture(architecture)
    if isinstance(architecture, ResNetSpec):
        return _forward_each(
            replace(architecture, activation=activation or architecture.activation), stacked, images
        )
    # Only the last: what the layers before it made need not be kept.
    (logits,) = deque(stacked_layers(architecture, stacked, images, activation=activation), maxlen=1)
    return logits


def stacked_layers(
    architecture: ArchitectureSpec,
    stacked: Mapping[str, Tensor],
    images: Tensor,
    *,
    activation: str | None = None,
) -> Iterator[Tensor]:
    """What each layer of many chains makes of images, before pooling and activation: ``[m, b, …]``; logits last.

    Args:
        architecture: What all models share.
        stacked: Parameter name → ``[m, …]``.
        images: ``[b, c, h, w]``, seen by every model, or ``[m, b, c, h, w]``, a batch for each.
        activation: In place of the architecture's own.
    """
    function = ACTIVATION_FUNCTIONS[activation or architecture.activation]
    n_models = next(iter(stacked.values())).shape[0]
    shared = images.dim() == 4
    hidden = images.unsqueeze(0) if shared else images
    batch = hidden.shape[1]
    for number, convolution in enumerate(architecture.convolutions, start=1):
        weight, bias = stacked[f"conv{number}.weight"], stacked[f"conv{number}.bias"]
        if convolution.padding:
            hidden = F.pad(hidden, (convolution.padding,) * 4)
        # Patches as columns, then one matrix product a model: many times faster than a grouped convolution here.
        patches = hidden.unfold(3, convolution.kernel, convolution.stride)
        patches = patches.unfold(4, convolution.kernel, convolution.stride)
        size = patches.shape[3:5]
        kernels = weight.flatten(2)
        columns = patches.permute(0, 2, 5, 6, 1, 3, 4).reshape(len(hidden), kernels.shape[2], -1)
        if shared and number == 1:  # one product for all models, and their patches once
            flat = (kernels.flatten(0, 1) @ columns[0]).view(n_models, convolution.out, -1) + bias.unsqueeze(2)
        else:
            flat = torch.baddbmm(bias.unsqueeze(2), kernels, columns)
        yield flat.view(n_models, convolution.out, batch, *size).transpose(1, 2)
        hidden = flat.view(n_models, convolution.out * batch, *size)
        if convolution.pool > 1:
            hidden = F.max_pool2d(hidden, convolution.pool)
        hidden = function(hidden).view(n_models, convolution.out, batch, *hidden.shape[2:]).transpose(1, 2)
    hidden = hidden.expand(n_models, *hidden.shape[1:]).reshape(n_models, batch, -1)
    for number in range(1, len(architecture.fully_connected) + 1):
        if number > 1:
            hidden = function(hidden)
        weight, bias = stacked[f"fc{number}.weight"], stacked[f"fc{number}.bias"]
        hidden = torch.baddbmm(bias.unsqueeze(1), hidden, weight.transpose(1, 2))
        yield hidden


def _forward_each(architecture: ResNetSpec, stacked: Mapping[str, Tensor], images: Tensor) -> Tensor:
    # Without memory of its own, and without drawing weights: all tensors are given.
    with torch.device("meta"):
        network = build(architecture)
    rows = range(next(iter(stacked.values())).shape[0])
    logits = [
        functional_call(
            network,
            {name: tensor[row] for name, tensor in stacked.items()},
            (images if images.dim() == 4 else images[row],),
        )
        for row in rows
    ]
    return torch.stack(logits)


@torch.no_grad()
def evaluate(
    architecture: Architecture | Mapping[str, Any],
    stacked: Mapping[str, Tensor],
    images: Tensor,
    labels: Tensor,
    *,
    activation: str | None = None,
    progress: Progress = no_progress,
    cancelled: CancelCheck | None = None,
) -> tuple[Tensor, Tensor]:
    """Accuracy and loss of many models on the same images.

    Args:
        architecture: What all models share.
        stacked: Parameter name → ``[m, …]``.
        images: ``[n, c, h, w]``.
        labels: Int64 ``[n]``.
        activation: In place of the architecture's own, for a zoo that varies it.
        progress: Told how many models are done.
        cancelled: Asked between chunks of models.

    Returns:
        Accuracy ``[m]`` (fraction correct) and mean cross-entropy ``[m]`` in nats, not finite where a model's
        outputs are not. Both float32.

    Raises:
        Cancelled: The caller asked to stop.
    """
    architecture = as_architecture(architecture)
    n_models = next(iter(stacked.values())).shape[0]
    accuracy, loss = torch.zeros(n_models), torch.zeros(n_models)
    network: StackedNetwork | None = None
    if isinstance(architecture, ResNetSpec):
        for row in range(n_models):
            stop_if(cancelled)
            one = {name: stacked[name][row : row + 1] for name in architecture.shapes}
            logits = torch.cat(
                [
                    forward_stacked(architecture, one, part, activation=activation)[0]
                    for part in torch.split(images, _IMAGES_OF_ONE)
                ]
            )
            accuracy[row] = (logits.argmax(1) == labels).float().mean()
            loss[row] = F.cross_entropy(logits, labels)
            progress(row + 1, n_models, "models evaluated")
        return accuracy, loss
    for start in range(0, n_models, _MODELS_AT_ONCE):
        stop_if(cancelled)
        rows = slice(start, min(start + _MODELS_AT_ONCE, n_models))
        size = rows.stop - rows.start
        if network is None or network.n_models != size:
            network = StackedNetwork(architecture, size, _IMAGES_AT_ONCE, activation=activation)
        network.load({name: stacked[name][rows] for name in architecture.shapes})
        accuracy[rows], loss[rows] = network.score(images, labels)
        progress(rows.stop, n_models, "models evaluated")
    return accuracy, loss
