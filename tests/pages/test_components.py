"""The parts under the pages: links, tables, names from files, shared results."""

from __future__ import annotations

import threading

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as some

from pages.components.labels import in_plot
from pages.components.layer_charts import bands
from pages.components.layer_views import merge_views
from pages.components.memory import Memory
from pages.components.show import file_name, inert, three
from pages.components.state import read_rows, write_rows
from sane_engine.tables import set_apart, to_csv_bytes


@given(some.sets(some.integers(0, 9_999_999), max_size=50))
def test_rows_survive_the_link(rows: set[int]) -> None:
    assert read_rows(write_rows(rows)) == tuple(sorted(rows))


@given(some.text(max_size=20))
def test_any_text_in_a_link_is_read_without_an_error(text: str) -> None:
    assert all(row >= 0 for row in read_rows(text)) or not read_rows(text)


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_csv_runs_no_formula(start: str) -> None:
    table = pd.DataFrame({f"{start}name": [f"{start}cmd|' /C calc'!A0", "plain"], "number": [-1.5, 2.0]})
    text = to_csv_bytes(table).decode("utf-8-sig")
    assert f"'{start}cmd" in text
    assert text.startswith((f"'{start}name", f"\"'{start}name"))
    assert "\nplain" in text and "-1.5" in text, "plain texts and numbers stay as they are"


def test_csv_keeps_every_digit() -> None:
    value = 0.1 + 0.2
    assert str(value) in to_csv_bytes(pd.DataFrame({"x": [value]})).decode("utf-8-sig")


def test_set_apart_ranks_by_standardised_difference() -> None:
    table = pd.DataFrame(
        {"same": [1.0] * 8, "noise": [0, 1] * 4, "rate": [0] * 4 + [1] * 4, "kind": ["a"] * 6 + ["b"] * 2}
    )
    found = set_apart(table, [6, 7], ["same", "noise", "rate", "kind"])
    assert found.iloc[0]["property"] in {"kind = a", "kind = b"}
    assert (
        found.iloc[0]["difference"] == pytest.approx(-0.75 / np.sqrt(0.75 * 0.25))
        or found.iloc[0]["difference"] > 0
    )
    assert "same" not in set(found["property"])
    assert found[found["property"] == "rate"]["difference"].item() == pytest.approx(1.0)
    assert len(set_apart(table, [], ["rate"])) == 0


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a_b*c", r"a\_b\*c"),
        ("![x](http://a)", r"!\[x\](http\://a)"),
        ("1. x", r"1\. x"),
        (":red[y]", r"\:red\[y\]"),
    ],
)
def test_names_from_files_are_never_markup(text: str, shown: str) -> None:
    assert inert(text) == shown


def test_names_from_files_are_never_html_in_a_plot() -> None:
    assert "<" not in in_plot("<a href='x'>y</a>")
    assert len(in_plot("x" * 500)) < 60


@pytest.mark.parametrize(
    ("value", "text"), [(0.123456, "0.123"), (1234.5, "1234"), (1e-5, "1.00e-05"), (float("nan"), "–"), (0.0, "0")]
)
def test_numbers_have_three_significant_digits(value: float, text: str) -> None:
    assert three(value) == text


def test_file_names_lead_nowhere() -> None:
    assert file_name("../../etc/passwd", ".csv") == "etc-passwd.csv"
    assert file_name("***", ".csv") == "sane-explorer.csv"


def test_bands_are_the_quantiles_of_each_layer() -> None:
    values = np.arange(101.0)
    table = pd.DataFrame(
        {"layer": [0] * 101 + [1] * 101, "name": ["a"] * 101 + ["b"] * 101, "alpha": [*values, *(values * np.nan)]}
    )
    found = bands(table, "alpha")
    assert found["layer"].tolist() == [0], "a layer without values has no band"
    assert found[["q05", "q25", "q50", "q75", "q95"]].iloc[0].tolist() == [5, 25, 50, 75, 95]
    assert found["n"].item() == 101


def test_layer_tables_keep_every_reason() -> None:
    one = pd.DataFrame({"layer": [0, 1], "name": ["a", "b"], "alpha": [2.0, np.nan], "reason": ["", "too small"]})
    one.insert(3, "alpha_weighted", [1.0, np.nan])
    other = pd.DataFrame({"layer": [0, 1], "name": ["a", "b"], "norm": [1.0, 2.0], "reason": ["", ""]})
    merged = merge_views({"weightwatcher": one, "sane": other})
    assert merged["why not"].tolist() == ["", "WeightWatcher: too small"]
    assert {"WW · alpha", "WW · alpha, weighted", "SANE · embedding norm"} <= set(merged)


def test_memory_computes_once_for_all_who_ask_and_forgets_failures() -> None:
    memory: Memory[int] = Memory(2)
    calls = []

    def make() -> int:
        calls.append(1)
        threading.Event().wait(0.05)
        return 7

    threads = [threading.Thread(target=lambda: memory.get("key", make)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1

    def fail() -> int:
        raise ValueError

    with pytest.raises(ValueError):
        memory.get("other", fail)
    assert memory.get("other", lambda: 3) == 3
    memory.put("third", 1)
    memory.put("fourth", 2)
    assert memory.peek("key") is None, "the least recently used goes first"


def test_scorecard_puts_held_out_splits_first_and_names_what_is_missing_nowhere() -> None:
    from pages.components.scorecard import scorecard_table

    table = scorecard_table(
        {
            "train": {"models": 7, "checkpoints": 14, "r2": {"sane": 0.99, "pca": 0.95}},
            "test": {"models": 2, "checkpoints": 4, "r2": {"sane": 0.98, "pca": 0.9}},
            "validation": None,
        }
    )
    assert table["split"].tolist() == ["test", "train"]
    assert table["R² SANE"].tolist() == [0.98, 0.99]
    assert "loss (points)" not in table, "the zoo has no accuracy"
