"""Which networks of the page Inspect are drawn, and which one the card, the prediction and the verdict are of."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from pages.components import state
from pages.components.inspection import Inspected
from pages.components.show import one_line

MOST_SHOWN = 8
"""More curves than that cannot be told apart."""
SHOWN, CHOSEN = "networks-shown", "network"
_KNOWN = "networks-known"


def choose_networks(models: Sequence[Inspected]) -> tuple[list[Inspected], Inspected]:
    """Draw the pickers where there is a choice; returns the networks to draw, at most eight, and the current one.

    Args:
        models: All networks on the page, at least one, oldest first.
    """
    names = {model.key: model.name for model in models}
    _follow(list(names))
    if len(models) == 1:
        return [models[0]], models[0]
    left, right = st.columns([2.2, 1], gap="medium", vertical_alignment="top")
    kept = left.multiselect(
        f"Networks shown ({len(st.session_state[SHOWN])} of {len(models)})",
        list(names),
        key=SHOWN,
        format_func=lambda key: one_line(names[key]),
        max_selections=MOST_SHOWN,
        persist_state="session",
        placeholder="the first one",
        help=f"In the curves, the spectrum and on the map, at most {MOST_SHOWN}.",
    )
    shown = [model for model in models if model.key in kept] or [models[0]]
    keys = [model.key for model in shown]
    state.keep_valid(CHOSEN, keys)
    chosen = right.selectbox(
        "Current network",
        keys,
        key=CHOSEN,
        format_func=lambda key: one_line(names[key]),
        persist_state="session",
        help="The one of the card, the prediction, the verdict and the layer table.",
    )
    return shown, next(model for model in shown if model.key == chosen)


def _follow(keys: list[str]) -> None:
    """What is new on the page is shown and looked at; what is gone is not, and what was hidden stays so."""
    known: list[str] = st.session_state.get(_KNOWN, [])
    shown = [key for key in st.session_state.get(SHOWN, []) if key in keys]
    new = [key for key in keys if key not in known and key not in shown][:MOST_SHOWN]
    # Written even when nothing changes: see state.keep_valid.
    st.session_state[SHOWN] = [*shown[: MOST_SHOWN - len(new)], *new]
    st.session_state[_KNOWN] = keys
    if new:
        st.session_state[CHOSEN] = new[0]
