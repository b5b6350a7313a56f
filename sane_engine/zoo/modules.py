"""Models trained one by one as modules, for architectures whose passes are not written out (see ``stacked.py``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sane_engine.zoo.architecture_families import Architecture
from sane_engine.zoo.architectures import build, evaluate
from sane_engine.zoo.datasets import Dataset
from sane_engine.zoo.hyperparameters import ModelPlan, derived_seed
from sane_engine.zoo.initialisation import initialise
from sane_engine.zoo.single import optimiser_of, train_epoch
from sane_engine.zoo.spec import ZooSpec
from sane_engine.zoo.stacked import unflatten


class ModuleChunk:
    """Modules of one chunk, each with its own optimiser."""

    def __init__(
        self, architecture: Architecture, spec: ZooSpec, plans: Sequence[ModelPlan], dataset: Dataset
    ) -> None:
        self.architecture, self.plans, self.dataset = architecture, plans, dataset
        self.scored = dataset.scored(spec.scored_images, spec.seed)
        # On the meta device nothing is drawn from the process-wide generator: the weights are the plan's.
        with torch.device("meta"):
            self.networks = [
                build(replace(architecture, activation=plan.activation, dropout=plan.dropout)) for plan in plans
            ]
        for plan, network in zip(plans, self.networks, strict=True):
            network.to_empty(device="cpu")
            network.load_state_dict(initialise(architecture, plan.initialisation, plan.initialisation_seed))
        self.optimisers = [optimiser_of(*pair) for pair in zip(plans, self.networks, strict=True)]

    @property
    def flat(self) -> Tensor:
        """All parameters and buffers ``[m, p]``, as they are now; float32 holds a counter up to 16 million."""
        states = [network.state_dict() for network in self.networks]
        return torch.stack([torch.cat([tensor.reshape(-1).float() for tensor in s.values()]) for s in states])

    def train_epoch(self, epoch: int) -> None:
        """One pass over the training images, every model in its own order and with its own dropout."""
        images, labels = self.dataset.train_images, self.dataset.train_labels
        for plan, network, optimiser in zip(self.plans, self.networks, self.optimisers, strict=True):
            # Dropout in a module draws from the process-wide generator, which is put back.
            with torch.random.fork_rng(devices=[]), torch.enable_grad():
                torch.manual_seed(derived_seed(plan.seed, "dropout", epoch))
                train_epoch(network, optimiser, images, labels, plan, epoch)

    def score(self, parameters: Tensor) -> Tensor:
        """Metrics ``[m, 4]`` of flat parameters ``[m, p]``."""
        stacked = unflatten(parameters, self.architecture)
        activation = self.plans[0].activation
        scores = [evaluate(self.architecture, stacked, *part, activation=activation) for part in self.scored]
        (train_accuracy, train_loss), (test_accuracy, test_loss) = scores
        return torch.stack([train_accuracy, test_accuracy, train_loss, test_loss], dim=1)
