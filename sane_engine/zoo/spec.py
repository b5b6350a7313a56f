"""What a population of networks is made of, as one JSON document: data, architecture, and what varies.

Torch-free: a page can show and check a specification before torch is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

ACTIVATIONS = ("tanh", "relu", "gelu", "sigmoid", "leaky_relu", "silu")
INITIALISATIONS = ("uniform", "normal", "kaiming_uniform", "kaiming_normal", "xavier_uniform", "xavier_normal")
OPTIMISERS = ("sgd", "momentum", "adam", "adamw")


class SpecError(ValueError):
    """A specification that cannot be trained, and why, in one line."""


def _from_mapping(kind: type[Any], content: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of ``content``, once each is known to be a field of ``kind``."""
    if not isinstance(content, Mapping):
        raise SpecError(f"{kind.__name__} must be a JSON object, not {type(content).__name__}.")
    known = {item.name for item in fields(kind)}
    unknown = sorted(set(content) - known)
    if unknown:
        raise SpecError(f"{kind.__name__} has no field {unknown[0]!r}; it has {', '.join(sorted(known))}.")
    return dict(content)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True)
class ConvSpec:
    """One convolution: ``out`` channels, a square ``kernel``, its ``stride`` and zero ``padding``, in pixels."""

    out: int
    kernel: int
    stride: int = 1
    padding: int = 0

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            SpecError: One of them is not a whole number, or too small.
        """
        for name, least in (("out", 1), ("kernel", 1), ("stride", 1), ("padding", 0)):
            value = getattr(self, name)
            if not _is_whole(value) or value < least:
                raise SpecError(
                    f"A convolution's {name} must be a whole number of at least {least}, not {value!r}."
                )

    def output_size(self, size: int) -> int:
        """Pixels along one side after this convolution of an image with ``size`` pixels along it."""
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
    """

    input_shape: tuple[int, int, int] = (1, 14, 14)
    convolutions: tuple[ConvSpec, ...] = (ConvSpec(8, 5, 2, 1), ConvSpec(6, 3), ConvSpec(4, 2))
    hidden: tuple[int, ...] = (20,)
    classes: int = 10
    activation: str = "tanh"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Check that an image survives all convolutions and that every width is possible.

        Raises:
            SpecError: It does not, or a value is out of range.
        """
        if len(self.input_shape) != 3 or not all(_is_whole(n) and n > 0 for n in self.input_shape):
            raise SpecError(f"input_shape must be three positive whole numbers, not {list(self.input_shape)}.")
        for width in (*self.hidden, self.classes):
            if not _is_whole(width) or width < 1:
                raise SpecError(f"A layer's width must be a positive whole number, not {width!r}.")
        if self.activation not in ACTIVATIONS:
            raise SpecError(f"activation {self.activation!r} is unknown; choose from {', '.join(ACTIVATIONS)}.")
        if not _is_number(self.dropout) or not 0 <= self.dropout < 1:
            raise SpecError(f"dropout must lie in [0, 1), not {self.dropout!r}.")
        height, width = self.input_shape[1:]
        for number, convolution in enumerate(self.convolutions, start=1):
            height, width = convolution.output_size(height), convolution.output_size(width)
            if min(height, width) < 1:
                raise SpecError(
                    f"Nothing of the image is left after convolution {number}; pad or use a smaller kernel."
                )

    @property
    def fully_connected(self) -> tuple[tuple[int, int], ...]:
        """Inputs and outputs of every fully connected layer, in order."""
        channels, height, width = self.input_shape
        for convolution in self.convolutions:
            channels = convolution.out
            height, width = convolution.output_size(height), convolution.output_size(width)
        widths = (channels * height * width, *self.hidden, self.classes)
        return tuple(pairwise(widths))

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
        values = _from_mapping(cls, content)
        if "convolutions" in values:
            values["convolutions"] = tuple(
                item if isinstance(item, ConvSpec) else ConvSpec(**_from_mapping(ConvSpec, item))
                for item in values["convolutions"]
            )
        for name in ("input_shape", "hidden"):
            if name in values:
                values[name] = tuple(values[name])
        return cls(**values)


@dataclass(frozen=True)
class Range:
    """An interval to draw a number from.

    Attributes:
        low: Smallest value.
        high: Largest value.
        log: Draw the logarithm uniformly instead of the value itself.
        zero: Fraction of the draws that are exactly zero instead (some models without weight decay, say).
    """

    low: float
    high: float
    log: bool = False
    zero: float = 0.0

    def __post_init__(self) -> None:
        """Check that the interval can be drawn from.

        Raises:
            SpecError: It cannot.
        """
        if not all(_is_number(value) for value in (self.low, self.high, self.zero)):
            raise SpecError("A range needs numbers for low, high and zero.")
        if not 0 <= self.low <= self.high:
            raise SpecError(f"A range needs 0 ≤ low ≤ high, not {self.low} and {self.high}.")
        if self.log and self.low == 0:
            raise SpecError("A logarithmic range cannot start at 0; use its field 'zero' for exact zeros.")
        if not 0 <= self.zero <= 1:
            raise SpecError(f"The fraction of zeros must lie in [0, 1], not {self.zero}.")


Values = tuple[float, ...] | Range
"""What a numeric hyper-parameter is drawn from: a few values, or a range."""


def _values(name: str, content: object) -> Values:
    if isinstance(content, Range):
        return content
    if isinstance(content, Mapping):
        return Range(**_from_mapping(Range, content))
    values = tuple(content) if isinstance(content, list | tuple) else (content,)
    if not values or not all(_is_number(value) and value >= 0 for value in values):
        raise SpecError(f"{name} must be a number of at least 0, a list of such, or a range; not {content!r}.")
    return values


def _choices(name: str, content: object, allowed: tuple[str, ...]) -> tuple[str, ...]:
    choices = tuple(content) if isinstance(content, list | tuple) else (content,)
    if not choices:
        raise SpecError(f"{name} needs at least one value.")
    for choice in choices:
        if choice not in allowed:
            raise SpecError(f"{name} {choice!r} is unknown; choose from {', '.join(allowed)}.")
    return choices


def largest(values: Values) -> float:
    """The largest value that can be drawn."""
    return values.high if isinstance(values, Range) else max(values)


def smallest(values: Values) -> float:
    """The smallest value that can be drawn."""
    if isinstance(values, Range):
        return 0.0 if values.zero else values.low
    return min(values)


@dataclass(frozen=True)
class ZooSpec:
    """A population: what every model shares, and what each draws for itself.

    Attributes:
        name: What to call the zoo.
        dataset: A name that :func:`sane_engine.zoo.datasets.load_dataset` knows.
        architecture: The network all models share.
        n_models: How many models to train.
        epochs: Passes over the training images.
        checkpoint_epochs: Epochs after which weights are kept, rising; 0 is the initialisation.
        shared_initialisation: Every model starts from the same weights instead of its own.
        activation: Drawn for each model; so are the following, up to and including ``batch_size``.
        initialisation: See :data:`INITIALISATIONS`; one only where the initialisation is shared.
        optimiser: See :data:`OPTIMISERS`; ``momentum`` is SGD with momentum 0.9.
        learning_rate: One set of values for all, or one for each optimiser, by its name.
        weight_decay: As in ``torch.optim``: an L2 penalty, but decoupled for ``adamw``.
        dropout: Probability of dropping an input of a fully connected layer.
        batch_size: Images a step; the last batch of an epoch may be smaller.
        pruning: Sparsities in (0, 1): for each, a copy of every model's last checkpoint with this fraction of
            its smallest weights set to zero.
        seed: Everything random follows from it.
    """

    name: str
    dataset: str = "digits"
    architecture: ArchitectureSpec = field(default_factory=ArchitectureSpec)
    n_models: int = 100
    epochs: int = 25
    checkpoint_epochs: tuple[int, ...] = (1, 2, 5, 10, 15, 25)
    shared_initialisation: bool = False
    activation: tuple[str, ...] = ("tanh",)
    initialisation: tuple[str, ...] = ("uniform",)
    optimiser: tuple[str, ...] = ("adam",)
    learning_rate: Values | Mapping[str, Values] = Range(3e-4, 1e-2, log=True)
    weight_decay: Values = (0.0,)
    dropout: Values = (0.0,)
    batch_size: tuple[int, ...] = (32,)
    pruning: tuple[float, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        """Bring lists and plain numbers into one form, then check everything.

        Raises:
            SpecError: What is wrong, in one line.
        """
        if not isinstance(self.name, str) or not self.name.strip():
            raise SpecError("A zoo needs a name.")
        for name, least in (("n_models", 1), ("epochs", 1), ("seed", 0)):
            value = getattr(self, name)
            if not _is_whole(value) or value < least:
                raise SpecError(f"{name} must be a whole number of at least {least}, not {value!r}.")
        self._set("activation", _choices("activation", self.activation, ACTIVATIONS))
        self._set("initialisation", _choices("initialisation", self.initialisation, INITIALISATIONS))
        self._set("optimiser", _choices("optimiser", self.optimiser, OPTIMISERS))
        self._set("weight_decay", _values("weight_decay", self.weight_decay))
        self._set("dropout", _values("dropout", self.dropout))
        if largest(self.dropout) >= 1:
            raise SpecError(f"dropout must stay below 1, not reach {largest(self.dropout)}.")
        self._set_learning_rate()
        self._set_epochs()
        sizes = self.batch_size if isinstance(self.batch_size, list | tuple) else (self.batch_size,)
        if not sizes or not all(_is_whole(size) and size > 0 for size in sizes):
            raise SpecError(f"batch_size must be positive whole numbers, not {self.batch_size!r}.")
        self._set("batch_size", tuple(sizes))
        if not all(_is_number(sparsity) and 0 < sparsity < 1 for sparsity in self.pruning):
            raise SpecError(f"Every pruning sparsity must lie between 0 and 1, not {list(self.pruning)}.")
        self._set("pruning", tuple(sorted(set(self.pruning))))
        if self.shared_initialisation and len(self.initialisation) > 1:
            raise SpecError("A shared initialisation has one scheme; name a single 'initialisation'.")

    def _set(self, name: str, value: object) -> None:
        # The dataclass is frozen: this is how its own __post_init__ may still tidy a field.
        object.__setattr__(self, name, value)

    def _set_learning_rate(self) -> None:
        rates = self.learning_rate
        if isinstance(rates, Mapping) and set(rates) & set(OPTIMISERS):
            missing = [name for name in self.optimiser if name not in rates]
            if missing:
                raise SpecError(f"learning_rate is given by optimiser, but not for {missing[0]!r}.")
            by_name = {name: _values("learning_rate", rates[name]) for name in self.optimiser}
            self._set("learning_rate", by_name)
            lowest = min(smallest(values) for values in by_name.values())
        else:
            values = _values("learning_rate", rates)
            self._set("learning_rate", values)
            lowest = smallest(values)
        if lowest <= 0:
            raise SpecError("learning_rate must be above 0.")

    def _set_epochs(self) -> None:
        epochs = tuple(self.checkpoint_epochs)
        if not epochs or not all(_is_whole(epoch) and 0 <= epoch <= self.epochs for epoch in epochs):
            raise SpecError(f"checkpoint_epochs must be whole numbers from 0 to epochs ({self.epochs}).")
        self._set("checkpoint_epochs", tuple(sorted(set(epochs))))

    def learning_rates(self, optimiser: str) -> Values:
        """What the learning rate is drawn from under this optimiser."""
        rates = self.learning_rate
        return rates[optimiser] if isinstance(rates, Mapping) else rates

    def to_json(self) -> dict[str, Any]:
        """The specification as a JSON object; lists and ranges as :meth:`from_json` reads them."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Read a specification from a JSON object.

        Raises:
            SpecError: What is wrong with it, in one line.
        """
        values = _from_mapping(cls, content)
        if "name" not in values:
            raise SpecError("A zoo needs a name.")
        if "architecture" in values and not isinstance(values["architecture"], ArchitectureSpec):
            values["architecture"] = ArchitectureSpec.from_json(values["architecture"])
        for name in ("checkpoint_epochs", "pruning"):
            if name in values and not isinstance(values[name], list | tuple):
                raise SpecError(f"{name} must be a list.")
        return cls(**values)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a specification from a JSON file.

        Raises:
            SpecError: The file is not JSON, or the specification is wrong.
            OSError: The file cannot be read.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise SpecError(f"{Path(path).name} is not a JSON file: {error}") from error
        return cls.from_json(content)
