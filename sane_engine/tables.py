"""Tables that leave the program, and what sets some rows of a table apart from the rest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")


def _inert(value: object) -> object:
    """Quote a text that a spreadsheet would run as a formula; leave every other value alone."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA_STARTS) else value


def to_csv_bytes(table: pd.DataFrame) -> bytes:
    """Write a table as UTF-8 CSV that is safe to open in a spreadsheet.

    Names of models and layers come from other people's files. A text cell, or a column's name, that begins with a
    character that starts a formula gets a leading apostrophe (OWASP, "CSV injection"). Numbers are written as they
    are, with every digit needed to read them back.

    Args:
        table: Any table; its index is left out.

    Returns:
        The file's bytes, with a byte-order mark so that spreadsheets read the names as UTF-8.
    """
    safe = table.copy()
    for column in safe.columns:
        # Categorical and object columns alike may hold text; numeric ones cannot.
        if not pd.api.types.is_numeric_dtype(safe[column].dtype):
            safe[column] = safe[column].astype(object).map(_inert)
    safe.columns = [str(_inert(str(column))) for column in safe.columns]
    return safe.to_csv(index=False).encode("utf-8-sig")


def set_apart(table: pd.DataFrame, rows: Sequence[int], columns: Sequence[str]) -> pd.DataFrame:
    """Rank the columns by how much some rows differ from all rows.

    Numeric columns: the difference of means in standard deviations of the whole table. Columns of categories: for
    each category the difference of its shares, divided by √(p(1−p)) of the whole table, which is the same quantity
    for an indicator column.

    Args:
        table: One row a model.
        rows: Row numbers of the chosen models.
        columns: Columns to compare. Columns that never vary are left out.

    Returns:
        Columns ``property``, ``chosen``, ``all`` (means, or shares 0–1 of a category) and ``difference`` (in
        standard deviations), the largest absolute difference first. Empty if ``rows`` is.
    """
    chosen = table.iloc[list(rows)]
    found: list[tuple[str, float, float, float]] = []
    if len(chosen) == 0:
        columns = ()
    for column in columns:
        values = table[column]
        if pd.api.types.is_numeric_dtype(values.dtype) and not pd.api.types.is_bool_dtype(values.dtype):
            numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
            part = chosen[column].to_numpy(dtype=np.float64, na_value=np.nan)
            if np.isfinite(numbers).any() and np.isfinite(part).any():
                _compare(found, column, part[np.isfinite(part)], numbers[np.isfinite(numbers)])
            continue
        for category in values.dropna().unique():
            indicator = (values == category).to_numpy(dtype=np.float64)
            _compare(found, f"{column} = {category}", indicator[list(rows)], indicator)
    result = pd.DataFrame(found, columns=["property", "chosen", "all", "difference"])
    return result.sort_values("difference", key=np.abs, ascending=False, ignore_index=True)


def _compare(found: list[tuple[str, float, float, float]], name: str, part: np.ndarray, whole: np.ndarray) -> None:
    spread = float(whole.std())
    # A constant column has no spread but for rounding.
    if spread > 1e-12 * max(1.0, float(np.abs(whole).max())):
        found.append((name, float(part.mean()), float(whole.mean()), float((part.mean() - whole.mean()) / spread)))
