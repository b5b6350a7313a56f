"""The Workspace page lists what is there, removes it when asked twice, and takes in and gives out zips."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from sane_engine.inventory import export_item, find_item, items

Open = Callable[..., AppTest]
CHOSEN = {"selection": {"rows": [0], "columns": [], "cells": []}}


@pytest.fixture
def filled(workspace: Path, tiny_assets: Path) -> Path:
    (workspace / "zoos").mkdir()
    shutil.copytree(tiny_assets / "zoos" / "tiny", workspace / "zoos" / "mine")
    (workspace / "samples" / "drawn").mkdir(parents=True)
    (workspace / "samples" / "drawn" / "provenance.json").write_text("{}")
    return workspace


def messages(shown: AppTest) -> str:
    assert not shown.exception
    return " ".join(element.value for element in [*shown.error, *shown.info, *shown.success, *shown.warning])


@pytest.mark.usefixtures("workspace")
def test_an_empty_workspace_says_what_to_do(empty_app: Open) -> None:
    assert "nothing here yet" in messages(empty_app("workspace"))


def test_items_are_listed_largest_first(app: Open, filled: Path) -> None:
    shown = app("workspace")
    assert messages(shown) == ""
    assert shown.dataframe[0].value["name"].tolist() == ["mine", "drawn"]
    assert {metric.label: metric.value for metric in shown.metric}["Items"] == "2"
    (filled / "index.sqlite3").write_bytes(b"damaged" * 1000)
    shown.button(key="workspace-rebuild").click().run()
    assert "2 items" in messages(shown)


def choose_first(shown: AppTest) -> None:
    """Tick the first row of the table, as a click does."""
    shown.session_state["table-" + shown.dataframe[0].proto.id.split("-table-", 1)[1]] = CHOSEN
    shown.run()


def test_an_item_is_removed_only_on_the_second_click(app: Open, filled: Path) -> None:
    shown = app("workspace")
    choose_first(shown)
    assert (filled / "zoos" / "mine").exists()
    shown.button(key="workspace-remove").click().run()
    assert "Removed 1 item" in messages(shown) and not (filled / "zoos" / "mine").exists()
    assert [item.key for item in items()] == ["samples/drawn"]


def test_names_are_shown_as_they_are(app: Open, filled: Path) -> None:
    (filled / "zoos" / "mine").rename(filled / "zoos" / "![x](http:evil)")
    shown = app("workspace")
    choose_first(shown)
    labels = [button.proto.label for button in shown.get("download_button")]
    assert "Export !\\[x\\](http\\:evil)" in labels
    assert messages(shown) == ""


def test_a_zip_comes_in_and_the_zoo_is_in_the_picker(app: Open, filled: Path) -> None:
    packed = io.BytesIO()
    export_item("zoo/mine", packed)
    shutil.rmtree(filled / "zoos" / "mine")
    shown = app("workspace")
    shown.file_uploader(key="workspace-import").upload("mine.zip", packed.getvalue(), "application/zip").run(
        timeout=120
    )
    assert "Took in the zoo mine" in messages(shown)
    assert "mine" in shown.selectbox(key="zoo").options
    assert find_item("zoo/mine").digest == json.loads((filled / "zoos" / "mine" / "zoo.json").read_text())["digest"]


def test_a_zip_of_something_else_is_refused_in_one_line(app: Open, filled: Path) -> None:
    shown = app("workspace")
    shown.file_uploader(key="workspace-import").upload("x.zip", b"no zip", "application/zip").run()
    assert "This is not a zip" in messages(shown) and len(shown.error) == 1
    assert len(items()) == 2 and filled.exists()


def test_what_was_chosen_is_never_taken_for_what_took_its_place(app: Open, filled: Path) -> None:
    shown = app("workspace")
    choose_first(shown)
    assert [button.key for button in shown.button if button.key == "workspace-remove"]
    # Something larger came from elsewhere and is now in the first row.
    shutil.copytree(filled / "zoos" / "mine", filled / "zoos" / "other")
    (filled / "zoos" / "other" / "symmetry.json").write_text("{}" * 1000)
    shown.run()
    assert shown.dataframe[0].value["name"].tolist() == ["other", "mine", "drawn"]
    assert not [button.key for button in shown.button if button.key == "workspace-remove"]
