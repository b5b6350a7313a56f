"""Zoo: what is loaded, and how its models trained."""

from __future__ import annotations

import json

import numpy as np
import streamlit as st

from pages.components import state
from pages.components.charts import histogram, training_curves
from pages.components.current import Current, current
from pages.components.errors import explain
from pages.components.labels import counted, first_columns, label, short_label
from pages.components.library import digest_of
from pages.components.navigation import page
from pages.components.palette import palette
from pages.components.scorecard import scorecard
from pages.components.show import inert, one_line, show_caption, show_figure, show_table, three

_MOST_HIGHLIGHTED = 8
_SPLITS = ("train", "validation", "test")
_METRICS = ("accuracy", "loss", "gap")


def _summary(now: Current) -> None:
    table = now.zoo.table
    row = st.container(horizontal=True, gap="large")
    row.metric("Zoo", inert(now.name), width="content")
    row.metric("Models", f"{table['model'].nunique():,}", width="content")
    row.metric("Epochs", f"{table['epoch'].nunique():,}", width="content")
    row.metric("Checkpoints", f"{len(table):,}", width="content")
    if now.accuracy is not None:
        values = table[now.accuracy].astype(float)
        row.metric(
            inert(short_label(now.accuracy)).capitalize(),
            f"{three(values.min())} – {three(values.max())}",
            help="Lowest and highest in the zoo.",
            width="content",
        )
    counts = table.groupby("split")["model"].nunique()
    known = [name for name in _SPLITS if name in counts.index]
    dropped = now.zoo.dropped
    said = "Split by model: " + ", ".join(f"{name} {counts[name]}" for name in known)
    show_caption(said + (f" · {len(dropped)} left out" if len(dropped) else " · no model was left out"))
    with st.expander("Where it comes from", icon=":material/history:"):
        st.text(f"digest {digest_of(now.zoo)}")
        st.code(
            json.dumps(now.zoo.provenance, indent=2, default=str, ensure_ascii=False), language="json", height=240
        )
        if now.zoo.architecture is not None:
            st.code(json.dumps(now.zoo.architecture, indent=2, default=str), language="json")
    if len(dropped):
        with st.expander(f"{len(dropped)} left out", icon=":material/block:"):
            show_table(dropped, "dropped")


def _accuracies(now: Current) -> None:
    table = now.zoo.table
    offered = [
        name for name in table.columns if any(kind in name for kind in _METRICS) and now.zoo.kind(name) == "numeric"
    ]
    if not offered:
        explain(
            "This zoo says nothing about its models' accuracy.",
            "Add a CSV with a column test_accuracy to the folder.",
        )
        return
    left, middle, right = st.columns(3)
    metric = left.selectbox(
        "Property",
        offered,
        index=offered.index(now.accuracy) if now.accuracy in offered else 0,
        format_func=lambda name: one_line(short_label(name)),
        key="zoo-metric",
        persist_state="session",
    )
    epochs = ["Last", "All", *(str(epoch) for epoch in sorted(table["epoch"].unique()))]
    epoch = middle.selectbox("Epoch", epochs, key="zoo-epoch", persist_state="session")
    by = right.segmented_control(
        "Colour by", ("split", "epoch"), default="split", required=True, key="zoo-by", persist_state="session"
    )
    part = table
    if epoch == "Last":
        part = table[table["epoch"] == table.groupby("model")["epoch"].transform("max")]
    elif epoch != "All":
        part = table[table["epoch"] == int(epoch)]
    order = [name for name in _SPLITS if name in set(part["split"])] if by == "split" else sorted(part[by].unique())
    numbers = part[metric].to_numpy(dtype=np.float64, na_value=np.nan)
    if len(np.unique(numbers[np.isfinite(numbers)])) < 2:
        explain(
            f"All {short_label(metric)} values shown are the same or unknown.", "Choose another property or epoch."
        )
        return
    groups = {str(name): numbers[(part[by] == name).to_numpy()] for name in order}
    show_figure(
        histogram(groups, label(metric), colours=palette()),
        f"{now.name}-{metric}-histogram",
        f"n = {counted(len(part), 'checkpoint')}, {counted(part['model'].nunique(), 'model')} · "
        f"epoch: {epoch.lower()} · split by model",
        alt=f"Histogram of {short_label(metric)}",
    )


