"""What a zoo's networks were trained to do, and the held-out images that say how well they do it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sane_engine.checkpoint import Refusal
from sane_engine.zoo.architecture_families import Architecture, architecture_from_json
from sane_engine.zoo.spec import SpecError

if TYPE_CHECKING:
    from torch import Tensor

    from sane_engine.zoo.datasets import Dataset
    from sane_engine.zoo.zoo import Zoo


@dataclass(frozen=True)
class Task:
    """Images that no network of the zoo was trained on, and how to run a network on them.

    Attributes:
        dataset: Name of the data set.
        architecture: What all networks share.
        images: Test images ``[n, c, h, w]``, standardised as in training.
        labels: Int64 ``[n]``.
    """

    dataset: str
    architecture: Architecture
    images: Tensor
    labels: Tensor


def task_of_zoo(zoo: Zoo) -> Task:
    """The zoo's own test images and architecture.

    Raises:
        Refusal: As :func:`data_of_zoo`.
    """
    architecture, dataset = data_of_zoo(zoo)
    return Task(dataset.name, architecture, dataset.test_images, dataset.test_labels)


def data_of_zoo(zoo: Zoo) -> tuple[Architecture, Dataset]:
    """What a zoo's networks share, and all images of the data set they were trained on, by its digest.

    Raises:
        Refusal: The zoo does not say how to run its networks (``no-architecture``), on what they were trained
            (``no-data-set``), or the data set at hand is another one (``other-data-set``).
    """
    from sane_engine.zoo.datasets import load_dataset

    if zoo.architecture is None:
        raise Refusal(
            "no-architecture",
            "The zoo does not say how to run its networks.",
            "Zoos made by train-zoo do.",
        )
    spec, data = zoo.provenance.get("spec"), zoo.provenance.get("data")
    name = spec.get("dataset") if isinstance(spec, dict) else None
    if not isinstance(name, str):
        raise Refusal(
            "no-data-set", "The zoo does not say which images its networks learned from.", "Zoos of train-zoo do."
        )
    try:
        architecture = architecture_from_json(zoo.architecture)
        dataset = load_dataset(name, image_size=architecture.input_shape[1])
    except SpecError as error:
        raise Refusal("no-data-set", f"The zoo's images are not at hand: {error}", "Use another zoo.") from error
    if isinstance(data, dict) and data.get("sha256") not in (None, dataset.digest):
        raise Refusal(
            "other-data-set",
            f"The data set {name} here is not the one this zoo was trained on.",
            "Use the version of the zoo's own record.",
        )
    return architecture, dataset


def activation_of(zoo: Zoo, rows: Sequence[int] = ()) -> str:
    """The activation that all of these rows compute with; without rows, that of the whole zoo.

    Raises:
        Refusal: They have several (``mixed-activations``), or the zoo does not say (``no-architecture``).
    """
    if "activation" in zoo.table:
        column = zoo.table["activation"]
        names = sorted(set((column.iloc[list(rows)] if len(rows) else column).astype(str)))
    else:
        names = (
            [str(zoo.architecture["activation"])] if zoo.architecture and "activation" in zoo.architecture else []
        )
    if not names:
        raise Refusal("no-architecture", "The zoo does not say its activation.", "Zoos made by train-zoo do.")
    if len(names) > 1:
        raise Refusal(
            "mixed-activations",
            f"These networks compute with different activations ({', '.join(names)}).",
            "Take some with the same.",
        )
    return names[0]
