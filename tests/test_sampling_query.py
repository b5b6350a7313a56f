"""The language that chooses anchors: what it says, and what is turned away."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from sane_engine import Refusal
from sane_engine.sampling import matching_rows

TABLE = pd.DataFrame(
    {
        "model": [f"m{i}" for i in range(20)],
        "split": ["train"] * 15 + ["test"] * 5,
        "test_accuracy": np.linspace(0.1, 0.95, 20),
        "activation": ["tanh", "relu"] * 10,
        "epoch": [1, 2] * 10,
        "pruned": [True] * 4 + [False] * 16,
        "gap": [np.nan, *np.zeros(19)],
    }
)


@pytest.mark.parametrize(
    ("query", "mask"),
    [
        (
            'test_accuracy > 0.5 and activation == "tanh"',
            (TABLE.test_accuracy > 0.5) & (TABLE.activation == "tanh"),
        ),
        ("0.2 < test_accuracy <= 0.5", (TABLE.test_accuracy > 0.2) & (TABLE.test_accuracy <= 0.5)),
        ("not (epoch == 1 or model == 'm3')", ~((TABLE.epoch == 1) | (TABLE.model == "m3"))),
        ("activation in ['relu', 'gelu'] and epoch not in (1,)", (TABLE.activation == "relu") & (TABLE.epoch != 1)),
        ("pruned", TABLE.pruned),
        ("not pruned and split != 'test'", ~TABLE.pruned & (TABLE.split != "test")),
        ("gap >= -1", TABLE.gap >= -1),
        ("  test_accuracy >\n 0.9 ", TABLE.test_accuracy > 0.9),
    ],
)
def test_a_query_chooses_what_it_says(query: str, mask: pd.Series) -> None:
    if "\n" in query:
        query = f"({query})"
    assert matching_rows(TABLE, query).tolist() == np.flatnonzero(mask).tolist()


def test_top_takes_only_training_rows_and_whole_shares() -> None:
    assert matching_rows(TABLE, "top 20 %").tolist() == [12, 13, 14]
    assert matching_rows(TABLE, "Bottom 2 by test_accuracy").tolist() == [0, 1]
    assert 0 not in matching_rows(TABLE, "top 100 % by gap")


def test_rows_are_chosen_by_number() -> None:
    assert matching_rows(TABLE, "rows 0-2, 7").tolist() == [0, 1, 2, 7]
    last = len(TABLE) - 1
    assert matching_rows(TABLE, f"Rows {last}").tolist() == [last]


@pytest.mark.parametrize(
    "query",
    [
        "rows 0-99999",
        "rows 3-1",
        "rows -1",
        "rows 1;2",
        "rows " + "1," * 60_000 + "1",
        "__import__('os').system('true')",
        "test_accuracy.__class__ == 1",
        "@pd.eval('1')",
        "@TABLE",
        "[x for x in ().__class__.__bases__]",
        "(lambda: 1)() == 1",
        "test_accuracy > open('f')",
        "test_accuracy[0] > 0.5",
        "test_accuracy * 9**9**9 > 1",
        "f'{model}' == 'm1'",
        "model := 'm1'",
        "test_accuracy > 0.5; import os",
        "model == b'm1'",
        "epoch == 1j",
        "1 == 1",
        "epoch is 1",
        "epoch in model",
        "epoch",
        "nothing > 1",
        "`model` == 'm1'",
        "activation > 3",
        "top 5 by model",
        "top 5 by nothing",
        "",
        "epoch == 1" + " or epoch == 1" * 100,
        "(" * 300 + "epoch" + ")" * 300,
        "not " * 120 + "pruned",
        "epoch == '\x00'\x00",
        "top " + "9" * 400,
        "top " + "9" * 400 + " %",
        "epoch > " + "9" * 400,
        "test_accuracy > " + "9" * 400,
        "epoch in [" + "9" * 400 + "]",
        "epoch == -" + "9" * 30,
    ],
)
def test_what_is_not_in_the_language_is_turned_away(query: str) -> None:
    with pytest.raises(Refusal) as refusal:
        matching_rows(TABLE, query)
    assert refusal.value.code == "bad-query"
