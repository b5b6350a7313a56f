"""Layer tables as vectors: weight statistics, and WeightWatcher."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from sane_engine.baselines.catalogue import FEATURES
from sane_engine.progress import CancelCheck, Progress, no_progress
from sane_engine.representations.protocol import Features, as_features
from sane_engine.representations.spectra import cached_spectra

if TYPE_CHECKING:
    import pandas as pd

    from sane_engine.zoo import Zoo

# What the shape of a layer alone decides, not its weights.
_SHAPE_ONLY = {"N", "M", "rf", "num_evals"}


def by_layer(frame: pd.DataFrame, columns: list[str], n_rows: int) -> NDArray[np.float64]:
    """A layer table of rows 0 … n − 1 as ``[n, layers · features]``; NaN where a layer or value is missing."""
    deepest = int(frame["layer"].max()) + 1 if len(frame) else 0
    values = np.full((n_rows, deepest, len(columns)), np.nan)
    values[frame["row"].to_numpy(), frame["layer"].to_numpy()] = frame[columns].to_numpy(dtype=np.float64)
    return values.reshape(n_rows, -1)


class _Filled:
    """Fills gaps by the median of the training models; features no training model has are dropped."""

    def __init__(self, values: NDArray[np.float64]) -> None:
        finite = np.where(np.isfinite(values), values, np.nan)
        self._kept: NDArray[np.bool_] = np.atleast_1d(np.isfinite(finite).any(axis=0))
        self._medians = np.nanmedian(finite[:, self._kept], axis=0) if len(values) else np.zeros(0)

    def apply(self, values: NDArray[np.float64]) -> Features:
        if values.shape[1] != len(self._kept):
            raise ValueError(f"{values.shape[1]} features; fitted on {len(self._kept)}")
        kept = values[:, self._kept]
        return as_features(np.where(np.isfinite(kept), kept, self._medians))


class WeightStatistics:
    """s(W): mean, variance and quantiles of weights and biases of each layer (Unterthiner et al. 2020)."""

    name = "statistics"
    _columns = [feature.name for feature in FEATURES["statistics"]]  # noqa: RUF012 - never changed

    def __init__(self) -> None:
        self._filled: _Filled | None = None

    def _values(self, zoo: Zoo, progress: Progress, cancelled: CancelCheck | None) -> NDArray[np.float64]:
        from sane_engine.baselines import zoo_layer_features

        frame = zoo_layer_features(zoo, None, "statistics", progress=progress, cancelled=cancelled)
        return by_layer(frame, self._columns, len(zoo))

    def fit(self, train: Zoo, *, progress: Progress = no_progress, cancelled: CancelCheck | None = None) -> Self:
        """Learn what fills the gaps: layers without biases, for one."""
        self._filled = _Filled(self._values(train, progress, cancelled))
        return self

    def transform(
        self, zoo: Zoo, *, progress: Progress = no_progress, cancelled: CancelCheck | None = None
    ) -> Features:
        """``[len(zoo), layers · 14]``, less what is never there."""
        if self._filled is None:
            raise RuntimeError("fit first")
        return self._filled.apply(self._values(zoo, progress, cancelled))


class WeightWatcherFeatures:
    """Spectrum and power-law fit of each layer, by the ``weightwatcher`` package (Martin and Mahoney 2021).

    What is computed is kept in the workspace: it takes long. Layers that the package skips have no features.
    """

    name = "weightwatcher"
    _columns = [f.name for f in FEATURES["weightwatcher"] if f.name not in _SHAPE_ONLY]  # noqa: RUF012

    def __init__(self) -> None:
        self._filled: _Filled | None = None

    def fit(self, train: Zoo, *, progress: Progress = no_progress, cancelled: CancelCheck | None = None) -> Self:
        """Learn what fills the gaps, where the power-law fit failed.

        Raises:
            Refusal: The package did not run (``spectra-unfinished``); so for ``transform``.
        """
        frame = cached_spectra(train, progress=progress, cancelled=cancelled)
        self._filled = _Filled(by_layer(frame, self._columns, len(train)))
        return self

    def transform(
        self, zoo: Zoo, *, progress: Progress = no_progress, cancelled: CancelCheck | None = None
    ) -> Features:
        """``[len(zoo), layers · features]``, less what is never there."""
        if self._filled is None:
            raise RuntimeError("fit first")
        frame = cached_spectra(zoo, progress=progress, cancelled=cancelled)
        return self._filled.apply(by_layer(frame, self._columns, len(zoo)))
