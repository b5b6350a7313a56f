"""What the networks of a zoo are for: how to run many of them at once, and images to choose, train and score with.

The images that the zoo was trained on are cut in two once more: samplers and fine-tuning learn from one part, the
best of several draws is chosen on the other. Scores come from the test images, on which no sample was trained or
chosen. Anchors may have been: ``top 10 %`` ranks a zoo by its accuracy on these very images, so the anchors' own
score is a little too high; the record says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sane_engine.checkpoint import Refusal
from sane_engine.progress import CancelCheck, stop_if
from sane_engine.zoo.task import activation_of, data_of_zoo

if TYPE_CHECKING:
    from sane_engine.sane.training_set import Rows
    from sane_engine.zoo import Zoo
    from sane_engine.zoo.datasets import Dataset

Stacked = Mapping[str, Tensor]
Runner = Callable[[Stacked, Tensor], Tensor]
"""``(stacked, images [b, c, h, w] or [m, b, c, h, w]) → logits [m, b, classes]``, differentiable in the weights."""

VALIDATION_SHARE = 0.2
_SPLIT_SEED = 0
_MODELS_AT_ONCE, _IMAGES_AT_ONCE = 16, 256


@dataclass(frozen=True)
class Images:
    """Labelled images: float32 ``[b, c, h, w]`` and int64 ``[b]``."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Task:
    """Networks that can be run, and the images for it.

    Attributes:
        name: Of the data set.
        run: Runs a stack of networks.
        fit: To train on: samplers, refinement, fine-tuning; unlabelled for batch-norm conditioning.
        validation: To choose on; a part of the zoo's training images.
        test: To score on; never to choose on.
        architecture: The JSON that rebuilds one network, where it is known.
        activation: That the networks are run with, where the zoo varies it.
        module: One network as a module, where the zoo's own runner does not do.
        descent: A faster way to losses ``[m]`` with gradients than through ``run``, where there is one.
    """

    name: str
    run: Runner
    fit: Images
    validation: Images
    test: Images
    architecture: Mapping[str, Any] | None = None
    activation: str | None = None
    module: nn.Module | None = None
    descent: Callable[[Stacked, Tensor, Tensor], Tensor] | None = None

    @torch.no_grad()
    def logits(self, stacked: Stacked, images: Tensor, *, cancelled: CancelCheck | None = None) -> Tensor:
        """Logits ``[m, b, classes]`` of images ``[b, c, h, w]`` that all networks see, some at a time."""
        count = len(next(iter(stacked.values())))
        parts = []
        for first in range(0, count, _MODELS_AT_ONCE):
            stop_if(cancelled)
            some = {name: tensor[first : first + _MODELS_AT_ONCE] for name, tensor in stacked.items()}
            pieces = torch.split(images, _IMAGES_AT_ONCE)
            parts.append(torch.cat([self.run(some, piece) for piece in pieces], dim=1))
        return torch.cat(parts)

    def score(
        self, stacked: Stacked, part: Images, *, cancelled: CancelCheck | None = None
    ) -> tuple[Tensor, Tensor]:
        """Accuracy ``[m]`` (fraction correct) and mean cross-entropy ``[m]`` in nats, infinite where not finite."""
        logits = self.logits(stacked, part.images, cancelled=cancelled)
        accuracy = (logits.argmax(dim=2) == part.labels).float().mean(dim=1)
        return accuracy, self.losses(logits, part.labels).nan_to_num(nan=torch.inf)

    def loss_to_descend(self, stacked: Stacked, images: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy ``[m]`` on images ``[b, c, h, w]``, with gradients by the networks."""
        if self.descent is not None:
            return self.descent(stacked, images, labels)
        return self.losses(self.run(stacked, images), labels)

    @staticmethod
    def losses(logits: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy ``[m]`` of logits ``[m, b, classes]`` and labels ``[b]`` or ``[m, b]``."""
        labels = labels.expand(logits.shape[:2])
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels).mean(1)


def evenly_spaced(count: int, most: int) -> Tensor:
    """Numbers of at most ``most`` of ``count`` images: the first of a set that is in order are all of one class."""
    return torch.linspace(0, count - 1, min(count, most), dtype=torch.float64).round().long()


