"""Other zoos beside the current one in the plot over a single feature, each a family of its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import streamlit as st

from pages.components.current import Current
from pages.components.library import default_encoder, get_zoo, kept, layers_beside, zoo_choices
from pages.components.predict_features import statistics_of
from pages.components.show import inert, one_line, show_caption
from sane_engine.checkpoint import Refusal
from sane_engine.demo import Precomputed
from sane_engine.progress import Progress
from sane_engine.zoo import Zoo

FAMILY = "population"
_MOST = 4


@dataclass(frozen=True)
class Family:
    """One zoo in the plot.

    Attributes:
        name: In the legend.
        zoo: The zoo.
        frame: Its layer table.
    """

    name: str
    zoo: Zoo
    frame: pd.DataFrame


def pick_others(now: Current) -> list[str]:
    """Which other zoos to draw beside this one, as keys."""
    choices = {key: name for key, name in zoo_choices().items() if key != now.key}
    if not choices:
        return []
    chosen = [key for key in st.session_state.get("feature-beside", []) if key in choices]
    st.session_state["feature-beside"] = chosen
    return list(
        st.multiselect(
            "Beside",
            list(choices),
            format_func=lambda key: one_line(choices[key]),
            key="feature-beside",
            persist_state="session",
            max_selections=_MOST,
            placeholder="other zoos, each in its colour",
        )
    )


def others(view: str, keys: list[str], now: Current, known: Precomputed, progress: Progress) -> list[Family]:
    """The layer tables of other zoos; one line where a zoo has none yet."""
    found = []
    for key in keys:
        name = zoo_choices().get(key, key)
        try:
            zoo = get_zoo(key)
            frame = _frame(view, key, zoo, now, known, progress)
        except Refusal as refusal:
            show_caption(inert(f"{name} is left out: {refusal}"))
            continue
        if frame is None:
            what = f"the encoder {now.encoder}" if view == "sane" else "an encoder"
            show_caption(
                f"{inert(name)} is left out: it has not been seen through {what}. Embed it on the page Explore."
            )
        else:
            found.append(Family(name, zoo, frame))
    return found


def _frame(
    view: str, key: str, zoo: Zoo, now: Current, known: Precomputed, progress: Progress
) -> pd.DataFrame | None:
    if view == "statistics":
        return statistics_of(zoo, progress)
    encoders = [now.encoder] if view == "sane" else [now.encoder, default_encoder(key)]
    theirs = next((p for e in encoders if e is not None and (p := kept(key, e)) is not None), None)
    if theirs is None:
        return None
    if view == "weightwatcher":
        return theirs.weightwatcher
    # Distances and components are those of the current zoo, or the two could not be in one plot.
    return layers_beside(theirs, known)


def together(families: list[tuple[Family, np.ndarray]], columns: list[str]) -> pd.DataFrame:
    """The points of all families one below the other: ``x``, the columns, and :data:`FAMILY`.

    ``row`` is the row of the first family's table, −1 for all others.
    """
    parts = []
    for number, (family, x) in enumerate(families):
        part = family.zoo.table.reindex(columns=columns).assign(x=x)
        part[FAMILY] = family.name
        part["row"] = np.arange(len(part)) if number == 0 else -1
        parts.append(part)
    return pd.concat(parts, ignore_index=True)
