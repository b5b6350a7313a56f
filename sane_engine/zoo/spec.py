"""What a population of networks is made of, as one JSON document: data, architecture, and what varies.

Torch-free: a page can show and check a specification before torch is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from sane_engine.zoo.architecture_families import Architecture, architecture_from_json
from sane_engine.zoo.architecture_spec import ACTIVATIONS, ArchitectureSpec, ConvSpec
from sane_engine.zoo.resnet_spec import ResNetSpec
from sane_engine.zoo.spec_fields import (
    Range,
    SpecError,
    Values,
    choices_of,
    from_mapping,
    is_number,
    is_whole,
    largest,
    smallest,
    values_of,
)

__all__ = [
    "ACTIVATIONS",
    "INITIALISATIONS",
    "OPTIMISERS",
    "ArchitectureSpec",
    "ConvSpec",
    "Range",
    "ResNetSpec",
    "SpecError",
    "Values",
    "ZooSpec",
]

INITIALISATIONS = ("uniform", "normal", "kaiming_uniform", "kaiming_normal", "xavier_uniform", "xavier_normal")
OPTIMISERS = ("sgd", "momentum", "adam", "adamw")
_RATES = Range(3e-4, 1e-2, log=True)


@dataclass(frozen=True)
class ZooSpec:
    """A population: what every model shares, and what each draws for itself.

    Attributes:
        name: What to call the zoo.
        dataset: A name that :func:`sane_engine.zoo.datasets.load_dataset` knows, or what to call the data given.
        train_images: At most this many training images, drawn by the seed; all by default.
        scored_images: At most this many images of either part, drawn by the seed, are scored; all by default.
        architecture: The network all models share.
        n_models: How many models to train.
        epochs: Passes over the training images.
        stop_epoch: Drawn for each model: after which epoch it ends, with fewer checkpoints. All train to the last
            by default. A value that stands twice is drawn twice as often; so it is with every list.
        checkpoint_epochs: Epochs after which weights are kept, rising; 0 is the initialisation.
        shared_initialisation: Every model starts from the same weights instead of its own.
        activation: Drawn for each model; so are the following, up to and including ``batch_size``.
        initialisation: See :data:`INITIALISATIONS`; one only where the initialisation is shared.
        optimiser: See :data:`OPTIMISERS`; ``momentum`` is SGD with momentum.
        momentum: Of that optimiser.
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
    train_images: int | None = None
    scored_images: int | None = None
    architecture: Architecture = field(default_factory=ArchitectureSpec)
    n_models: int = 100
    epochs: int = 25
    checkpoint_epochs: tuple[int, ...] = (1, 2, 5, 10, 15, 25)
    stop_epoch: tuple[int, ...] = ()
    shared_initialisation: bool = False
    activation: tuple[str, ...] = ("tanh",)
    initialisation: tuple[str, ...] = ("uniform",)
    optimiser: tuple[str, ...] = ("adam",)
    momentum: Values = (0.9,)
    learning_rate: Values | Mapping[str, Values] = _RATES
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
            if not is_whole(value) or value < least:
                raise SpecError(f"{name} must be a whole number of at least {least}, not {value!r}.")
        self._set("activation", choices_of("activation", self.activation, ACTIVATIONS))
        self._set("initialisation", choices_of("initialisation", self.initialisation, INITIALISATIONS))
        self._set("optimiser", choices_of("optimiser", self.optimiser, OPTIMISERS))
        self._set("weight_decay", values_of("weight_decay", self.weight_decay))
        self._set("dropout", values_of("dropout", self.dropout))
        self._set("momentum", values_of("momentum", self.momentum))
        for name in ("dropout", "momentum"):
            if largest(getattr(self, name)) >= 1:
                raise SpecError(f"{name} must stay below 1, not reach {largest(getattr(self, name))}.")
        for name in ("train_images", "scored_images"):
            value = getattr(self, name)
            if value is not None and (not is_whole(value) or value < 1):
                raise SpecError(f"{name} must be a positive whole number, not {value!r}.")
        self._set_learning_rate()
        self._set_epochs()
        sizes = self.batch_size if isinstance(self.batch_size, list | tuple) else (self.batch_size,)
        if not sizes or not all(is_whole(size) and size > 0 for size in sizes):
            raise SpecError(f"batch_size must be positive whole numbers, not {self.batch_size!r}.")
        self._set("batch_size", tuple(sizes))
        if not all(is_number(sparsity) and 0 < sparsity < 1 for sparsity in self.pruning):
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
            by_name = {name: values_of("learning_rate", rates[name]) for name in self.optimiser}
            self._set("learning_rate", by_name)
            lowest = min(smallest(values) for values in by_name.values())
        else:
            values = values_of("learning_rate", rates)
            self._set("learning_rate", values)
            lowest = smallest(values)
        if lowest <= 0:
            raise SpecError("learning_rate must be above 0.")

    def _set_epochs(self) -> None:
        epochs = tuple(self.checkpoint_epochs)
        if not epochs or not all(is_whole(epoch) and 0 <= epoch <= self.epochs for epoch in epochs):
            raise SpecError(
                f"Checkpoints are kept after whole numbers of epochs from 0 to epochs, here {self.epochs}."
            )
        self._set("checkpoint_epochs", tuple(sorted(set(epochs))))
        stops = tuple(self.stop_epoch)
        if not all(stop in self.checkpoint_epochs for stop in stops):
            raise SpecError("Every stop_epoch must be one of checkpoint_epochs, so that the end is kept.")
        self._set("stop_epoch", stops)

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
        values = from_mapping(cls, content)
        if "name" not in values:
            raise SpecError("A zoo needs a name.")
        if "architecture" in values and not isinstance(values["architecture"], Architecture):
            values["architecture"] = architecture_from_json(values["architecture"])
        for name in ("checkpoint_epochs", "stop_epoch", "pruning"):
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
