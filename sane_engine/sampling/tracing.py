"""From one model to another through a space: what is decoded on the way, and whether it works."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from sane_engine.progress import CancelCheck, Progress, no_progress, stop_if
from sane_engine.sampling.batch_norm import Condition, networks
from sane_engine.sampling.frame import unstack
from sane_engine.sampling.spaces import Space, encode_models
from sane_engine.sampling.task import Task
from sane_engine.tokens import Layout

_AT_ONCE = 8


@dataclass(frozen=True, eq=False)
class Trace:
    """Models on a straight line between two.

    Attributes:
        share: 0 is the first model, 1 the second, beyond them the line goes on: ``[t]``.
        accuracy: On the test images ``[t]``; NaN where the models cannot be run.
        stacked: The decoded models ``[t, …]`` a tensor.
        layers: One row a share and layer: ``share``, ``layer``, ``norm`` (root mean square of its weights).
    """

    share: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    stacked: Mapping[str, Tensor]
    layers: pd.DataFrame

    def tensors(self, index: int) -> dict[str, Tensor]:
        """The model at one share."""
        return unstack(self.stacked, index)


@torch.no_grad()
def trace(
    space: Space,
    stacked: Mapping[str, Tensor],
    task: Task | None,
    *,
    points: int = 21,
    beyond: float = 0.25,
    condition: Condition = "auto",
    progress: Progress = no_progress,
    cancelled: CancelCheck | None = None,
) -> Trace:
    """Decode the line between two models.

    Args:
        space: In which the line is straight.
        stacked: The two models, ``[2, …]`` a tensor; aligned here.
        task: How to run them and on what.
        points: Along the line.
        beyond: How far the line goes on past either end, as a share of its length.
        condition: Of batch norm.
        progress: Called with the points done.
        cancelled: Asked between some points.
    """
    first, second = encode_models(space, stacked)
    share = np.linspace(-beyond, 1 + beyond, points)
    line = first + torch.from_numpy(share).float()[:, None, None] * (second - first)
    parts: list[dict[str, Tensor]] = []
    for start in range(0, points, _AT_ONCE):
        stop_if(cancelled)
        parts.append(networks(space, line[start : start + _AT_ONCE], task, condition)[0])
        progress(min(start + _AT_ONCE, points), points, "decoding the line")
    found = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    accuracy = np.full(points, np.nan)
    if task is not None:
        accuracy = task.score(found, task.test, cancelled=cancelled)[0].double().numpy()
    sizes = layer_sizes(space.frame.layout, found)
    layers = [
        pd.DataFrame({"share": share, "layer": layer.name, "norm": size})
        for layer, size in zip(space.frame.layout.layers, sizes, strict=True)
    ]
    return Trace(share, accuracy, found, pd.concat(layers, ignore_index=True))


def layer_sizes(layout: Layout, stacked: Mapping[str, Tensor]) -> NDArray[np.float64]:
    """Root mean square of the weights of each layer of each network: ``[layers, m]``."""
    sizes = []
    for layer in layout.layers:
        flat = torch.cat([stacked[name].double().flatten(1) for name in layer.members], dim=1)
        sizes.append(flat.square().mean(dim=1).sqrt().numpy())
    return np.stack(sizes)