def _training(now: Current) -> None:
    table = now.zoo.table
    metrics = [
        name for name in table.columns if any(kind in name for kind in _METRICS) and now.zoo.kind(name) == "numeric"
    ]
    if not metrics:
        return
    if table["epoch"].nunique() < 2:
        explain(
            "There is one epoch only, so there are no training curves.",
            "Zoos with several checkpoints a model have them.",
        )
        return
    left, right = st.columns(2)
    metric = left.selectbox(
        "Property over the epochs",
        metrics,
        index=metrics.index(now.accuracy) if now.accuracy in metrics else 0,
        format_func=lambda name: one_line(short_label(name)),
        key="curve-metric",
        persist_state="session",
    )
    parameters = [None, *(name for name in now.zoo.properties if name not in {"epoch", "model", metric})]
    colour = right.selectbox(
        "Colour",
        parameters,
        format_func=lambda name: "one colour" if name is None else one_line(short_label(name)),
        key="curve-colour",
        persist_state="session",
    )
    rows = [*([now.pinned] if now.pinned is not None else []), *now.selected]
    models = list(dict.fromkeys(table["model"].iloc[rows]))
    figure = training_curves(
        table,
        metric,
        colour=colour,
        numeric=colour is not None and now.zoo.kind(colour) == "numeric",
        highlighted=models[:_MOST_HIGHLIGHTED],
        colours=palette(),
    )
    said = f"{now.scope} · all splits"
    if models:
        said += f" · {min(len(models), _MOST_HIGHLIGHTED)} of {len(models)} selected models on top"
    show_figure(figure, f"{now.name}-{metric}-curves", said, alt=f"{short_label(metric)} over the epochs")


def _table(now: Current) -> None:
    search = st.text_input(
        "Search the table",
        placeholder="part of a model id or of any text",
        icon=":material/search:",
        key="table-search",
    )
    table = now.zoo.table
    rows = np.arange(len(table))
    if search.strip():
        texts = table.select_dtypes(exclude="number").astype(str)
        hit = np.zeros(len(table), dtype=bool)
        for column in texts:
            hit |= texts[column].str.contains(search.strip(), case=False, regex=False).to_numpy()
        rows = np.flatnonzero(hit)
    if not len(rows):
        explain("No checkpoint matches.", "Shorten the search.")
        return
    chosen = show_table(first_columns(table.iloc[rows]), f"{now.name}-zoo", selectable=True)
    with st.container(horizontal=True):
        st.button(
            f"Select {len(chosen)}" if chosen else "Select",
            disabled=not chosen,
            on_click=state.select,
            args=([int(rows[i]) for i in chosen],),
            icon=":material/check_box:",
            key="select-rows",
        )
        st.button(
            "Pin",
            disabled=len(chosen) != 1,
            on_click=state.pin,
            args=(int(rows[chosen[0]]) if chosen else None,),
            icon=":material/keep:",
            key="pin-row",
        )
    show_caption(f"{len(rows):,} of {counted(len(table), 'checkpoint')}")


def main() -> None:
    now = current()
    if now is None:
        return
    _summary(now)
    left, right = st.columns(2, gap="medium")
    with left:
        st.subheader("Distribution", anchor=False)
        _accuracies(now)
    with right:
        st.subheader("Training", anchor=False)
        _training(now)
    st.subheader("Encoder", anchor=False)
    scorecard(now.encoder, digest_of(now.zoo))
    st.subheader("Checkpoints", anchor=False)
    _table(now)


with page("Zoo"):
    main()
