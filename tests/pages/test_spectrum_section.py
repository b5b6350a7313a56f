"""The section *Spectrum of a layer*: a click or the picker chooses the layer, on both pages and in the link."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save as to_safetensors
from streamlit.testing.v1 import AppTest
from test_pages import assert_healthy, drop, texts

from pages.components import layer_views, state
from pages.components.esd_chart import LayerSpectrum, esd_figure
from pages.components.palette import palette
from sane_engine.baselines.esd import PowerLaw, esd

Open = Callable[..., AppTest]


def numbers(app: AppTest) -> Any:
    return next(frame.value for frame in app.dataframe if "tail" in frame.value.columns)


def figures(app: AppTest) -> list[dict[str, Any]]:
    return [json.loads(chart.proto.spec) for chart in app.get("plotly_chart")]


def spectrum_figure(app: AppTest) -> dict[str, Any]:
    return next(figure for figure in figures(app) if figure["layout"]["xaxis"].get("type") == "log")


def test_layers_shows_the_spectrum_of_the_chosen_layer_of_the_shown_models(app: Open) -> None:
    shown = app("layers", zoo="tiny", selection="2,5", spectrum="fc1")
    assert_healthy(shown)
    assert not shown.error
    assert shown.selectbox(key=state.SPECTRUM).value == "fc1"
    assert "fc1 · n = 12 eigenvalues each of 2 networks" in texts(shown)
    table = numbers(shown)
    assert table["n"].tolist() == [12, 12]
    axes = spectrum_figure(shown)["layout"]
    assert axes["yaxis"]["type"] == "log" and "λ" in axes["xaxis"]["title"]["text"]


def test_a_first_layer_is_chosen_and_marked_in_both_curves(app: Open) -> None:
    shown = app("layers", zoo="tiny", selection="5")
    chosen = shown.selectbox(key=state.SPECTRUM).value
    assert chosen in shown.selectbox(key=state.SPECTRUM).options
    index = ("conv1", "fc1", "fc2").index(chosen)
    curves = [f for f in figures(shown) if "layer (" in str(f["layout"]["xaxis"].get("title", {}).get("text"))]
    assert [f["layout"]["shapes"][0]["x0"] for f in curves] == [index, index]


def test_a_click_on_a_curve_chooses_the_layer_and_the_link_carries_it(
    app: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = app("layers", zoo="tiny", selection="5", spectrum="conv1")
    # What Streamlit puts into the session when a point is clicked, and when it is clicked once more.
    for clicked, expected in (([{"customdata": "fc1", "x": 1}], "fc1"), ([], "fc1")):
        shown.session_state["clicked"] = {"selection": {"points": clicked}}
        monkeypatch.setattr(layer_views.st, "session_state", shown.session_state)
        layer_views._on_click("clicked")
        monkeypatch.undo()
        assert shown.session_state[state.SPECTRUM] == expected


def test_the_choice_holds_on_the_other_page(app: Open) -> None:
    shown = app("layers", zoo="tiny", selection="5", model="5")
    shown.selectbox(key=state.SPECTRUM).set_value("fc2").run()
    shown.switch_page("pages/inspect.py").run()
    assert_healthy(shown)
    assert shown.selectbox(key=state.SPECTRUM).value == "fc2"
    assert shown.query_params["spectrum"] in ("fc2", ["fc2"])
    assert "fc2 · n = 10 eigenvalues" in texts(shown)


@pytest.mark.parametrize("view", ["Density", "Share above"])
def test_one_network_has_its_random_twin_beside_it(app: Open, view: str) -> None:
    shown = app("layers", zoo="tiny", selection="5", spectrum="fc1")
    shown.segmented_control(key="spectrum-view").set_value(view).run()
    assert_healthy(shown)
    assert "random weights (Marchenko–Pastur)" in [trace["name"] for trace in spectrum_figure(shown)["data"]]


def test_at_most_four_networks_are_laid_over_each_other(app: Open) -> None:
    shown = app("layers", zoo="tiny", selection="2,5,8,11,14,17", spectrum="fc1")
    assert len(numbers(shown)) == 4
    assert "the first 4 of 6 networks" in texts(shown)


def test_an_unknown_layer_in_the_link_falls_back(app: Open) -> None:
    shown = app("layers", zoo="tiny", selection="5", spectrum="no such layer")
    assert_healthy(shown)
    assert shown.selectbox(key=state.SPECTRUM).value in ("conv1", "fc1", "fc2")


def test_networks_without_any_matrix_say_so(app: Open) -> None:
    lone = {"scale.weight": torch.ones(16), "shift.bias": torch.zeros(16)}
    shown = drop(app("inspect"), ("lone.safetensors", bytes(to_safetensors(lone))))
    assert_healthy(shown)
    assert "None of these layers has eigenvalues" in texts(shown)


@pytest.mark.parametrize("matrix", [torch.eye(12), torch.ones(12, 12), torch.randn(12, 30)])
@pytest.mark.parametrize("view", ["density", "tail"])
def test_every_spectrum_with_an_eigenvalue_can_be_drawn(matrix: torch.Tensor, view: Any) -> None:
    law = PowerLaw(2.5, 0.5, 1.0, 0.2, 0.3, 4)
    one = LayerSpectrum("a", esd({"a.weight": matrix}, "a"), law, 0)
    for several in ([one], [one, one]):
        figure = esd_figure(several, view, colours=palette("light"))
        for axis in (figure.layout.xaxis, figure.layout.yaxis):
            assert np.isfinite(axis.range).all() and axis.range[0] < axis.range[1]
        for trace in figure.data:
            assert np.isfinite(trace.y).all() and (np.asarray(trace.y) > 0).all()


def test_a_few_far_eigenvalues_lie_left_of_the_axis_and_are_still_counted() -> None:
    generator = torch.Generator().manual_seed(0)
    found = esd({"a.weight": torch.randn(64, 64, 3, 3, generator=generator)}, "a")
    figure = esd_figure([LayerSpectrum("a", found, None, 0)], "density", colours=palette("light"))
    begins = 10 ** figure.layout.xaxis.range[0]
    assert found.eigenvalues[0] < begins < np.quantile(found.eigenvalues, 0.04)
    edges, tops = np.asarray(figure.data[0].x)[::2], np.asarray(figure.data[0].y)[1:-1:2]
    assert (np.diff(edges) * tops).sum() == pytest.approx(1, rel=1e-3)


def test_the_drawn_histogram_has_the_area_of_its_positive_eigenvalues() -> None:
    found = esd({"a.weight": torch.randn(40, 60, generator=torch.Generator().manual_seed(0))}, "a")
    (bars, *_) = esd_figure([LayerSpectrum("a", found, None, 0)], "density", colours=palette("light")).data
    edges, tops = np.asarray(bars.x)[::2], np.asarray(bars.y)[1:-1:2]
    assert (np.diff(edges) * tops).sum() == pytest.approx(1, rel=1e-3)
