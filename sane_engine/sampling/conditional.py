"""Samples with a property that is asked for: draws moved along the gradient of a probe until it predicts it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from sane_engine.checkpoint import Refusal
from sane_engine.progress import stop_if
from sane_engine.sampling.draws import Context, Method, Sampler
from sane_engine.sampling.frame import finite_stack, training_rows
from sane_engine.sampling.kde import KernelDensity
from sane_engine.sampling.spaces import encode_models

_LOGARITHMS = ("learning_rate", "weight_decay", "train_loss", "test_loss")
_MOST_ROWS = 4000
_FOLDS = 5
_REGULARISATIONS = np.logspace(-2, 5, 15)


@dataclass(frozen=True)
class Conditional:
    """A base sampler whose draws are moved until a probe on the space predicts the value that is asked for.

    The probe is a ridge regression on the leading principal directions of the zoo's training models, so that a move
    stays among the directions in which real models differ. Its gradient is constant there: one step reaches the
    value, by the shortest way in units of those directions' spread.

    Attributes:
        target: Numeric column of the zoo's table: an accuracy, ``epoch``, a hyper-parameter.
        value: What samples should have of it.
        base: What is drawn from.
        rank: Principal directions.
    """

    target: str = "test_accuracy"
    value: float = 0.9
    base: Method = field(default_factory=lambda: KernelDensity("sequence", bandwidth=0.3, temperature=1.0))
    rank: int = 32

    def fit(self, context: Context) -> SteeredSampler:
        """Fit the base and the probe.

        Raises:
            Refusal: There is no zoo to learn the property from, or not such a numeric column (``bad-target``).
        """
        from sklearn.linear_model import RidgeCV

        zoo = context.zoo
        if zoo is None or self.target not in zoo.table or zoo.kind(self.target) != "numeric":
            raise Refusal("bad-target", f"The zoo has no numbers called {self.target!r}.", "Choose another target.")
        rows = training_rows(zoo, context.row)
        known = _scaled(self.target, zoo.table[self.target].iloc[rows])
        rows, known = rows[np.isfinite(known)], known[np.isfinite(known)]
        if len(rows) < 10 or np.ptp(known) == 0:
            raise Refusal(
                "bad-target", f"{self.target} hardly varies among the training models.", "Choose another."
            )
        chosen = np.linspace(0, len(rows) - 1, min(len(rows), _MOST_ROWS)).astype(np.int64)
        stop_if(context.cancelled)
        finite, stacked = finite_stack(zoo, rows[chosen])
        chosen = chosen[np.isin(rows[chosen], finite)]
        vectors = encode_models(context.space, stacked).flatten(1).double()
        mean = vectors.mean(dim=0)
        _, values, directions = torch.linalg.svd(vectors - mean, full_matrices=False)
        keep = values[: self.rank] > 1e-9 * values[0]
        directions = directions[: self.rank][keep]
        deviation = values[: self.rank][keep] / len(vectors) ** 0.5
        scores = ((vectors - mean) @ directions.T / deviation).numpy()
        groups = zoo.table[zoo.group_column].to_numpy()[rows[chosen]]
        probe = RidgeCV(alphas=_REGULARISATIONS, cv=_folds(groups), scoring="neg_mean_squared_error")
        probe.fit(scores, known[chosen])
        weights = torch.from_numpy(np.asarray(probe.coef_, dtype=np.float64))
        # Back to the space: reading a prediction off a vector, and moving a vector by one unit of prediction.
        read = (weights / deviation) @ directions
        move = (weights * deviation) @ directions / weights.square().sum().clamp_min(1e-12)
        aim = float(_scaled(self.target, pd.Series([self.value]))[0])
        return SteeredSampler(self.base.fit(context), mean, read, move, float(probe.intercept_), aim)


def _folds(groups: NDArray[Any]) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]] | None:
    """Folds that keep the checkpoints of a model together: one would give the others away."""
    from sklearn.model_selection import GroupKFold

    count = min(_FOLDS, len(set(groups.tolist())))
    return list(GroupKFold(count).split(groups, groups=groups)) if count > 1 else None


def _scaled(target: str, values: pd.Series[Any]) -> NDArray[np.float64]:
    """Rates and losses by their logarithm, in which they are spread evenly; what has none becomes NaN."""
    numbers = pd.to_numeric(values).to_numpy(dtype=np.float64, na_value=np.nan)
    if target not in _LOGARITHMS:
        return numbers
    positive = np.where(numbers > 0, numbers, np.nan)
    logarithms: NDArray[np.float64] = np.log(positive)
    return logarithms


class SteeredSampler:
    """See :class:`Conditional`."""

    def __init__(
        self, base: Sampler, mean: Tensor, read: Tensor, move: Tensor, intercept: float, aim: float
    ) -> None:
        self._base, self._mean, self._read, self._move = base, mean, read, move
        self._intercept, self._aim = intercept, aim

    def predict(self, vectors: Tensor) -> float:
        """What the probe says of one model ``[n, k]``, on the probe's scale."""
        return float((vectors.flatten().double() - self._mean) @ self._read) + self._intercept

    def draw(self, generator: torch.Generator) -> Tensor:
        """A draw of the base, moved."""
        vectors = self._base.draw(generator)
        missing = self._aim - self.predict(vectors)
        return vectors + (missing * self._move).view_as(vectors).to(vectors.dtype)
