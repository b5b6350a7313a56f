"""What each model of a zoo draws for itself: its hyper-parameters, and later its batch order and dropout masks.

Every draw comes from a generator seeded with the model's own seed, so a model is the same whatever trains beside it
and wherever a run was interrupted. The process-wide generators are neither read nor disturbed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sane_engine.zoo.spec import Range, Values, ZooSpec

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from sane_engine.zoo.architecture_spec import ArchitectureSpec


@dataclass(frozen=True)
class ModelPlan:
    """One model to train: its name and everything it drew. ``seed`` seeds all that is still to be drawn."""

    model: str
    seed: int
    activation: str
    initialisation: str
    initialisation_seed: int
    optimiser: str
    learning_rate: float
    weight_decay: float
    dropout: float
    batch_size: int
    momentum: float
    stop_epoch: int


def derived_seed(seed: int, *purpose: object) -> int:
    """A 32-bit seed for one purpose, unrelated to that of any other purpose (torch's generator keeps 32 bits)."""
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")


def plan_models(spec: ZooSpec) -> list[ModelPlan]:
    """Draw the hyper-parameters of every model; the first models of a larger zoo are those of a smaller one."""
    return [_plan_model(spec, number, f"m{number:04d}") for number in range(spec.n_models)]


def _plan_model(spec: ZooSpec, number: int, model: str) -> ModelPlan:
    seed = derived_seed(spec.seed, "model", number)
    generator = np.random.default_rng(seed)
    optimiser = spec.optimiser[generator.integers(len(spec.optimiser))]
    # In the order of the fields: what was added last is drawn last, so that older zoos stay what they are.
    return ModelPlan(
        model=model,
        seed=seed,
        activation=spec.activation[generator.integers(len(spec.activation))],
        initialisation=spec.initialisation[generator.integers(len(spec.initialisation))],
        initialisation_seed=derived_seed(spec.seed if spec.shared_initialisation else seed, "initialisation"),
        optimiser=optimiser,
        learning_rate=_draw(spec.learning_rates(optimiser), generator),
        weight_decay=_draw(spec.weight_decay, generator),
        dropout=_draw(spec.dropout, generator),
        batch_size=spec.batch_size[generator.integers(len(spec.batch_size))],
        momentum=_draw(spec.momentum, generator),
        stop_epoch=_stop_epoch(spec, generator),
    )


def _stop_epoch(spec: ZooSpec, generator: np.random.Generator) -> int:
    stops = spec.stop_epoch or spec.checkpoint_epochs[-1:]
    return stops[generator.integers(len(stops))]


def _draw(values: Values, generator: np.random.Generator) -> float:
    if not isinstance(values, Range):
        return float(values[generator.integers(len(values))])
    zero, position = generator.random(2)
    if zero < values.zero:
        return 0.0
    if values.log:
        low, high = np.log(values.low), np.log(values.high)
        return float(np.exp(low + position * (high - low)))
    return float(values.low + position * (values.high - values.low))


def _generator(seed: int, purpose: str, epoch: int) -> Generator:
    import torch

    return torch.Generator().manual_seed(derived_seed(seed, purpose, epoch))


def batch_order(plan: ModelPlan, epoch: int, n_images: int) -> Tensor:
    """The order ``[n_images]`` in which one model sees the training images in one epoch (from 1)."""
    import torch

    return torch.randperm(n_images, generator=_generator(plan.seed, "order", epoch))


def dropout_masks(plan: ModelPlan, epoch: int, architecture: ArchitectureSpec) -> Iterator[Tensor]:
    """One model's dropout factors in one epoch, step by step.

    Yields:
        Factors ``[units, batch_size]`` for the inputs of all fully connected layers, one after the other: 0 where
        dropped, else 1 / (1 − dropout).
    """
    import torch

    generator = _generator(plan.seed, "dropout", epoch)
    channels, height, width = architecture.feature_shape
    flat, *hidden = (inputs for inputs, _ in architecture.fully_connected)
    drawn = {"units": flat, "channels": channels, "none": 0}[architecture.flat_dropout]
    while True:
        shape = (drawn + sum(hidden), plan.batch_size)
        masks = torch.ones(shape)
        if plan.dropout:
            masks = (torch.rand(shape, generator=generator) >= plan.dropout).float() / (1 - plan.dropout)
        if architecture.flat_dropout == "channels":
            masks = torch.cat([masks[:drawn].repeat_interleave(height * width, dim=0), masks[drawn:]])
        elif architecture.flat_dropout == "none":
            masks = torch.cat([torch.ones(flat, plan.batch_size), masks])
        yield masks
