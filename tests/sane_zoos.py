"""Small synthetic zoos for the tests of the autoencoder."""

from __future__ import annotations

import pandas as pd
import torch
from torch import Tensor

from sane_engine.symmetry import symmetry_of_zoo
from sane_engine.zoo import Zoo

SMALL = {"conv.weight": (6, 1, 3, 3), "conv.bias": (6,), "fc.weight": (4, 24), "fc.bias": (4,)}
WIDE = {
    "conv.weight": (40, 1, 3, 3),
    "conv.bias": (40,),
    "fc.weight": (5, 40),
    "fc.bias": (5,),
    "last.weight": (3, 5),
}


def stacked(models: int, shapes: dict[str, tuple[int, ...]] = SMALL, seed: int = 0) -> dict[str, Tensor]:
    """Weights of models that started from the same point and moved along a few shared directions."""
    generator = torch.Generator().manual_seed(seed)
    where = torch.randn(models, 3, generator=generator)
    tensors = {}
    for name, shape in shapes.items():
        start = 0.5 * torch.randn(shape, generator=generator)
        directions = 0.2 * torch.randn(3, *shape, generator=generator)
        noise = 0.02 * torch.randn(models, *shape, generator=generator)
        tensors[name] = start + torch.tensordot(where, directions, 1) + noise
    return tensors


def zoo(models: int = 60, shapes: dict[str, tuple[int, ...]] = SMALL, seed: int = 0) -> Zoo:
    """A zoo of such models, two thirds of them for training."""
    train, validation = models * 2 // 3, models // 6
    split = ["train"] * train + ["validation"] * validation + ["test"] * (models - train - validation)
    table = pd.DataFrame({"model": [f"m{i:03d}" for i in range(models)], "epoch": 0, "split": split})
    return Zoo.from_stacked("synthetic", table, stacked(models, shapes, seed))


ARCHITECTURE = {
    "input_shape": [1, 6, 6],
    "convolutions": [{"out": 4, "kernel": 3, "stride": 2, "padding": 1}, {"out": 3, "kernel": 2}],
    "hidden": [5],
    "classes": 3,
    "activation": "tanh",
}
"""Every hidden unit of this network may change its place and its sign."""

SYMMETRIC = {
    "conv1.weight": (4, 1, 3, 3),
    "conv1.bias": (4,),
    "conv2.weight": (3, 4, 2, 2),
    "conv2.bias": (3,),
    "fc1.weight": (5, 12),
    "fc1.bias": (5,),
    "fc2.weight": (3, 5),
    "fc2.bias": (3,),
}


def symmetric_zoo(models: int = 36, seed: int = 0) -> Zoo:
    """A zoo of networks that can be run, and whose symmetry is known from their architecture."""
    table = zoo(models).table.assign(activation="tanh")
    return Zoo.from_stacked("symmetric", table, stacked(models, SYMMETRIC, seed), architecture=ARCHITECTURE)


def shuffled(one: Zoo, seed: int = 0) -> Zoo:
    """The same networks, each with its hidden units in another order and with other signs."""
    symmetry, generator = symmetry_of_zoo(one), torch.Generator().manual_seed(seed)
    models = [symmetry.permute(one.tensors(i), symmetry.random(generator)) for i in range(len(one))]
    stack = {name: torch.stack([model[name] for model in models]) for name in models[0]}
    return Zoo.from_stacked("shuffled", one.table, stack, architecture=one.architecture)
