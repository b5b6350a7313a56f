"""``model.py``: the definition of a network as a file that needs torch and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sane_engine.zoo.architectures import as_architecture

if TYPE_CHECKING:
    from sane_engine.zoo.spec import ArchitectureSpec

_FUNCTIONS = {
    "tanh": "torch.tanh",
    "relu": "F.relu",
    "gelu": "F.gelu",
    "sigmoid": "torch.sigmoid",
    "leaky_relu": "F.leaky_relu",
    "silu": "F.silu",
}


def model_code(architecture: Mapping[str, Any] | ArchitectureSpec) -> str:
    """Python source that defines ``Model``, a module with the zoo's own tensor names.

    Args:
        architecture: What a zoo's JSON says, the activation included.

    Raises:
        SpecError: The JSON describes no architecture this version knows.
    """
    spec = as_architecture(architecture)
    activation = _FUNCTIONS[spec.activation]
    layers, steps = [], []
    channels = spec.input_shape[0]
    for number, c in enumerate(spec.convolutions, start=1):
        shape = f"{channels}, {c.out}, {c.kernel}, stride={c.stride}, padding={c.padding}"
        layers.append(f"self.conv{number} = nn.Conv2d({shape})")
        steps.append(f"x = {activation}(self.conv{number}(x))")
        channels = c.out
    steps.append("x = x.flatten(1)")
    last = len(spec.fully_connected)
    for number, (inputs, outputs) in enumerate(spec.fully_connected, start=1):
        layers.append(f"self.fc{number} = nn.Linear({inputs}, {outputs})")
        value = f"self.fc{number}(x)"
        steps.append(f"x = {activation}({value})" if number < last else f"return {value}")
    size = ", ".join(str(side) for side in spec.input_shape)
    return "\n".join(
        [
            '"""The network that the weights beside this file belong to."""',
            "",
            "import torch",
            "import torch.nn.functional as F",
            "from torch import nn",
            "",
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
    ).replace(
        "import torch.nn.functional as F\n", "import torch.nn.functional as F\n" if "F." in activation else ""
    )
