"""The spectrum of one layer on logarithmic axes, with the power law of its tail. Data in, figure out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pages.components.charts import empty_figure
from pages.components.labels import in_plot
from pages.components.palette import Palette, transparent
from pages.components.show import three
from sane_engine.baselines.esd import Esd, PowerLaw, log_histogram, marchenko_pastur, share_above

if TYPE_CHECKING:
    import plotly.graph_objects as go

View = Literal["density", "tail"]
_AXES: dict[View, str] = {
    "density": "spectral density ρ(λ) (per unit of λ)",
    "tail": "eigenvalues ≥ λ (fraction)",
}
# This share of the smallest eigenvalues may lie left of the axis, if they are far away; zooming out shows them.
_FEW = 0.03
_Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class LayerSpectrum:
    """One network's layer.

    Attributes:
        name: Of the network, in the legend.
        esd: Its eigenvalues.
        law: The fit, or None where there is none.
        colour: Number of its colour, the same as in the layer curves.
    """

    name: str
    esd: Esd
    law: PowerLaw | None
    colour: int


def esd_figure(spectra: Sequence[LayerSpectrum], view: View, *, colours: Palette, height: int = 430) -> go.Figure:
    """Eigenvalues of up to a few networks.

    One alone gets its Marchenko–Pastur law beside it and its x-min in words; several are told apart by colour.

    Args:
        spectra: At least one, each with a positive eigenvalue.
        view: The density (a histogram with logarithmic bins), or the share of eigenvalues at or above each.
        colours: The theme's palette.
        height: In pixels.
    """
    figure = empty_figure(height=height)
    alone = len(spectra) == 1
    heights: list[_Array] = []
    for item in spectra:
        colour = colours.category(item.colour)
        if view == "density":
            heights.append(_bars(figure, item, colour, opacity=0.28 if alone else 0))
        else:
            heights.append(_staircase(figure, item, colour))
    if alone:
        _chance(figure, spectra[0], view, colours)
    for item in spectra:
        if item.law is not None:
            _fit(figure, item, item.law, view, colours.text if alone else colours.category(item.colour))
            _beginning(figure, item.law, colours.text if alone else colours.category(item.colour), words=alone)
    drawn = np.concatenate(heights)
    low, high = np.log10(drawn[drawn > 0].min()), np.log10(drawn.max())
    margin = 0.08 * max(high - low, 1.0)
    left = np.log10(min(_left(item.esd.positive) for item in spectra))
    right = np.log10(max(item.esd.positive[-1] for item in spectra))
    pad = 0.03 * max(right - left, 1.0)
    figure.update_xaxes(
        type="log",
        title="eigenvalue λ of WᵀW (no unit)",
        range=[left - pad, right + pad],
        exponentformat="power",
    )
    figure.update_yaxes(type="log", title=_AXES[view], range=[low - margin, high + margin], exponentformat="power")
    return figure


def _left(values: _Array) -> float:
    """Where the axis begins: square matrices have a few eigenvalues many decades below all others."""
    lowest = float(np.quantile(values, _FEW))
    return lowest if values[0] < lowest / 10 else float(values[0])


def _bars(figure: go.Figure, item: LayerSpectrum, colour: str, *, opacity: float) -> _Array:
    values = item.esd.positive
    bins = int(np.clip(2 * len(values) ** 0.5, 8, 60))
    # One eigenvalue, or all of them equal, still need a bin with a width.
    left, right = _left(values) * 0.999, values[-1] * 1.001
    edges = np.geomspace(left, right, bins + 1)
    if values[0] < left:
        edges = np.concatenate([[values[0] * 0.999], edges])
    density = log_histogram(item.esd, edges)
    # An empty bin is zero, which a logarithmic axis has no place for: its floor lies far below the axis.
    floor = density[density > 0].min() * 1e-6
    tops = np.maximum(density, floor)
    figure.add_scatter(
        x=np.repeat(edges, 2),
        y=np.concatenate([[floor], np.repeat(tops, 2), [floor]]),
        mode="lines",
        line={"color": colour, "width": 1.5},
        fill="tozeroy" if opacity else None,
        fillcolor=transparent(colour, opacity),
        name=_legend(item),
        hovertemplate=f"{in_plot(item.name)}<br>λ %{{x:.3g}}<br>density %{{y:.3g}}<extra></extra>",
    )
    return density[-bins:]


def _staircase(figure: go.Figure, item: LayerSpectrum, colour: str) -> _Array:
    values, share = share_above(item.esd)
    figure.add_scatter(
        x=values,
        y=share,
        mode="lines+markers",
        line={"color": colour, "width": 1, "shape": "vh"},
        marker={"size": 4},
        name=_legend(item),
        hovertemplate=f"{in_plot(item.name)}<br>λ %{{x:.3g}}<br>%{{y:.3g}} of all at or above<extra></extra>",
    )
    return share


def _legend(item: LayerSpectrum) -> str:
    fit = f"alpha {three(item.law.alpha)}" if item.law is not None else "no fit"
    return f"{in_plot(item.name)} · {fit}"


def _chance(figure: go.Figure, item: LayerSpectrum, view: View, colours: Palette) -> None:
    law = marchenko_pastur(item.esd)
    figure.add_scatter(
        x=law.eigenvalues,
        y=law.density if view == "density" else np.maximum(law.share_above, 1e-12),
        mode="lines",
        line={"color": colours.category(1), "width": 1.5, "dash": "dot"},
        name="random weights (Marchenko–Pastur)",
        hoverinfo="skip",
    )


def _fit(figure: go.Figure, item: LayerSpectrum, law: PowerLaw, view: View, colour: str) -> None:
    x = np.geomspace(law.xmin, law.xmax, 60)
    total = len(item.esd.eigenvalues)
    y = law.density(x, total) if view == "density" else law.share_above(x, total)
    figure.add_scatter(
        x=x,
        y=y,
        mode="lines",
        line={"color": colour, "width": 2.5, "dash": "dash"},
        name="power law",
        showlegend=False,
        hovertemplate=f"{in_plot(item.name)}<br>power law: alpha {three(law.alpha)}<extra></extra>",
    )


def _beginning(figure: go.Figure, law: PowerLaw, colour: str, *, words: bool) -> None:
    figure.add_vline(x=law.xmin, line={"color": transparent(colour, 0.75), "width": 1, "dash": "dot"})
    if words:
        # Unlike a line, an annotation takes the logarithm of its place on a logarithmic axis.
        figure.add_annotation(
            x=float(np.log10(law.xmin)),
            y=1,
            yref="paper",
            text=f"x-min {three(law.xmin)}",
            showarrow=False,
            xanchor="left",
            yanchor="top",
            xshift=3,
            font={"color": colour},
        )
