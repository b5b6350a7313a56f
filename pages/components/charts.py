"""Figures of a population: the map, the histogram of accuracies, the training curves. Data in, figure out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pages.components.labels import in_plot, label
from pages.components.palette import Palette, transparent

if TYPE_CHECKING:
    import plotly.graph_objects as go

_POINT = 6
_MAX_LEGEND = 10


def log_scale(values: np.ndarray[Any, Any]) -> bool:
    """Whether a positive quantity spans more than two decades, so that its logarithm is what one can see."""
    finite = values[np.isfinite(values)]
    return bool(len(finite) and finite.min() > 0 and finite.max() / finite.min() > 100)


def empty_figure(*, height: int) -> go.Figure:
    """Axes in the house's style: thin grid, legend above the plot, little margin."""
    import plotly.graph_objects as go

    figure = go.Figure()
    figure.update_layout(
        height=height,
        margin={"l": 8, "r": 8, "t": 28, "b": 0},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.0, "xanchor": "left", "x": 0, "title": None},
        hoverlabel={"align": "left"},
    )
    figure.update_xaxes(automargin=True, zeroline=False)
    figure.update_yaxes(automargin=True, zeroline=False)
    return figure


def _marker(values: np.ndarray[Any, Any], title: str, colours: Palette) -> dict[str, Any]:
    shown, text = values, title
    if log_scale(values):
        shown, text = np.log10(values), f"log₁₀ {title}"
    return {
        "size": _POINT,
        "opacity": 0.85,
        "color": shown.astype(np.float32),
        "colorscale": colours.scale,
        "colorbar": {"title": {"text": text, "side": "right"}, "thickness": 12, "len": 1.0, "outlinewidth": 0},
    }


def map_figure(
    points: pd.DataFrame,
    colour: str,
    *,
    numeric: bool,
    axes: tuple[str, str],
    colours: Palette,
    chosen: set[int],
    dragmode: str,
    pinned: int | None = None,
    found: Sequence[int] = (),
    trajectories: Sequence[np.ndarray[Any, Any]] = (),
    height: int = 560,
) -> go.Figure:
    """The population as points.

    Args:
        points: Columns ``x``, ``y``, ``row`` (row in the zoo's table), ``hover``
            (text, may hold ``<br>``; names in it already escaped) and the one named by ``colour``.
        colour: Column to colour by.
        numeric: On a scale, or by category.
        axes: Titles.
        colours: The theme's palette.
        chosen: Rows drawn as selected; with none, all points look the same.
        dragmode: What dragging does: ``"lasso"``, ``"select"``, ``"pan"``.
        pinned: Row that gets a star.
        found: Rows that get a ring.
        trajectories: Curves ``[k, 2]``, for example one model over its epochs.
        height: In pixels.
    """
    import plotly.graph_objects as go

    figure = empty_figure(height=height)
    for curve in trajectories:
        figure.add_scattergl(
            x=curve[:, 0],
            y=curve[:, 1],
            mode="lines",
            hoverinfo="skip",
            showlegend=False,
            line={"color": transparent(colours.text, 0.45), "width": 1},
        )
    for part, marker, name in _parts(points, colour, numeric, colours):
        trace = go.Scattergl(
            x=part["x"].to_numpy(np.float32),
            y=part["y"].to_numpy(np.float32),
            mode="markers",
            marker=marker,
            name=name,
            customdata=part["row"].to_numpy(np.int32),
            text=part["hover"],
            hovertemplate="%{text}<extra></extra>",
            showlegend=not numeric,
            unselected={"marker": {"opacity": 0.13}},
            # A few chosen points must be found at a glance; many would hide each other.
            selected={"marker": {"opacity": 1.0, **({"size": 11} if len(chosen) <= 50 else {})}},
        )
        if chosen:
            trace.selectedpoints = np.flatnonzero(part["row"].isin(chosen)).tolist()
        figure.add_trace(trace)
    for rows, symbol, size, name in ((found, "circle-open", 13, "found"), ([pinned], "star", 16, "pinned")):
        hit = points[points["row"].isin([row for row in rows if row is not None])]
        if len(hit):
            figure.add_scattergl(
                x=hit["x"],
                y=hit["y"],
                mode="markers",
                hoverinfo="skip",
                name=name,
                showlegend=not numeric,
                marker={"symbol": symbol, "size": size, "color": colours.text, "line": {"width": 1.5}},
            )
    figure.update_xaxes(title=axes[0])
    figure.update_yaxes(title=axes[1])
    figure.update_layout(dragmode=dragmode, uirevision="map", clickmode="event+select")
    return figure


def _parts(
    points: pd.DataFrame, colour: str, numeric: bool, colours: Palette
) -> list[tuple[pd.DataFrame, dict[str, Any], str]]:
    if numeric:
        values = points[colour].to_numpy(dtype=np.float64, na_value=np.nan)
        return [(points, _marker(values, label(colour), colours), label(colour))]
    names = points[colour].astype(str)
    order = names.value_counts().index.tolist()
    shown = sorted(order[:_MAX_LEGEND])
    parts = [
        (
            points[names == name],
            {"size": _POINT, "opacity": 0.85, "color": colours.category(i)},
            in_plot(name),
        )
        for i, name in enumerate(shown)
    ]
    rest = points[~names.isin(shown)]
    if len(rest):
        count = names.nunique() - len(shown)
        parts.append((rest, {"size": _POINT, "opacity": 0.6, "color": colours.faint}, f"{count} others"))
    return parts


