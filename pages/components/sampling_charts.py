"""Figures of samples beside their controls. Data in, figure out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pages.components.charts import empty_figure
from pages.components.labels import in_plot
from pages.components.palette import Palette, transparent

if TYPE_CHECKING:
    import plotly.graph_objects as go

_SAMPLES = "samples"


def accuracy_against_novelty(
    table: pd.DataFrame,
    distances: pd.DataFrame,
    colours: Palette,
    frontier: Mapping[str, pd.DataFrame] | None = None,
) -> go.Figure:
    """One point a network, one colour a group; where held-out models lie is marked.

    Args:
        table: Of an evaluation.
        distances: Of an evaluation.
        colours: The theme's palette.
        frontier: Lines behind the points: name → columns ``novelty``, ``accuracy``, ``method``.
    """
    figure = empty_figure(height=460)
    for (name, line), dash in zip((frontier or {}).items(), ("solid", "dash", "dot"), strict=False):
        figure.add_scatter(
            x=line["novelty"], y=line["accuracy"], mode="lines", name=name, text=line["method"],
            line={"color": transparent(colours.text, 0.45), "width": 2, "dash": dash},
            hovertemplate="best at %{x:.2f} rad: %{text}, accuracy %{y:.3f}<extra></extra>",
        )  # fmt: skip
    held = distances[distances["kind"] == "held out"]["angle"]
    if len(held):
        low, middle, high = np.quantile(held, (0.25, 0.5, 0.75))
        figure.add_vrect(x0=low, x1=high, fillcolor=colours.faint, opacity=0.35, line_width=0, layer="below")
        figure.add_vline(
            x=middle, line={"color": colours.text, "width": 1, "dash": "dot"},
            annotation={"text": "held-out models (median, quartiles)", "font": {"size": 11}},
            annotation_position="bottom right",
        )  # fmt: skip
    for number, (group, part) in enumerate(_groups(table)):
        first = group == _SAMPLES
        figure.add_scatter(
            x=part["novelty"],
            y=part["accuracy"],
            mode="markers",
            name=group,
            text=[in_plot(name) for name in part["name"]],
            hovertemplate="%{text}<br>accuracy %{y:.3f}<br>novelty %{x:.3f} rad<extra></extra>",
            marker={
                "size": 10 if first else 7,
                "opacity": 0.9 if first else 0.6,
                "color": colours.category(number),
                "symbol": "circle" if first else "circle-open",
                "line": {"width": 1.5},
            },
        )
    figure.update_xaxes(
        title="novelty: angle to the nearest training model or its decoding (rad)", rangemode="tozero"
    )
    figure.update_yaxes(title="test accuracy (fraction)", range=[-0.02, 1.02])
    return figure


def _groups(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    names = list(dict.fromkeys(table["group"]))
    return [(str(name), table[table["group"] == name]) for name in names]


def fine_tuning_curves(curves: pd.DataFrame, colours: Palette) -> go.Figure:
    """Accuracy over epochs of fine-tuning: a line for each group's mean, a band of one standard deviation."""
    figure = empty_figure(height=420)
    for number, (group, part) in enumerate(_groups(curves)):
        found = part.groupby("epoch")["accuracy"].agg(["mean", "std"]).fillna(0.0)
        x = found.index.to_numpy(dtype=float)
        low, high = found["mean"] - found["std"], found["mean"] + found["std"]
        colour = colours.category(number)
        figure.add_scatter(
            x=np.concatenate((x, x[::-1])), y=np.concatenate((high, low[::-1])), fill="toself", hoverinfo="skip",
            fillcolor=transparent(colour, 0.15), line={"width": 0}, showlegend=False, legendgroup=group,
        )  # fmt: skip
        figure.add_scatter(
            x=x, y=found["mean"], mode="lines+markers", name=group, legendgroup=group,
            line={"color": colour, "width": 2}, hovertemplate="epoch %{x}: %{y:.3f}<extra></extra>",
        )  # fmt: skip
    figure.update_xaxes(title="epochs of fine-tuning")
    figure.update_yaxes(title="test accuracy (fraction)")
    return figure


def landing_map(
    coordinates: NDArray[Any],
    landed: NDArray[Any],
    names: list[str],
    anchors: NDArray[Any],
    axis: str,
    colours: Palette,
) -> go.Figure:
    """The map of the models, the anchors on it, and where samples land.

    Args:
        coordinates: Of all models ``[p, 2]``.
        landed: Of the samples ``[q, 2]``.
        names: Of the samples.
        anchors: Rows of the anchors.
        axis: What the axes are called.
        colours: The theme's palette.
    """
    figure = empty_figure(height=460)
    for points, name, marker in (
        (coordinates, "zoo", {"size": 5, "color": colours.faint}),
        (coordinates[anchors], "anchors", {"size": 6, "color": colours.category(1)}),
        (landed, "samples", {"size": 11, "color": colours.accent, "symbol": "diamond", "line": {"width": 1}}),
    ):
        figure.add_scattergl(
            x=points[:, 0], y=points[:, 1], mode="markers", name=name, marker=marker,
            text=[in_plot(each) for each in names] if name == "samples" else None,
            hovertemplate="%{text}<extra></extra>" if name == "samples" else None,
            hoverinfo=None if name == "samples" else "skip",
        )  # fmt: skip
    figure.update_xaxes(title=f"{axis} 1 (no unit)")
    figure.update_yaxes(title=f"{axis} 2 (no unit)")
    return figure


