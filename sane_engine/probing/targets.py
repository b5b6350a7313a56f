"""What can be predicted: columns of a zoo's table, each on the scale on which it was varied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sane_engine.checkpoint import Refusal
from sane_engine.zoo.table import METRICS, kind_of, properties_of

MAIN = ("test_accuracy", "epoch", "generalisation_gap")
"""Reported first, and what representations are compared by."""

# Seeds say nothing about a network; losses and training accuracy are other names for the main targets.
_NEVER = {"model", "group", "split", "seed", *METRICS} - set(MAIN)
_LINEAR = {"epoch", *METRICS}
# Drawn on a logarithmic scale by everybody; of other hyper-parameters only the span tells.
_USUALLY_LOGARITHMIC = {"learning_rate": 10.0, "lr": 10.0, "weight_decay": 10.0, "wd": 10.0}
_LOGARITHMIC_SPAN = 1000.0

Scale = Literal["linear", "log10"]


@dataclass(frozen=True)
class Target:
    """One column as a probe sees it.

    Attributes:
        name: The column.
        kind: ``"numeric"`` or ``"categorical"``.
        scale: ``"log10"`` for learning rates, weight decays and hyper-parameters that span three decades or
            more; exact zeros among them
            count as a tenth of the smallest positive value.
        values: float64 ``[n]`` on that scale, NaN where unknown; or text, ``None`` where unknown.
    """

    name: str
    kind: Literal["numeric", "categorical"]
    scale: Scale
    values: NDArray[Any]

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which rows have a value ``[n]``."""
        if self.kind == "numeric":
            return np.asarray(np.isfinite(self.values), dtype=bool)
        return np.asarray([value is not None for value in self.values], dtype=bool)


def probe_targets(table: pd.DataFrame) -> list[str]:
    """Columns worth predicting: test accuracy, epoch, gap, then every hyper-parameter that varies."""
    varied = properties_of(table)
    others = [name for name in varied if name not in MAIN and name not in _NEVER]
    return [name for name in MAIN if name in varied] + [
        # A hyper-parameter belongs to a model; what changes from epoch to epoch is some other measurement.
        name
        for name in others
        if bool((table.groupby("model")[name].nunique(dropna=False) <= 1).all())
    ]


def as_target(table: pd.DataFrame, name: str) -> Target:
    """Read a column.

    Raises:
        Refusal: There is no such column (``no-such-property``), or it never varies (``constant-property``).
    """
    if name not in table.columns:
        raise Refusal(
            "no-such-property",
            f"The zoo has no property {name!r}.",
            f"It has {', '.join(map(str, table.columns))}.",
        )
    column = table[name]
    if column.nunique(dropna=True) < 2:
        raise Refusal("constant-property", f"{name!r} is the same for all models.", "Choose one that varies.")
    if kind_of(column) == "categorical":
        known = [None if missing else str(value) for value, missing in zip(column, column.isna(), strict=True)]
        return Target(name, "categorical", "linear", np.asarray(known, dtype=object))
    values = column.to_numpy(dtype=np.float64, na_value=np.nan).copy()
    values[~np.isfinite(values)] = np.nan
    scale = scale_of(name, values)
    if scale == "log10":
        positive = values[values > 0]
        values = np.log10(np.where(values == 0, positive.min() / 10.0, values))
    return Target(name, "numeric", scale, values)


def scale_of(name: str, values: NDArray[np.float64]) -> Scale:
    """The scale of a numeric column."""
    positive = values[values > 0]
    if name in _LINEAR or not len(positive) or bool((values < 0).any()):
        return "linear"
    span = _USUALLY_LOGARITHMIC.get(name, _LOGARITHMIC_SPAN)
    return "log10" if positive.max() / positive.min() >= span else "linear"
