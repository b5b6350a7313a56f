"""The table of a zoo: one row a checkpoint, validated and in a fixed column order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from sane_engine.checkpoint import Refusal
from sane_engine.zoo.splits import SPLITS, split_by_group

Kind = Literal["numeric", "categorical"]

METRICS = ("train_accuracy", "test_accuracy", "train_loss", "test_loss", "generalisation_gap")
_FIRST = ("model", "epoch", "split", *METRICS)
# Given name → the name this house understands. A column keeps its own name beside it.
UNDERSTOOD = {
    "test_acc": "test_accuracy",
    "train_acc": "train_accuracy",
    "val_acc": "validation_accuracy",
    "valid_acc": "validation_accuracy",
    "validation_acc": "validation_accuracy",
    "val_accuracy": "validation_accuracy",
    "accuracy": "test_accuracy",
    "acc": "test_accuracy",
    "val_loss": "validation_loss",
    "valid_loss": "validation_loss",
}
# Beyond this a float no longer counts: such an "epoch" is damage.
LARGEST_EPOCH = 2**53
# More different names than this cannot be told apart by colour.
MAX_CATEGORIES = 20


def group_column(table: pd.DataFrame) -> str:
    """The column whose rows must stay together in any split: ``group`` where there is one, else ``model``."""
    return "group" if "group" in table.columns else "model"


def _plain(column: pd.Series[Any]) -> pd.Series[Any]:
    """A column with one storable dtype: objects become booleans, numbers or strings."""
    if column.dtype != object:
        return column
    known = [v for v in column if not (v is None or (isinstance(v, float) and np.isnan(v)))]
    if known and all(isinstance(v, bool | np.bool_) for v in known):
        return column.astype(bool if len(known) == len(column) else "boolean")
    if known and all(isinstance(v, int | float | np.number) and not isinstance(v, bool) for v in known):
        return pd.to_numeric(column)
    texts = [
        None
        if v is None or (isinstance(v, float) and np.isnan(v))
        else v
        if isinstance(v, str)
        else json.dumps(v, default=str)
        for v in column
    ]
    return pd.Series(texts, index=column.index, name=column.name, dtype="str")


def validated(table: pd.DataFrame) -> pd.DataFrame:
    """A copy in canonical form: string ``model``, integer ``epoch``, a ``split`` by model, fixed column order.

    A missing ``epoch`` becomes 0 and a missing ``split`` is drawn with seed 0. ``generalisation_gap`` is derived
    from the accuracies where it is missing.

    Raises:
        Refusal: No ``model`` column (``zoo-table-no-model``), an epoch that is no whole number
            (``zoo-table-epoch``), two rows with the same model, epoch and sparsity (``zoo-table-duplicate``), an
            unknown split name (``zoo-table-split``), a model in two splits (``zoo-table-straddle``).
    """
    table = table.reset_index(drop=True).copy()
    table.columns = pd.Index([str(c) for c in table.columns])
    if not table.columns.is_unique:
        twice = table.columns[table.columns.duplicated()][0]
        raise Refusal("zoo-table-columns", f"The table has the column {twice!r} twice.", "Rename one of them.")
    if "model" not in table or table["model"].isna().any():
        raise Refusal("zoo-table-no-model", "Every row of a zoo's table needs a model.", "Fill the column 'model'.")
    table["model"] = table["model"].astype(str).astype("str")
    if "epoch" not in table:
        table["epoch"] = 0
    epochs = pd.to_numeric(table["epoch"], errors="coerce").to_numpy(dtype=float, na_value=np.nan)
    if not (np.abs(epochs) < LARGEST_EPOCH).all() or (epochs != np.round(epochs)).any():
        raise Refusal(
            "zoo-table-epoch", "Every row of a zoo's table needs a whole-numbered epoch.", "Repair 'epoch'."
        )
    table["epoch"] = epochs.astype(np.int64)
    for column in table.columns:
        table[column] = _plain(table[column])
    accuracies = [name for name in ("train_accuracy", "test_accuracy") if name in table]
    known = len(accuracies) == 2 and all(kind_of(table[name]) == "numeric" for name in accuracies)
    if known and "generalisation_gap" not in table:
        table["generalisation_gap"] = table["train_accuracy"] - table["test_accuracy"]
    _check_unique(table)
    groups = table[group_column(table)].astype(str)
    if "split" not in table:
        table["split"] = split_by_group(groups.to_numpy())
    table["split"] = table["split"].astype(str).astype("str")
    unknown = sorted(set(table["split"]) - set(SPLITS))
    if unknown:
        raise Refusal("zoo-table-split", f"Unknown split {unknown[0]!r}.", f"Use one of {', '.join(SPLITS)}.")
    straddling = table.groupby(groups.to_numpy())["split"].nunique()
    if (straddling > 1).any():
        which = straddling[straddling > 1].index[0]
        raise Refusal(
            "zoo-table-straddle",
            f"Checkpoints of {which!r} are in more than one split.",
            "Give all checkpoints of a model the same split, or leave the column out.",
        )
    first = [c for c in _FIRST if c in table]
    return table[[*first, *(c for c in table.columns if c not in first)]]


def _check_unique(table: pd.DataFrame) -> None:
    keys = table[["model", "epoch"]].copy()
    keys["sparsity"] = table["sparsity"].fillna(0.0) if "sparsity" in table else 0.0
    twice = keys.duplicated()
    if twice.any():
        row = keys[twice].iloc[0]
        raise Refusal(
            "zoo-table-duplicate",
            f"Two checkpoints are both model {row['model']!r}, epoch {row['epoch']}.",
            "Give each checkpoint its own model or epoch.",
        )


def kind_of(column: pd.Series[Any]) -> Kind:
    """Whether a column is coloured on a scale or by category."""
    return "numeric" if pd.api.types.is_numeric_dtype(column) and column.dtype.kind != "b" else "categorical"


def properties_of(table: pd.DataFrame) -> list[str]:
    """Columns worth colouring by: numbers that vary, and names with 2 to :data:`MAX_CATEGORIES` values.

    Names that are all different (file names, say) identify rows and say nothing about them; only ``model`` may.
    """
    names = []
    for name in table.columns:
        different = table[name].nunique()
        # What stands in the table under our own name too is the same thing twice.
        if different < 2 or UNDERSTOOD.get(name.lower()) in table.columns:
            continue
        few = different <= MAX_CATEGORIES and (different < len(table) or name == "model")
        if few or kind_of(table[name]) == "numeric":
            names.append(name)
    return names


def canonical_bytes(table: pd.DataFrame) -> bytes:
    """The table as text, for the digest; floats with all their digits."""
    kinds = json.dumps([[c, kind_of(table[c])] for c in table.columns])
    return (kinds + "\n" + table.to_csv(index=False, lineterminator="\n")).encode()


def as_rows(rows: Sequence[int] | np.ndarray[Any, Any] | pd.Series[Any] | slice | None, n: int) -> Any:
    """Row numbers ``[k]`` as int64 from numbers, a Boolean mask, a slice, or ``None`` for all.

    Raises:
        IndexError: A row is outside the zoo, or the mask has another length.
    """
    everything = np.arange(n, dtype=np.int64)
    if rows is None:
        return everything
    if isinstance(rows, slice):
        return everything[rows]
    wanted = np.asarray(rows)
    if wanted.dtype != bool:
        wanted = wanted.astype(np.int64) if wanted.size else np.zeros(0, dtype=np.int64)
    return everything[wanted]