def trace_curve(share: NDArray[Any], accuracy: dict[str, NDArray[Any]], at: float, colours: Palette) -> go.Figure:
    """Accuracy along the line between two models, in one space or several."""
    figure = empty_figure(height=360)
    for number, (name, values) in enumerate(accuracy.items()):
        figure.add_scatter(
            x=share, y=values, mode="lines+markers", name=name,
            line={"color": colours.category(number), "width": 2},
            hovertemplate="%{x:.2f}: accuracy %{y:.3f}<extra></extra>",
        )  # fmt: skip
    figure.add_vline(x=at, line={"color": colours.text, "width": 1, "dash": "dot"})
    figure.update_xaxes(title="share of the way from the first to the second model")
    figure.update_yaxes(title="test accuracy (fraction)", range=[-0.02, 1.02])
    return figure


def trace_layers(layers: pd.DataFrame, at: float, colours: Palette) -> go.Figure:
    """Root mean square of each layer's weights along the line."""
    figure = empty_figure(height=360)
    for number, (name, part) in enumerate(layers.groupby("layer", sort=False)):
        figure.add_scatter(
            x=part["share"], y=part["norm"], mode="lines", name=in_plot(name),
            line={"color": colours.category(number), "width": 2},
            hovertemplate="%{x:.2f}: %{y:.3g}<extra></extra>",
        )  # fmt: skip
    figure.add_vline(x=at, line={"color": colours.text, "width": 1, "dash": "dot"})
    figure.update_xaxes(title="share of the way from the first to the second model")
    figure.update_yaxes(title="weights (root mean square)")
    return figure


def place_map(
    coordinates: NDArray[Any],
    between: NDArray[Any],
    values: NDArray[Any] | None,
    names: list[str],
    colours: Palette,
) -> go.Figure:
    """The map to be clicked: models, and small points for the places between them.

    Args:
        coordinates: Of all models ``[p, 2]``; a model's number is its place here.
        between: ``[q, 2]``; numbered after the models.
        values: What colours the models ``[p]``: an accuracy.
        names: Of the models.
        colours: The theme's palette.
    """
    figure = empty_figure(height=520)
    first = len(coordinates)
    figure.add_scattergl(
        x=between[:, 0], y=between[:, 1], mode="markers", showlegend=False,
        customdata=np.arange(first, first + len(between), dtype=np.int32),
        marker={"size": 4, "color": transparent(colours.text, 0.3)},
        unselected={"marker": {"opacity": 0.5}}, selected={"marker": {"size": 13, "color": colours.accent}},
        hovertemplate="a place between models<extra></extra>",
    )  # fmt: skip
    marker: dict[str, Any] = {"size": 7, "color": colours.accent}
    if values is not None:
        marker |= {
            "color": values.astype(np.float32),
            "colorscale": colours.scale,
            "colorbar": {"title": {"text": "accuracy", "side": "right"}, "thickness": 12, "outlinewidth": 0},
        }
    figure.add_scattergl(
        x=coordinates[:, 0], y=coordinates[:, 1], mode="markers", showlegend=False, marker=marker,
        customdata=np.arange(first, dtype=np.int32), text=[in_plot(name) for name in names],
        unselected={"marker": {"opacity": 0.6}}, selected={"marker": {"size": 13, "opacity": 1.0}},
        hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip
    figure.update_xaxes(title="UMAP 1 (no unit)")
    figure.update_yaxes(title="UMAP 2 (no unit)")
    figure.update_layout(dragmode="pan", clickmode="event+select", uirevision="places")
    return figure


def place_layers(layers: Mapping[str, pd.DataFrame], colours: Palette) -> go.Figure:
    """Size of each layer's weights: decoded, over the span of the models around.

    Args:
        layers: Space → columns ``layer``, ``decoded``, ``low``, ``high``.
        colours: The theme's palette.
    """
    figure = empty_figure(height=300)
    first = next(iter(layers.values()))
    names = [in_plot(name) for name in first["layer"]]
    figure.add_scatter(
        x=names * 2, y=[*first["low"], *first["high"]], mode="markers", name="smallest and largest around it",
        marker={"symbol": "line-ew-open", "size": 16, "color": transparent(colours.text, 0.6)},
        hovertemplate="%{x}: %{y:.3g}<extra></extra>",
    )  # fmt: skip
    for number, (name, table) in enumerate(layers.items()):
        figure.add_scatter(
            x=names, y=table["decoded"], mode="markers", name=name,
            marker={"size": 9, "color": colours.category(number), "symbol": ("circle", "circle-open")[number > 0]},
            hovertemplate="%{x}: %{y:.3g}<extra></extra>",
        )  # fmt: skip
    figure.update_xaxes(title="layer")
    figure.update_yaxes(title="weights (root mean square)")
    return figure
