"""Train samples a little further, side by side: how good a start they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sane_engine.progress import CancelCheck, Progress, no_progress, stop_if
from sane_engine.sampling.draws import generator_of
from sane_engine.sampling.task import Images, Task
from sane_engine.ties import memory_key
from sane_engine.zoo.architectures import ArchitectureSpec, as_architecture
from sane_engine.zoo.optimisers import StackedOptimiser
from sane_engine.zoo.stacked import StackedNetwork
from sane_engine.zoo.training import one_thread

EPOCHS = (0, 1, 2, 5, 25)
RATES = (3e-4, 1e-3, 3e-3, 1e-2)
"""Learning rates of Adam that are tried where none is given."""

BATCH = 32
_MODELS_AT_ONCE = 16
_TUNED_MODELS, _TUNING_EPOCHS = 4, 2


@one_thread()
def fine_tune(
    task: Task,
    stacked: Mapping[str, Tensor],
    *,
    epochs: Sequence[int] = EPOCHS,
    learning_rate: float = 1e-3,
    seed: int = 0,
    score_on: Images | None = None,
    progress: Progress = no_progress,
    cancelled: CancelCheck | None = None,
) -> Tensor:
    """Accuracy of many networks after some epochs of training on the task's images to fit.

    Adam in batches of 32 with an order of images for each network; norms keep their running statistics.

    Args:
        task: What to train for.
        stacked: Tensor name → ``[m, …]``; not changed.
        epochs: After which to score, rising; 0 is before the first step.
        learning_rate: Of Adam.
        seed: Of the order of the images.
        score_on: Images to score on; the test images by default.
        progress: Called with the epochs done, of all networks.
        cancelled: Asked after every epoch of some networks.

    Returns:
        Fraction correct ``[m, len(epochs)]``.
    """
    epochs = sorted(set(epochs))
    count = len(next(iter(stacked.values())))
    parts = []
    total = -(-count // _MODELS_AT_ONCE) * max(1, epochs[-1])
    for first in range(0, count, _MODELS_AT_ONCE):
        some = {name: tensor[first : first + _MODELS_AT_ONCE].detach() for name, tensor in stacked.items()}
        trainer = _trainer(task, some, learning_rate)
        scores = []
        for epoch in range(epochs[-1] + 1):
            stop_if(cancelled)
            if epoch:
                trainer.epoch(epoch, first, seed)
                progress(first // _MODELS_AT_ONCE * epochs[-1] + epoch, total, "fine-tuning")
            if epoch in epochs:
                scores.append(task.score(trainer.networks(), score_on or task.test)[0])
        parts.append(torch.stack(scores, dim=1))
    return torch.cat(parts)


def best_learning_rate(
    task: Task,
    stacked: Mapping[str, Tensor],
    *,
    rates: Sequence[float] = RATES,
    epochs: int = _TUNING_EPOCHS,
    seed: int = 0,
    cancelled: CancelCheck | None = None,
) -> float:
    """The learning rate after which some of the networks do best on the validation images.

    Args:
        task: What to train for.
        stacked: Tensor name → ``[m, …]``; the first few are tried.
        rates: To choose from.
        epochs: How long each is tried.
        seed: Of the order of the images.
        cancelled: Asked after every epoch.
    """
    few = {name: tensor[:_TUNED_MODELS] for name, tensor in stacked.items()}
    found = [
        float(
            fine_tune(
                task, few, epochs=(epochs,), learning_rate=rate, seed=seed, score_on=task.validation,
                cancelled=cancelled,
            ).mean()
        )
        for rate in rates
    ]  # fmt: skip
    return rates[max(range(len(rates)), key=found.__getitem__)]


def _trainer(task: Task, stacked: Mapping[str, Tensor], learning_rate: float) -> _Stacked | _Traced:
    architecture = None if task.architecture is None else as_architecture(task.architecture)
    if isinstance(architecture, ArchitectureSpec):
        return _Stacked(task, architecture, stacked, learning_rate)
    return _Traced(task, stacked, learning_rate)


def _orders(task: Task, first: int, models: int, seed: int, epoch: int) -> Tensor:
    """The order in which each network sees the images to fit: ``[m, b]``."""
    purpose = [("fine-tune", first + number, epoch) for number in range(models)]
    return torch.stack([torch.randperm(len(task.fit), generator=generator_of(seed, *each)) for each in purpose])


def _adam(flat: Tensor, learning_rate: float) -> StackedOptimiser:
    rates = torch.full((len(flat),), learning_rate, dtype=torch.float64)
    return StackedOptimiser("adam", flat, rates, torch.zeros_like(rates), torch.zeros_like(rates))


class _Stacked:
    """The zoo's own trainer: several times faster than autograd for its small networks."""

    def __init__(
        self, task: Task, architecture: ArchitectureSpec, stacked: Mapping[str, Tensor], learning_rate: float
    ) -> None:
        self._task, self._images = task, task.fit.images.flatten(1)
        models = len(next(iter(stacked.values())))
        size, rest = min(BATCH, len(task.fit)), len(task.fit) % min(BATCH, len(task.fit))
        self._network = StackedNetwork(architecture, models, size, activation=task.activation)
        self._network.load({name: stacked[name] for name in architecture.shapes})
        self._rest = StackedNetwork(architecture, models, rest, activation=task.activation) if rest else None
        self._optimiser = _adam(self._network.parameters, learning_rate)

    def networks(self) -> dict[str, Tensor]:
        """The networks as they are now: views of the matrix."""
        return dict(self._network.named)

    @torch.no_grad()
    def epoch(self, epoch: int, first: int, seed: int) -> None:
        """One pass over the images, every network in its own order."""
        models = self._network.n_models
        for index in torch.split(_orders(self._task, first, models, seed, epoch), self._network.batch, dim=1):
            network = self._network
            if index.shape[1] < network.batch and self._rest is not None:
                network = self._rest
                network.parameters.copy_(self._network.parameters)
            images = self._images.index_select(0, index.reshape(-1)).view(models, index.shape[1], -1)
            gradient = torch.softmax(network.forward(images), dim=1)
            labels = self._task.fit.labels[index].unsqueeze(1)
            gradient.scatter_add_(1, labels, gradient.new_full((), -1.0).expand(labels.shape))
            network.backward(gradient.div_(index.shape[1]))
            self._optimiser.step(network.gradients)


