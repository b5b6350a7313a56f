"""What a point on a plot says when the pointer rests on it."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from pages.components.labels import in_plot, short_label
from pages.components.show import three


def hover_texts(table: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    """One text a row: model and epoch, then the columns, three significant digits.

    The texts hold ``<br>``; everything that comes from a file is escaped.
    """
    names = [in_plot(model) for model in table["model"]]
    lines = [f"<b>{name}</b> · epoch {epoch}" for name, epoch in zip(names, table["epoch"], strict=True)]
    for column in columns:
        numeric = pd.api.types.is_float_dtype(table[column].dtype)
        values = [three(value) if numeric else in_plot(value) for value in table[column]]
        title = short_label(column)
        lines = [f"{line}<br>{title} {value}" for line, value in zip(lines, values, strict=True)]
    return lines
