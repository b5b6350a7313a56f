"""Loss or accuracy on the straight line between two networks, before and after alignment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pages.components.charts import empty_figure
from pages.components.palette import Palette

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from sane_engine.symmetry import Barrier

_TITLES = {"loss": "test loss (nats)", "accuracy": "test accuracy (fraction)"}


def barrier_figure(
    line: Barrier, quantity: Literal["loss", "accuracy"], *, colours: Palette, height: int = 330
) -> go.Figure:
    """Both lines over the share of the reference; for the loss also the chord that the barrier is measured from."""
    figure = empty_figure(height=height)
    share = line.before.share
    if quantity == "loss":
        figure.add_scatter(
            x=share[[0, -1]],
            y=line.before.loss[[0, -1]],
            mode="lines",
            name="straight line between the ends",
            hoverinfo="skip",
            line={"color": colours.text, "width": 1, "dash": "dot"},
        )
    lines = (("after alignment", line.after, 2.4, "solid"), ("before", line.before, 1.8, "dash"))
    for i, (name, part, width, dash) in enumerate(lines):
        figure.add_scatter(
            x=share,
            y=getattr(part, quantity),
            mode="lines+markers",
            name=name,
            line={"color": colours.category(i), "width": width, "dash": dash},
            marker={"size": 5},
            hovertemplate=f"{name}<br>t = %{{x:.3g}}: %{{y:.3g}}<extra></extra>",
        )
    figure.update_xaxes(title="t, share of the reference (fraction)", range=[-0.02, 1.02])
    figure.update_yaxes(title=_TITLES[quantity], rangemode="tozero" if quantity == "loss" else "normal")
    return figure
