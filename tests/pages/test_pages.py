"""Every page in its states: nothing there, a zoo loaded, a bad upload, a good one."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save as to_safetensors
from streamlit.testing.v1 import AppTest
from tiny_zoo import EPOCHS, MODELS, network

from pages.components import state
from sane_engine.workspace import workspace_root

Open = Callable[..., AppTest]

PAGES = ("explore", "zoo", "layers", "predict", "inspect", "sample")


def texts(app: AppTest) -> str:
    """All small print on the page."""
    elements = [*app.caption, *app.info, *app.text, *app.error, *app.warning]
    return "\n".join(str(element.value).replace("\\", "") for element in elements)


def assert_healthy(app: AppTest) -> None:
    assert not app.exception, [element.message for element in app.exception]


@pytest.mark.parametrize("page", PAGES)
def test_page_without_a_zoo_says_what_to_do(empty_app: Open, page: str) -> None:
    app = empty_app(page)
    assert_healthy(app)
    assert "Open one in the sidebar" in texts(app) or "Drop a checkpoint above" in texts(app)


@pytest.mark.parametrize("page", PAGES)
def test_page_with_a_zoo_comes_up_without_an_error(app: Open, page: str) -> None:
    shown = app(page)
    assert_healthy(shown)
    assert [title.value for title in shown.title] == [page.capitalize()]
    assert not shown.error
    assert shown.sidebar.selectbox(key=state.ZOO).value == "tiny"
    assert shown.sidebar.selectbox(key=state.ENCODER).value == "tiny-sane"


def test_captions_say_how_many_which_seed_and_how_trustworthy(app: Open) -> None:
    said = texts(app("explore"))
    for part in (f"n = {MODELS} models × {len(EPOCHS)} epochs", "seed 0", "trustworthiness", "split:", "UMAP"):
        assert part in said


def test_selection_shows_its_accuracy_against_the_zoo_and_what_sets_it_apart(app: Open) -> None:
    last_of_the_best = ",".join(str(3 * model + 2) for model in range(9, 12))
    shown = app("explore", zoo="tiny", selection=last_of_the_best)
    assert_healthy(shown)
    metric = shown.metric[0]
    assert metric.value == "0.9"
    assert "against the zoo" in metric.delta
    apart = next(frame.value for frame in shown.dataframe if "difference" in frame.value.columns)
    assert apart.iloc[0]["property"] == "learning rate"
    assert apart.iloc[0]["difference"] > 1


def test_pin_and_unpin(app: Open) -> None:
    shown = app("explore", zoo="tiny", selection="0-5")
    shown.button(key="pin").click().run()
    assert shown.session_state[state.PINNED] == 5
    assert "Pinned: net_01*bold*" in texts(shown)
    shown.button(key="unpin").click().run()
    assert shown.session_state[state.PINNED] is None


def test_search_selects_what_it_finds(app: Open) -> None:
    shown = app("explore")
    shown.text_input(key="search").set_value("net_03").run()
    shown.button(key="select-found").click().run()
    assert_healthy(shown)
    assert shown.session_state[state.SELECTION] == (9, 10, 11)


def test_a_choice_made_on_one_page_holds_on_the_others(app: Open) -> None:
    shown = app("layers", left="log_norm")
    shown.switch_page("pages/inspect.py").run()
    shown.selectbox(key=state.OPENED_MODEL).set_value(5).run()
    assert shown.selectbox(key=state.LAYER_LEFT).value == "log_norm"
    shown.selectbox(key=state.LAYER_LEFT).set_value("stable_rank").run()
    shown.switch_page("pages/layers.py").run()
    assert_healthy(shown)
    assert shown.selectbox(key=state.LAYER_LEFT).value == "stable_rank"
    assert "Sum of the eigenvalues divided by the largest" in texts(shown)


def test_zoo_table_is_searched(app: Open) -> None:
    shown = app("zoo")
    shown.text_input(key="table-search").set_value("net_03").run()
    assert f"3 of {MODELS * len(EPOCHS)} checkpoints" in texts(shown)
    shown.text_input(key="table-search").set_value("nothing has this name").run()
    assert "No checkpoint matches" in texts(shown)


def test_what_was_ticked_is_not_taken_for_a_row_of_another_search(app: Open) -> None:
    shown = app("zoo")
    key = next(
        each.proto.id.split("-table-", 1)[1] for each in shown.dataframe if "-table-tiny-zoo-" in each.proto.id
    )
    shown.session_state[f"table-{key}"] = {"selection": {"rows": [0, 20], "columns": [], "cells": []}}
    shown.run()
    assert shown.button(key="select-rows").label == "Select 2"
    shown.text_input(key="table-search").set_value("net_03").run()
    assert_healthy(shown)
    assert shown.button(key="select-rows").label == "Select"


def test_layers_shows_examples_first_then_the_selection(app: Open) -> None:
    assert "best, median and worst" in texts(app("layers"))
    shown = app("layers", zoo="tiny", selection="0,1")
    assert_healthy(shown)
    assert "best, median and worst" not in texts(shown)
    assert "2 curves" in texts(shown)


@pytest.mark.parametrize("feature", ["log_norm", "log_spectral_norm", "stable_rank", "alpha_weighted"])
def test_layers_offers_the_features(app: Open, feature: str) -> None:
    shown = app("layers", left=feature, right="distance")
    assert_healthy(shown)
    assert shown.session_state[state.LAYER_LEFT] == feature


def drop(app: AppTest, *files: tuple[str, bytes]) -> AppTest:
    uploader = next(item for item in app.file_uploader if item.accept_multiple_files)
    return uploader.set_value([(name, content, "application/octet-stream") for name, content in files]).run()


def good_file(seed: int = 7) -> bytes:
    return bytes(to_safetensors(network(seed)))


def torch_file(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


class _Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("this must never run",))


def empty_zip() -> bytes:
    buffer = io.BytesIO()
    zipfile.ZipFile(buffer, "w").close()
    return buffer.getvalue()


BAD = {
    "truncated": lambda: torch_file(network(1))[:-300],
    "pickled code": lambda: pickle.dumps(_Harmful()),
    "text": lambda: b"this is a text file\n" * 20,
    "empty zip": empty_zip,
    "empty": lambda: b"",
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_gives_one_line_and_the_good_one_beside_it_is_shown(app: Open, kind: str) -> None:
    shown = drop(app("inspect"), ("bad_[x](y).pt", BAD[kind]()), ("good.safetensors", good_file()))
    assert_healthy(shown)
    lines = [error.value for error in shown.error]
    assert len(lines) == 1
    assert "\n" not in lines[0]
    assert lines[0].replace("\\", "").startswith("bad_[x](y).pt: ")
    assert "\\[x\\]" in lines[0], "a name from a file must not be read as Markdown"
    assert "good.safetensors" in texts(shown)
    assert "2 curves" not in texts(shown) and "1 curve" in texts(shown)


def test_nan_weights_are_said_and_the_curves_that_exist_are_shown(app: Open) -> None:
    tensors = network(3)
    tensors["fc1.weight"][0, 0] = float("nan")
    shown = drop(app("inspect"), ("diverged.safetensors", bytes(to_safetensors(tensors))))
    assert_healthy(shown)
    assert len(shown.error) == 1
    assert "diverged.safetensors" in shown.error[0].value


def test_dropped_file_gets_identity_curves_and_a_place_on_the_map(app: Open) -> None:
    shown = drop(
        app("inspect"), ("mine.pt", torch_file({"state_dict": {f"module.{k}": v for k, v in network(3).items()}}))
    )
    assert_healthy(shown)
    assert not shown.error
    card = "\n".join(element.value for element in shown.code)
    for part in ("sha256", "state_dict", "module.", "float32 × 6"):
        assert part in card
    said = texts(shown)
    assert "last epoch of tiny" in said, "the layout is the zoo's: its band belongs behind the curves"
    assert "Inside the zoo" in said or "Outside what this zoo knows" in said
    nearest = next(frame.value for frame in shown.dataframe if "distance (sd)" in frame.value.columns)
    # Row 3·3+2 of the zoo holds exactly these weights.
    assert nearest.iloc[0]["model"] == "net_03*bold*"
    assert nearest.iloc[0]["distance (sd)"] == pytest.approx(0, abs=0.05)


def test_dropped_files_stay_after_a_change_of_page(app: Open) -> None:
    shown = drop(app("inspect"), ("mine.safetensors", good_file()))
    shown.switch_page("pages/zoo.py").run()
    shown.switch_page("pages/inspect.py").run()
    assert_healthy(shown)
    assert "mine.safetensors" in texts(shown)


def test_foreign_network_has_no_band_and_is_compared_all_the_same(app: Open) -> None:
    other = {"a.weight": torch.randn(16, 20), "a.bias": torch.randn(16), "b.weight": torch.randn(10, 16)}
    shown = drop(
        app("inspect"), ("other.safetensors", bytes(to_safetensors(other))), ("mine.safetensors", good_file())
    )
    assert_healthy(shown)
    assert "no band: other layers than tiny" in texts(shown)
    assert "2 curves" in texts(shown)


def test_model_of_the_zoo_opens_without_an_upload(app: Open) -> None:
    shown = app("inspect", zoo="tiny", model="5")
    assert_healthy(shown)
    assert not shown.error
    assert ("From", "the zoo") in [(metric.label, metric.value) for metric in shown.metric]
    assert "net_01*bold* · epoch 5" in texts(shown)


def test_a_folder_of_checkpoints_opens_as_a_zoo(app: Open, tmp_path: Path) -> None:
    folder = tmp_path / "my zoo"
    folder.mkdir()
    for seed in range(4):
        (folder / f"net{seed}.safetensors").write_bytes(bytes(to_safetensors(network(seed))))
    shown = app("zoo")
    shown.text_input(key="zoo-location").set_value(str(folder))
    shown.button(key="open-zoo").click().run()
    assert_healthy(shown)
    assert not shown.error
    assert shown.session_state[state.ZOO].startswith("opened-")
    assert any(metric.value == "4" for metric in shown.metric)
    shown.switch_page("pages/explore.py").run()
    assert_healthy(shown)
    assert "has not been seen through the encoder" in texts(shown)


def test_a_path_outside_of_the_root_is_one_line(app: Open, tmp_path: Path) -> None:
    (tmp_path / "zoo").symlink_to("/etc")
    for place in ("/etc", str(tmp_path / "zoo"), "../../../../../etc"):
        shown = app("zoo")
        shown.text_input(key="zoo-location").set_value(place)
        shown.button(key="open-zoo").click().run()
        assert_healthy(shown)
        assert ["outside of the folder" in error.value for error in shown.error] == [True]


def test_an_upload_leaves_the_memory_of_the_server(app: Open) -> None:
    shown = drop(app("inspect"), ("a.safetensors", good_file()))
    assert_healthy(shown)
    (file,) = shown.session_state["files"].values()
    assert file.waiting is None
    assert not list((workspace_root() / "incoming").iterdir())


def test_a_folder_that_is_not_there_is_one_line(app: Open, tmp_path: Path) -> None:
    shown = app("zoo")
    nowhere = str(tmp_path / "no such place")
    shown.text_input(key="zoo-location").set_value(nowhere)
    shown.button(key="open-zoo").click().run()
    assert_healthy(shown)
    assert ["There is nothing at" in error.value for error in shown.error] == [True]
    assert shown.session_state[state.ZOO] == "tiny"


def test_damaged_embeddings_are_said_in_one_line(broken_app: Open) -> None:
    shown = broken_app("explore")
    assert_healthy(shown)
    assert len(shown.error) == 1


def zoo_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for seed in range(4):
            archive.writestr(f"net{seed}.safetensors", bytes(to_safetensors(network(seed))))
    return buffer.getvalue()


def test_an_uploaded_zip_opens_as_a_zoo_under_its_own_name(app: Open) -> None:
    shown = app("zoo")
    uploader = next(item for item in shown.file_uploader if not item.accept_multiple_files)
    uploader.set_value(("my_nets.zip", zoo_zip(), "application/zip")).run()
    assert_healthy(shown)
    assert not shown.error
    assert shown.session_state[state.ZOO].startswith("opened-")
    assert shown.metric[0].value.replace("\\", "") == "my_nets.zip"
    shown.switch_page("pages/explore.py").run()
    assert "my_nets.zip has not been seen through the encoder" in texts(shown)


def test_an_empty_zip_is_one_line_and_the_zoo_stays(app: Open) -> None:
    shown = app("zoo")
    uploader = next(item for item in shown.file_uploader if not item.accept_multiple_files)
    uploader.set_value(("nothing.zip", empty_zip(), "application/zip")).run()
    assert_healthy(shown)
    assert len(shown.error) == 1
    assert shown.session_state[state.ZOO] == "tiny"


def test_stopped_work_stays_stopped_until_it_is_resumed(app: Open) -> None:
    shown = app("inspect", zoo="tiny", model="5")
    shown.session_state["stopped-Looking at the layers"] = True
    shown.run()
    assert_healthy(shown)
    assert "stopped, nothing was changed" in texts(shown)
    assert "1 curve" not in texts(shown)
    shown.button(key="resume-Looking at the layers").click().run()
    assert_healthy(shown)
    assert "1 curve" in texts(shown)


def test_normalisation_layers_are_hidden_until_asked_for(app: Open) -> None:
    tensors = {"a.weight": torch.randn(16, 20), "b.weight": torch.randn(10, 16), "n.weight": torch.ones(16)}
    shown = drop(app("inspect"), ("normed.safetensors", bytes(to_safetensors(tensors))))
    assert "1 of 3 layers hidden" in texts(shown)
    shown.segmented_control(key="layers-shown").set_value("All").run()
    assert_healthy(shown)
    assert "hidden" not in texts(shown)
    assert "1 layer value missing" in texts(shown)


def test_a_big_selection_is_shown_by_different_models_at_their_latest_epoch(app: Open) -> None:
    shown = app("layers", zoo="tiny", selection=f"0-{MODELS * len(EPOCHS) - 1}")
    assert_healthy(shown)
    names = list(shown.selectbox(key="layer-table").options)
    assert len({name.split(" · ")[0] for name in names}) == len(names) == 8
    assert all(name.endswith(f"epoch {EPOCHS[-1]}") for name in names)
    assert "8 of 36 chosen checkpoints: one a model, its latest chosen epoch" in texts(shown)


def test_menus_show_names_from_files_as_they_are(app: Open) -> None:
    shown = app("layers")
    assert any(name.startswith("net_03*bold*") for name in shown.multiselect(key="layer-models").options)


def test_the_map_of_layers_says_that_it_holds_last_epochs(app: Open) -> None:
    shown = app("explore", level="Layers", epoch="1")
    assert_healthy(shown)
    assert "layers of the last epochs shown" in texts(shown)
    assert shown.selectbox(key=state.EPOCH).disabled


def test_an_encoder_without_a_scorecard_says_how_to_measure_it(app: Open) -> None:
    assert "python -m sane_engine reconstruct ZOO --encoder tiny-sane" in texts(app("zoo"))
