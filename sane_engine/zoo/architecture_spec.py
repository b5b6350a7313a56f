"""The architecture of a zoo's networks, as JSON says it. Torch-free; :mod:`.architectures` makes modules of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Self

from sane_engine.zoo.spec_fields import SpecError, from_mapping, is_number, is_whole

ACTIVATIONS = ("tanh", "relu", "gelu", "sigmoid", "leaky_relu", "silu")
FLAT_DROPOUTS = ("units", "channels", "none")


def check_common(input_shape: tuple[int, ...], activation: str, dropout: float) -> None:
    """Check what every family of architectures says.

    Raises:
        SpecError: One of the values is impossible.
    """
    if (
        not isinstance(input_shape, tuple)
        or len(input_shape) != 3
        or not all(is_whole(n) and n > 0 for n in input_shape)
    ):
        raise SpecError(f"input_shape must be three positive whole numbers, not {input_shape!r}.")
    if activation not in ACTIVATIONS:
        raise SpecError(f"activation {activation!r} is unknown; choose from {', '.join(ACTIVATIONS)}.")
    if not is_number(dropout) or not 0 <= dropout < 1:
        raise SpecError(f"dropout must lie in [0, 1), not {dropout!r}.")


@dataclass(frozen=True)
class ConvSpec:
    """One convolution, and the max-pooling between it and its activation.

    Attributes:
        out: Channels.
        kernel: Side of the square kernel in pixels.
        stride: Pixels between two positions of the kernel.
        padding: Zero pixels added on every side.
        pool: Side, and stride, of the max-pooling windows; 1 is no pooling. What does not fill a window is left
            out.
    """

    out: int
    kernel: int
    stride: int = 1
    padding: int = 0
    pool: int = 1

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            SpecError: One of them is not a whole number, or too small.
        """
        for name, least in (("out", 1), ("kernel", 1), ("stride", 1), ("padding", 0), ("pool", 1)):
            value = getattr(self, name)
            if not is_whole(value) or value < least:
                raise SpecError(
                    f"A convolution's {name} must be a whole number of at least {least}, not {value!r}."
                )

    def output_size(self, size: int) -> int:
        """Pixels along one side after this convolution, and its pooling, of an image with ``size`` along it."""
        return self.convolved_size(size) // self.pool

    def convolved_size(self, size: int) -> int:
        """As :meth:`output_size`, before the pooling."""
        return (size + 2 * self.padding - self.kernel) // self.stride + 1


@dataclass(frozen=True)
class ArchitectureSpec:
    """A small CNN: convolutions, then fully connected layers, an activation between any two layers.

    Attributes:
        input_shape: Channels, height and width of an image.
        convolutions: The convolutions, in order; none makes a multilayer perceptron.
        hidden: Widths of the fully connected layers before the last.
        classes: Width of the last layer.
        activation: One of :data:`ACTIVATIONS`. A zoo may vary it: the table's column then counts, not this.
        dropout: Probability of dropping an input of a fully connected layer, while training.
        flat_dropout: What is dropped of the inputs of the *first* fully connected layer: single ``units``, whole
            ``channels`` of the last convolution (``nn.Dropout2d``), or ``none``.
    """

    input_shape: tuple[int, int, int] = (1, 14, 14)
    convolutions: tuple[ConvSpec, ...] = (ConvSpec(8, 5, 2, 1), ConvSpec(6, 3), ConvSpec(4, 2))
    hidden: tuple[int, ...] = (20,)
    classes: int = 10
    activation: str = "tanh"
    dropout: float = 0.0
    flat_dropout: str = "units"

    def __post_init__(self) -> None:
        """Check that an image survives all convolutions and that every width is possible.

        Raises:
            SpecError: It does not, or a value is out of range.
        """
        check_common(self.input_shape, self.activation, self.dropout)
        for width in (*self.hidden, self.classes):
            if not is_whole(width) or width < 1:
                raise SpecError(f"A layer's width must be a positive whole number, not {width!r}.")
        if self.flat_dropout not in FLAT_DROPOUTS:
            known = ", ".join(FLAT_DROPOUTS)
            raise SpecError(f"flat_dropout {self.flat_dropout!r} is unknown; choose from {known}.")
        height, width = self.input_shape[1:]
        for number, convolution in enumerate(self.convolutions, start=1):
            height, width = convolution.output_size(height), convolution.output_size(width)
            if min(height, width) < 1:
                raise SpecError(
                    f"Nothing of the image is left after convolution {number}; pad or use a smaller kernel."
                )

    @property
    def feature_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of what the first fully connected layer takes flattened."""
        channels, height, width = self.input_shape
        for convolution in self.convolutions:
            channels = convolution.out
            height, width = convolution.output_size(height), convolution.output_size(width)
        return channels, height, width

    @property
    def fully_connected(self) -> tuple[tuple[int, int], ...]:
        """Inputs and outputs of every fully connected layer, in order."""
        channels, height, width = self.feature_shape
        widths = (channels * height * width, *self.hidden, self.classes)
        return tuple(pairwise(widths))

    @property
    def norms(self) -> tuple[str, ...]:
        """Names of the batch norms: there are none."""
        return ()

    @property
    def counters(self) -> tuple[str, ...]:
        """Names of integer tensors: there are none."""
        return ()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Parameter name → shape, in the order of the module's state dict."""
        shapes: dict[str, tuple[int, ...]] = {}
        channels = self.input_shape[0]
        for number, convolution in enumerate(self.convolutions, start=1):
            shapes[f"conv{number}.weight"] = (convolution.out, channels, convolution.kernel, convolution.kernel)
            shapes[f"conv{number}.bias"] = (convolution.out,)
            channels = convolution.out
        for number, (inputs, outputs) in enumerate(self.fully_connected, start=1):
            shapes[f"fc{number}.weight"] = (outputs, inputs)
            shapes[f"fc{number}.bias"] = (outputs,)
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
        values = from_mapping(cls, content)
        if "convolutions" in values:
            values["convolutions"] = tuple(
                item if isinstance(item, ConvSpec) else ConvSpec(**from_mapping(ConvSpec, item))
                for item in values["convolutions"]
            )
        return cls(**values)
