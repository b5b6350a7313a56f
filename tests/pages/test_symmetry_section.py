"""The section Symmetry on the pages Layers and Inspect: shut, found, unknown, alone, of other layouts, walked."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, open_page
from safetensors.torch import save as to_safetensors
from streamlit.testing.v1 import AppTest
from test_pages import assert_healthy, drop, good_file, texts
from tiny_zoo import network

from pages.components import state, warm
from pages.components.inspection import Inspected
from sane_engine.baselines import FEATURES, layer_features
from sane_engine.progress import Progress

Open = Callable[..., AppTest]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No WeightWatcher on the page Inspect: its children take seconds, and nobody here looks at spectra."""

    def empty(model: Inspected, progress: Progress) -> pd.DataFrame:
        table = layer_features(model.tensors, "statistics")
        model.layers["statistics"] = table
        return table.assign(**{item.name: np.nan for item in FEATURES["weightwatcher"]})

    monkeypatch.setattr("pages.components.inspection.spectral", empty)


def metrics(app: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in app.metric}


def groups(app: AppTest) -> object:
    return next((frame.value for frame in app.dataframe if "group" in frame.value.columns), None)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("page", ["layers", "inspect"])
def test_nothing_is_computed_until_it_is_opened(app: Open, page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("nobody asked for the symmetry")

    monkeypatch.setattr("pages.components.networks.Networks.symmetry", never)
    shown = app(page, zoo="tiny", model="5")
    assert_healthy(shown)
    assert [item.value for item in shown.toggle if item.key == state.SYMMETRY] == [False]
    assert "symmetry" not in shown.query_params


def test_the_section_loads_no_torch_before_it_is_opened() -> None:
    code = (
        "import sys, pages.components.symmetry_section\n"
        "assert not {'torch', 'scipy', 'sklearn'} & set(sys.modules), sorted(sys.modules)"
    )
    outcome = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert outcome.returncode == 0, outcome.stderr


def test_layers_aligns_the_shown_models(app: Open) -> None:
    shown = app("layers", zoo="tiny", selection="2,5", pinned="8", symmetry="1")
    assert_healthy(shown)
    assert not shown.error
    assert shown.selectbox(key=state.REFERENCE).value == 8, "the pinned model stays"
    assert shown.selectbox(key=state.MOVED).value == 2
    found = metrics(shown)
    assert found["Permutable neurons"] == "20"
    before, after = map(float, found["Distance"].split(" → "))
    assert after <= before
    table = groups(shown)
    assert table["units"].tolist() == [8, 12]
    assert table["tensors"].tolist() == ["conv1.weight, conv1.bias, fc1.weight", "fc1.weight, fc1.bias, fc2.weight"]
    assert (table["signs"] == "fixed").all()
    assert "No walk from one network to the other: The zoo does not say how to run its networks." in texts(shown)
    for name, value in (("symmetry", "1"), ("moved", "2"), ("reference", "8")):
        assert shown.query_params[name] in (value, [value])


def test_the_pair_is_taken_from_the_link_and_kept(app: Open) -> None:
    shown = app("layers", zoo="tiny", symmetry="1", moved="4", reference="7")
    assert_healthy(shown)
    assert (shown.selectbox(key=state.MOVED).value, shown.selectbox(key=state.REFERENCE).value) == (4, 7)
    shown.selectbox(key=state.MOVED).set_value(7).run()
    assert_healthy(shown)
    assert shown.selectbox(key=state.REFERENCE).value != 7, "a network is not its own reference"


@pytest.mark.parametrize("query", [{"symmetry": "yes"}, {"symmetry": "1", "moved": "99999", "reference": "-3"}])
def test_a_broken_link_gives_a_pair_that_exists(app: Open, query: dict[str, str]) -> None:
    shown = app("layers", zoo="tiny", **query)
    assert_healthy(shown)
    assert not shown.error


@pytest.mark.usefixtures("quick")
def test_inspect_aligns_a_dropped_permuted_copy_to_its_zoo(app: Open) -> None:
    tensors = network(3)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    tensors["fc1.weight"], tensors["fc1.bias"] = tensors["fc1.weight"][order], tensors["fc1.bias"][order]
    tensors["fc2.weight"] = tensors["fc2.weight"][:, order]
    content = bytes(to_safetensors({name: tensor.contiguous() for name, tensor in tensors.items()}))
    shown = drop(app("inspect", zoo="tiny", symmetry="1", reference="11"), ("permuted.safetensors", content))
    assert_healthy(shown)
    assert not shown.error
    # Row 11 is network 3 at its last epoch.
    assert shown.selectbox(key=state.REFERENCE).value == 11
    assert metrics(shown)["Distance"].endswith("→ 0")
    moved = groups(shown).set_index("group")["moved"]
    assert moved["fc1.weight[0]"] > 0.5 and moved["conv1.weight[0]"] == 0
    assert "of tiny, whose layout it has" in texts(shown)


@pytest.mark.usefixtures("quick")
def test_two_dropped_files_are_compared_with_each_other(app: Open) -> None:
    def file(seed: int) -> bytes:
        generator = torch.Generator().manual_seed(seed)
        shapes = {"a.weight": (9, 20), "a.bias": (9,), "b.weight": (5, 9), "b.bias": (5,)}
        return bytes(to_safetensors({name: torch.randn(s, generator=generator) for name, s in shapes.items()}))

    shown = drop(app("inspect", symmetry="1"), ("one.safetensors", file(1)), ("two.safetensors", file(2)))
    assert_healthy(shown)
    assert list(shown.selectbox(key=state.REFERENCE).options) == ["two.safetensors"]
    assert metrics(shown)["Permutable neurons"] == "9"
    assert "recognised from the tensors' names and shapes" in texts(shown)
    assert "How to run these networks, and on which images, is not known" in texts(shown)
    assert "moved" not in shown.query_params, "a dropped file is not part of the link"
    shown.switch_page("pages/layers.py").run()
    assert_healthy(shown)


@pytest.mark.usefixtures("quick")
def test_networks_of_different_layouts_are_not_offered_to_each_other(app: Open) -> None:
    other = {"a.weight": torch.randn(16, 20), "a.bias": torch.randn(16), "b.weight": torch.randn(10, 16)}
    shown = drop(
        app("inspect", symmetry="1"), ("mine.safetensors", good_file()), ("other.pt", bytes(to_safetensors(other)))
    )
    assert_healthy(shown)
    assert shown.selectbox(key=state.MOVED).options == ["mine.safetensors", "other.pt"]
    assert "other.pt" not in shown.selectbox(key=state.REFERENCE).options
    key = next(key for key in shown.session_state["files"] if shown.session_state["files"][key].name == "other.pt")
    shown.selectbox(key=state.MOVED).set_value(f"{key[:16]}-0").run()
    assert_healthy(shown)
    assert metrics(shown)["Permutable neurons"] == "16"
    assert "Distance" not in metrics(shown)
    assert "Nothing else here has the same layout" in texts(shown)


@pytest.mark.usefixtures("quick")
def test_an_unknown_family_is_said_plainly_with_what_to_do(app: Open) -> None:
    odd = {"gate.alpha": torch.randn(4, 4), "gate.beta": torch.randn(4)}
    shown = drop(app("inspect", symmetry="1"), ("odd.safetensors", bytes(to_safetensors(odd))))
    assert_healthy(shown)
    assert "Unknown: not aligned" in texts(shown)
    assert "symmetry.json" in texts(shown)
    assert groups(shown) is None


@pytest.mark.usefixtures("quick")
def test_a_diverged_network_is_one_line(app: Open) -> None:
    tensors = network(3)
    tensors["fc1.weight"][0, 0] = float("nan")
    shown = drop(app("inspect", symmetry="1"), ("diverged.pt", bytes(to_safetensors(tensors))))
    assert_healthy(shown)
    assert any("not a number. Choose another one" in error.value for error in shown.error)


def test_a_zoo_of_one_checkpoint_says_that_there_is_nothing_to_align_to(app: Open, tmp_path: Path) -> None:
    folder = tmp_path / "single"
    folder.mkdir()
    (folder / "net.safetensors").write_bytes(good_file())
    shown = app("zoo")
    shown.text_input(key="zoo-location").set_value(str(folder))
    shown.button(key="open-zoo").click().run()
    shown.switch_page("pages/layers.py").run()
    shown.toggle(key=state.SYMMETRY).set_value(True).run()
    assert_healthy(shown)
    assert "Nothing else here has the same layout" in texts(shown)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("page", ["layers", "inspect"])
def test_two_models_of_the_embedded_zoo_are_walked_between(
    quick: None, page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm._WarmUp, "started", True)
    shown = open_page(
        page, zoo="digits-independent", model="5", moved="5", reference="11", selection="5,11", symmetry="1"
    )
    assert_healthy(shown)
    assert not shown.error
    found = metrics(shown)
    assert (found["Permutable neurons"], found["Free signs"]) == ("38", "38")
    said = texts(shown)
    assert "n = 359 test images of digits · 25 points" in said
    assert "(1 − t) · [m0000 · epoch 25] + t · [m0001 · epoch 25]" in said
    points = next(frame.value for frame in shown.dataframe if "loss_before" in frame.value.columns)
    assert len(points) == 25


def test_a_stopped_alignment_leaves_the_rest_of_the_page(app: Open) -> None:
    shown = app("layers", zoo="tiny", symmetry="1")
    shown.session_state["stopped-Symmetry"] = True
    shown.run()
    assert_healthy(shown)
    assert "Symmetry: stopped, nothing was changed." in texts(shown)
    assert "Layers" in [heading.value for heading in shown.subheader], "the table below is still there"
    shown.button(key="resume-Symmetry").click().run()
    assert_healthy(shown)
    assert metrics(shown)["Permutable neurons"] == "20"


def test_an_error_nobody_foresaw_is_one_line(app: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr("pages.components.networks.Networks.movement", broken)
    shown = app("layers", zoo="tiny", symmetry="1")
    assert_healthy(shown)
    assert ["Something went wrong while aligning" in error.value for error in shown.error] == [True]
