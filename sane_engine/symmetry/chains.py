"""The family of plain chains: layer after layer, as MLPs, small CNNs and VGGs are.

Shapes do not show a skip connection. If it adds, it joins layers of one width, so layers of equal width are
permuted alike, and those as wide as the input or the output not at all: that is right with skips and without. Only
a network with the names of a VGG (``features.N`` and ``classifier.N``) is taken to be nothing but its layers.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from sane_engine.symmetry.rebuilding import Rebuilt, Shapes, Unknown, hang, layer, prefixes
from sane_engine.symmetry.restricting import tied
from sane_engine.symmetry.spec import Symmetry

_NAME = re.compile(r"^(\w+\.)?\w+$")
_VGG = re.compile(r"(features|classifier)\.\d+$")
_BRANCHED = re.compile(
    r"res|block|shortcut|downsample|skip|attn|dense|layer\d+\.\d+|branch|"
    r"actor|critic|policy|target|generator|discriminator|teacher|student",
    re.I,
)


class Chain(nn.Module):
    """Layers in file order, with ReLU between them; a linear layer after a convolution flattens."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        self.order = prefixes(shapes)
        roots = {match[1] if (match := _VGG.match(prefix)) else "" for prefix in self.order}
        self.sequential = roots == {"features", "classifier"}
        self.ratio: dict[str, int] = {}
        width, flat = 0, True
        for prefix in self.order:
            if not _NAME.match(prefix) or (_BRANCHED.search(prefix) and not self.sequential):
                raise Unknown(f"{prefix} is not named like a layer of a chain")
            child = layer(shapes, prefix)
            weight = shapes[f"{prefix}.weight"]
            if isinstance(child, nn.BatchNorm2d):
                if weight[0] != width:
                    raise Unknown(f"{prefix} does not follow a layer of its width")
            else:
                ratio = weight[1] // width if width else 1
                flattens = len(weight) == 2 and not flat
                if (
                    (width and weight[1] % width)
                    or (ratio != 1 and not flattens)
                    or (flat and width and len(weight) == 4)
                ):
                    raise Unknown(f"{prefix} does not take what comes before it")
                self.ratio[prefix], width, flat = ratio, weight[0], len(weight) == 2
            hang(self, prefix, child)
        self.inputs = shapes[f"{self.order[0]}.weight"][1]
        self.outputs = width

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images ``[b, c, h, w]`` or vectors ``[b, n]``."""
        flat = x.ndim == 2
        for i, prefix in enumerate(self.order):
            child = self.get_submodule(prefix)
            if isinstance(child, nn.Linear) and not flat:
                x, flat = nn.functional.adaptive_avg_pool2d(x, (self.ratio[prefix], 1)).flatten(1), True
            x = child(x[..., None, None]).flatten(1) if flat and isinstance(child, nn.BatchNorm2d) else child(x)
            x = torch.relu(x) if i + 1 < len(self.order) else x
        return x

    def restrict(self, symmetry: Symmetry) -> Symmetry:
        """Without what a skip connection would forbid."""
        if self.sequential:
            return symmetry
        widths: dict[int, list[int]] = {}
        for number, group in enumerate(symmetry.groups):
            widths.setdefault(group.size, []).append(number)
        shared = [numbers for numbers in widths.values() if len(numbers) > 1]
        fixed = [number for width in (self.inputs, self.outputs) for number in widths.get(width, ())]
        found = tied(symmetry, shared, fixed)
        notes = [*symmetry.notes]
        if shared:
            notes.append("layers of equal width are permuted alike: a skip connection cannot be excluded")
        if fixed:
            notes.append(
                "layers as wide as the input or the output are fixed: a skip connection cannot be excluded"
            )
        return Symmetry(found.groups, found.signs, found.tensors, tuple(notes))


def chain(shapes: Shapes) -> Rebuilt:
    """Rebuild a plain chain.

    Raises:
        Unknown: The tensors are not one.
    """
    if not shapes:
        raise Unknown("there are no tensors")
    module = Chain(shapes)
    first = shapes[f"{module.order[0]}.weight"]
    if len(first) < 2:
        raise Unknown(f"{module.order[0]} comes before every layer")
    return Rebuilt(module, torch.randn(2, first[1], *((8, 8) if len(first) == 4 else ())), module.restrict)