def split_images(dataset: Dataset) -> tuple[Images, Images, Images]:
    """The parts to fit, to choose and to score on; the first two are the data set's training images.

    Every class keeps its share. The cut is the same in every run.
    """
    generator = np.random.default_rng(_SPLIT_SEED)
    labels = dataset.train_labels.numpy()
    chosen = [
        generator.permutation(np.flatnonzero(labels == label))[: round(VALIDATION_SHARE * (labels == label).sum())]
        for label in np.unique(labels)
    ]
    validation = torch.from_numpy(np.sort(np.concatenate(chosen)))
    rest = torch.ones(len(labels), dtype=torch.bool)
    rest[validation] = False
    train = dataset.train_images
    return (
        Images(train[rest], dataset.train_labels[rest]),
        Images(train[validation], dataset.train_labels[validation]),
        Images(dataset.test_images, dataset.test_labels),
    )


def task_of(zoo: Zoo, rows: Rows | None = None, *, dataset: Dataset | None = None) -> Task:
    """The task a zoo was trained for.

    Args:
        zoo: Which must say its architecture, and its data set unless one is given.
        rows: The anchors: their activation is that of the samples.
        dataset: Other images than the zoo's own, for a transfer; of the same shape.

    Raises:
        Refusal: The zoo does not say how to run its networks (``no-architecture``), or on what, or these images
            are not at hand (``no-data-set``, ``other-data-set``); or the anchors compute with several activations
            (``mixed-activations``).
    """
    architecture = zoo.architecture
    if architecture is None:
        raise Refusal(
            "no-architecture", "The zoo does not say how to run its models.", "Samples cannot be scored without."
        )
    dataset = dataset or data_of_zoo(zoo)[1]
    return task_from(architecture, dataset, activation=_own_activation(zoo, rows))


def _own_activation(zoo: Zoo, rows: Rows | None) -> str | None:
    """That of the rows, where the zoo has one for each model; ``None`` leaves the architecture's."""
    if "activation" not in zoo.table or zoo.table["activation"].isna().any():
        return None
    return activation_of(zoo, [] if rows is None else rows.tolist())


def architecture_of(zoo: Zoo, rows: Rows | None = None) -> dict[str, Any] | None:
    """The JSON that rebuilds these rows' networks; ``None`` where the zoo does not say, or they need several."""
    if zoo.architecture is None:
        return None
    try:
        activation = _own_activation(zoo, rows)
    except Refusal:
        return None
    return {**zoo.architecture, **({} if activation is None else {"activation": activation})}


def task_from(architecture: Mapping[str, Any], dataset: Dataset, *, activation: str | None = None) -> Task:
    """A task from an architecture's JSON and a data set."""
    from sane_engine.zoo.architectures import ArchitectureSpec, as_architecture, forward_stacked
    from sane_engine.zoo.chain_runner import ChainRunner

    spec = as_architecture(architecture)
    resolved = {**architecture, **({} if activation is None else {"activation": activation})}
    if isinstance(spec, ArchitectureSpec):
        chain = ChainRunner(spec, activation)
        parts = split_images(dataset)
        return Task(dataset.name, chain, *parts, resolved, activation, descent=chain.losses)

    def run(stacked: Stacked, images: Tensor) -> Tensor:
        return forward_stacked(spec, stacked, images, activation=activation)

    return Task(dataset.name, run, *split_images(dataset), architecture=resolved, activation=activation)


def task_from_module(module: nn.Module, dataset: Dataset) -> Task:
    """A task for networks that a module runs, in evaluation mode; any architecture torch can vectorise."""
    from torch.func import functional_call, vmap

    module = module.eval()

    def one(tensors: dict[str, Tensor], images: Tensor) -> Tensor:
        # Tied names are all given, each with its network's tensor.
        logits: Tensor = functional_call(module, tensors, (images,), tie_weights=False)
        return logits

    def run(stacked: Stacked, images: Tensor) -> Tensor:
        shared = images.dim() == 4
        logits: Tensor = vmap(one, in_dims=(0, None if shared else 0))(dict(stacked), images)
        return logits

    return Task(dataset.name, run, *split_images(dataset), module=module)
