"""What a probe found, with everything that is needed to judge and repeat it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd


@dataclass(frozen=True)
class ProbeResult:
    """The scores of one property predicted from one set of features on held-out models.

    Attributes:
        target: The property.
        kind: ``"numeric"`` (ridge) or ``"categorical"`` (logistic regression).
        scale: ``"log10"`` if logarithms were predicted; every number here is then of logarithms.
        method: ``"ridge"``, ``"kernel ridge"`` or ``"logistic"``.
        scores: Numeric: ``r2``, ``kendall_tau``, ``mae`` (mean absolute error, in the property's unit),
            ``coverage`` of the intervals, their median ``width``, ``outside`` (share of held-out checkpoints
            flagged as outside of the zoo) and ``inner_r2`` (by inner cross-validation, train only). Categorical:
            ``balanced_accuracy``, ``accuracy``, ``chance`` (balanced accuracy of guessing) and
            ``inner_balanced_accuracy``.
        strength: The ridge's penalty as a multiple of the mean eigenvalue, or the logistic regression's ``C``.
        level: Nominal coverage of the intervals.
        n_features: Width of the features.
        n_train_models: Independent groups fitted on.
        n_train_checkpoints: Rows fitted on.
        n_test_models: Independent groups scored on.
        n_test_checkpoints: Rows scored on.
        seed: Of the inner folds.
        split_hash: Names the split in train and test.
        predictions: One row a held-out checkpoint: ``row`` (in the table given), ``true``, ``predicted``, and for
            numbers ``low``, ``high``, ``covered``, ``outside`` (distance in units of the threshold).
        notes: What a reader should know.
    """

    target: str
    kind: Literal["numeric", "categorical"]
    scale: str
    method: str
    scores: Mapping[str, float]
    strength: float
    level: float
    n_features: int
    n_train_models: int
    n_train_checkpoints: int
    n_test_models: int
    n_test_checkpoints: int
    seed: int
    split_hash: str
    predictions: pd.DataFrame
    notes: tuple[str, ...] = ()

    @property
    def r2(self) -> float:
        """R² on held-out models; NaN for categories."""
        return self.scores.get("r2", float("nan"))

    @property
    def kendall_tau(self) -> float:
        """Kendall's τ-b on held-out models; NaN for categories."""
        return self.scores.get("kendall_tau", float("nan"))

    @property
    def mae(self) -> float:
        """Mean absolute error on held-out models; NaN for categories."""
        return self.scores.get("mae", float("nan"))

    @property
    def coverage(self) -> float:
        """Share of held-out checkpoints inside their interval; NaN for categories."""
        return self.scores.get("coverage", float("nan"))

    @property
    def headline(self) -> float:
        """The one number a table shows: R², or balanced accuracy."""
        return self.scores["r2" if self.kind == "numeric" else "balanced_accuracy"]

    def to_json(self) -> dict[str, Any]:
        """Everything but the predictions, as plain values."""
        return {
            name: dict(value) if name == "scores" else list(value) if name == "notes" else value
            for name, value in vars(self).items()
            if name != "predictions"
        }
