"""Prediction intervals that need no assumption but exchangeable models: CV+ with residuals weighted by group.

Jackknife+ and CV+ (Barber, Candès, Ramdas and Tibshirani, 2021, arXiv:1905.02928) turn out-of-fold residuals into
intervals. Checkpoints of one run are near copies, so what is exchangeable is the run, not the checkpoint: every
group counts as one, shared equally among its rows (hierarchical conformal prediction: Lee, Barber and Willett 2023,
arXiv:2306.06342). With G groups, a mass of 1 / (G + 1) lies at infinity: too few models give infinite intervals.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sane_engine.probing.basis import Floats
from sane_engine.probing.folds import Groups

_ROWS_AT_ONCE = 1024


def group_weights(groups: Groups) -> Floats:
    """Weight of each row: 1 / ((G + 1) · rows of its group); they sum to G / (G + 1)."""
    _, index, counts = np.unique(groups.astype(str), return_inverse=True, return_counts=True)
    return np.asarray(1.0 / ((len(counts) + 1.0) * counts[index]), dtype=np.float64)


def upper_quantile(values: Floats, weights: Floats, level: float) -> Floats:
    """The smallest value of each row with at least ``level`` of the mass at or below it.

    Args:
        values: ``[m, n]``.
        weights: ``[n]``, summing to at most 1; what is missing lies at plus infinity.
        level: Between 0 and 1.

    Returns:
        ``[m]``; infinite where the finite mass does not reach the level.
    """
    order = np.argsort(values, axis=1)
    mass = np.cumsum(weights[order], axis=1)
    # Sums of many small weights: a level met up to rounding is met.
    reached = mass >= level - 1e-9
    first = reached.argmax(axis=1)
    rows = np.arange(len(values))
    found = values[rows, order[rows, first]]
    return np.where(reached.any(axis=1), found, np.inf)


def cv_plus(
    fold_predictions: Floats, fold: NDArray[np.int64], residuals: Floats, groups: Groups, level: float
) -> tuple[Floats, Floats]:
    """Lower and upper ends of the CV+ interval of new rows.

    Args:
        fold_predictions: Predictions of new rows by the model of each inner fold ``[m, K]``.
        fold: Inner fold of each training row ``[n]``.
        residuals: Absolute out-of-fold residual of each training row ``[n]``.
        groups: Group of each training row.
        level: Nominal coverage.

    Returns:
        ``[m]`` each.
    """
    weights = group_weights(groups)
    low, high = np.empty(len(fold_predictions)), np.empty(len(fold_predictions))
    for start in range(0, len(fold_predictions), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        centres = fold_predictions[part][:, fold]
        high[part] = upper_quantile(centres + residuals, weights, level)
        low[part] = -upper_quantile(residuals - centres, weights, level)
    return low, high
