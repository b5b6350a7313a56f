"""Folds in which all checkpoints of a group stay together, and the hash that names a split."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sane_engine.checkpoint import Refusal
from sane_engine.zoo.table import group_column

Groups = NDArray[np.object_]


def groups_of(table: pd.DataFrame, groups: str | Sequence[Any] | NDArray[Any] = "model") -> Groups:
    """The group of each row as text.

    Args:
        table: One row a checkpoint.
        groups: A column, or one value a row. For ``"model"`` the table's ``group`` column counts where it has one:
            it binds models that are not independent of each other.

    Raises:
        Refusal: There is no such column (``no-group-column``).
    """
    if not isinstance(groups, str):
        values = list(groups)
        if len(values) != len(table):
            raise ValueError(f"{len(values)} groups for {len(table)} rows")
        return np.asarray([str(value) for value in values], dtype=object)
    column = group_column(table) if groups == "model" else groups
    if column not in table.columns:
        raise Refusal("no-group-column", f"The table has no column {column!r}.", "Name one that says which run.")
    return np.asarray(table[column].astype(str).tolist(), dtype=object)


def grouped_folds(groups: Groups, n_folds: int, seed: int = 0) -> NDArray[np.int64]:
    """The fold of each row: groups are shuffled and dealt out in turn, so folds differ by at most one group.

    Args:
        groups: The group of each row, ``[n]``.
        n_folds: How many folds, at least 2.
        seed: Which shuffle.

    Returns:
        0 … n_folds − 1 for each row. It depends on the set of groups and the seed, not on the order of the rows.

    Raises:
        Refusal: There are fewer groups than folds (``too-few-groups``), or less than two folds (``bad-number``).
    """
    unique = sorted({str(group) for group in groups})
    if n_folds < 2:
        raise Refusal("bad-number", f"With {n_folds} of them nothing is held out.", "Take at least 2 splits.")
    if len(unique) < n_folds:
        raise Refusal(
            "too-few-groups",
            f"{len(unique)} independent models are too few for {n_folds} folds.",
            "Take fewer splits, or a zoo with more models.",
        )
    order = np.random.default_rng(seed).permutation(len(unique))
    of_group = {unique[position]: turn % n_folds for turn, position in enumerate(order)}
    return np.asarray([of_group[str(group)] for group in groups], dtype=np.int64)


def split_hash(groups: Groups, labels: Sequence[Any] | NDArray[Any]) -> str:
    """Twelve hex digits that name a split: which group goes where, whatever the order of the rows."""
    pairs = sorted({(str(group), str(label)) for group, label in zip(groups, labels, strict=True)})
    return hashlib.sha256("\n".join(f"{group}\t{label}" for group, label in pairs).encode()).hexdigest()[:12]
