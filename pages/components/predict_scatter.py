"""Predicted against true on held-out models, with intervals, and which layer carries the signal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import streamlit as st

from pages.components import state
from pages.components.charts import empty_figure
from pages.components.choices import choose, choose_property
from pages.components.current import Current, embedded
from pages.components.errors import explain
from pages.components.hover import hover_texts
from pages.components.labels import in_plot, label, short_label
from pages.components.library import digest_of
from pages.components.memory import Memory
from pages.components.palette import palette, transparent
from pages.components.predict_features import VIEWS, Layered, layered
from pages.components.show import show_caption, show_figure, three
from pages.components.working import working
from sane_engine.probing import ProbeResult, probe, probe_targets

if TYPE_CHECKING:
    import plotly.graph_objects as go

_RESULTS: Memory[ProbeResult] = Memory(64)
_LAYERS: Memory[pd.DataFrame] = Memory(64)


def prediction_view(now: Current) -> None:
    """Choose features and property, see both plots."""
    known = embedded(now)
    if known is None:
        return
    targets = probe_targets(now.zoo.table)
    if not targets:
        explain("No property of this zoo varies.", "Open a zoo with a table of properties.")
        return
    left, right = st.columns(2)
    view = choose(left, "From", list(VIEWS), state.PREDICT_BY, default="sane", shown=VIEWS.__getitem__)
    target = choose_property(right, "Property", targets, state.PREDICT_TARGET)
    with working("Probing") as progress:
        features = layered(view, now, known, progress)
        if features is None:
            explain(
                f"{VIEWS[view]} cannot be compared here: the models' layers differ, or not all were computed.",
                "Choose another representation.",
            )
            return
        key = (view, target, digest_of(now.zoo), str(known.record["encoder_digest"]))
        flat = features.values.reshape(len(features.values), -1)
        result = _RESULTS.get(key, lambda: probe(flat, now.zoo.table, target))
        layers = _LAYERS.get(key, lambda: _by_layer(features, now, target))
    said = (
        f"{VIEWS[view]} · fitted on {result.n_train_models} models, {result.n_train_checkpoints} checkpoints "
        f"(splits train and validation) · split {result.split_hash}, seed {result.seed}"
    )
    if view == "sane":
        said += f" · encoder {now.encoder}"
    if features.note:
        said += f" · {features.note}"
    left, right = st.columns([1.4, 1], gap="medium")
    with left:
        _predictions(now, result, target, said)
    with right:
        st.subheader("Which layer carries the signal", anchor=False)
        metric = "R²" if result.kind == "numeric" else "balanced accuracy"
        show_figure(
            layer_bars(layers, metric),
            f"layers-{now.name}-{view}-{target}",
            f"{metric} of a probe on each layer alone, held-out models (n = {result.n_test_models}) · {said}",
            alt=f"{metric} by layer",
        )


def _by_layer(features: Layered, now: Current, target: str) -> pd.DataFrame:
    from sane_engine.probing.by_layer import probe_layers

    return probe_layers(features.values, features.names, now.zoo.table, target)


def _predictions(now: Current, result: ProbeResult, target: str, said: str) -> None:
    st.subheader("Held-out models", anchor=False)
    cells = st.columns(4)
    scores = result.scores
    n = f"{result.n_test_models} models, {result.n_test_checkpoints} checkpoints"
    if result.kind == "categorical":
        cells[0].metric("Balanced accuracy", three(scores["balanced_accuracy"]))
        cells[1].metric("Chance", three(scores["chance"]))
        show_figure(
            confusion(result), f"confusion-{now.name}-{target}", f"n = {n} held out · {said}", alt="Confusions"
        )
        return
    unit = " (log₁₀)" if result.scale == "log10" else ""
    cells[0].metric("R²", three(result.r2))
    cells[1].metric("Kendall's τ", three(result.kendall_tau))
    cells[2].metric(f"Mean error{unit}", three(result.mae), help="Mean absolute error.")
    cells[3].metric(
        "Covered", f"{result.coverage:.0%}", help=f"Share inside their {result.level:.0%} interval, measured."
    )
    outside = int((result.predictions["outside"] > 1).sum())
    show_figure(
        scatter(now, result, target),
        f"predicted-{now.name}-{target}",
        f"n = {n} held out · bars: conformal {result.level:.0%} intervals · {outside} outside of what the zoo "
        f"knows · {said}",
        alt="Predicted against true, with intervals",
    )
    for note in result.notes:
        show_caption(note)


def scatter(now: Current, result: ProbeResult, target: str) -> go.Figure:
    """Predicted over true, intervals as thin bars, the diagonal behind."""
    colours = palette()
    found = result.predictions
    figure = empty_figure(height=440)
    both = found[["true", "predicted"]].to_numpy(dtype=float)
    ends = np.asarray([both.min(), both.max()])
    figure.add_scatter(
        x=ends, y=ends, mode="lines", hoverinfo="skip", showlegend=False, line={"color": colours.faint, "width": 2}
    )
    hover = np.asarray(hover_texts(now.zoo.table.iloc[found["row"]].reset_index(drop=True), [target]), dtype=object)
    beyond = (found["outside"] > 1).to_numpy()
    missed = ~found["covered"].to_numpy(dtype=bool) & ~beyond
    parts = (
        ("covered", ~beyond & ~missed, colours.category(0)),
        ("missed by its interval", missed, colours.category(2)),
        ("outside the zoo", beyond, colours.text),
    )
    for name, chosen, colour in parts:
        part = found[chosen]
        if not len(part):
            continue
        finite = np.isfinite(part["low"]).to_numpy() & np.isfinite(part["high"]).to_numpy()
        figure.add_scatter(
            x=part["true"],
            y=part["predicted"],
            mode="markers",
            name=f"{name} · {len(part)}",
            marker={"size": 6, "color": colour, "symbol": "x" if name.startswith("outside") else "circle"},
            error_y={
                "type": "data",
                "symmetric": False,
                "array": np.where(finite, part["high"] - part["predicted"], 0.0),
                "arrayminus": np.where(finite, part["predicted"] - part["low"], 0.0),
                "color": transparent(colour, 0.22),
                "thickness": 1,
                "width": 0,
            },
            text=hover[chosen],
            hovertemplate="%{text}<br>predicted %{y:.3g}<extra></extra>",
        )
    scale = "log₁₀ " if result.scale == "log10" else ""
    figure.update_xaxes(title=f"true {scale}{label(target)}")
    figure.update_yaxes(title=f"predicted {scale}{short_label(target)}")
    return figure


def confusion(result: ProbeResult) -> go.Figure:
    """Counts of true against predicted classes."""
    found = result.predictions
    names = sorted({*found["true"], *found["predicted"]})
    counts = pd.crosstab(found["true"], found["predicted"]).reindex(index=names, columns=names, fill_value=0)
    shown = [in_plot(name) for name in names]
    figure = empty_figure(height=400)
    figure.add_heatmap(
        z=counts.to_numpy(),
        x=shown,
        y=shown,
        colorscale=palette().scale,
        texttemplate="%{z}",
        colorbar={"title": {"text": "checkpoints", "side": "right"}, "thickness": 12, "outlinewidth": 0},
        hovertemplate="true %{y}, predicted %{x}: %{z}<extra></extra>",
    )
    figure.update_xaxes(title="predicted")
    figure.update_yaxes(title="true")
    return figure


def layer_bars(layers: pd.DataFrame, metric: str) -> go.Figure:
    """The score of each layer alone; the last bar is all layers together."""
    colours = palette()
    figure = empty_figure(height=440)
    figure.add_bar(
        x=[in_plot(name) for name in layers["name"]],
        y=layers["score"],
        marker={"color": [colours.accent if i < 0 else transparent(colours.accent, 0.45) for i in layers["layer"]]},
        hovertemplate="%{x}: %{y:.3f}<extra></extra>",
    )
    figure.update_xaxes(title="layer (in file order)")
    figure.update_yaxes(title=f"{metric} (no unit)", range=[min(0.0, float(layers["score"].min()) * 1.1), 1])
    return figure
