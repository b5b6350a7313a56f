"""``model.py``: the definition of a network as a file that needs torch and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sane_engine.zoo.architecture_families import Architecture, architecture_from_json
from sane_engine.zoo.architecture_spec import ArchitectureSpec
from sane_engine.zoo.resnet_spec import ResNetSpec

_FUNCTIONS = {
    "tanh": "torch.tanh",
    "relu": "F.relu",
    "gelu": "F.gelu",
    "sigmoid": "torch.sigmoid",
    "leaky_relu": "F.leaky_relu",
    "silu": "F.silu",
}

_HEAD = '''"""The network that the weights beside this file belong to."""

import torch
import torch.nn.functional as F
from torch import nn

'''

_BLOCK = """
class Block(nn.Module):
    def __init__(self, inputs, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = None
        if stride > 1 or inputs != width:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x):
        h = self.bn2(self.conv2(ACTIVATION(self.bn1(self.conv1(x)))))
        return ACTIVATION(h + (x if self.downsample is None else self.downsample(x)))

"""


def model_code(architecture: Mapping[str, Any] | Architecture) -> str:
    """Python source that defines ``Model``, a module with the zoo's own tensor names, for evaluation.

    Args:
        architecture: What a zoo's JSON says, the activation included.

    Raises:
        SpecError: The JSON describes no architecture this version knows.
    """
    spec = architecture if isinstance(architecture, Architecture) else architecture_from_json(architecture)
    layers, steps = _chain(spec) if isinstance(spec, ArchitectureSpec) else _residual(spec)
    size = ", ".join(str(side) for side in spec.input_shape)
    body = [
        "",
        "class Model(nn.Module):",
        f'    """Images [b, {size}] to logits [b, {spec.classes}]."""',
        "",
        "    def __init__(self):",
        "        super().__init__()",
        *(f"        {line}" for line in layers),
        "",
        "    def forward(self, x):",
        *(f"        {line}" for line in steps),
        "",
    ]
    block = _BLOCK.replace("ACTIVATION", _FUNCTIONS[spec.activation]) if isinstance(spec, ResNetSpec) else ""
    return _HEAD + block + "\n".join(body)


def _chain(spec: ArchitectureSpec) -> tuple[list[str], list[str]]:
    activation = _FUNCTIONS[spec.activation]
    layers, steps = [], []
    channels = spec.input_shape[0]
    for number, c in enumerate(spec.convolutions, start=1):
        shape = f"{channels}, {c.out}, {c.kernel}, stride={c.stride}, padding={c.padding}"
        layers.append(f"self.conv{number} = nn.Conv2d({shape})")
        value = f"self.conv{number}(x)"
        steps.append(f"x = {activation}({f'F.max_pool2d({value}, {c.pool})' if c.pool > 1 else value})")
        channels = c.out
    steps.append("x = x.flatten(1)")
    last = len(spec.fully_connected)
    for number, (inputs, outputs) in enumerate(spec.fully_connected, start=1):
        layers.append(f"self.fc{number} = nn.Linear({inputs}, {outputs})")
        value = f"self.fc{number}(x)"
        steps.append(f"x = {activation}({value})" if number < last else f"return {value}")
    return layers, steps


def _residual(spec: ResNetSpec) -> tuple[list[str], list[str]]:
    channels = spec.widths[0]
    layers = [
        f"self.conv1 = nn.Conv2d({spec.input_shape[0]}, {channels}, 3, 1, 1, bias=False)",
        f"self.bn1 = nn.BatchNorm2d({channels})",
    ]
    steps = [f"x = {_FUNCTIONS[spec.activation]}(self.bn1(self.conv1(x)))"]
    for stage, (width, count) in enumerate(zip(spec.widths, spec.blocks, strict=True), start=1):
        blocks = []
        for block in range(count):
            blocks.append(f"Block({channels}, {width}, {2 if stage > 1 and block == 0 else 1})")
            channels = width
        layers.append(f"self.layer{stage} = nn.Sequential({', '.join(blocks)})")
        steps.append(f"x = self.layer{stage}(x)")
    layers.append(f"self.fc = nn.Linear({channels}, {spec.classes})")
    steps.append("return self.fc(x.mean((2, 3)))")
    return layers, steps
