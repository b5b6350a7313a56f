"""Which pages there are, and one way into them.

With a folder named ``pages`` beside ``app.py``, a fresh server whose first request is a deep link runs the
page's file alone, without ``app.py``. Such a page hands over to ``app.py`` by declaring the navigation and starting
again, so every page has the same frame however it was reached.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn

import numpy as np
import streamlit as st
from PIL.Image import Image, fromarray

from pages.components.errors import show_refusal
from pages.components.sidebar import sidebar
from pages.components.state import link, restore_from_link, write_link
from pages.components.warm import warm_up
from sane_engine.checkpoint import Refusal
from sane_engine.progress import Cancelled

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

TITLE = "SANE Explorer"
_FOLDER = Path(__file__).resolve().parent.parent
_PAGES = (
    ("explore", "Explore"),
    ("zoo", "Zoo"),
    ("layers", "Layers"),
    ("predict", "Predict"),
    ("inspect", "Inspect"),
    ("sample", "Sample"),
    ("train", "Train"),
    ("jobs", "Jobs"),
    ("workspace", "Workspace"),
)


class _Router:
    """Whether some session of this server has declared the navigation; from then on every request passes app.py."""

    declared = False


def _declare() -> st.Page:
    pages = [
        st.Page(
            _FOLDER / f"{name}.py",
            title=title,
            # No icon: as the browser tab's icon, Streamlit would fetch it from another server. The default page
            # answers at "/" only; its own name is kept for the alias below.
            url_path="start" if name == "explore" else name,
            default=name == "explore",
        )
        for name, title in _PAGES
    ]
    alias = st.Page(_FOLDER / "explore.py", title="Explore", url_path="explore", visibility="hidden")
    _Router.declared = True
    # The menu is our own: Streamlit's drops the query, and putting it back would cost the user a second step back.
    return st.navigation([*pages, alias], position="hidden")


@cache
def _icon() -> Image:
    """Three points of a map, 32 × 32 RGBA. Icons by name would be fetched from another server."""
    rows, columns = np.mgrid[:32, :32]
    image = np.zeros((32, 32, 4), dtype=np.uint8)
    for row, column, radius, colour in (
        (10, 9, 6, (0, 105, 180)),
        (21, 23, 7, (135, 180, 0)),
        (26, 7, 4, (240, 120, 135)),
    ):
        image[(rows - row) ** 2 + (columns - column) ** 2 <= radius**2] = (*colour, 255)
    return fromarray(image)


def run() -> None:
    """Show the page that was asked for."""
    _declare().run()


def page_path(name: str) -> str:
    """The file of a page, as ``st.switch_page`` and ``st.page_link`` want it."""
    return str(_FOLDER / f"{name}.py")


def link_to(
    name: str, label: str, icon: str | None = None, *, width: Literal["content", "stretch"] = "content"
) -> None:
    """Draw a link to a page that takes the shared state along in the address."""
    st.page_link(page_path(name), label=label, icon=icon, width=width, query_params=link())


def go_to(name: str) -> NoReturn:
    """Show a page instead of this one, with the shared state in the address."""
    st.switch_page(page_path(name), query_params=link())


def _menu(place: DeltaGenerator) -> dict[str, str]:
    """Draw the menu; returns the query that its links carry."""
    with place.container(gap="xsmall"):
        for name, title in _PAGES:
            link_to(name, title, width="stretch")
    return link()


@contextmanager
def page(title: str) -> Iterator[None]:
    """Frame a page: settings, shared state from the link, sidebar, title; afterwards the link for this view."""
    if not _Router.declared:
        _declare()
        st.rerun()
    st.set_page_config(page_title=f"{title} · {TITLE}", page_icon=_icon(), layout="wide")
    restore_from_link()
    with st.sidebar:
        st.caption(TITLE)
        place = st.empty()
        carried = _menu(place)
        st.divider()
    sidebar()
    st.title(title, anchor=False)
    try:
        yield
    except Cancelled:
        pass  # the block that was stopped says so itself, with a way to resume
    except Refusal as refusal:
        show_refusal(refusal)
    write_link()
    if link() != carried:
        # Pickers and page have settled on more since. A link without it would be mended on arrival, and that would
        # cost the user a second step back.
        _menu(place)
    warm_up()
