"""Train one model the plain way: a module, ``torch.optim``, one batch after the other.

The yardstick for training many side by side: the tests hold the population trainer to these weights, the benchmark
to this speed. Residual networks are trained this way, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sane_engine.zoo.architectures import build
from sane_engine.zoo.datasets import Dataset
from sane_engine.zoo.hyperparameters import ModelPlan, batch_order
from sane_engine.zoo.initialisation import initialise
from sane_engine.zoo.spec import ZooSpec


def optimiser_of(plan: ModelPlan, network: nn.Module) -> torch.optim.Optimizer:
    """What ``torch.optim`` has for the optimiser that a model drew."""
    rate, decay = plan.learning_rate, plan.weight_decay
    if plan.optimiser == "adam":
        return torch.optim.Adam(network.parameters(), lr=rate, weight_decay=decay)
    if plan.optimiser == "adamw":
        return torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=decay)
    momentum = plan.momentum if plan.optimiser == "momentum" else 0
    return torch.optim.SGD(network.parameters(), lr=rate, weight_decay=decay, momentum=momentum)


def score(network: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """Accuracy and mean cross-entropy of one network."""
    network.eval()
    with torch.no_grad():
        logits = network(images)
        correct = (logits.argmax(1) == labels).float().mean()
        return float(correct), float(F.cross_entropy(logits, labels))


def train_epoch(
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    plan: ModelPlan,
    epoch: int,
) -> None:
    """One pass over the training images, in the order that the model drew."""
    network.train()
    for index in torch.split(batch_order(plan, epoch, len(labels)), plan.batch_size):
        optimiser.zero_grad()
        loss = F.cross_entropy(network(images[index]), labels[index])
        torch.autograd.backward(loss)
        optimiser.step()


def train_single(spec: ZooSpec, plan: ModelPlan, dataset: Dataset) -> dict[int, Mapping[str, Tensor]]:
    """Train one model of a zoo, from the population's initial weights and in its batch order.

    Dropout is the module's own, from torch's global generator: with it the weights differ from the population's.

    Returns:
        Checkpoint epoch → state dict.
    """
    network = build(replace(spec.architecture, activation=plan.activation, dropout=plan.dropout))
    network.load_state_dict(initialise(spec.architecture, plan.initialisation, plan.initialisation_seed))
    optimiser = optimiser_of(plan, network)
    images, labels = dataset.train_images, dataset.train_labels
    kept: dict[int, Mapping[str, Tensor]] = {}
    for epoch in range(plan.stop_epoch + 1):
        if epoch:
            train_epoch(network, optimiser, images, labels, plan, epoch)
        if epoch in spec.checkpoint_epochs:
            score(network, images, labels)
            score(network, dataset.test_images, dataset.test_labels)
            kept[epoch] = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    return kept
