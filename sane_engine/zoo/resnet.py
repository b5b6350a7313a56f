"""Small residual networks with batch norm, as modules."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sane_engine.zoo.activations import ACTIVATION_FUNCTIONS
from sane_engine.zoo.resnet_spec import ResNetSpec


class BasicBlock(nn.Module):
    """Two 3×3 convolutions with batch norm, and a shortcut around them."""

    def __init__(self, inputs: int, width: int, stride: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.activation = activation
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample: nn.Module | None = None
        if stride > 1 or inputs != width:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, images: Tensor) -> Tensor:
        """Map ``[b, inputs, h, w]`` to ``[b, width, h / stride, w / stride]``."""
        hidden = self.activation(self.bn1(self.conv1(images)))
        shortcut = images if self.downsample is None else self.downsample(images)
        return self.activation(self.bn2(self.conv2(hidden)) + shortcut)


class SmallResNet(nn.Module):
    """See :class:`ResNetSpec`."""

    def __init__(self, architecture: ResNetSpec) -> None:
        super().__init__()
        self.architecture = architecture
        self.activation = ACTIVATION_FUNCTIONS[architecture.activation]
        channels = architecture.widths[0]
        self.conv1 = nn.Conv2d(architecture.input_shape[0], channels, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.stages: list[str] = []
        for stage, (width, blocks) in enumerate(
            zip(architecture.widths, architecture.blocks, strict=True), start=1
        ):
            layers = []
            for block in range(blocks):
                stride = 2 if stage > 1 and block == 0 else 1
                layers.append(BasicBlock(channels, width, stride, self.activation))
                channels = width
            self.add_module(f"layer{stage}", nn.Sequential(*layers))
            self.stages.append(f"layer{stage}")
        self.dropout = nn.Dropout(architecture.dropout)
        self.fc = nn.Linear(channels, architecture.classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[b, classes]`` of images ``[b, c, h, w]``."""
        hidden = self.activation(self.bn1(self.conv1(images)))
        for name in self.stages:
            hidden = self.get_submodule(name)(hidden)
        logits: Tensor = self.fc(self.dropout(torch.mean(hidden, (2, 3))))
        return logits
