"""The pair of layer curves and the table below it, as the pages Layers and Inspect show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import streamlit as st

from pages.components import state
from pages.components.errors import explain
from pages.components.layer_charts import Curve, layer_curves
from pages.components.palette import palette
from pages.components.show import caption_and_downloads, config_of, one_line, show_caption, show_table
from sane_engine.baselines import FEATURES, Feature, feature

KINDS = ("weightwatcher", "sane")
_TITLES = {"weightwatcher": "WeightWatcher", "sane": "SANE", "statistics": "Statistics"}
_SHORT = {**_TITLES, "weightwatcher": "WW"}
_OTHER = {"warning": "verdict"}
_FIRST_CHOICE = {"weightwatcher": "alpha", "sane": "norm"}
AXES = ("Layer index", "Relative depth")
LAYERS_SHOWN = ("Weight matrices", "With a power-law fit", "All")
# How WeightWatcher's reason begins for a layer that is no matrix.
_NO_MATRIX = "One value a channel"
_KEYS = {"weightwatcher": state.LAYER_LEFT, "sane": state.LAYER_RIGHT}


def feature_pickers() -> tuple[Feature, Feature]:
    """Two pickers side by side; returns the feature on the left (WeightWatcher) and on the right (SANE)."""
    chosen = []
    for kind, column in zip(KINDS, st.columns(2, gap="medium"), strict=True):
        names = [item.name for item in FEATURES[kind]]
        labels = {item.name: item.label for item in FEATURES[kind]}
        state.keep_valid(_KEYS[kind], names, _FIRST_CHOICE[kind])
        with column:
            name = st.selectbox(
                _TITLES[kind],
                names,
                format_func=labels.__getitem__,
                key=_KEYS[kind],
                persist_state="session",
            )
            item = feature(kind, name)
            show_caption(item.meaning)
        chosen.append(item)
    return chosen[0], chosen[1]


def axis_title(item: Feature) -> str:
    """The title of the vertical axis; none of these quantities has a unit, and the axis says so."""
    return f"{item.label} (no unit)"


def curve_pair(
    curves: Mapping[str, Sequence[Curve]],
    features: tuple[Feature, Feature],
    band: Mapping[str, pd.DataFrame | None],
    *,
    name: str,
    caption: str,
) -> None:
    """Draw both views over the same layer axis.

    Args:
        curves: The models of each kind, in the same order, so that colours agree.
        features: What is drawn on the left and on the right.
        band: The zoo's quantiles of each kind, or None.
        name: For the files.
        caption: Number of models, split, encoder.
    """
    state.keep_valid("layers-shown", LAYERS_SHOWN)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        shown = st.segmented_control(
            "Layers shown",
            LAYERS_SHOWN,
            key="layers-shown",
            required=True,
            persist_state="session",
            label_visibility="collapsed",
            help="In both views: layers with a weight matrix; those that WeightWatcher has a power-law fit for; "
            "or all, with normalisation layers and lone biases, which have no spectrum.",
        )
        depths = {curve.name: int(curve.table["layer"].max()) for group in curves.values() for curve in group}
        if len(set(depths.values())) > 1:
            state.keep_valid("layer-axis", AXES)
            axis = st.segmented_control(
                "Layer axis",
                AXES,
                key="layer-axis",
                required=True,
                persist_state="session",
                label_visibility="collapsed",
                help="These networks differ in depth: by relative depth, last layers lie over each other, too.",
            )
        else:
            axis = AXES[0]
        relative = depths if axis == AXES[1] else None
        curves, hidden = _visible(curves, str(shown))
        if hidden:
            show_caption(hidden)
    chosen = _chosen_place(curves, relative)
    visible = {int(layer) for group in curves.values() for curve in group for layer in curve.table["layer"]}
    n_layers = 1 + max((int(curve.table["layer"].max()) for group in curves.values() for curve in group), default=0)
    for kind, item, column in zip(KINDS, features, st.columns(2, gap="medium"), strict=True):
        with column:
            group, behind = curves.get(kind, ()), band.get(kind)
            if behind is not None and shown != LAYERS_SHOWN[-1]:
                behind = behind[behind["layer"].isin(visible)]
            if not group and behind is None:
                explain(f"There is nothing to draw for {_TITLES[kind]}.", "See the note above.")
                continue
            figure = layer_curves(
                group,
                item.name,
                axis_title(item),
                band=behind,
                n_layers=n_layers,
                colours=palette(),
                chosen=chosen,
                depths=relative,
            )
            drawn = sum(int(curve.table[item.name].notna().any()) for curve in group)
            skipped = sum(int(curve.table[item.name].isna().sum()) for curve in group)
            said = f"{_TITLES[kind]} · {drawn} curve{'' if drawn == 1 else 's'} · {caption}"
            if behind is not None and len(behind):
                said += f" · n = {int(behind['n'].max())} checkpoints in the band"
            if skipped:
                said += f" · {skipped} layer value{'' if skipped == 1 else 's'} missing, reasons in the table"
            chart = f"{name}-{kind}-{item.name}"
            st.plotly_chart(
                figure,
                key=f"figure-{chart}",
                on_select=lambda chart=chart: _on_click(f"figure-{chart}"),
                selection_mode="points",
                config=config_of(chart),
                alt=f"{item.label} over the layer index",
            )
            caption_and_downloads(figure, chart, said)


def _on_click(chart: str) -> None:
    """A click on a point of a curve chooses its layer; a click that takes the choice back changes nothing."""
    event = st.session_state.get(chart) or {}
    for point in (event.get("selection") or {}).get("points") or []:
        name = point.get("customdata")
        name = name[0] if isinstance(name, list) and name else name
        if isinstance(name, str):
            st.session_state[state.SPECTRUM] = name
            return


def _chosen_place(curves: Mapping[str, Sequence[Curve]], depths: Mapping[str, int] | None) -> float | None:
    """Where the layer whose spectrum is shown stands, in the highlighted network or wherever all agree."""
    name = st.session_state.get(state.SPECTRUM)
    group = sorted(curves.get("weightwatcher", ()), key=lambda curve: not curve.pinned)
    found = [
        int(layer) if depths is None else int(layer) / max(depths[curve.name], 1)
        for curve in group
        for layer in curve.table.loc[curve.table["name"] == name, "layer"]
    ]
    highlighted = group and group[0].pinned and name in set(group[0].table["name"])
    return found[0] if highlighted or len(set(found)) == 1 else None


def _visible(curves: Mapping[str, Sequence[Curve]], shown: str) -> tuple[dict[str, list[Curve]], str]:
    """The curves without the layers that are not asked for, and a sentence that says how many these are.

    What a layer is, WeightWatcher's table of the same model says, so both views keep the same layers. A model
    without such a table is drawn whole.
    """
    kept: dict[str, set[int]] = {}
    hidden = total = 0
    for curve in curves.get("weightwatcher", ()):
        table = curve.table
        if shown == "Weight matrices":
            wanted = ~table["reason"].fillna("").str.startswith(_NO_MATRIX)
        elif shown == "With a power-law fit":
            wanted = table["alpha"].notna()
        else:
            wanted = pd.Series(True, index=table.index)
        # A network of nothing else is not hidden whole.
        if wanted.any():
            kept[curve.name] = set(table.loc[wanted, "layer"])
            hidden += int((~wanted).sum())
        total += len(table)
    filtered = {
        kind: [
            Curve(curve.name, curve.table[curve.table["layer"].isin(kept[curve.name])], curve.pinned)
            if curve.name in kept
            else curve
            for curve in group
        ]
        for kind, group in curves.items()
    }
    if not hidden:
        return filtered, ""
    what = "normalisation layers, lone biases and scales" if shown == "Weight matrices" else "layers without a fit"
    return filtered, f"{hidden} of {total} layers hidden: {what}"


def layer_table(tables: Mapping[str, Mapping[str, pd.DataFrame]], name: str) -> None:
    """One table for one chosen model: all features of both views, and why a value is missing.

    Args:
        tables: Model name → kind → its layer table.
        name: For the CSV file.
    """
    if not tables:
        return
    if len(tables) > 1:
        state.keep_valid("layer-table", list(tables))
        chosen = st.selectbox(
            "Checkpoint", list(tables), format_func=one_line, key="layer-table", persist_state="session"
        )
    else:
        chosen = next(iter(tables))
    merged = merge_views(tables[chosen])
    show_table(merged, f"{name}-layers", columns={"why not": st.column_config.TextColumn(width="medium")})
    missing = merged.loc[merged["why not"] != "", "why not"] if "why not" in merged else pd.Series(dtype=str)
    show_caption(f"{len(merged)} layers · {len(missing)} with a value missing")


def merge_views(views: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The tables of one model side by side; columns are headed as in the pickers, reasons are joined."""
    merged: pd.DataFrame | None = None
    reasons: dict[str, str] = {}
    for kind, view in views.items():
        part = view.drop(columns=[c for c in ("row", "model", "epoch") if c in view]).reset_index(drop=True)
        said = {item.name: item.label for item in FEATURES.get(kind, ())}
        title = _SHORT.get(kind, kind)
        columns = [c for c in map(str, part) if c not in {"layer", "name"}]
        # What stands in brackets, a table takes for a unit.
        names = {
            c: f"{title} · {said.get(c, _OTHER.get(c, c)).replace(' (', ', ').replace(')', '')}" for c in columns
        }
        if "reason" in names:
            reasons[names["reason"]] = _TITLES.get(kind, kind)
        part = part.rename(columns=names)
        merged = part if merged is None else merged.merge(part.drop(columns="name"), on="layer", how="outer")
    if merged is None:
        return pd.DataFrame({"layer": [], "name": []})
    joined = [
        " ".join(f"{title}: {text}" for title, text in zip(reasons.values(), texts, strict=True) if text)
        for texts in merged[list(reasons)].fillna("").astype(str).itertuples(index=False)
    ]
    merged = merged.drop(columns=list(reasons))
    merged.insert(2, "why not", joined)
    return merged
