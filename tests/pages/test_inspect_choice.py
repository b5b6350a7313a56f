"""Many networks on the page Inspect: at most eight are drawn, one is the current one, depths can be compared."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save as to_safetensors
from streamlit.testing.v1 import AppTest
from test_pages import assert_healthy, drop, good_file, texts
from test_symmetry_section import quick as quick

from pages.components.inspect_choice import CHOSEN, MOST_SHOWN, SHOWN

Open = Callable[..., AppTest]


def chain(depth: int) -> bytes:
    generator = torch.Generator().manual_seed(depth)
    return bytes(
        to_safetensors({f"l{i:02d}.weight": torch.randn(12, 12, generator=generator) for i in range(depth)})
    )


def curves(app: AppTest) -> list[dict[str, Any]]:
    found = [json.loads(chart.proto.spec) for chart in app.get("plotly_chart")]
    wanted = ("layer (index", "relative depth")
    return [f for f in found if str(f["layout"]["xaxis"].get("title", {}).get("text")).startswith(wanted)]


def numbers(axis: Any) -> np.ndarray[Any, Any]:
    """What a figure says of an axis: a list, or bytes with their type."""
    return (
        np.frombuffer(base64.b64decode(axis["bdata"]), axis["dtype"]) if isinstance(axis, dict) else np.array(axis)
    )


@pytest.mark.usefixtures("quick")
def test_at_most_eight_networks_are_drawn_and_all_are_on_offer(app: Open) -> None:
    shown = drop(app("inspect"), *((f"net{seed}.st", good_file(seed)) for seed in range(10)))
    assert_healthy(shown)
    picker = shown.multiselect(key=SHOWN)
    assert (len(picker.options), len(picker.value)) == (10, MOST_SHOWN)
    assert "8 of 10" in picker.label
    assert f"{MOST_SHOWN} curves" in texts(shown)
    assert not shown.tabs
    headings = [heading.value for heading in shown.subheader]
    assert len(set(headings)) == len(headings)


@pytest.mark.usefixtures("quick")
def test_one_network_is_the_current_one_everywhere(app: Open) -> None:
    shown = drop(app("inspect"), ("a.st", good_file(1)), ("b.st", good_file(2)))
    keys = dict(zip(("a.st", "b.st"), shown.multiselect(key=SHOWN).value, strict=True))
    shown.selectbox(key=CHOSEN).set_value(keys["b.st"]).run()
    assert_healthy(shown)
    digests = [digest for digest, file in shown.session_state["files"].items() if file.name == "b.st"]
    assert digests[0] in shown.code[0].value and len(shown.code) == 1
    assert "b.st" in [text.value for text in shown.text], "the verdict is of the current one"
    # Taken out of the picture, another one is current.
    shown.multiselect(key=SHOWN).set_value([keys["a.st"]]).run()
    assert_healthy(shown)
    assert shown.selectbox(key=CHOSEN).value == keys["a.st"]
    assert "1 curve ·" in texts(shown)


@pytest.mark.usefixtures("quick")
def test_what_is_dropped_later_joins_and_what_was_hidden_stays_hidden(app: Open) -> None:
    shown = drop(app("inspect"), ("a.st", good_file(1)), ("b.st", good_file(2)))
    first = shown.multiselect(key=SHOWN).value[0]
    shown.multiselect(key=SHOWN).set_value([first]).run()
    shown = drop(shown, ("c.st", good_file(3)))
    assert_healthy(shown)
    picker = shown.multiselect(key=SHOWN)
    assert len(picker.value) == 2 and picker.value[0] == first and len(picker.options) == 3
    assert shown.selectbox(key=CHOSEN).value == picker.value[1], "what was just dropped is looked at"
    shown.multiselect(key=SHOWN).set_value([]).run()
    assert_healthy(shown)
    assert "1 curve ·" in texts(shown), "nothing chosen draws the first"


def test_networks_of_different_depths_lie_over_each_other_by_relative_depth(app: Open) -> None:
    shown = drop(app("inspect"), ("short.st", chain(2)), ("long.st", chain(9)))
    assert_healthy(shown)
    # Every point says which layer it is, on either axis.
    assert [trace["text"][-1] for trace in curves(shown)[0]["data"]] == ["1: l01", "8: l08"]
    assert "layer (index" in curves(shown)[0]["layout"]["xaxis"]["title"]["text"]
    shown.segmented_control(key="layer-axis").set_value("Relative depth").run()
    assert_healthy(shown)
    for figure in curves(shown):
        assert "relative depth" in figure["layout"]["xaxis"]["title"]["text"]
        assert [numbers(trace["x"])[[0, -1]].tolist() for trace in figure["data"]] == [[0, 1], [0, 1]]


@pytest.mark.usefixtures("quick")
def test_networks_of_one_depth_have_one_axis(app: Open) -> None:
    shown = drop(app("inspect"), ("a.st", good_file(1)), ("b.st", good_file(2)))
    assert "layer-axis" not in [control.key for control in shown.segmented_control]


def test_examples_say_which_is_the_best_and_how_good(app: Open) -> None:
    shown = app("layers")
    names = [trace.get("name", "") for trace in curves(shown)[0]["data"]]
    for part in ("best, 0.95", "median, 0.7", "worst, 0.4"):
        assert any(part in name for name in names), names
    assert "band: last epoch" in texts(shown)
