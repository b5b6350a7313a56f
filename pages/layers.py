"""Layers: WeightWatcher on the left, SANE on the right, the same layer axis, the zoo behind."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import streamlit as st

from pages.components.current import Current, current, embedded
from pages.components.labels import short_label
from pages.components.layer_charts import Curve, bands
from pages.components.layer_views import curve_pair, feature_pickers, layer_table
from pages.components.library import digest_of, sane_layers, spectra
from pages.components.navigation import page
from pages.components.networks import Networks
from pages.components.show import one_line, show_caption, three
from pages.components.spectrum_section import Network, offered_layers, spectrum_section
from pages.components.symmetry_section import follow, symmetry_section
from pages.components.working import working
from sane_engine.demo import Precomputed

_MOST_MODELS = 8


def _chosen_rows(now: Current) -> tuple[list[int], str, dict[int, str]]:
    """Rows to draw, a word on why, and what examples are examples of: pinned, selected and added ones, or three."""
    added = [row for row in st.session_state.get("layer-models", []) if row < len(now.zoo.table)]
    pinned = [now.pinned] if now.pinned is not None else []
    first = list(dict.fromkeys([*pinned, *added]))
    others = [row for row in now.selected if row not in first]
    room = max(_MOST_MODELS - len(first), 0)
    if first or others:
        if len(others) <= room:
            return [*first, *others], "", {}
        said = f"{len(first) + room} of {len(first) + len(others)} chosen checkpoints: "
        said += "pinned and added ones, then " if first else ""
        spread, how = _spread(now, others, room)
        return [*first, *spread], said + how, {}
    table = now.zoo.table
    last = table[table["epoch"] == table["epoch"].max()]
    if now.accuracy is None:
        return [int(last.index[0])], "the first checkpoint, as an example", {}
    values = last[now.accuracy].astype(float).sort_values()
    places = {"best": len(values) - 1, "median": len(values) // 2, "worst": 0}
    labels = {
        int(values.index[i]): f"{name}, {three(float(values.iloc[i]))}" for name, i in reversed(places.items())
    }
    rows = list(dict.fromkeys(int(values.index[i]) for i in places.values()))
    why = f"best, median and worst {short_label(now.accuracy)} of the last epoch, as an example: "
    return rows, why + "select models on Explore", labels


def _spread(now: Current, rows: list[int], room: int) -> tuple[list[int], str]:
    """At most ``room`` of ``rows``, which are more: different models first, of each its latest epoch."""
    chosen = now.zoo.table.iloc[rows]
    # Neighbouring rows of a table are epochs of one model. Rank 0 is the latest chosen epoch of each model.
    rank = chosen.groupby("model")["epoch"].rank(method="first", ascending=False).to_numpy() - 1
    latest = [row for row, r in zip(rows, rank, strict=True) if r == 0]
    if len(latest) <= room:
        order = np.argsort(rank, kind="stable")[:room]
        return [rows[i] for i in order], "the latest chosen epochs of every model"
    how = "one a model, its latest chosen epoch"
    if now.accuracy is not None:
        values = now.zoo.table[now.accuracy].iloc[latest].to_numpy(dtype=float, na_value=np.nan)
        latest = [latest[i] for i in np.argsort(values, kind="stable")]
        how += f", evenly spaced by {short_label(now.accuracy)}"
    return [latest[round(i)] for i in np.linspace(0, len(latest) - 1, room)] if room else [], how


def _band_rows(table: pd.DataFrame, choice: str) -> np.ndarray:
    if choice == "All epochs":
        return np.arange(len(table))
    epoch = table["epoch"].max() if choice == "Last epoch" else int(choice.removeprefix("Epoch "))
    return np.flatnonzero(table["epoch"] == epoch)


def main() -> None:
    now = current()
    if now is None:
        return
    table = now.zoo.table
    models, behind = st.columns([3, 1], vertical_alignment="bottom")
    models.multiselect(
        "Add checkpoints",
        range(len(table)),
        format_func=lambda row: one_line(now.name_of(row)),
        key="layer-models",
        persist_state="session",
        placeholder="to the selected and pinned ones",
        max_selections=_MOST_MODELS,
    )
    epochs = ["Last epoch", "All epochs", *(f"Epoch {epoch}" for epoch in sorted(table["epoch"].unique()))]
    choice = behind.selectbox("Zoo band", epochs, key="band", persist_state="session")
    rows, why, examples = _chosen_rows(now)
    if why:
        show_caption(f"Shown: {why}.")
    known = embedded(now)
    features = feature_pickers()
    left = _spectral(now, known, rows)
    views: dict[str, pd.DataFrame] = {"weightwatcher": left}
    if known is not None:
        views["sane"] = sane_layers(known)
    names = {row: now.name_of(row) + (f" · {examples[row]}" if row in examples else "") for row in rows}
    curves = {
        kind: [Curve(names[row], view[view["row"] == row], pinned=row == now.pinned) for row in rows]
        for kind, view in views.items()
    }
    networks = [
        Network(names[row], (digest_of(now.zoo), row), partial(now.zoo.tensors, row), left[left["row"] == row], i)
        for i, row in enumerate(rows)
    ]
    offered_layers(networks)
    behind_rows = _band_rows(table, choice)
    band: dict[str, pd.DataFrame | None] = {}
    if known is not None:
        whole = {"weightwatcher": known.weightwatcher, "sane": views["sane"]}
        for (kind, view), item in zip(whole.items(), features, strict=True):
            band[kind] = bands(view[view["row"].isin(behind_rows)], item.name)
    drawn = any(part is not None and len(part) for part in band.values())
    caption = " · ".join(
        [now.scope, *([f"band: {choice.lower()}, all splits"] if drawn else []), f"encoder {now.encoder}"]
    )
    curve_pair(curves, features, band, name=now.name, caption=caption)
    spectrum_section(networks, name=now.name)
    # The pair to align follows what is shown above, until the user chooses another.
    follow("layers", tuple(rows))
    symmetry_section(Networks(now), [*rows, *_others(rows, len(table))], reference=rows[0], name=now.name)
    st.subheader("Layers", anchor=False)
    tables = {
        now.name_of(row): {kind: group[i].table for kind, group in curves.items()} for i, row in enumerate(rows)
    }
    layer_table(tables, now.name)


def _others(rows: list[int], n: int) -> list[int]:
    shown = set(rows)
    return [row for row in range(n) if row not in shown]


def _spectral(now: Current, known: Precomputed | None, rows: list[int]) -> pd.DataFrame:
    """WeightWatcher's table for these rows: what is kept for the zoo, and the rest computed now."""
    here = known.weightwatcher if known is not None else pd.DataFrame({"row": []})
    part = here[here["row"].isin(rows)]
    missing = [row for row in rows if row not in set(part["row"])]
    if not missing:
        return part
    with working("WeightWatcher") as progress:
        computed = spectra(now.key, missing, progress=progress)
    return pd.concat([part, computed], ignore_index=True) if len(part) else computed


with page("Layers"):
    main()
