"""How far a network lies from everything a zoo knows: a distance with a threshold that means something.

In the principal coordinates of the standardised training features, T² is the Mahalanobis distance within the
leading ones and Q the squared length of what they leave out; their sum in units of their own typical size is the
combined index of Yue and Qin (2001, doi:10.1021/ie000141+). What is typical is measured on held-out training
groups, so the threshold is the score that a stated share of new models *of this zoo* stays below.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sane_engine.probing.basis import Basis, Floats
from sane_engine.probing.conformal import group_weights, upper_quantile
from sane_engine.probing.folds import Groups
from sane_engine.probing.regression import Prepared

INSIDE = 0.98
"""Share of the zoo's own held-out checkpoints that counts as known."""

_VARIANCE = 0.95
_MOST_AXES = 64


@dataclass(frozen=True)
class Detector:
    """Says whether features lie outside of a zoo.

    Attributes:
        basis: Linear, fitted on the training rows.
        axes: How many principal axes count as leading.
        t2_scale: T² that :data:`INSIDE` of held-out training checkpoints stay below.
        q_scale: The same of Q.
        calibration: Scores of the held-out training checkpoints, ascending ``[n]``.
        threshold: Score above which a network is outside.
    """

    basis: Basis
    axes: int
    t2_scale: float
    q_scale: float
    calibration: Floats
    threshold: float

    def score(self, features: NDArray[np.floating]) -> Floats:
        """Distance ``[m]`` of rows ``[m, k]`` in units of the threshold: above 1 is outside."""
        t2, q = _distances(self.basis, features, self.axes)
        result: Floats = (t2 / self.t2_scale + q / self.q_scale) / self.threshold
        return result


def _leading(basis: Basis, n_groups: int) -> int:
    """As many axes as explain :data:`_VARIANCE`, but no more than the groups can support."""
    if not len(basis.eigenvalues):
        return 0
    explained = np.cumsum(basis.eigenvalues) / basis.eigenvalues.sum()
    wanted = int(np.searchsorted(explained, _VARIANCE)) + 1
    return max(1, min(wanted, _MOST_AXES, n_groups // 4))


def _distances(basis: Basis, features: NDArray[np.floating], axes: int) -> tuple[Floats, Floats]:
    values = basis.standardise(features)
    scores = values @ basis.axes[:, :axes]
    variance = basis.eigenvalues[:axes] / max(1, len(basis.scores))
    t2 = (scores**2 / variance).sum(axis=1)
    q = np.maximum((values**2).sum(axis=1) - (scores**2).sum(axis=1), 0.0)
    return t2, q


def _weighted(values: Floats, groups: Groups, level: float) -> float:
    """Quantile in which every group counts the same, without the mass at infinity."""
    weights = group_weights(groups)
    return float(upper_quantile(values[None], weights / weights.sum(), level)[0])


def fit_detector(prepared: Prepared, features: NDArray[np.floating]) -> Detector:
    """Calibrate on prepared training features ``[n, k]`` (linear)."""
    n_groups = len(set(prepared.groups.tolist()))
    axes = _leading(prepared.whole, n_groups)
    t2, q = np.empty(len(features)), np.empty(len(features))
    for number, part in enumerate(prepared.parts):
        own = prepared.fold == number
        t2[own], q[own] = _distances(part, features[own], min(axes, len(part.eigenvalues)))
    t2_scale = max(_weighted(t2, prepared.groups, INSIDE), 1e-12)
    # Features without anything beyond the leading axes: what appears there is outside by any measure.
    q_scale = max(_weighted(q, prepared.groups, INSIDE), 1e-9 * max(1, features.shape[1]))
    combined = t2 / t2_scale + q / q_scale
    return Detector(
        prepared.whole,
        axes,
        t2_scale,
        q_scale,
        np.sort(combined),
        max(_weighted(combined, prepared.groups, INSIDE), 1e-12),
    )
