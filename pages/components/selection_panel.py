"""The selected models: how good they are, what sets them apart, the table, and what to do with them."""

from __future__ import annotations

import streamlit as st

from pages.components import state
from pages.components.current import Current
from pages.components.errors import explain
from pages.components.labels import first_columns, short_label
from pages.components.navigation import go_to, link_to
from pages.components.show import inert, show_caption, show_table, three
from sane_engine.tables import set_apart

_NOT_COMPARED = {"model", "epoch", "split", "seed"}
_LARGEST_DIFFERENCES = 5


def selection_panel(now: Current) -> None:
    """Draw the panel beside the map."""
    rows = list(now.selected)
    if not rows:
        st.subheader("Selection", anchor=False)
        explain("Nothing is selected.", "Draw around points on the map, or switch to Click and pick single ones.")
        return
    models = now.zoo.table.iloc[rows]["model"].nunique()
    st.subheader(inert(f"{len(rows)} selected, {models} model{'' if models == 1 else 's'}"), anchor=False)
    _accuracy(now, rows)
    _actions(now, rows)
    _apart(now, rows)
    table = now.zoo.table.iloc[rows]
    chosen = show_table(first_columns(table), "selection", selectable=True)
    if chosen:
        state_rows = [rows[i] for i in chosen]
        st.button(
            f"Keep these {len(chosen)} only" if len(chosen) > 1 else "Keep this one only",
            key="narrow",
            on_click=state.select,
            args=(state_rows,),
            icon=":material/filter_alt:",
            type="tertiary",
        )


def _accuracy(now: Current, rows: list[int]) -> None:
    name = now.accuracy
    if name is None:
        return
    everything = now.zoo.table[name].astype(float)
    mean, whole = float(everything.iloc[rows].mean()), float(everything.mean())
    st.metric(
        inert(f"Mean {short_label(name)}"),
        three(mean),
        f"{mean - whole:+.2g} against the zoo's {three(whole)}",
        delta_color="normal",
    )


def _actions(now: Current, rows: list[int]) -> None:
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        best = rows[0]
        if now.accuracy is not None and len(rows) > 1:
            best = rows[int(now.zoo.table[now.accuracy].iloc[rows].astype(float).fillna(-1).to_numpy().argmax())]
        st.button(
            "Pin" if len(rows) == 1 else "Pin the best",
            key="pin",
            on_click=state.pin,
            args=(best,),
            icon=":material/keep:",
            help="Compare one checkpoint with everything else, on every page.",
        )
        link_to("layers", "Compare layers", ":material/stacked_line_chart:")
        if st.button(
            "Use as anchors",
            key="to-anchors",
            icon=":material/anchor:",
            type="tertiary",
            help="Sample new models around these.",
        ):
            st.session_state["sample_anchors"] = "Selection"
            go_to("sample")


def _apart(now: Current, rows: list[int]) -> None:
    columns = [
        column
        for column in now.zoo.properties
        if column not in _NOT_COMPARED and "accuracy" not in column and "loss" not in column and "gap" not in column
    ]
    found = set_apart(now.zoo.table, rows, columns).head(_LARGEST_DIFFERENCES)
    found = found[found["difference"].abs() > 0.1]
    if not len(found):
        show_caption("No hyper-parameter sets it apart: every mean is within 0.1 standard deviations of the zoo's.")
        return
    st.text("What sets it apart")
    found["property"] = [short_label(name) for name in found["property"]]
    show_table(
        found[["property", "difference", "chosen", "all"]],
        "apart",
        columns={
            "chosen": st.column_config.NumberColumn("here", format="%.3g", width="small"),
            "all": st.column_config.NumberColumn("zoo", format="%.3g", width="small"),
            "difference": st.column_config.NumberColumn("Δ (sd)", format="%+.2f", width="small"),
        },
    )
    show_caption("Means, or shares of a category; Δ in standard deviations of the zoo.")
