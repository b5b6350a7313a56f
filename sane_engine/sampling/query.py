"""A small language for choosing rows of a table: ``test_accuracy > 0.9 and activation == "tanh"``.

The text comes from a browser, so nothing in it is ever evaluated as Python. It is parsed into a syntax tree, and
only comparisons of a column with a constant (or another column), ``in`` with a list of constants, ``and``, ``or``
and ``not`` have a meaning; everything else (calls, attributes, subscripts, arithmetic) is turned away by its name.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sane_engine.checkpoint import Refusal

Mask = NDArray[np.bool_]

MAX_LENGTH = 500
"""Characters of a query; a person types fewer."""

MAX_ROWS_LENGTH = 100_000
"""Characters of a query that lists rows; a map writes these."""

MAX_NODES = 200
"""Parts of a query; the syntax tree of a longer one is not walked."""

LARGEST_INTEGER = 2**63 - 1
"""No column of whole numbers holds more, and pandas compares no more with it."""

_TOP = re.compile(
    r"\s*(?P<end>top|bottom)\s+(?P<n>\d+(?:\.\d+)?)\s*(?P<share>%)?(?:\s+by\s+(?P<column>\w+))?\s*", re.I
)
_ROWS = re.compile(r"\s*rows\s+(?P<rows>\d{1,9}(?:-\d{1,9})?(?:\s*,\s*\d{1,9}(?:-\d{1,9})?)*)\s*", re.I)
_OF_TEST_IMAGES = ("test_accuracy", "test_loss", "generalisation_gap")
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_HINT = 'Write for example test_accuracy > 0.9 and activation == "tanh", or top 10 %.'


def matching_rows(table: pd.DataFrame, query: str) -> NDArray[np.int64]:
    """Row numbers of a table that a query chooses, in the table's order.

    ``top 10 %`` (or ``bottom 5 by train_loss``) chooses among the training rows by a column, ``test_accuracy``
    where none is named; ``rows 0-4,9`` chooses those; anything else is a condition on each row.

    Raises:
        Refusal: The text is no query, or names a column that is not there (``bad-query``).
    """
    if len(query) <= MAX_ROWS_LENGTH and (found := _ROWS.fullmatch(query)):
        return _listed(len(table), found["rows"])
    if len(query) > MAX_LENGTH:
        raise _bad(f"the query has {len(query)} characters, more than {MAX_LENGTH}")
    if found := _TOP.fullmatch(query):
        return _best(table, found)
    try:
        tree = ast.parse(query.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _bad("the query cannot be read") from error
    if sum(1 for _ in ast.walk(tree)) > MAX_NODES:
        raise _bad("the query has too many parts")
    return np.flatnonzero(_condition(tree.body, table)).astype(np.int64)


def by_test_images(query: str) -> bool:
    """Whether a query chooses models by results on the test images, on which samples are scored as well."""
    found = _TOP.fullmatch(query)
    if found:
        return (found["column"] or "test_accuracy") in _OF_TEST_IMAGES
    return any(column in query for column in _OF_TEST_IMAGES)


def _listed(n: int, text: str) -> NDArray[np.int64]:
    chosen = np.zeros(n, dtype=bool)
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        start, stop = int(first), int(last or first)
        if not start <= stop < n:
            raise _bad(f"there are no rows {part.strip()}: they run from 0 to {n - 1}")
        chosen[start : stop + 1] = True
    return np.flatnonzero(chosen).astype(np.int64)


def _best(table: pd.DataFrame, found: re.Match[str]) -> NDArray[np.int64]:
    name = found["column"] or "test_accuracy"
    values = _column(name, table)
    if not pd.api.types.is_numeric_dtype(values):
        raise _bad(f"{name} is not a number, so it has no top")
    numbers = values.to_numpy(dtype=float, na_value=np.nan)
    # Held-out models stay held out: nothing is sampled from what samples are compared with.
    rows = np.flatnonzero((table["split"] == "train").to_numpy() & np.isfinite(numbers))
    count = float(found["n"])
    if not np.isfinite(count):
        raise _bad("a number is too large")
    wanted = max(1, round(count / 100 * len(rows))) if found["share"] else round(count)
    sign = -1 if found["end"].lower() == "top" else 1
    chosen = rows[np.argsort(sign * numbers[rows], kind="stable")][:wanted]
    return np.sort(chosen).astype(np.int64)


def _condition(node: ast.expr, table: pd.DataFrame) -> Mask:
    if isinstance(node, ast.BoolOp):
        parts = [_condition(value, table) for value in node.values]
        combine = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
        return np.asarray(combine.reduce(parts), dtype=bool)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return ~_condition(node.operand, table)
    if isinstance(node, ast.Compare):
        result = np.ones(len(table), dtype=bool)
        left = node.left
        for operation, right in zip(node.ops, node.comparators, strict=True):
            result &= _comparison(left, operation, right, table)
            left = right
        return result
    if isinstance(node, ast.Name):
        values = _column(node.id, table)
        if values.dtype == bool:
            return values.to_numpy()
        raise _bad(f"{node.id} alone is no condition")
    raise _bad(f"{_name(node)} is not part of the language")


def _comparison(left: ast.expr, operation: ast.cmpop, right: ast.expr, table: pd.DataFrame) -> Mask:
    if isinstance(operation, ast.In | ast.NotIn):
        if not isinstance(right, ast.List | ast.Tuple | ast.Set):
            raise _bad("in needs a list of constants")
        values = _value(left, table)
        if not isinstance(values, pd.Series):
            raise _bad("in needs a column on its left")
        inside = values.isin([_constant(item) for item in right.elts]).to_numpy(dtype=bool)
        return inside if isinstance(operation, ast.In) else ~inside
    if type(operation) not in _COMPARISONS:
        raise _bad(f"{type(operation).__name__} is not part of the language")
    values, other = _value(left, table), _value(right, table)
    if not isinstance(values, pd.Series) and not isinstance(other, pd.Series):
        raise _bad("a comparison needs a column")
    try:
        compared = _COMPARISONS[type(operation)](values, other)
    except (TypeError, ValueError) as error:
        raise _bad("a text is compared with a number") from error
    return np.asarray(compared.fillna(False), dtype=bool)


def _value(node: ast.expr, table: pd.DataFrame) -> Any:
    if isinstance(node, ast.Name):
        return _column(node.id, table)
    return _constant(node)


def _constant(node: ast.expr) -> float | int | str | bool:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _constant(node.operand)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return -value
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float | str | bool):
        if isinstance(node.value, int) and node.value > LARGEST_INTEGER:
            raise _bad("a number is too large")
        return node.value
    raise _bad(f"{_name(node)} is not part of the language")


def _column(name: str, table: pd.DataFrame) -> pd.Series[Any]:
    if name not in table.columns:
        raise _bad(f"there is no column {name}")
    column: pd.Series[Any] = table[name]
    return column


def _name(node: ast.expr) -> str:
    words = {"Call": "a function call", "Attribute": "an attribute", "Subscript": "an index", "BinOp": "arithmetic"}
    kind = type(node).__name__
    return words.get(kind, f"{kind.lower()}")


def _bad(reason: str) -> Refusal:
    return Refusal("bad-query", f"These anchors cannot be chosen: {reason}.", _HINT)
