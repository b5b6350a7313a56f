"""A number predicted from features, with an interval, and whether the zoo knows such a network at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sane_engine.checkpoint import Refusal
from sane_engine.probing.basis import Floats, Kernel
from sane_engine.probing.conformal import cv_plus
from sane_engine.probing.folds import Groups, groups_of
from sane_engine.probing.outside import Detector, fit_detector
from sane_engine.probing.regression import Prepared, Ridge, fit_ridge, prepare
from sane_engine.probing.targets import Scale, Target, as_target
from sane_engine.progress import CancelCheck

LEVEL = 0.9


@dataclass(frozen=True)
class Prediction:
    """What a predictor says of ``m`` networks.

    Attributes:
        value: Point predictions ``[m]``, on the target's scale.
        low: Lower ends of the intervals; minus infinity where there are too few models for the level.
        high: Upper ends.
        outside: Distance from the zoo, in units of the threshold ``[m]``: above 1 the network is outside of what
            this zoo knows, and neither value nor interval means anything. NaN where it is not known.
    """

    value: Floats
    low: Floats
    high: Floats
    outside: Floats


@dataclass(frozen=True)
class Predictor:
    """A fitted probe; :func:`fit_predictor` makes it.

    Attributes:
        target: Name of the property.
        scale: ``"linear"`` or ``"log10"``.
        level: Nominal coverage of the intervals.
        bounds: Values the property can take, on its scale: predictions and intervals stay within.
        prepared: The training features.
        ridge: The regression.
        residuals: Absolute out-of-fold residuals of the training rows ``[n]``.
        detector: Out-of-zoo detector, or ``None`` for a kernel.
    """

    target: str
    scale: Scale
    level: float
    bounds: tuple[float, float]
    prepared: Prepared
    ridge: Ridge
    residuals: Floats
    detector: Detector | None

    def predict(self, features: NDArray[np.floating]) -> Prediction:
        """Predict for rows ``[m, k]``; every row by itself, whatever stands beside it."""
        values = np.asarray(features)
        if values.ndim != 2 or not np.isfinite(values).all():
            raise ValueError(f"features must be finite, [models, features]; got shape {list(values.shape)}")
        prepared, ridge = self.prepared, self.ridge
        value = ridge.intercept + prepared.whole.transform(values) @ ridge.coefficients
        by_fold = np.stack(
            [
                mean + part.transform(values) @ coefficients
                for part, mean, coefficients in zip(
                    prepared.parts, ridge.fold_intercepts, ridge.fold_coefficients, strict=True
                )
            ],
            axis=1,
        )
        low, high = cv_plus(by_fold, prepared.fold, self.residuals, prepared.groups, self.level)
        outside = np.full(len(values), np.nan) if self.detector is None else self.detector.score(values)
        # The point is of the model that saw all rows: it may lie just beside an interval of narrow residuals.
        low, high = np.minimum(low, value), np.maximum(high, value)
        value, low, high = (np.clip(each, *self.bounds) for each in (value, low, high))
        return Prediction(value, low, high, outside)


def natural_bounds(target: Target) -> tuple[float, float]:
    """What values a property can take: accuracies lie in 0–1 (unless these do not), an epoch is not negative."""
    if target.name.endswith("accuracy"):
        known = target.values[target.known]
        fractions = len(known) and known.min() >= 0 and known.max() <= 1
        return (0.0, 1.0) if fractions else (-np.inf, np.inf)
    if target.name == "epoch":
        return 0.0, np.inf
    return -np.inf, np.inf


def fit_predictor(
    features: NDArray[np.floating],
    table: pd.DataFrame,
    target: str | Target,
    *,
    groups: str | Sequence[Any] | NDArray[Any] = "model",
    level: float = LEVEL,
    folds: int = 5,
    seed: int = 0,
    kernel: Kernel = "linear",
    prepared: Prepared | None = None,
    detector: Detector | None = None,
    cancelled: CancelCheck | None = None,
) -> Predictor:
    """Fit a probe on *all* rows given: pass training rows only.

    Args:
        features: ``[n, k]``, finite.
        table: The rows' properties.
        target: A numeric column of the table, or one that :func:`as_target` made.
        groups: Which rows are not independent; see :func:`groups_of`.
        level: Nominal coverage of the intervals.
        folds: Inner folds, for the ridge's strength and the intervals' residuals.
        seed: Which inner folds.
        kernel: ``"rbf"`` for kernel ridge, a ceiling for the linear probe; it has no out-of-zoo score.
        prepared: What :func:`prepare` made of the same features and groups, to be used for several targets.
        detector: What :func:`fit_detector` made of them.
        cancelled: Asked between folds.

    Raises:
        Refusal: The property is categorical (``categorical-property``), unknown for most rows, or there are too
            few models.
        ValueError: A feature is not finite, or lengths differ.
        Cancelled: The caller asked to stop.
    """
    values = np.asarray(features)
    found = as_target(table, target) if isinstance(target, str) else target
    if values.ndim != 2 or len(values) != len(found.values):
        raise ValueError(f"features {list(values.shape)} do not fit {len(found.values)} rows")
    if not np.isfinite(values).all():
        raise ValueError("features must be finite")
    if found.kind == "categorical":
        raise Refusal(
            "categorical-property", f"{found.name!r} is a category, not a number.", "Use probe(), which classifies."
        )
    own: Groups = groups_of(table, groups)
    known = found.known
    if not known.all():
        # Another set of rows: what was prepared for all of them does not fit.
        values, own, prepared, detector = values[known], own[known], None, None
    truth = found.values[known].astype(np.float64)
    prepared = prepared or prepare(values, own, folds=folds, seed=seed, kernel=kernel, cancelled=cancelled)
    ridge = fit_ridge(prepared, truth)
    if detector is None and prepared.kernel == "linear":
        detector = fit_detector(prepared, values)
    residuals = np.abs(truth - ridge.out_of_fold)
    bounds = natural_bounds(found)
    return Predictor(found.name, found.scale, level, bounds, prepared, ridge, residuals, detector)
