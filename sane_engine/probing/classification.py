"""Logistic regression on prepared features, for properties that are names."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sane_engine.probing.basis import Floats
from sane_engine.probing.regression import Prepared
from sane_engine.progress import CancelCheck, stop_if

INVERSE_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
"""Values of scikit-learn's ``C`` on offer."""

# Coordinates beyond these carry little and cost much: the optimiser is quadratic in their number.
MOST_COORDINATES = 128
_ITERATIONS = 200


def balanced_accuracy(truth: NDArray[Any], predicted: NDArray[Any]) -> float:
    """Mean over the classes present of the share that was recognised."""
    return float(np.mean([(predicted[truth == name] == name).mean() for name in sorted(set(truth.tolist()))]))


def _fit(scores: Floats, truth: NDArray[Any], strength: float) -> Any:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, class_weight="balanced", max_iter=_ITERATIONS, tol=1e-3)
    return model.fit(scores[:, :MOST_COORDINATES], truth)


def classify(
    prepared: Prepared, truth: NDArray[Any], new: Floats, *, cancelled: CancelCheck | None = None
) -> tuple[NDArray[Any], float, float]:
    """Fit and predict.

    Args:
        prepared: Training features.
        truth: Their classes as text ``[n]``.
        new: Coordinates of new rows in ``prepared.whole`` ``[m, r]``.
        cancelled: Asked between fits.

    Returns:
        Predicted classes ``[m]``, the chosen ``C``, and the balanced accuracy of inner cross-validation.
    """
    best = (-1.0, INVERSE_PENALTIES[0])
    for strength in INVERSE_PENALTIES:
        guessed = np.empty(len(truth), dtype=object)
        for number, (part, held_out) in enumerate(zip(prepared.parts, prepared.held_out, strict=True)):
            stop_if(cancelled)
            inside = prepared.fold != number
            if len(set(truth[inside].tolist())) < 2:
                guessed[~inside] = truth[inside][0]
                continue
            model = _fit(part.scores, truth[inside], strength)
            guessed[~inside] = model.predict(held_out[:, :MOST_COORDINATES])
        score = balanced_accuracy(truth, guessed)
        if score > best[0] + 1e-9:
            best = (score, strength)
    model = _fit(prepared.whole.scores, truth, best[1])
    return np.asarray(model.predict(new[:, :MOST_COORDINATES]), dtype=object), best[1], best[0]
