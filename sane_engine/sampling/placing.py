"""A place on a map of models as a network: the mixture of the models around it, decoded.

A map of many dimensions in two cannot be turned back. What can be said of a place is which models lie around it, so
the network there is the mean of their vectors, each by its closeness.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from sane_engine.checkpoint import Refusal
from sane_engine.sampling.batch_norm import Condition, networks
from sane_engine.sampling.frame import unstack
from sane_engine.sampling.spaces import Space, encode_models
from sane_engine.sampling.task import Task
from sane_engine.sampling.tracing import layer_sizes
from sane_engine.sane.training_set import Rows
from sane_engine.zoo import Zoo

NEIGHBOURS = 5


@dataclass(frozen=True, eq=False)
class Placed:
    """What a place on the map decodes to.

    Attributes:
        rows: The models around it, nearest first.
        shares: How much of each is in it; they add up to 1.
        accuracy: On the test images; NaN where the models cannot be run.
        around: Accuracies of the models around it as they are, one each.
        tensors: Its weights.
        layers: ``layer``, ``decoded`` and, smallest and largest of the models around it, ``low`` and ``high``: root
            mean square of a layer's weights.
    """

    rows: Rows
    shares: NDArray[np.float64]
    accuracy: float
    around: NDArray[np.float64]
    tensors: Mapping[str, Tensor]
    layers: pd.DataFrame


def shares_at(
    coordinates: NDArray[np.floating], place: tuple[float, float], *, neighbours: int = NEIGHBOURS
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The nearest points ``[k]`` and how much each counts ``[k]``, by the inverse of its squared distance.

    Args:
        coordinates: ``[p, 2]``; points that are not finite are on no map.
        place: Where. Exactly on a point, that point counts alone.
        neighbours: How many points, at most.
    """
    distance = np.linalg.norm(coordinates.astype(np.float64) - np.asarray(place, dtype=np.float64), axis=1)
    nearest = np.argsort(np.where(np.isfinite(distance), distance, np.inf), kind="stable")[:neighbours]
    near = distance[nearest]
    nearest, near = nearest[np.isfinite(near)], near[np.isfinite(near)]
    if not len(near):
        return nearest, near
    scale = max(float(np.ptp(coordinates[np.isfinite(distance)])), 1e-12)
    if near[0] < 1e-6 * scale:
        return nearest[:1], np.ones(1)
    weight = 1 / near**2
    return nearest, weight / weight.sum()


@torch.no_grad()
def decode_place(
    space: Space,
    zoo: Zoo,
    rows: Rows,
    coordinates: NDArray[np.floating],
    place: tuple[float, float],
    task: Task | None,
    *,
    condition: Condition = "auto",
) -> Placed:
    """Decode a place on the map.

    Args:
        space: In which models are mixed.
        zoo: Where they are.
        rows: Those that may be mixed: all of one layout.
        coordinates: Of these rows on the map ``[len(rows), 2]``.
        place: On the map.
        task: How to run networks and on what.
        condition: Of batch norm.

    Raises:
        Refusal: None of the rows is on the map (``empty-map``).
    """
    found, shares = shares_at(coordinates, place)
    if not len(found):
        raise Refusal("empty-map", "No model of this kind is on the map.", "Choose another zoo or encoder.")
    mixed = rows[found]
    stacked = zoo.stacked(mixed)
    vectors = encode_models(space, stacked)
    mean = torch.einsum("m,mnk->nk", torch.from_numpy(shares).float(), vectors)
    made = networks(space, mean[None], task, condition)[0]
    layout, around = space.frame.layout, np.full(len(mixed), np.nan)
    accuracy = float("nan")
    if task is not None:
        accuracy = float(task.score(made, task.test)[0][0])
        around = task.score(stacked, task.test)[0].double().numpy()
    own, theirs = layer_sizes(layout, made), layer_sizes(layout, stacked)
    layers = pd.DataFrame(
        {
            "layer": [layer.name for layer in layout.layers],
            "decoded": own[:, 0],
            "low": theirs.min(axis=1),
            "high": theirs.max(axis=1),
        }
    )
    return Placed(mixed, shares, accuracy, around, unstack(made, 0), layers)
