"""Predict a property of held-out models from frozen features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sane_engine.checkpoint import Refusal
from sane_engine.probing.basis import Floats, Kernel
from sane_engine.probing.classification import balanced_accuracy, classify
from sane_engine.probing.folds import Groups, groups_of, split_hash
from sane_engine.probing.outside import Detector, fit_detector
from sane_engine.probing.predictor import LEVEL, fit_predictor
from sane_engine.probing.regression import Prepared, prepare
from sane_engine.probing.result import ProbeResult
from sane_engine.probing.targets import Target, as_target
from sane_engine.progress import CancelCheck


def probe(
    features: NDArray[np.floating],
    table: pd.DataFrame,
    target: str,
    *,
    groups: str | Sequence[Any] | NDArray[Any] = "model",
    test: Sequence[bool] | NDArray[np.bool_] | None = None,
    level: float = LEVEL,
    folds: int = 5,
    seed: int = 0,
    kernel: Kernel = "linear",
    cancelled: CancelCheck | None = None,
) -> ProbeResult:
    """Fit on training models, score on held-out ones.

    Numbers are predicted by ridge regression, categories by logistic regression. The scaler, the regularisation
    (by inner cross-validation over groups) and the intervals see training rows only.

    Args:
        features: One row a checkpoint ``[n, k]``, finite. What made them must not have seen the test labels.
        table: One row a checkpoint, as ``zoo.table``.
        target: Column to predict. Learning rates, weight decays and whatever spans three decades are predicted as
            logarithms.
        groups: Rows that are not independent: a column, or one value a row. ``"model"`` means the table's ``group``
            column where it has one.
        test: Which rows to score ``[n]``; by default those of split ``"test"``. All others are fitted on.
        level: Nominal coverage of the intervals.
        folds: Inner folds.
        seed: Which inner folds.
        kernel: ``"rbf"`` for kernel ridge, the ceiling a linear probe can be compared with.
        cancelled: Asked between fits.

    Raises:
        Refusal: No such property, one that never varies, too few models, nothing to score (``no-test-rows``), or a
            group on both sides (``straddling-groups``).
        ValueError: Features that are not finite, or lengths that differ.
        Cancelled: The caller asked to stop.
    """
    split = Split.of(table, groups=groups, test=test)
    values = np.asarray(features)
    if values.ndim != 2 or len(values) != len(table):
        raise ValueError(f"features {list(values.shape)} do not fit a table of {len(table)} rows")
    if not np.isfinite(values).all():
        raise ValueError("features must be finite")
    return probe_split(
        values, as_target(table, target), split, level=level, folds=folds, seed=seed, kernel=kernel,
        cancelled=cancelled,
    )  # fmt: skip


class Split:
    """Who is fitted on and who is scored.

    Attributes:
        groups: The group of each row ``[n]``.
        test: Rows that are scored ``[n]``.
        hash: Names the split.
    """

    def __init__(self, groups: Groups, test: NDArray[np.bool_]) -> None:
        straddling = set(groups[test].tolist()) & set(groups[~test].tolist())
        if straddling:
            raise Refusal(
                "straddling-groups",
                f"{len(straddling)} models are both fitted on and scored (first: {min(straddling)}).",
                "Split by model.",
            )
        if not test.any() or test.all():
            raise Refusal(
                "no-test-rows",
                "No model is held out to be scored, or none is left to fit.",
                "Take a zoo of more models, or give its CSV a column split (train, validation, test).",
            )
        self.groups, self.test = groups, test
        self.hash = split_hash(groups, np.where(test, "test", "train"))

    @classmethod
    def of(
        cls,
        table: pd.DataFrame,
        *,
        groups: str | Sequence[Any] | NDArray[Any] = "model",
        test: Sequence[bool] | NDArray[np.bool_] | None = None,
    ) -> Split:
        """The split of a table; see :func:`probe`."""
        if test is None:
            if "split" not in table.columns:
                raise Refusal("no-test-rows", "The table has no column 'split'.", "Say which rows to score.")
            test = (table["split"] == "test").to_numpy()
        return cls(groups_of(table, groups), np.asarray(test, dtype=bool))


class Bench:
    """Features of one split, prepared once and used for several targets."""

    def __init__(
        self,
        features: NDArray[np.floating],
        split: Split,
        *,
        folds: int = 5,
        seed: int = 0,
        kernel: Kernel = "linear",
        cancelled: CancelCheck | None = None,
    ) -> None:
        self.features, self.split = features, split
        self._options: dict[str, Any] = {"folds": folds, "seed": seed, "kernel": kernel, "cancelled": cancelled}
        self._kept: dict[bytes, tuple[Prepared, Detector | None]] = {}

    def prepared(self, train: NDArray[np.bool_]) -> tuple[Prepared, Detector | None]:
        """Bases and detector for these training rows; made when they are first asked for."""
        key = train.tobytes()
        if key not in self._kept:
            values = self.features[train]
            made = prepare(values, self.split.groups[train], **self._options)
            self._kept = {key: (made, fit_detector(made, values) if made.kernel == "linear" else None)}
        return self._kept[key]


def probe_split(
    features: NDArray[np.floating],
    target: Target,
    split: Split,
    *,
    level: float = LEVEL,
    folds: int = 5,
    seed: int = 0,
    kernel: Kernel = "linear",
    bench: Bench | None = None,
    cancelled: CancelCheck | None = None,
) -> ProbeResult:
    """:func:`probe` for a split and target that are read already; ``bench`` shares work between targets."""
    bench = bench or Bench(features, split, folds=folds, seed=seed, kernel=kernel, cancelled=cancelled)
    known = target.known
    train, test = known & ~split.test, known & split.test
    if not test.any():
        raise Refusal("no-test-rows", f"{target.name!r} is unknown for all held-out models.", "Split again.")
    prepared, detector = bench.prepared(train)
    frame = pd.DataFrame({"row": np.flatnonzero(test)})
    if target.kind == "numeric":
        method = "ridge" if kernel == "linear" else "kernel ridge"
        strength, scores = _regress(
            features, target, train, test, frame, level, prepared, detector, split.groups, cancelled
        )
    else:
        method = "logistic"
        strength, scores = _classify(features, target, train, test, frame, prepared, cancelled)
    return ProbeResult(
        target=target.name,
        kind=target.kind,
        scale=target.scale,
        method=method,
        scores=scores,
        strength=strength,
        level=level,
        n_features=features.shape[1],
        n_train_models=len(set(split.groups[train].tolist())),
        n_train_checkpoints=int(train.sum()),
        n_test_models=len(set(split.groups[test].tolist())),
        n_test_checkpoints=int(test.sum()),
        seed=seed,
        split_hash=split.hash,
        predictions=frame,
        notes=_notes(known, target),
    )


def _notes(known: NDArray[np.bool_], target: Target) -> tuple[str, ...]:
    notes = []
    if not known.all():
        notes.append(f"{int((~known).sum())} checkpoints without a value are left out.")
    if target.scale == "log10":
        notes.append("Logarithms to base 10 are predicted; exact zeros count as a tenth of the smallest value.")
    return tuple(notes)


def _regress(
    features: NDArray[np.floating],
    target: Target,
    train: NDArray[np.bool_],
    test: NDArray[np.bool_],
    frame: pd.DataFrame,
    level: float,
    prepared: Prepared,
    detector: Detector | None,
    groups: Groups,
    cancelled: CancelCheck | None,
) -> tuple[float, dict[str, float]]:
    known = Target(target.name, target.kind, target.scale, target.values[train])
    predictor = fit_predictor(
        features[train], pd.DataFrame(index=range(int(train.sum()))), known, groups=groups[train], level=level,
        prepared=prepared, detector=detector, cancelled=cancelled,
    )  # fmt: skip
    found = predictor.predict(features[test])
    truth = target.values[test].astype(np.float64)
    frame["true"], frame["predicted"] = truth, found.value
    frame["low"], frame["high"] = found.low, found.high
    frame["covered"] = (found.low <= truth) & (truth <= found.high)
    frame["outside"] = found.outside
    scores = regression_scores(truth, found.value)
    scores["coverage"] = float(frame["covered"].mean())
    scores["width"] = float(np.median(found.high - found.low))
    scores["outside"] = float((found.outside > 1).mean()) if detector is not None else float("nan")
    scores["inner_r2"] = predictor.ridge.r2
    return predictor.ridge.strength, scores


def regression_scores(truth: Floats, predicted: Floats) -> dict[str, float]:
    """R² about the mean of the held-out rows, Kendall's τ-b, and the mean absolute error."""
    from scipy.stats import kendalltau

    spread = float(np.square(truth - truth.mean()).sum())
    r2 = 1.0 - float(np.square(truth - predicted).sum()) / spread if spread > 0 else float("nan")
    varied = len(set(truth.tolist())) > 1 and len(set(predicted.tolist())) > 1
    tau = float(kendalltau(truth, predicted).statistic) if varied else float("nan")
    return {"r2": r2, "kendall_tau": tau, "mae": float(np.abs(truth - predicted).mean())}


def _classify(
    features: NDArray[np.floating],
    target: Target,
    train: NDArray[np.bool_],
    test: NDArray[np.bool_],
    frame: pd.DataFrame,
    prepared: Prepared,
    cancelled: CancelCheck | None,
) -> tuple[float, dict[str, float]]:
    truth = np.asarray(target.values[test], dtype=object)
    seen = np.asarray(target.values[train], dtype=object)
    if len(set(seen.tolist())) < 2:
        raise Refusal("constant-property", f"{target.name!r} is the same for all training models.", "Split again.")
    new = prepared.whole.transform(features[test])
    predicted, strength, inner = classify(prepared, seen, new, cancelled=cancelled)
    frame["true"], frame["predicted"] = truth, predicted
    return strength, {
        "balanced_accuracy": balanced_accuracy(truth, predicted),
        "accuracy": float((truth == predicted).mean()),
        "chance": 1.0 / len(set(truth.tolist())),
        "inner_balanced_accuracy": inner,
    }