class _Traced:
    """Some networks of any kind as the rows of one matrix; gradients by the task's own runner."""

    def __init__(self, task: Task, stacked: Mapping[str, Tensor], learning_rate: float) -> None:
        self._task = task
        self._owners: dict[str, str] = {}
        seen: dict[object, str] = {}
        for name, tensor in stacked.items():
            self._owners[name] = seen.setdefault(memory_key(tensor), name)
        self._trained = {
            name: tensor.shape
            for name, tensor in stacked.items()
            if tensor.is_floating_point() and self._owners[name] == name and ".running_" not in name
        }
        self._fixed = {n: t for n, t in stacked.items() if self._owners[n] == n and n not in self._trained}
        self._flat = torch.cat([stacked[name].float().flatten(1) for name in self._trained], dim=1)
        self._optimiser = _adam(self._flat, learning_rate)

    def networks(self) -> dict[str, Tensor]:
        """The networks as they are now: views of the matrix."""
        return self._unflatten(self._flat)

    def _unflatten(self, flat: Tensor) -> dict[str, Tensor]:
        sizes = [shape[1:].numel() for shape in self._trained.values()]
        parts = torch.split(flat, sizes, dim=1)
        own = {name: part.view(shape) for (name, shape), part in zip(self._trained.items(), parts, strict=True)}
        return {name: {**self._fixed, **own}[owner] for name, owner in self._owners.items()}

    def epoch(self, epoch: int, first: int, seed: int) -> None:
        """One pass over the images, every network in its own order."""
        fit = self._task.fit
        for index in torch.split(_orders(self._task, first, len(self._flat), seed, epoch), BATCH, dim=1):
            leaf = self._flat.detach().requires_grad_()
            logits = self._task.run(self._unflatten(leaf), fit.images[index])
            (gradient,) = torch.autograd.grad(self._task.losses(logits, fit.labels[index]).sum(), leaf)
            self._optimiser.step(gradient)
