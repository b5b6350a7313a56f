"""Curves over the layers of networks: a few models in colour, the zoo as a band behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from pages.components.charts import empty_figure
from pages.components.labels import in_plot
from pages.components.palette import Palette, transparent

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True)
class Curve:
    """One model's values.

    Attributes:
        name: In the legend.
        table: Columns ``layer`` (0-based index), ``name``, ``reason`` and the feature.
        pinned: Drawn thicker.
    """

    name: str
    table: pd.DataFrame
    pinned: bool = False


def bands(table: pd.DataFrame, feature: str) -> pd.DataFrame:
    """Quantiles of a feature over the models of a zoo, layer by layer.

    Args:
        table: One row a model and layer: ``layer``, ``name``, the feature (NaN where there is none).
        feature: Which one.

    Returns:
        Columns ``layer``, ``name``, ``q05``, ``q25``, ``q50``, ``q75``, ``q95``, ``n``; only layers with values.
    """
    finite = table[np.isfinite(table[feature].to_numpy(dtype=np.float64, na_value=np.nan))]
    groups = finite.groupby("layer", sort=True)
    result = groups[feature].quantile([0.05, 0.25, 0.5, 0.75, 0.95]).unstack().astype(float)
    result.columns = pd.Index(["q05", "q25", "q50", "q75", "q95"])
    result.insert(0, "name", groups["name"].first().astype(str))
    result["n"] = groups[feature].count()
    quantiles: pd.DataFrame = result.reset_index()
    return quantiles


def layer_curves(
    curves: Sequence[Curve],
    feature: str,
    title: str,
    *,
    band: pd.DataFrame | None,
    n_layers: int,
    colours: Palette,
    chosen: float | None = None,
    depths: Mapping[str, int] | None = None,
    height: int = 430,
) -> go.Figure:
    """A feature over the layer index. Every point carries the name of its layer as ``customdata``.

    Args:
        curves: The models, in the order of their colours.
        feature: Column to draw.
        title: Of the vertical axis, with unit.
        band: What :func:`bands` returned, or None.
        n_layers: Length of the common horizontal axis.
        colours: The theme's palette.
        chosen: Where a line stands from top to bottom.
        depths: Index of the last layer of each model by its name: the axis is then the relative depth, 0 to 1, on
            which networks of different depths lie over each other.
        height: In pixels.
    """
    figure = empty_figure(height=height)
    if chosen is not None:
        figure.add_vline(x=chosen, line={"color": transparent(colours.text, 0.5), "width": 1, "dash": "dot"})
    if band is not None and len(band):
        _draw_band(figure, band, colours, 1 if depths is None else max(n_layers - 1, 1))
    for i, curve in enumerate(curves):
        values = curve.table[feature].to_numpy(dtype=np.float64, na_value=np.nan)
        figure.add_scatter(
            x=curve.table["layer"] if depths is None else curve.table["layer"] / max(depths[curve.name], 1),
            y=np.where(np.isfinite(values), values, np.nan),
            mode="lines+markers",
            name=in_plot(curve.name),
            connectgaps=True,
            line={"color": colours.category(i), "width": 3 if curve.pinned else 1.8},
            marker={"size": 7 if curve.pinned else 5},
            # A click chooses a layer; the other points stay as they are.
            unselected={"marker": {"opacity": 1}},
            customdata=[str(name) for name in curve.table["name"]],
            text=_places(curve.table),
            hovertemplate=f"{in_plot(curve.name)}<br>layer %{{text}}<br>%{{y:.3g}}<extra></extra>",
        )
    if depths is None:
        figure.update_xaxes(
            title="layer (index in file order)",
            range=[-0.5, max(n_layers, 1) - 0.5],
            tick0=0,
            dtick=_step(n_layers),
        )
    else:
        figure.update_xaxes(title="relative depth (layer index / last layer, fraction)", range=[-0.02, 1.02])
    figure.update_yaxes(title=title)
    return figure


def _step(n_layers: int) -> int:
    """Layers from tick to tick (1, 2, 5, 10 and so on), for at most thirteen ticks."""
    step, wider = 1, (2, 2.5, 2)
    for i in range(64):
        if n_layers <= 13 * step:
            break
        step = round(step * wider[i % 3])
    return step


def _places(table: pd.DataFrame) -> list[str]:
    return [f"{layer}: {in_plot(name)}" for layer, name in zip(table["layer"], table["name"], strict=True)]


def _draw_band(figure: go.Figure, band: pd.DataFrame, colours: Palette, unit: int) -> None:
    x = band["layer"].to_numpy() / unit
    n = int(band["n"].max())
    for low, high, opacity, name in (("q05", "q95", 0.10, "zoo 5–95 %"), ("q25", "q75", 0.18, "zoo 25–75 %")):
        figure.add_scatter(
            x=np.concatenate([x, x[::-1]]),
            y=np.concatenate([band[high], band[low][::-1]]),
            fill="toself",
            fillcolor=transparent(colours.text, opacity),
            line={"width": 0},
            hoverinfo="skip",
            name=f"{name} (n = {n})" if low == "q05" else name,
            mode="lines",
        )
    figure.add_scatter(
        x=x,
        y=band["q50"],
        mode="lines",
        name="zoo median",
        line={"color": colours.text, "width": 1, "dash": "dot"},
        customdata=[str(name) for name in band["name"]],
        text=_places(band),
        hovertemplate="zoo median<br>layer %{text}<br>%{y:.3g}<extra></extra>",
    )
