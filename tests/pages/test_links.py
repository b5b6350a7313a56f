"""The address carries the view: selection, pinned model, zoo; and nothing of another zoo."""

from __future__ import annotations

import pytest
from streamlit.testing.v1 import AppTest
from test_pages import PAGES, Open, assert_healthy, texts

from pages.components import state
from sane_engine.workspace import workspace_root
from sane_engine.zoo import load_zoo


def _query(app: AppTest, name: str) -> str:
    value = app.query_params[name]
    return value if isinstance(value, str) else value[0]


@pytest.mark.parametrize(
    "query",
    [
        {"level": "Layers"},
        {"map": "PCA"},
        {"colour": "activation"},
        {"colour": "learning_rate"},
        {"level": "Layers", "colour": "layer_name"},
        {"epoch": "Last"},
        {"epoch": "5"},
        {"pinned": "3"},
    ],
)
def test_explore_takes_its_view_from_the_link(app: Open, query: dict[str, str]) -> None:
    shown = app("explore", **query)
    assert_healthy(shown)
    assert not shown.error
    for name, value in query.items():
        assert str(shown.session_state[name]) == value
        assert _query(shown, name) == value


def test_link_restores_the_selection_on_every_page(app: Open) -> None:
    for page in PAGES:
        shown = app(page, zoo="tiny", selection="0-2,7")
        assert_healthy(shown)
        assert "Selection: 4 checkpoints" in texts(shown)


@pytest.mark.parametrize(
    "query",
    [
        {"selection": "nonsense"},
        {"selection": "0-99999999999"},
        {"pinned": "-1"},
        {"pinned": "12345"},
        {"colour": "no such column"},
        {"zoo": "../../etc"},
        {"encoder": "<b>x</b>"},
        {"epoch": "77"},
        {"model": "abc"},
    ],
)
@pytest.mark.parametrize("page", ["explore", "layers", "inspect"])
def test_a_broken_link_falls_back_to_the_default_view(app: Open, page: str, query: dict[str, str]) -> None:
    shown = app(page, **query)
    assert_healthy(shown)
    assert not shown.error


def test_clear_empties_the_selection_and_the_link(app: Open) -> None:
    shown = app("explore", zoo="tiny", selection="4-6")
    assert state.read_rows(_query(shown, "selection")) == (4, 5, 6)
    shown.button(key="clear-selection").click().run()
    assert_healthy(shown)
    assert "Selection: 0 checkpoints" in texts(shown)
    assert "selection" not in shown.query_params


def test_views_survive_a_change_of_page(app: Open) -> None:
    shown = app("explore", zoo="tiny", selection="0-2", colour="activation")
    shown.switch_page("pages/zoo.py").run()
    shown.switch_page("pages/explore.py").run()
    assert_healthy(shown)
    assert shown.selectbox(key=state.COLOUR).value == "activation"
    assert "Selection: 3 checkpoints" in texts(shown)


def test_the_link_names_no_rows_of_another_zoo(app: Open) -> None:
    load_zoo("tiny").save(workspace_root() / "zoos" / "other")
    shown = app("zoo", zoo="tiny", selection="0-3", pinned="2")
    assert _query(shown, "selection") == "0-3"
    shown.selectbox(key="zoo").set_value("other").run()
    assert_healthy(shown)
    assert not {"selection", "pinned", "model"} & set(shown.query_params)
    back = shown.selectbox(key="zoo").set_value("tiny").run()
    assert "Selection: 4 checkpoints" in texts(back)


def test_rows_in_a_link_to_an_unknown_zoo_choose_nothing(app: Open) -> None:
    shown = app("inspect", zoo="opened-000000000000", selection="0-3", model="5")
    assert "Selection: 0 checkpoints" in texts(shown)
    assert shown.session_state[state.OPENED_MODEL] is None
