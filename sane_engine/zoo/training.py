"""Train one chunk of models side by side and keep their weights at the chosen epochs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from sane_engine.zoo.architecture_families import Architecture
from sane_engine.zoo.architecture_spec import ArchitectureSpec
from sane_engine.zoo.datasets import Dataset
from sane_engine.zoo.hyperparameters import ModelPlan, batch_order, dropout_masks
from sane_engine.zoo.initialisation import initialise
from sane_engine.zoo.modules import ModuleChunk
from sane_engine.zoo.optimisers import StackedOptimiser
from sane_engine.zoo.pruning import prune_by_magnitude
from sane_engine.zoo.resnet_spec import ResNetSpec
from sane_engine.zoo.spec import ZooSpec
from sane_engine.zoo.stacked import StackedNetwork, unflatten

METRICS = ("train_accuracy", "test_accuracy", "train_loss", "test_loss")
# Measured on one core with 1 MB of second-level cache: 8 to 32 small models side by side are within 15 % of each
# other. Of models with larger images fewer go together: they win nothing more, and lose the third-level cache.
MODELS_A_CHUNK = 16
_CHUNK_BYTES = 8 * 1024 * 1024
_IMAGES_A_SCORE = 64
# Trained one by one, so that this only says how often a run is saved.
_MODULES_A_CHUNK = 4


@dataclass(frozen=True)
class TrainedChunk:
    """What remains of a chunk of ``m`` models.

    Attributes:
        parameters: ``[m, k, p]`` float32: each model's flat parameters at ``k`` checkpoints, the chosen epochs
            first, as far as the chunk was trained, then the pruned copies of the last.
        metrics: ``[m, k, 4]`` float32, in the order of :data:`METRICS`.
        core_seconds: What it cost on one core, whatever else that core had to do.
    """

    parameters: Tensor
    metrics: Tensor
    core_seconds: float = 0.0


def models_a_chunk(architecture: Architecture, batch_size: int) -> int:
    """How many models of an architecture are best trained side by side."""
    if isinstance(architecture, ResNetSpec):
        return _MODULES_A_CHUNK
    channels, height, width = architecture.input_shape
    floats = 1
    for convolution in architecture.convolutions:
        height, width = convolution.convolved_size(height), convolution.convolved_size(width)
        floats += channels * convolution.kernel**2 * height * width
        channels, height, width = convolution.out, height // convolution.pool, width // convolution.pool
    return max(2, min(MODELS_A_CHUNK, _CHUNK_BYTES // (4 * floats * batch_size)))


def chunked(plans: Sequence[ModelPlan], size: int = MODELS_A_CHUNK) -> list[list[ModelPlan]]:
    """Put models together that can be trained together.

    Activation, optimiser, batch size and last epoch are equal within a chunk, and models without dropout are among
    themselves. Chunks of one such group differ by at most one model.
    """
    groups: dict[tuple[str, str, int, bool, int], list[ModelPlan]] = {}
    for plan in plans:
        key = (plan.activation, plan.optimiser, plan.batch_size, plan.dropout > 0, plan.stop_epoch)
        groups.setdefault(key, []).append(plan)
    chunks: list[list[ModelPlan]] = []
    for members in groups.values():
        count = -(-len(members) // size)
        bounds = [len(members) * number // count for number in range(count + 1)]
        chunks += [members[start:stop] for start, stop in pairwise(bounds)]
    return chunks


class _Chunk:
    """Stacked networks of one chunk with their optimiser, stepping through the training images."""

    def __init__(
        self, architecture: ArchitectureSpec, spec: ZooSpec, plans: Sequence[ModelPlan], dataset: Dataset
    ) -> None:
        first = plans[0]
        self.scored = dataset.scored(spec.scored_images, spec.seed)
        self.plans, self.dataset = plans, dataset
        self.batch = min(first.batch_size, len(dataset.train_labels))
        self.network = StackedNetwork(architecture, len(plans), self.batch, activation=first.activation)
        inits = [initialise(architecture, plan.initialisation, plan.initialisation_seed) for plan in plans]
        self.network.load({name: torch.stack([init[name] for init in inits]) for name in inits[0]})
        self.optimiser = StackedOptimiser(
            first.optimiser,
            self.network.parameters,
            torch.tensor([plan.learning_rate for plan in plans], dtype=torch.float64),
            torch.tensor([plan.weight_decay for plan in plans], dtype=torch.float64),
            torch.tensor([plan.momentum for plan in plans]),
        )
        self.flat_images = dataset.train_images.flatten(1)
        # The last batch of an epoch may be smaller: a second set of buffers, with the same parameters.
        self.rest: StackedNetwork | None = None
        if remainder := len(dataset.train_labels) % self.batch:
            self.rest = StackedNetwork(architecture, len(plans), remainder, activation=first.activation)
        self.scorer = StackedNetwork(architecture, len(plans), _IMAGES_A_SCORE, activation=first.activation)

    @property
    def flat(self) -> Tensor:
        """All parameters ``[m, p]``, as they are now."""
        return self.network.parameters

    def train_epoch(self, epoch: int) -> None:
        """One pass over the training images, every model in its own order."""
        n_images = len(self.dataset.train_labels)
        orders = torch.stack([batch_order(plan, epoch, n_images) for plan in self.plans])
        steps = -(-n_images // self.batch)
        drops = [dropout_masks(plan, epoch, self.network.architecture) for plan in self.plans]
        dropout = any(plan.dropout for plan in self.plans)
        for step in range(steps):
            index = orders[:, step * self.batch : (step + 1) * self.batch]
            masks = torch.stack([next(model) for model in drops])[:, :, : index.shape[1]] if dropout else None
            self._step(index, masks)

    def _step(self, index: Tensor, masks: Tensor | None) -> None:
        models, size = index.shape
        network = self.network
        if size < self.batch and self.rest is not None:
            network = self.rest
            network.parameters.copy_(self.network.parameters)
        images = self.flat_images.index_select(0, index.reshape(-1)).view(models, size, -1)
        logits = network.forward(images, masks)
        # Gradient of the mean cross-entropy by the logits: softmax minus one-hot labels, over the batch size.
        gradient = torch.softmax(logits, dim=1)
        labels = self.dataset.train_labels[index].unsqueeze(1)
        gradient.scatter_add_(1, labels, gradient.new_full((), -1.0).expand(labels.shape))
        network.backward(gradient.div_(size), masks)
        self.optimiser.step(network.gradients)

    def score(self, parameters: Tensor) -> Tensor:
        """Metrics ``[m, 4]`` of flat parameters ``[m, p]``."""
        self.scorer.parameters.copy_(parameters)
        (train_images, train_labels), (test_images, test_labels) = self.scored
        train_accuracy, train_loss = self.scorer.score(train_images, train_labels)
        test_accuracy, test_loss = self.scorer.score(test_images, test_labels)
        return torch.stack([train_accuracy, test_accuracy, train_loss, test_loss], dim=1)


@torch.no_grad()
@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread inside the block.

    Beside other processes a second thread makes small products many times slower. And the number of threads decides
    the order of sums, so a zoo trained here and one trained in children are equal to the bit only on equal terms.
    (The number is not always what it was at the start: UMAP's compiler sets it for the whole process.)
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _chunk_of(spec: ZooSpec, plans: Sequence[ModelPlan], dataset: Dataset) -> _Chunk | ModuleChunk:
    architecture = spec.architecture
    if isinstance(architecture, ResNetSpec):
        return ModuleChunk(architecture, spec, plans, dataset)
    return _Chunk(architecture, spec, plans, dataset)


@one_thread()
def train_chunk(
    spec: ZooSpec, plans: Sequence[ModelPlan], dataset: Dataset, *, after_epoch: Callable[[int], None]
) -> TrainedChunk:
    """Train models side by side.

    Args:
        spec: The zoo they belong to.
        plans: The models, of one group of :func:`chunked`.
        dataset: What to train on.
        after_epoch: Called with the number of each finished epoch; may raise to stop.
    """
    start = time.process_time()
    chunk = _chunk_of(spec, plans, dataset)
    parameters: list[Tensor] = []
    metrics: list[Tensor] = []

    def keep(state: Tensor) -> None:
        parameters.append(state.clone())
        metrics.append(chunk.score(state))

    if 0 in spec.checkpoint_epochs:
        keep(chunk.flat)
    for epoch in range(1, spec.epochs + 1):
        # Nothing after a chunk's last checkpoint can be seen, so it is not computed.
        if epoch > plans[0].stop_epoch:
            after_epoch(epoch)
            continue
        chunk.train_epoch(epoch)
        if epoch in spec.checkpoint_epochs:
            keep(chunk.flat)
        after_epoch(epoch)
    last = unflatten(parameters[-1], spec.architecture)
    for sparsity in spec.pruning:
        pruned = prune_by_magnitude(last, sparsity)
        keep(torch.cat([tensor.reshape(len(plans), -1) for tensor in pruned.values()], dim=1))
    spent = time.process_time() - start
    return TrainedChunk(torch.stack(parameters, dim=1), torch.stack(metrics, dim=1), spent)
