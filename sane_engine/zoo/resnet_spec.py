"""A small residual network with batch norm, as JSON says it. Torch-free; :mod:`.resnet` makes a module of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from sane_engine.zoo.architecture_spec import check_common
from sane_engine.zoo.spec_fields import SpecError, from_mapping, is_whole

FAMILY = "resnet"


@dataclass(frozen=True)
class ResNetSpec:
    """A residual network of basic blocks (He et al. 2016) for small images, named as torchvision names its own.

    A 3×3 convolution with batch norm, then stages of blocks of two 3×3 convolutions with batch norm; every stage
    but the first halves the image in its first block, whose shortcut is a 1×1 convolution with batch norm wherever
    shapes differ. Then the mean over the image, dropout, and one fully connected layer.

    Attributes:
        input_shape: Channels, height and width of an image.
        widths: Channels of each stage.
        blocks: Blocks of each stage.
        classes: Width of the last layer.
        activation: As of an ``ArchitectureSpec``.
        dropout: Probability of dropping an input of the fully connected layer, while training.
        family: ``"resnet"``: what tells this JSON from that of other architectures.
    """

    input_shape: tuple[int, int, int] = (1, 14, 14)
    widths: tuple[int, ...] = (8, 16, 16)
    blocks: tuple[int, ...] = (1, 1, 1)
    classes: int = 10
    activation: str = "relu"
    dropout: float = 0.0
    family: str = FAMILY

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            SpecError: One of them is impossible.
        """
        if self.family != FAMILY:
            raise SpecError(f"This is a {FAMILY}, not a {self.family!r}.")
        check_common(self.input_shape, self.activation, self.dropout)
        if not self.widths or len(self.widths) != len(self.blocks):
            raise SpecError("A ResNet needs as many numbers of blocks as it has widths, at least one.")
        for number in (*self.widths, *self.blocks, self.classes):
            if not is_whole(number) or number < 1:
                raise SpecError(f"Widths, blocks and classes must be positive whole numbers, not {number!r}.")

    @property
    def norms(self) -> tuple[str, ...]:
        """Names of the batch norms, in the order of the state dict."""
        return tuple(name.removesuffix(".running_mean") for name in self.shapes if name.endswith("running_mean"))

    @property
    def counters(self) -> tuple[str, ...]:
        """Names of the tensors that count: int64, of no dimension."""
        return tuple(name for name, shape in self.shapes.items() if shape == ())

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Parameter and buffer name → shape, in the order of the module's state dict."""
        shapes: dict[str, tuple[int, ...]] = {}

        def convolution(name: str, norm: str, inputs: int, outputs: int, kernel: int) -> None:
            shapes[f"{name}.weight"] = (outputs, inputs, kernel, kernel)
            for leaf in ("weight", "bias", "running_mean", "running_var"):
                shapes[f"{norm}.{leaf}"] = (outputs,)
            shapes[f"{norm}.num_batches_tracked"] = ()

        channels = self.widths[0]
        convolution("conv1", "bn1", self.input_shape[0], channels, 3)
        for stage, (width, blocks) in enumerate(zip(self.widths, self.blocks, strict=True), start=1):
            for block in range(blocks):
                name = f"layer{stage}.{block}"
                convolution(f"{name}.conv1", f"{name}.bn1", channels, width, 3)
                convolution(f"{name}.conv2", f"{name}.bn2", width, width, 3)
                if block == 0 and (stage > 1 or channels != width):
                    convolution(f"{name}.downsample.0", f"{name}.downsample.1", channels, width, 1)
                channels = width
        shapes["fc.weight"] = (self.classes, channels)
        shapes["fc.bias"] = (self.classes,)
        return shapes

    def to_json(self) -> dict[str, Any]:
        """The architecture as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote.

        Raises:
            SpecError: A field is unknown or has an impossible value.
        """
        return cls(**from_mapping(cls, content))
