"""Gradient descent on many models at once, each with its own learning rate and weight decay.

The update rules are those of ``torch.optim`` with its default constants.
"""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor

from sane_engine.zoo.spec import OPTIMISERS

BETAS = (0.9, 0.999)
EPSILON = 1e-8


class StackedOptimiser:
    """One optimiser's state for ``m`` models whose parameters are the rows of a matrix.

    Args:
        kind: One of :data:`sane_engine.zoo.spec.OPTIMISERS`.
        parameters: ``[m, p]``, updated in place by :meth:`step`.
        learning_rate: ``[m]``.
        weight_decay: ``[m]``.
        momentum: ``[m]``; counts for the kind of that name alone.
    """

    def __init__(
        self, kind: str, parameters: Tensor, learning_rate: Tensor, weight_decay: Tensor, momentum: Tensor
    ) -> None:
        if kind not in OPTIMISERS:
            raise ValueError(f"optimiser {kind!r} is unknown; choose from {', '.join(OPTIMISERS)}")
        self.kind = kind
        self.parameters = parameters
        # In double precision until the last product, as torch.optim keeps them as Python floats.
        self.learning_rate = learning_rate.double().unsqueeze(1)
        self.weight_decay = weight_decay.double().unsqueeze(1)
        self.first = torch.zeros_like(parameters) if kind != "sgd" else None
        self.second = torch.zeros_like(parameters) if kind in ("adam", "adamw") else None
        self.steps = 0
        self._momentum = momentum.float().unsqueeze(1)
        self._rate = self.learning_rate.float()
        self._decay = self.weight_decay.float()
        self._shrink = (1 - self.learning_rate * self.weight_decay).float()
        self._decays = bool(weight_decay.any())

    def step(self, gradients: Tensor) -> None:
        """Update the parameters; ``gradients`` ``[m, p]`` are overwritten."""
        self.steps += 1
        if self._decays:
            if self.kind == "adamw":
                self.parameters.mul_(self._shrink)
            else:
                gradients.addcmul_(self.parameters, self._decay)
        if self.first is None:
            self.parameters.addcmul_(gradients, self._rate, value=-1)
        elif self.second is None:
            self.first.mul_(self._momentum).add_(gradients)
            self.parameters.addcmul_(self.first, self._rate, value=-1)
        else:
            beta1, beta2 = BETAS
            self.first.lerp_(gradients, 1 - beta1)
            self.second.mul_(beta2).addcmul_(gradients, gradients, value=1 - beta2)
            torch.sqrt(self.second, out=gradients)
            gradients.div_(sqrt(1 - beta2**self.steps)).add_(EPSILON)
            torch.div(self.first, gradients, out=gradients)
            step_size = (self.learning_rate / (1 - beta1**self.steps)).float()
            self.parameters.addcmul_(gradients, step_size, value=-1)
