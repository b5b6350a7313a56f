"""Twelve small networks on the way from one start to twelve ends, three epochs each."""

from __future__ import annotations

import pandas as pd
import torch

from sane_engine.zoo import Zoo

MODELS, EPOCHS = 12, (0, 1, 5)
SHAPES = {
    "conv1.weight": (8, 1, 3, 3),
    "conv1.bias": (8,),
    "fc1.weight": (12, 32),
    "fc1.bias": (12,),
    "fc2.weight": (10, 12),
    "fc2.bias": (10,),
}


def network(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def tiny_zoo() -> Zoo:
    rows, models = [], []
    start = network(1000)
    for model in range(MODELS):
        end = network(model)
        for epoch in EPOCHS:
            share = epoch / 5
            models.append({name: start[name] * (1 - share) + end[name] * share for name in SHAPES})
            accuracy = 0.1 + share * (0.3 + 0.05 * model)
            rows.append(
                {
                    "model": f"net_{model:02d}*bold*",
                    "epoch": epoch,
                    "train_accuracy": accuracy + 0.02,
                    "test_accuracy": accuracy,
                    "learning_rate": 10.0 ** (-4 + model / 4),
                    "activation": ("relu", "tanh")[model % 2],
                }
            )
    return Zoo.from_models("tiny", pd.DataFrame(rows), models, provenance={"made": "by a test"})
