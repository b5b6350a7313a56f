"""Explore: the population as a map of embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import streamlit as st

from pages.components import state
from pages.components.charts import map_figure
from pages.components.choices import choose_property
from pages.components.current import Current, current, embedded
from pages.components.hover import hover_texts
from pages.components.labels import accuracy_columns, in_plot, short_label
from pages.components.library import Atlas, atlas, digest_of, drawn_once
from pages.components.navigation import page
from pages.components.palette import palette
from pages.components.selection_panel import selection_panel
from pages.components.show import caption_and_downloads, config_of, show_caption, three
from sane_engine.demo import Level
from sane_engine.projection import Projection

if TYPE_CHECKING:
    import plotly.graph_objects as go

LEVELS, METHODS, GESTURES = ("Models", "Layers"), ("UMAP", "PCA"), ("Lasso", "Box", "Click")
_DRAGGING = {"Lasso": "lasso", "Box": "select", "Click": "pan"}
_SELECTING: dict[str, Literal["lasso", "box", "points"]] = {"Lasso": "lasso", "Box": "box", "Click": "points"}
_MOST_TRAJECTORIES = 60


def _controls(now: Current) -> str:
    """Draw the row of controls; returns the search text. The others are in the session."""
    row = st.container(horizontal=True, gap="medium")
    state.keep_valid(state.LEVEL, LEVELS)
    row.segmented_control(
        "Level", LEVELS, key=state.LEVEL, required=True, persist_state="session", on_change=_on_level
    )
    state.keep_valid(state.METHOD, METHODS)
    row.segmented_control(
        "Projection", METHODS, key=state.METHOD, required=True, persist_state="session", on_change=state.redraw_map
    )
    offered = _colours(now)
    by_layer = st.session_state[state.LEVEL] == "Layers"
    choose_property(
        row,
        "Colour",
        offered,
        state.COLOUR,
        default="layer_name" if by_layer else now.accuracy,
        on_change=state.redraw_map,
        width=260,
    )
    epochs = ["All", "Last", *(str(e) for e in sorted(now.zoo.table["epoch"].unique()))]
    state.keep_valid(state.EPOCH, epochs)
    row.selectbox(
        "Epoch",
        epochs,
        key=state.EPOCH,
        persist_state="session",
        on_change=state.redraw_map,
        disabled=by_layer,
        help="The map of layers holds the last epoch of each model." if by_layer else None,
        width=140,
    )
    return row.text_input(
        "Search",
        key="search",
        placeholder="model id",
        width=220,
        icon=":material/search:",
        persist_state="session",
        on_change=state.redraw_map,
    ).strip()


def _on_level() -> None:
    """Layers are first told apart by which layer they are, models by their accuracy."""
    st.session_state[state.COLOUR] = None
    state.redraw_map()


def _colours(now: Current) -> list[str]:
    properties = now.zoo.properties
    first = [name for name in [*accuracy_columns(properties), "epoch"] if name in properties]
    layer = ["layer_name"] if st.session_state[state.LEVEL] == "Layers" else []
    return [*layer, *first, *(name for name in properties if name not in first)]


def _shown_rows(table: pd.DataFrame) -> np.ndarray[Any, Any]:
    """Which rows the epoch filter lets through, as a mask; the map of layers is of last epochs as it is."""
    epoch = st.session_state[state.EPOCH]
    if epoch == "All" or st.session_state[state.LEVEL] == "Layers":
        return np.ones(len(table), dtype=bool)
    if epoch == "Last":
        return (table["epoch"] == table.groupby("model")["epoch"].transform("max")).to_numpy()
    return (table["epoch"] == int(epoch)).to_numpy()


def _points(now: Current, shown: Atlas, colour: str) -> pd.DataFrame:
    """One row a point, in the order of the projection."""
    table = now.zoo.table
    points = pd.DataFrame(
        {
            "x": shown.projection.coordinates[:, 0],
            "y": shown.projection.coordinates[:, 1],
            "row": shown.rows,
            "layer": shown.layers,
        }
    )
    said = [
        name for name in dict.fromkeys([now.accuracy, colour]) if name and name in table.columns and name != "epoch"
    ]
    texts = np.array(hover_texts(table, said), dtype=object)[shown.rows]
    if shown.layer_names is not None:
        points["layer_name"] = shown.layer_names
        texts = np.array(
            [f"{text}<br>layer {in_plot(name)}" for text, name in zip(texts, shown.layer_names, strict=True)],
            dtype=object,
        )
    points["hover"] = texts
    if colour in table.columns:
        points[colour] = table[colour].to_numpy()[shown.rows]
    return points


def _trajectories(points: pd.DataFrame, table: pd.DataFrame, chosen: set[int]) -> list[np.ndarray[Any, Any]]:
    """The paths of the selected models over their epochs."""
    models = table["model"].iloc[sorted(chosen)].unique()[:_MOST_TRAJECTORIES]
    named = points.assign(
        model=table["model"].to_numpy()[points["row"]], epoch=table["epoch"].to_numpy()[points["row"]]
    )
    named = named[named["model"].isin(models)].sort_values("epoch")
    return [part[["x", "y"]].to_numpy(np.float32) for _, part in named.groupby(["model", "layer"], sort=False)]


def _on_gesture(chart: str) -> None:
    """Take over what was drawn around or clicked; the chart shows it already, so it is not drawn anew."""
    event = st.session_state.get(chart) or {}
    points = (event.get("selection") or {}).get("points") or []
    rows = {int(point["customdata"]) for point in points if point.get("customdata") is not None}
    state.select(rows, redraw=False)


def _map(now: Current, drawn: Atlas, search: str, n_foreign: int) -> None:
    colour = st.session_state[state.COLOUR]
    shown = _shown_rows(now.zoo.table)
    controls = st.container(horizontal=True, vertical_alignment="center", gap="medium")
    state.keep_valid(state.GESTURE, GESTURES)
    controls.segmented_control(
        "Select by",
        GESTURES,
        key=state.GESTURE,
        required=True,
        label_visibility="collapsed",
        persist_state="session",
        on_change=state.redraw_map,
        help="Lasso and box: draw around points. Click: one point, with Shift several.",
    )
    with_paths = controls.toggle(
        "Paths over epochs",
        key="paths",
        persist_state="session",
        on_change=state.redraw_map,
        help="Join the epochs of each selected model.",
    )
    mask = now.zoo.table["model"].str.contains(search, case=False, regex=False).to_numpy()
    found = np.flatnonzero(mask & shown).tolist() if search else []
    if search:
        controls.button(
            f"Select {len(found)} found" if found else "No model id contains that",
            disabled=not found,
            key="select-found",
            on_click=state.select,
            args=(found,),
            icon=":material/search:",
            type="tertiary",
        )
    # What the chart itself selected is not drawn into it again: see state.select.
    there = shown[drawn.rows] & np.isfinite(drawn.projection.coordinates[:, 0])
    shown_rows = set(drawn.rows[there].tolist())
    seed = set(st.session_state.setdefault("map_seed", now.selected)) & set(now.selected) & shown_rows
    absent = len(set(now.selected) - shown_rows)
    projection = drawn.projection
    name = projection.method.upper()
    axes = (f"{name} 1 (no unit)", f"{name} 2 (no unit)")
    if projection.explained is not None:
        first, second = (f"{100 * share:.3g} % of variance" for share in projection.explained)
        axes = (f"PC 1 ({first})", f"PC 2 ({second})")
    colours, dragmode = palette(), _DRAGGING[st.session_state[state.GESTURE]]
    paths = now.selected if with_paths else ()

    def make() -> tuple[pd.DataFrame, go.Figure]:
        points = _points(now, drawn, colour)
        points = points[there].reset_index(drop=True)
        figure = map_figure(
            points,
            colour,
            numeric=colour != "layer_name" and now.zoo.kind(colour) == "numeric",
            axes=axes,
            colours=colours,
            chosen=seed,
            dragmode=dragmode,
            pinned=now.pinned,
            found=found,
            trajectories=_trajectories(points, now.zoo.table, set(paths)) if paths else [],
        )
        return points, figure

    what = (digest_of(now.zoo), projection.vectors_digest, projection.method, projection.seed, axes)
    how = (colour, colours, dragmode, st.session_state[state.EPOCH])
    points, figure = drawn_once((*what, *how, frozenset(seed), now.pinned, tuple(found), paths), make)
    chart = f"map-{st.session_state.get('map_drawing', 0)}"
    st.plotly_chart(
        figure,
        key=chart,
        on_select=lambda: _on_gesture(chart),
        selection_mode=_SELECTING[st.session_state[state.GESTURE]],
        config=config_of(f"{now.name}-map"),
        alt=f"Map of {len(points)} points coloured by {short_label(colour)}",
    )
    if absent:
        show_caption(f"{absent} of the {len(now.selected)} selected checkpoints are not on this map.")
    caption = _caption(now, projection, points, by_layer=drawn.layer_names is not None, n_foreign=n_foreign)
    caption_and_downloads(figure, f"{now.name}-map", caption)


def _caption(now: Current, projection: Projection, points: pd.DataFrame, *, by_layer: bool, n_foreign: int) -> str:
    counts = now.zoo.table["split"].iloc[points["row"].unique()].value_counts(sort=False)
    splits = ", ".join(f"{name} {count}" for name, count in counts.items())
    parts = [
        now.scope,
        f"{len(points)} {'layers of the last epochs' if by_layer else 'points'} shown",
        f"{projection.method.upper()}, {projection.n_neighbors} neighbours"
        if projection.method == "umap"
        else "PCA",
        f"seed {projection.seed}",
        f"trustworthiness {three(projection.trustworthiness)} (of {projection.trustworthiness_n})",
        f"split: {splits}",
        f"encoder {now.encoder}",
    ]
    if n_foreign:
        parts.append(f"{n_foreign} checkpoints of another architecture than the encoder was trained on")
    return " · ".join(parts + ([projection.note] if projection.note else []))


def main() -> None:
    now = current()
    if now is None:
        return
    search = _controls(now)
    known = embedded(now)
    if known is None:
        return
    level: Level = "layers" if st.session_state[state.LEVEL] == "Layers" else "models"
    found = atlas(known, level, st.session_state[state.METHOD].lower())
    if known.embeddings.foreign.all():
        st.info(
            "The encoder was trained on another architecture, so this map describes and does not judge. "
            "An encoder of this zoo's own sees more: pretrain one on the page Train; the sidebar then has it.",
            icon=":material/info:",
        )
    left, right = st.columns([1.75, 1], gap="small")
    with left:
        _map(now, found, search, int(known.embeddings.foreign.sum()))
    with right:
        selection_panel(now)


with page("Explore"):
    main()
