"""The loss barrier on the straight line between two networks, before and after alignment.

Linear mode connectivity (Frankle et al. 2020, arXiv 1912.05671); that permutations hide it, and weight matching
uncovers it: Entezari et al. 2022, arXiv 2110.06296, Ainsworth et al. 2022, arXiv 2209.04836. Between two networks
with batch norm, activations vary less than at either end, and running statistics that lie on the line divide by too
much: that barrier is of the statistics, not of the weights (Jordan et al. 2022, arXiv 2211.08403).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sane_engine.checkpoint import Refusal
from sane_engine.progress import CancelCheck, Progress, no_progress, stop_if
from sane_engine.symmetry.aligning import match
from sane_engine.symmetry.permutations import Permutations
from sane_engine.symmetry.spec import Symmetry

if TYPE_CHECKING:
    import pandas as pd

    from sane_engine.zoo.task import Task


Condition = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
"""Networks ``[p, …]`` a tensor → the same with running statistics of their own."""


@dataclass(frozen=True)
class Line:
    """Networks on the straight line from one to another.

    Attributes:
        share: How far along, 0 at the first network, 1 at the second [p].
        accuracy: Test accuracy, fraction [p].
        loss: Mean test cross-entropy in nats [p].
    """

    share: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    loss: NDArray[np.float64]

    @property
    def height(self) -> float:
        """The barrier: the largest excess of the loss over the straight line between its ends, in nats."""
        chord = (1 - self.share) * self.loss[0] + self.share * self.loss[-1]
        return float((self.loss - chord).max())


@dataclass(frozen=True)
class Barrier:
    """Two lines to the same network: from another as it is, and from the same one aligned.

    Attributes:
        before: From A to B.
        after: From A in the order of B to B.
        dataset: Name of the data set.
        n_images: Test images behind every point.
        conditioned: Running statistics of batch norm were measured again at every point.
    """

    before: Line
    after: Line
    dataset: str
    n_images: int
    conditioned: bool = False

    def table(self) -> pd.DataFrame:
        """One row a point: ``share`` (of B), then loss and accuracy before and after."""
        import pandas as pd

        return pd.DataFrame(
            {
                "share": self.before.share,
                "loss_before": self.before.loss,
                "loss_after": self.after.loss,
                "accuracy_before": self.before.accuracy,
                "accuracy_after": self.after.accuracy,
            }
        )


def barrier(
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    symmetry: Symmetry,
    task: Task,
    *,
    activation: str | None = None,
    points: int = 25,
    seed: int = 0,
    permutations: Permutations | None = None,
    condition: Condition | None = None,
    progress: Progress = no_progress,
    cancelled: CancelCheck | None = None,
) -> Barrier:
    """Accuracy and loss along (1 − t)·A + t·B, and along the same with A aligned to B.

    All networks of both lines are evaluated side by side. Where they have batch norm, running statistics are
    measured again at every point, the ends included.

    Args:
        a: The network that is moved.
        b: The network that stays.
        symmetry: Of both.
        task: Test images and how to run the networks.
        activation: In place of the architecture's own, for a zoo that varies it.
        points: On each line, both ends included; at least 2.
        seed: Of the weight matching.
        permutations: How to align, if not by weight matching.
        condition: Measures the running statistics of a stack of networks again, on images without labels, such as
            :func:`sane_engine.sampling.batch_norm.conditioning` gives; needed where there is batch norm.
        progress: Told how many networks are evaluated.
        cancelled: Asked between groups of networks.

    Raises:
        Refusal: The networks have running statistics and there is no ``condition`` (``running-statistics``).
        ValueError: A tensor is missing or has another shape, or there are fewer than 2 points.
        Cancelled: The caller asked to stop.
    """
    from sane_engine.zoo.architectures import evaluate

    if points < 2:
        raise ValueError(f"A line needs at least 2 points, not {points}.")
    has_statistics = bool(task.architecture.norms)
    if has_statistics and condition is None:
        raise Refusal(
            "running-statistics",
            "Between networks with batch norm, running statistics mean nothing.",
            "Pass condition=conditioning(zoo), of sane_engine.sampling.batch_norm.",
        )
    stop_if(cancelled)
    names = tuple(task.architecture.shapes)
    starts = (a, symmetry.permute(a, permutations or match(a, b, symmetry, seed=seed)))
    share = torch.linspace(0, 1, points, dtype=torch.float64)
    with torch.no_grad():
        stacked = {name: torch.cat([_line(start[name], b[name], share) for start in starts]) for name in names}
        if has_statistics and condition is not None:
            stacked = dict(condition(stacked))
    accuracy, loss = evaluate(
        task.architecture,
        stacked,
        task.images,
        task.labels,
        activation=activation,
        progress=progress,
        cancelled=cancelled,
    )
    before, after = (
        Line(share.numpy(), accuracy[part].double().numpy(), loss[part].double().numpy())
        for part in (slice(points), slice(points, None))
    )
    return Barrier(before, after, task.dataset, len(task.labels), has_statistics)


def _line(start: Tensor, end: Tensor, share: Tensor) -> Tensor:
    """``[p, …]``; the ends are the given tensors to the bit."""
    weight = share.view(-1, *(1,) * start.ndim)
    return torch.lerp(start.double()[None], end.double()[None], weight).to(start.dtype)
