"""The probe table on the page: representations against properties, and a radar of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import streamlit as st

from pages.components import state
from pages.components.charts import empty_figure
from pages.components.current import Current
from pages.components.errors import explain
from pages.components.labels import in_plot, short_label
from pages.components.library import digest_of
from pages.components.palette import palette, transparent
from pages.components.predict_job import probe_job
from pages.components.show import inert, one_line, show_caption, show_figure, show_table
from pages.components.working import working
from sane_engine.probing import ProbeTable, known_table
from sane_engine.representations import representations
from sane_engine.representations.registry import COMBINATION

if TYPE_CHECKING:
    import plotly.graph_objects as go

SCORES = {
    "R² or balanced accuracy": "mean",
    "Kendall's τ": "kendall_tau",
    "Mean absolute error": "mae",
    "Interval coverage": "coverage",
}
# What needs no training and no forward pass: done in a minute on the page itself.
_QUICK = ("statistics", "token-pca", "sane-untrained")
_RADAR = 6
_IN_RADAR = ("sane-predictive", "sane-weights", "sane-layers", "statistics", "weightwatcher", "behaviour")


def label_of(name: str) -> str:
    """What a representation is called on the page."""
    if name == COMBINATION:
        return "Best combination"
    known = representations()
    return known[name].label if name in known else name


def table_view(now: Current) -> None:
    """The table, its radar, and what was left out."""
    found = known_table(digest_of(now.zoo), now.key)
    if found is None:
        _offer(now)
        return
    state.keep_valid(state.PREDICT_SCORE, list(SCORES), next(iter(SCORES)))
    score = st.selectbox("Score", list(SCORES), key=state.PREDICT_SCORE, persist_state="session", width=320)
    summary = found.summary()
    left, right = st.columns([1.7, 1], gap="medium")
    with left:
        show_table(
            wide(summary, SCORES[score]),
            f"probes-{now.name}",
            height=min(36 * (len(found.representations) + 1) + 3, 640),
        )
        show_caption(caption(found, score))
        described(found.representations)
        probe_job(now, found)
        for name, reason in found.left_out.items():
            show_caption(f"Left out: {label_of(name)}. {reason}")
    with right:
        radar = radar_figure(summary, found.representations)
        if radar is not None:
            show_figure(
                radar,
                f"radar-{now.name}",
                f"Mean R² on held-out models, below 0 drawn as 0 · {_scope(found)}",
                alt="Radar of R² by property, one line a representation",
            )


def _offer(now: Current) -> None:
    explain(
        f"{now.name} has not been probed.",
        f"The same from the command line: python -m sane_engine probe {now.key}. It goes on where it stopped.",
    )
    probe_job(now, None)
    names = ", ".join(label_of(name) for name in _QUICK)
    if st.button("Probe what needs no training", icon=":material/play_arrow:", help=f"{names}: minutes at most."):
        from sane_engine.probing import probe_table

        with working("Probing") as progress:
            probe_table(now.zoo, _QUICK, progress=progress)
        st.rerun()


def wide(summary: pd.DataFrame, column: str) -> pd.DataFrame:
    """One row a representation, one column a property: mean ± spread as text, best first property first."""
    cells = summary.copy()
    spread = {"mean": "spread", "kendall_tau": "kendall_tau_spread", "mae": "mae_spread"}.get(column)
    cells["text"] = [_cell(row[column], row[spread] if spread else float("nan")) for _, row in cells.iterrows()]
    targets = list(dict.fromkeys(cells["target"]))
    pivot = cells.pivot(index="representation", columns="target", values="text")
    values = cells.pivot(index="representation", columns="target", values=column)
    order = values[targets[0]].sort_values(ascending=column == "mae", na_position="last").index
    pivot = pivot.reindex(order)[targets].fillna("–")
    pivot.columns = pd.Index([short_label(str(name)) for name in pivot.columns])
    pivot.insert(0, "representation", [label_of(str(name)) for name in pivot.index])
    numbers = cells.groupby("representation")["n_features"].first()
    pivot["features"] = [int(numbers[name]) for name in pivot.index]
    return pivot.reset_index(drop=True)


def _cell(value: float, spread: float) -> str:
    if value != value:
        return "–"
    return f"{value:.3f}" if spread != spread else f"{value:.3f} ± {spread:.3f}"


def _scope(found: ProbeTable) -> str:
    record = found.record
    return (
        f"n = {record['models']} models, {record['checkpoints']} checkpoints · {record['outer_splits']} splits by "
        f"{record['grouped_by']} · split {record['split_hash']}, seed {record['seed']}"
    )


def caption(found: ProbeTable, score: str) -> str:
    """What stands under the table."""
    seeds = found.record["encoder_seeds"]
    what = (
        "± is the standard deviation over splits and seeds"
        if score != "Interval coverage"
        else (f"share of held-out checkpoints inside their {found.record['level']:.0%} interval")
    )
    return (
        f"{score} on held-out models; {what} · {_scope(found)} · {seeds} seeds of what is trained · ridge for "
        "numbers, logistic regression for categories · everything fitted on training models only"
    )


def radar_figure(summary: pd.DataFrame, names: list[str]) -> go.Figure | None:
    """R² of each numeric property as a radar; the best of the first property and the published SANE."""
    numeric = summary[summary["kind"] == "numeric"]
    targets = list(dict.fromkeys(numeric["target"]))
    if len(targets) < 3:
        return None
    first = numeric[numeric["target"] == targets[0]].sort_values("mean", ascending=False)
    best = first["representation"].tolist()
    shown = [name for name in _IN_RADAR if name in names]
    shown = [*shown, *(name for name in best if name not in shown)][:_RADAR]
    colours = palette()
    figure = empty_figure(height=420)
    axes = [in_plot(short_label(name)) for name in targets]
    for i, name in enumerate(shown):
        values = numeric[numeric["representation"] == name].set_index("target")["mean"].reindex(targets)
        closed = values.clip(lower=0).fillna(0).tolist()
        figure.add_scatterpolar(
            r=[*closed, closed[0]],
            theta=[*axes, axes[0]],
            name=label_of(name),
            line={"color": colours.category(i), "width": 2},
            fill="toself",
            fillcolor=transparent(colours.category(i), 0.06),
            hovertemplate="%{theta}: %{r:.3f}<extra>" + label_of(name) + "</extra>",
        )
    grid = {"gridcolor": colours.faint, "linecolor": colours.faint}
    figure.update_layout(
        polar={
            "bgcolor": "rgba(0,0,0,0)",
            "radialaxis": {"range": [0, 1], "tickvals": [0.25, 0.5, 0.75, 1], **grid},
            "angularaxis": grid,
        },
        margin={"l": 96, "r": 96, "t": 64, "b": 24},
    )
    return figure


def described(names: list[str]) -> None:
    """What each representation is, one line each."""
    with st.expander("What the representations are"):
        for name in names:
            entry = representations().get(name)
            if entry is not None:
                st.markdown(f"**{inert(entry.label)}** — {inert(one_line(entry.description))}")