def histogram(
    values: Mapping[str, np.ndarray[Any, Any]], title: str, *, colours: Palette, height: int = 400
) -> go.Figure:
    """How a property is distributed, one colour a group, stacked."""
    figure = empty_figure(height=height)
    everything = np.concatenate([v[np.isfinite(v)] for v in values.values()]) if values else np.zeros(0)
    low, high = (float(everything.min()), float(everything.max())) if len(everything) else (0.0, 1.0)
    for i, (name, group) in enumerate(values.items()):
        figure.add_histogram(
            x=group,
            name=f"{in_plot(name)} · {len(group)}",
            marker={"color": colours.category(i)},
            xbins={"start": low, "end": high + 1e-9, "size": max((high - low) / 30, 1e-6)},
            hovertemplate="%{x}: %{y} checkpoints<extra></extra>",
        )
    figure.update_layout(barmode="stack", bargap=0.03)
    figure.update_xaxes(title=title)
    figure.update_yaxes(title="checkpoints (count)")
    return figure


def training_curves(
    table: pd.DataFrame,
    metric: str,
    *,
    colour: str | None,
    numeric: bool,
    highlighted: Sequence[str],
    colours: Palette,
    height: int = 400,
) -> go.Figure:
    """A metric over the epochs, one line a model.

    Args:
        table: Columns ``model``, ``epoch``, ``metric`` and ``colour``.
        metric: What is drawn.
        colour: Column that colours the lines (its value at a model's last epoch), or None.
        numeric: Whether that is on a scale, cut into ten equally filled steps, or by category.
        highlighted: Models drawn on top, in the accent colour.
        colours: The theme's palette.
        height: In pixels.
    """
    figure = empty_figure(height=height)
    ordered = table.sort_values(["model", "epoch"])
    groups = _curve_groups(ordered, colour, numeric, colours)
    quiet = bool(highlighted)
    for name, models, shade in groups:
        part = ordered[ordered["model"].isin(models)]
        x, y, text = _polyline(part, metric)
        figure.add_scattergl(
            x=x,
            y=y,
            text=text,
            mode="lines",
            name=name,
            showlegend=bool(name),
            legendgroup=name or None,
            line={"color": transparent(shade, 0.15 if quiet else 0.5), "width": 1},
            hovertemplate="%{text}<br>epoch %{x}: %{y:.3g}<extra></extra>",
        )
    for i, model in enumerate(highlighted):
        part = ordered[ordered["model"] == model]
        figure.add_scattergl(
            x=part["epoch"],
            y=part[metric],
            mode="lines+markers",
            name=in_plot(model),
            line={"color": colours.category(i), "width": 2.2},
            marker={"size": 5},
            hovertemplate=f"{in_plot(model)}<br>epoch %{{x}}: %{{y:.3g}}<extra></extra>",
        )
    if colour and numeric and groups:
        values = table[colour].to_numpy(dtype=np.float64, na_value=np.nan)
        marker = _marker(values, label(colour), colours) | {"opacity": 0, "size": 0.1, "showscale": True}
        figure.add_scatter(
            x=[None] * len(values), y=[None] * len(values), mode="markers", marker=marker, showlegend=False
        )
    figure.update_xaxes(title="epoch")
    figure.update_yaxes(title=label(metric))
    return figure


def _polyline(part: pd.DataFrame, metric: str) -> tuple[list[Any], list[Any], list[str]]:
    """Many lines as one trace: a gap after each model."""
    x: list[Any] = []
    y: list[Any] = []
    text: list[str] = []
    for model, rows in part.groupby("model", sort=False):
        x += [*rows["epoch"].tolist(), None]
        y += [*rows[metric].tolist(), None]
        text += [in_plot(model)] * (len(rows) + 1)
    return x, y, text


def _curve_groups(
    table: pd.DataFrame, colour: str | None, numeric: bool, colours: Palette
) -> list[tuple[str, list[str], str]]:
    last = table.groupby("model", sort=False).last()
    if colour is None:
        return [("", last.index.tolist(), colours.accent)]
    values = last[colour]
    if not numeric:
        names = values.astype(str)
        return [
            (in_plot(name), names.index[names == name].tolist(), colours.category(i))
            for i, name in enumerate(sorted(names.unique())[:_MAX_LEGEND])
        ]
    numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
    shown = np.log10(numbers) if log_scale(numbers) else numbers
    low, high = np.nanmin(shown), np.nanmax(shown)
    steps = len(colours.sequence)
    place = np.nan_to_num((shown - low) / max(high - low, 1e-12) * (steps - 1)).round().astype(int)
    return [
        ("", values.index[place == step].tolist(), colours.sequence[step])
        for step in range(steps)
        if (place == step).any()
    ]
