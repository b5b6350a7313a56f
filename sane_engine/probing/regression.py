"""Ridge regression on prepared features: strength by inner grouped cross-validation, out-of-fold residuals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sane_engine.probing.basis import Basis, Floats, Kernel
from sane_engine.probing.folds import Groups, grouped_folds
from sane_engine.progress import CancelCheck, stop_if

STRENGTHS = np.logspace(-6, 3, 28)
"""Ridge penalties on offer, as multiples of the mean eigenvalue."""


@dataclass(frozen=True)
class Prepared:
    """Training features ready for any target.

    Attributes:
        groups: The group of each training row ``[n]``.
        fold: The inner fold of each training row ``[n]``.
        parts: For each inner fold, the basis fitted on the other folds.
        held_out: For each inner fold, coordinates of its own rows in that basis.
        whole: The basis fitted on all training rows.
        kernel: ``"linear"`` or ``"rbf"``.
    """

    groups: Groups
    fold: NDArray[np.int64]
    parts: tuple[Basis, ...]
    held_out: tuple[Floats, ...]
    whole: Basis
    kernel: Kernel


def prepare(
    features: NDArray[np.floating],
    groups: Groups,
    *,
    folds: int = 5,
    seed: int = 0,
    kernel: Kernel = "linear",
    cancelled: CancelCheck | None = None,
) -> Prepared:
    """Fit the bases of all inner folds and of the whole.

    Args:
        features: Training rows ``[n, k]``, finite.
        groups: The group of each row.
        folds: Inner folds; fewer where there are fewer groups.
        seed: Which inner folds.
        kernel: ``"rbf"`` for the ceiling that a linear probe can be compared with.
        cancelled: Asked before each fold.

    Raises:
        Refusal: There are fewer than two groups (``too-few-groups``).
        Cancelled: The caller asked to stop.
    """
    fold = grouped_folds(groups, max(2, min(folds, len(set(groups.tolist())))), seed)
    parts, held_out = [], []
    for number in range(int(fold.max()) + 1):
        stop_if(cancelled)
        part = Basis.fit(features[fold != number], kernel)
        parts.append(part)
        held_out.append(part.transform(features[fold == number]))
    stop_if(cancelled)
    return Prepared(groups, fold, tuple(parts), tuple(held_out), Basis.fit(features, kernel), kernel)


@dataclass(frozen=True)
class Ridge:
    """A ridge regression and what inner cross-validation says of it.

    Attributes:
        strength: The penalty, as a multiple of the mean eigenvalue.
        intercept: Mean of the training targets.
        coefficients: In the coordinates of ``Prepared.whole`` ``[r]``.
        fold_intercepts: ``[K]``.
        fold_coefficients: Of the model of each inner fold, in its own coordinates.
        out_of_fold: Prediction of each training row by the model that did not see its group ``[n]``.
        r2: R² of these predictions.
    """

    strength: float
    intercept: float
    coefficients: Floats
    fold_intercepts: Floats
    fold_coefficients: tuple[Floats, ...]
    out_of_fold: Floats
    r2: float


def _solve(basis: Basis, target: Floats) -> tuple[float, Floats]:
    """Mean of the targets, and the coefficients ``[r, strengths]`` for every strength."""
    mean = float(target.mean()) if len(target) else 0.0
    if not len(basis.eigenvalues):
        return mean, np.zeros((0, len(STRENGTHS)))
    penalty = STRENGTHS * basis.eigenvalues.mean()
    projected = basis.scores.T @ (target - mean)
    return mean, projected[:, None] / (basis.eigenvalues[:, None] + penalty[None, :])


def fit_ridge(prepared: Prepared, target: Floats) -> Ridge:
    """Fit a target ``[n]``; the strength is the one with the least squared error on the inner held-out groups."""
    predictions = np.empty((len(target), len(STRENGTHS)))
    solved = []
    for number, (part, held_out) in enumerate(zip(prepared.parts, prepared.held_out, strict=True)):
        inside = prepared.fold != number
        mean, coefficients = _solve(part, target[inside])
        solved.append((mean, coefficients))
        predictions[~inside] = mean + held_out @ coefficients
    errors = np.square(predictions - target[:, None]).mean(axis=0)
    # Of equals, the strongest penalty: nothing is known beyond what it says.
    best = int(np.flatnonzero(errors <= errors.min() * (1 + 1e-9))[-1])
    mean, coefficients = _solve(prepared.whole, target)
    spread = float(np.square(target - target.mean()).mean())
    return Ridge(
        strength=float(STRENGTHS[best]),
        intercept=mean,
        coefficients=coefficients[:, best],
        fold_intercepts=np.asarray([mean for mean, _ in solved]),
        fold_coefficients=tuple(coefficients[:, best] for _, coefficients in solved),
        out_of_fold=predictions[:, best],
        r2=1.0 - float(errors[best]) / spread if spread > 0 else float("nan"),
    )
