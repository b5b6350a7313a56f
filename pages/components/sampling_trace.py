"""The tab *Trace* of the page Sample: a place on the map, or the line between two models, decoded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from pages.components.current import Current, embedded
from pages.components.errors import explain
from pages.components.palette import palette
from pages.components.sampling_charts import place_layers, place_map, trace_curve, trace_layers
from pages.components.sampling_run import placed, traced
from pages.components.show import caption_and_downloads, config_of, show_caption, show_figure, three
from pages.components.working import working

if TYPE_CHECKING:
    from sane_engine.sampling.placing import Placed
    from sane_engine.sampling.spaces import SpaceName

SPACES: dict[SpaceName, str] = {"latents": "SANE latents", "pca": "Per-token PCA", "weights": "Weights"}
_KINDS = ("Place on the map", "Line between two")
_CHART = "trace_map"
_STEPS = 36
_REACH = 0.06
"""How far from the nearest model a place may be, as a part of the map's extent."""


def trace_tab(now: Current) -> None:
    """Both ways of looking between models."""
    if len(now.zoo) < 2:
        explain("There is nothing between fewer than two models.")
        return
    kinds = _KINDS if now.encoder is not None else _KINDS[1:]
    kind = st.segmented_control(
        "Look at", kinds, default=kinds[0], required=True, key="trace_kind", label_visibility="collapsed",
        persist_state="session",
    )  # fmt: skip
    if kind == _KINDS[0]:
        _place(now)
    else:
        _line(now)


def places_between(coordinates: NDArray[Any]) -> NDArray[np.float32]:
    """Points of a grid that lie among the models, ``[q, 2]``: what can be clicked where no model is."""
    finite = coordinates[np.isfinite(coordinates).all(axis=1)].astype(np.float64)
    if not len(finite):
        return np.zeros((0, 2), dtype=np.float32)
    low, high = finite.min(axis=0), finite.max(axis=0)
    axes = [np.linspace(low[i], high[i], _STEPS) for i in (0, 1)]
    grid = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)
    extent = np.maximum(high - low, 1e-12)
    from scipy.spatial import cKDTree

    distance, _ = cKDTree(finite / extent).query(grid / extent)
    among: NDArray[np.float32] = grid[(distance > 0.25 * _REACH) & (distance < _REACH)].astype(np.float32)
    return among


def _place(now: Current) -> None:
    known = embedded(now)
    if known is None or now.encoder is None:
        return
    projection = known.projections["models", "umap"]
    coordinates = np.asarray(projection.coordinates)
    between = places_between(coordinates)
    everything = np.concatenate((coordinates, between))
    left, right = st.columns([1.3, 1], gap="medium")
    with left:
        colour = now.accuracy
        values = None if colour is None else now.zoo.table[colour].to_numpy(dtype=np.float64, na_value=np.nan)
        names = [now.name_of(row) for row in range(len(now.zoo))]
        figure = place_map(coordinates, between, values, names, palette())
        st.plotly_chart(
            figure, key=_CHART, on_select="rerun", selection_mode="points", config=config_of(f"{now.name}-places"),
            alt="Map of the models; a click decodes the place",
        )  # fmt: skip
        said = f"{now.scope} · UMAP, seed {projection.seed} · small points: places between models, to be clicked"
        caption_and_downloads(figure, f"{now.name}-places", said)
    with right:
        index = _clicked(len(everything))
        if index is None:
            explain("No place is chosen.", "Click a model, or a small point between models.")
            return
        place = (float(everything[index, 0]), float(everything[index, 1]))
        spaces: tuple[SpaceName, ...] = ("latents", "weights")
        with working("Decoding"):
            found = {space: placed(now, now.encoder, space, coordinates, place) for space in spaces}
        _decoded(now, found)


def _clicked(most: int) -> int | None:
    event = st.session_state.get(_CHART) or {}
    points = (event.get("selection") or {}).get("points") or []
    indices = [point["customdata"] for point in points if point.get("customdata") is not None]
    index = int(indices[0]) if indices else None
    return index if index is not None and index < most else None


def _decoded(now: Current, found: dict[SpaceName, Placed]) -> None:
    first = next(iter(found.values()))
    if np.isfinite(first.accuracy):
        columns = st.columns(len(found) + 1)
        for column, (space, each) in zip(columns, found.items(), strict=False):
            column.metric(f"Accuracy, {SPACES[space]}", three(each.accuracy))
        columns[-1].metric("Models around it", three(float(first.around.mean())))
    else:
        explain("The zoo does not say how to run its models, so there is no accuracy.")
    shares = ", ".join(
        f"{now.name_of(int(row))} {100 * share:.0f} %" for row, share in zip(first.rows, first.shares, strict=True)
    )
    st.text(f"Mixed of {shares}.")
    said = f"n = {len(first.rows)} models around it · root mean square of each layer's weights · zoo {now.name}"
    figure = place_layers({SPACES[space]: each.layers for space, each in found.items()}, palette())
    show_figure(figure, f"{now.name}-place-layers", said, alt="Size of each layer's weights at this place")
    show_caption(
        "A map cannot be turned back: a place decodes to the mean of its nearest models' vectors, each by the "
        "inverse of its squared distance."
    )


def _line(now: Current) -> None:
    rows = list(now.selected[:2]) if len(now.selected) >= 2 else []
    options = list(range(len(now.zoo)))
    left, middle, right = st.columns([2, 2, 1.4], vertical_alignment="bottom")
    default = rows or [options[0], options[-1]]
    one = left.selectbox("From", options, index=default[0], format_func=now.name_of, key="trace_from")
    other = middle.selectbox("To", options, index=default[1], format_func=now.name_of, key="trace_to")
    wanted = right.toggle("Decode the line", key="trace_on", help="Takes a second or two for small networks.")
    if not wanted:
        return
    if one == other:
        explain("Both ends are the same model.", "Choose two.")
        return
    spaces: tuple[SpaceName, ...] = ("weights",) if now.encoder is None else ("latents", "weights")
    with working("Tracing") as progress:
        found = {space: traced(now, now.encoder, space, (one, other), progress) for space in spaces}
    first = found[spaces[0]]
    places = [round(float(s), 3) for s in first.share]
    at = st.select_slider(
        "Place on the line", places, value=places[len(places) // 2], key="trace_at",
        help="0 is the first model, 1 the second; beyond them the line goes on.",
    )  # fmt: skip
    index = places.index(at)
    st.text(
        "Decoded accuracy here: "
        + ", ".join(f"{SPACES[space]} {three(float(each.accuracy[index]))}" for space, each in found.items())
    )
    said = f"{now.name_of(one)} to {now.name_of(other)} · {len(first.share)} points · n = 1 line · zoo {now.name}"
    curves = {SPACES[space]: each.accuracy for space, each in found.items()}
    left, right = st.columns(2)
    with left:
        show_figure(
            trace_curve(first.share, curves, at, palette()),
            f"{now.name}-trace",
            said,
            alt="Accuracy along the line",
        )
    with right:
        show_figure(
            trace_layers(first.layers, at, palette()), f"{now.name}-trace-layers", f"{said} · {SPACES[spaces[0]]}",
            alt="Size of each layer's weights along the line",
        )  # fmt: skip
