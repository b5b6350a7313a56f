"""Names of columns as a person reads them, with units; names from files as plots may show them."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from sane_engine.zoo.table import UNDERSTOOD

if TYPE_CHECKING:
    import pandas as pd

_LABELS = {
    "train_accuracy": "train accuracy (fraction)",
    "validation_accuracy": "validation accuracy (fraction)",
    "test_accuracy": "test accuracy (fraction)",
    "accuracy": "accuracy (fraction)",
    "train_loss": "train loss (nats)",
    "validation_loss": "validation loss (nats)",
    "test_loss": "test loss (nats)",
    "generalisation_gap": "generalisation gap (train − test accuracy, fraction)",
    "learning_rate": "learning rate (per step)",
    "weight_decay": "weight decay (per step)",
    "dropout": "dropout (probability)",
    "epoch": "epoch",
    "sparsity": "sparsity (fraction of zeros)",
    "seed": "seed",
}
_LONGEST = 48


def label(column: str) -> str:
    """The title of an axis that shows ``column``."""
    return _LABELS.get(column, column.replace("_", " ").replace("/", " · "))


def short_label(column: str) -> str:
    """The same without the unit, for menus and running text."""
    return label(column).split(" (")[0]


def counted(count: int, what: str) -> str:
    """``1 model``, ``1,920 models``."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def in_plot(name: object) -> str:
    """A name from a file for a plot: cut in the middle when long, and with nothing Plotly would read as HTML."""
    text = " ".join(str(name).split())
    if len(text) > _LONGEST:
        half = _LONGEST // 2
        text = f"{text[:half]}…{text[-half:]}"
    return escape(text, quote=False)


def accuracy_columns(columns: list[str]) -> list[str]:
    """The columns that hold an accuracy, the most telling first: test, validation, then the others."""
    found = [name for name in columns if "accuracy" in name]
    return sorted(found, key=lambda name: (not name.startswith("test"), not name.startswith("val"), name))


def first_columns(table: pd.DataFrame) -> pd.DataFrame:
    """A zoo's table with what one looks for first in front: the model, its epoch and split, how good it is.

    Columns that stand in it twice, under their own name and under ours, are shown once.
    """
    table = table[[name for name in table.columns if UNDERSTOOD.get(name.lower()) not in table.columns]]
    first = ["model", "epoch", "split", *accuracy_columns(list(table.columns))]
    first = [name for name in first if name in table.columns]
    return table[[*first, *(name for name in table.columns if name not in first)]]
