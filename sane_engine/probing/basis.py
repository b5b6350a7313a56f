"""Features in the coordinates in which every ridge is diagonal: fitted once on training rows, used for all targets.

Features are standardised by the training rows, clipped, and turned to their principal axes. In these coordinates a
ridge of any strength is one division, so the search over strengths costs nothing, and wide features (raw weights)
are solved in their dual form. A kernel works the same way on its own principal coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Kernel = Literal["linear", "rbf"]

CLIP = 8.0
"""Standardised features end here: one diverged run must not stretch the scale for a thousand others."""

_CONSTANT = 1e-7
# Directions with less than this share of the largest eigenvalue are rounding error.
_NULL = 1e-10


@dataclass(frozen=True)
class Scaler:
    """Mean and standard deviation of each feature over the training rows; features that never vary become 0.

    Attributes:
        mean: ``[k]``.
        inverse: ``[k]``, one over the standard deviation, 0 where a feature is constant.
    """

    mean: Floats
    inverse: Floats

    @classmethod
    def fit(cls, features: NDArray[np.floating]) -> Scaler:
        """Take both from ``[n, k]``."""
        values = features.astype(np.float64, copy=False)
        mean, deviation = values.mean(axis=0), values.std(axis=0)
        varies = deviation > _CONSTANT * np.maximum(np.abs(mean), 1e-30)
        return cls(mean, np.where(varies, 1.0 / np.where(varies, deviation, 1.0), 0.0))

    def apply(self, features: NDArray[np.floating]) -> Floats:
        """Standardise and clip ``[m, k]``."""
        centred = features.astype(np.float64, copy=False) - self.mean
        return np.asarray(np.clip(centred * self.inverse, -CLIP, CLIP), dtype=np.float64)


@dataclass(frozen=True)
class Basis:
    """Principal coordinates of standardised features.

    Attributes:
        scaler: Fitted on the training rows.
        centre: Mean of the standardised, clipped training rows ``[k]``.
        axes: ``[k, r]``; for a kernel the dual axes ``[n, r]``.
        eigenvalues: ``[r]``, descending: the sum of squares of each coordinate over the training rows.
        scores: Coordinates of the training rows ``[n, r]``.
        landmarks: For a kernel, the training rows ``[n, k]``; else ``None``.
        gamma: For a kernel, exp(−gamma·‖x − y‖²).
    """

    scaler: Scaler
    centre: Floats
    axes: Floats
    eigenvalues: Floats
    scores: Floats
    landmarks: Floats | None = None
    gamma: float = 0.0

    @classmethod
    def fit(cls, features: NDArray[np.floating], kernel: Kernel = "linear") -> Basis:
        """Fit on training rows ``[n, k]``."""
        scaler = Scaler.fit(features)
        values = scaler.apply(features)
        centre = values.mean(axis=0)
        values = values - centre
        if kernel == "rbf":
            return cls._fit_kernel(scaler, centre, values)
        n, k = values.shape
        if k <= n:
            eigenvalues, axes = _positive(values.T @ values)
        else:
            eigenvalues, dual = _positive(values @ values.T)
            axes = values.T @ (dual / np.sqrt(eigenvalues))
        return cls(scaler, centre, axes, eigenvalues, values @ axes)

    @classmethod
    def _fit_kernel(cls, scaler: Scaler, centre: Floats, values: Floats) -> Basis:
        # The median heuristic: at the typical distance between two rows the kernel is exp(−1/2).
        squares = _squared_distances(values, values)
        typical = float(np.median(squares[np.triu_indices(len(values), 1)])) if len(values) > 1 else 1.0
        gamma = 0.5 / max(typical, 1e-12)
        eigenvalues, dual = _positive(np.exp(-gamma * squares))
        axes = dual / np.sqrt(eigenvalues)
        return cls(scaler, centre, axes, eigenvalues, dual * np.sqrt(eigenvalues), values, gamma)

    def transform(self, features: NDArray[np.floating]) -> Floats:
        """Coordinates ``[m, r]`` of new rows ``[m, k]``."""
        values = self.standardise(features)
        if self.landmarks is not None:
            values = np.exp(-self.gamma * _squared_distances(values, self.landmarks))
        result: Floats = values @ self.axes
        return result

    def standardise(self, features: NDArray[np.floating]) -> Floats:
        """Standardised, clipped and centred rows ``[m, k]``."""
        return np.asarray(self.scaler.apply(features) - self.centre, dtype=np.float64)


def _squared_distances(a: Floats, b: Floats) -> Floats:
    squares = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1)[None, :] - 2.0 * (a @ b.T)
    return np.asarray(np.maximum(squares, 0.0), dtype=np.float64)


def _positive(gram: Floats) -> tuple[Floats, Floats]:
    """Eigenvalues above rounding error, descending, and their vectors."""
    values, vectors = np.linalg.eigh(gram)
    order = np.argsort(-values)
    values, vectors = values[order], vectors[:, order]
    kept = values > _NULL * max(float(values[0]) if len(values) else 0.0, 1e-300)
    return values[kept], vectors[:, kept]
