"""The family of ResNets under torchvision's, timm's and the CIFAR variants' names.

``conv1`` (or ``conv1.0``, ``conv1.3`` … of a deep stem), ``bn1``, blocks ``layer1.0.conv1`` …, ``fc`` or
``linear``. Groups of ResNeXt's convolutions follow from the shapes.

Where a block changes the width and its shortcut has no weights, channels were padded (option A of He, Zhang, Ren,
Sun 2016), in front, behind or both, or there is no shortcut at all, and the shapes do not say which. Then the
residual stream stays fixed and only the units inside the blocks move, which no shortcut touches.
"""

from __future__ import annotations

import re

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sane_engine.symmetry.rebuilding import Rebuilt, Shapes, Unknown, hang, layer, prefixes
from sane_engine.symmetry.restricting import tied
from sane_engine.symmetry.spec import Symmetry

_BLOCK = re.compile(r"(layer\d+\.\d+)\.((conv|bn)\d|(downsample|shortcut)\.\d)$")
_STEM = re.compile(r"conv1(\.\d+)?$")


class ResNet(nn.Module):
    """Basic or bottleneck blocks, normalisation after convolution; every stride is one."""

    def __init__(self, shapes: Shapes, padded: bool) -> None:
        super().__init__()
        self.padded = padded
        self.stem: list[str] = []
        self.blocks: dict[str, list[str]] = {}
        self.head = ""
        for prefix in prefixes(shapes):
            groups = 1
            if block := _BLOCK.match(prefix):
                self.blocks.setdefault(block[1], []).append(block[2])
                groups = _groups(shapes, prefix, block[1], block[2])
            elif _STEM.match(prefix):
                self.stem.append(prefix)
            elif prefix in ("fc", "linear") and not self.head:
                self.head = prefix
            elif prefix != "bn1":
                raise Unknown(f"{prefix} is not part of a ResNet")
            hang(self, prefix, layer(shapes, prefix, groups))
        if not self.blocks or not self.stem or not self.head or not hasattr(self, "bn1"):
            raise Unknown("a stem, residual blocks or a head is missing")
        self.stem.sort(key=lambda name: int(name.partition(".")[2] or 0))
        self.blocks = {name: self.blocks[name] for name in sorted(self.blocks, key=_natural)}
        self.unweighted = [name for name in self.blocks if self._check(shapes, name)]
        if not any(self._widens(shapes, name) for name in self.blocks):
            raise Unknown("no block shows whether normalisation comes before or after convolution")

    def _check(self, shapes: Shapes, block: str) -> bool:
        """Whether the block changes the width without weights in its shortcut.

        Raises:
            Unknown: A layer of the block is missing.
        """
        depth = self._depth(block)
        needed = {f"{kind}{i}" for kind in ("conv", "bn") for i in range(1, depth + 1)}
        side = sorted(set(self.blocks[block]) - needed)
        if depth < 2 or not needed <= set(self.blocks[block]) or len(side) not in (0, 2):
            raise Unknown(f"{block} is not the block of a ResNet")
        taken, given = shapes[f"{block}.conv1.weight"][1], shapes[f"{block}.conv{depth}.weight"][0]
        return not side and taken != given

    def _depth(self, block: str) -> int:
        return sum(name.startswith("conv") for name in self.blocks[block])

    def _widens(self, shapes: Shapes, block: str) -> bool:
        """Whether the first convolution changes the width, so that its norm's place shows."""
        out, into = shapes[f"{block}.conv1.weight"][:2]
        return out != into

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images ``[b, c, h, w]``."""
        for name in self.stem:
            child = self.get_submodule(name)
            x = torch.relu(child(x)) if isinstance(child, nn.BatchNorm2d) else child(x)
        x = torch.relu(self.get_submodule("bn1")(x))
        for block in self.blocks:
            y, depth = x, self._depth(block)
            for i in range(1, depth + 1):
                y = self.get_submodule(f"{block}.bn{i}")(self.get_submodule(f"{block}.conv{i}")(y))
                y = torch.relu(y) if i < depth else y
            x = torch.relu(y + self._shortcut(block, x, y.shape[1]))
        return self.get_submodule(self.head)(x.mean((2, 3)))  # type: ignore[no-any-return]  # a module's result

    def _shortcut(self, block: str, x: Tensor, width: int) -> Tensor:
        side = sorted(name for name in self.blocks[block] if "." in name)
        for name in side:
            x = self.get_submodule(f"{block}.{name}")(x)
        missing = 0 if side else width - x.shape[1]
        if missing and (missing < 0 or not self.padded):
            return torch.zeros_like(x[:, :1])
        return F.pad(x, (0, 0, 0, 0, missing // 2, missing - missing // 2)) if missing else x

    def restrict(self, symmetry: Symmetry) -> Symmetry:
        """Without the residual stream, where a shortcut without weights leaves it open."""
        if not self.unweighted or self.padded:
            return symmetry
        inner = set()
        for block in self.blocks:
            for i in range(1, self._depth(block)):
                axes = symmetry.tensors.get(f"{block}.conv{i}.weight", ((),))
                inner |= {f.group for segment in axes[0] for f in segment if f.group is not None}
        stream = [group for group in range(len(symmetry.groups)) if group not in inner]
        found = tied(symmetry, (), stream)
        note = (
            f"{self.unweighted[0]} changes the width and its shortcut has no weights: the residual stream "
            f"is fixed, the {found.n_neurons} units inside the blocks move"
        )
        return Symmetry(found.groups, found.signs, found.tensors, (*symmetry.notes, note))


def _natural(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", name)]


def _groups(shapes: Shapes, prefix: str, block: str, name: str) -> int:
    """Groups of a convolution inside a block: how often its inputs go into what comes before."""
    before = f"{block}.bn{int(name[4:]) - 1}.weight" if re.match(r"conv[2-9]$", name) else ""
    if before not in shapes:
        return 1
    width, each = shapes[before][0], shapes[f"{prefix}.weight"][1]
    if not each or width % each:
        raise Unknown(f"{prefix} does not take what comes before it")
    return width // each


def resnet(shapes: Shapes, padded: bool) -> Rebuilt:
    """Rebuild a ResNet.

    Args:
        shapes: Of its tensors.
        padded: Take it that shortcuts without weights pad channels with zeros, as many in front as behind.

    Raises:
        Unknown: The tensors are not those of one.
    """
    module = ResNet(shapes, padded)
    return Rebuilt(module, torch.randn(2, shapes[f"{module.stem[0]}.weight"][1], 8, 8), module.restrict)
