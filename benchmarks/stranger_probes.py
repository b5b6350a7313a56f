"""Probes that are to hold for other people's networks: clipped features, accuracies on a scale that spreads."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sane_engine.probing.basis import Kernel
from sane_engine.probing.outside import fit_detector
from sane_engine.probing.predictor import Prediction, fit_predictor
from sane_engine.probing.regression import fit_ridge, prepare
from sane_engine.probing.targets import Target
from sane_engine.zoo import Zoo

Floats = NDArray[np.float64]

FOLD_SEEDS = 3
DEFAULT_START = "uniform"
_FOLDS = 5
_CLIP = 0.005
_LEAST_ERROR = 1e-3
_LEARNT = 0.5


@dataclass(frozen=True)
class Probe:
    """A regression on a scale.

    Attributes:
        scale: ``"accuracy"``, ``"log error"`` (log10 of the error rate), or ``"rank"`` (normal scores of the ranks
            in the zoo).
        kernel: ``"linear"`` is ridge, ``"rbf"`` kernel ridge.
        default_start: Fit on the models alone that were initialised as PyTorch does by itself.
    """

    scale: str
    kernel: Kernel
    default_start: bool

    @property
    def name(self) -> str:
        """As a table says it."""
        start = ", default start" if self.default_start else ""
        return f"{'ridge' if self.kernel == 'linear' else 'kernel ridge'} on {self.scale}{start}"


KERNELS: tuple[Kernel, ...] = ("linear", "rbf")
SCALES = ("accuracy", "log error", "rank")
PROBES = tuple(Probe(*each) for each in itertools.product(SCALES, KERNELS, (False, True)))


@dataclass(frozen=True)
class Fitted:
    """What is said of strangers: accuracy, 90 % interval, and distance from the zoo (above 1 is outside)."""

    value: Floats
    low: Floats
    high: Floats
    outside: Floats


def recipes_of(table: pd.DataFrame) -> NDArray[np.object_]:
    """The recipe of each row: what a stranger would have chosen otherwise than we did."""
    learning_rate = np.round(np.log10(table["learning_rate"].to_numpy(dtype=float)) * 2) / 2
    parts = [table[name].astype(str) for name in ("optimiser", "initialisation") if name in table]
    return np.asarray(["|".join(values) for values in zip(*parts, learning_rate.astype(str), strict=True)], object)


def default_start(table: pd.DataFrame) -> NDArray[np.bool_]:
    """Rows of models that started as PyTorch's modules do; that is what strangers leave as it is."""
    if "initialisation" not in table:
        return np.ones(len(table), dtype=bool)
    return np.asarray(table["initialisation"] == DEFAULT_START, dtype=bool)


def _rows(table: pd.DataFrame, probe: Probe) -> NDArray[np.bool_]:
    return default_start(table) if probe.default_start else np.ones(len(table), dtype=bool)


def _clipped(train: NDArray[np.floating], other: NDArray[np.floating]) -> Floats:
    """Within the range of the zoo: beyond it, nobody knows how a feature goes on."""
    low, high = np.quantile(train, [_CLIP, 1 - _CLIP], axis=0)
    return np.asarray(np.clip(other, low, high), dtype=np.float64)


def _onto(scale: str, accuracy: Floats) -> Floats:
    if scale == "accuracy":
        return accuracy
    if scale == "log error":
        return -np.log10(np.maximum(1 - accuracy, _LEAST_ERROR))
    from scipy.special import ndtri
    from scipy.stats import rankdata

    return np.asarray(ndtri((rankdata(accuracy) - 0.5) / len(accuracy)), dtype=np.float64)


def _back(scale: str, values: Floats, accuracy: Floats) -> Floats:
    """Accuracies from values of a scale; ranks as the quantiles of the zoo's accuracies."""
    if scale == "accuracy":
        return np.clip(values, 0.0, 1.0)
    if scale == "log error":
        return np.clip(1 - 10.0**-values, 0.0, 1.0)
    order = np.argsort(accuracy)
    scores = _onto(scale, accuracy)[order]
    ends = np.concatenate(([-np.inf], [np.inf]))
    found = np.interp(np.nan_to_num(values, posinf=1e9, neginf=-1e9), scores, accuracy[order])
    return np.where(values == ends[0], 0.0, np.where(values == ends[1], 1.0, found))


def inner_tau(features: NDArray[np.floating], table: pd.DataFrame, probe: Probe) -> float:
    """Kendall's τ on recipes held out of the zoo, of models with PyTorch's own initialisation.

    The mean over :data:`FOLD_SEEDS` deals of the recipes into folds.
    """
    from scipy.stats import kendalltau

    rows = _rows(table, probe)
    features, table = features[rows], table[rows]
    accuracy, recipes, scored = (
        table["test_accuracy"].to_numpy(dtype=float),
        recipes_of(table),
        default_start(table),
    )
    values, found = _clipped(features, features), []
    for seed in range(FOLD_SEEDS):
        prepared = prepare(values, recipes, folds=_FOLDS, seed=seed, kernel=probe.kernel)
        ridge = fit_ridge(prepared, _onto(probe.scale, accuracy))
        found.append(float(kendalltau(ridge.out_of_fold[scored], accuracy[scored]).statistic))
    return float(np.mean(found))


def fit_probe(
    features: NDArray[np.floating], table: pd.DataFrame, strangers: NDArray[np.floating], probe: Probe
) -> Fitted:
    """Fit on the probe's rows of the zoo; predict the strangers.

    Intervals are of the logarithm of the error rate, from residuals on held-out recipes; every model counts once.
    """
    outside = _outside(features, table, strangers)
    rows = _rows(table, probe)
    features, table = features[rows], table[rows]
    accuracy, recipes = table["test_accuracy"].to_numpy(dtype=float), recipes_of(table)
    values, theirs = _clipped(features, features), _clipped(features, strangers)
    models = np.asarray(table["model"].astype(str), object)
    # Folds hold out recipes; what is exchangeable, and counted, are models.
    prepared = replace(prepare(values, recipes, folds=_FOLDS, kernel=probe.kernel), groups=models)

    def predicted(scale: str) -> Prediction:
        # Not called an accuracy: the bounds of one do not hold on another scale.
        target = Target("score", "numeric", "linear", _onto(scale, accuracy))
        return fit_predictor(values, table, target, groups=models, prepared=prepared).predict(theirs)

    value = _back(probe.scale, predicted(probe.scale).value, accuracy)
    found = predicted("log error")
    low, high = (_back("log error", each, accuracy) for each in (found.low, found.high))
    return Fitted(value, np.minimum(low, value), np.maximum(high, value), outside)


def _outside(features: NDArray[np.floating], table: pd.DataFrame, strangers: NDArray[np.floating]) -> Floats:
    """How far strangers lie from the zoo's networks that learnt something; features as they are.

    Networks that diverged are far from everything: with them as measure, nothing would be outside.
    """
    rows = (table["test_accuracy"] >= _LEARNT).to_numpy()
    known = np.asarray(features)[rows]
    prepared = prepare(known, np.asarray(table["model"][rows].astype(str), object), folds=_FOLDS)
    return fit_detector(prepared, known).score(strangers)


def frobenius_products(zoo: Zoo) -> Floats:
    """Log of the product of the Frobenius norms of all weight matrices and kernels: ``[len(zoo)]``."""
    total = np.zeros(len(zoo))
    for group in zoo.layout_groups():
        for tensor in zoo.stacked(group).values():
            if tensor.dim() > 2:
                total[group] += tensor.double().flatten(1).norm(dim=1).log().numpy()
    return total
