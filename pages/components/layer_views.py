"""The pair of layer curves and the table below it, as the pages Layers and Inspect show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import streamlit as st

from pages.components import state
from pages.components.errors import explain
from pages.components.layer_charts import Curve, layer_curves
from pages.components.palette import palette
from pages.components.show import inert, show_caption, show_figure, show_table
from sane_engine.baselines import FEATURES, Feature, feature

KINDS = ("weightwatcher", "sane")
_TITLES = {"weightwatcher": "WeightWatcher", "sane": "SANE"}
_FIRST_CHOICE = {"weightwatcher": "alpha", "sane": "norm"}
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
    state.keep_valid("only-spectral", (False, True))
    only = st.toggle(
        "Only layers with a spectrum",
        key="only-spectral",
        persist_state="session",
        help="Leave out normalisation layers and other layers that WeightWatcher has no values for, in both views.",
    )
    if only:
        curves = _with_spectrum(curves)
    n_layers = 1 + max((int(curve.table["layer"].max()) for group in curves.values() for curve in group), default=0)
    for kind, item, column in zip(KINDS, features, st.columns(2, gap="medium"), strict=True):
        with column:
            group, behind = curves.get(kind, ()), band.get(kind)
            if not group and behind is None:
                explain(f"There is nothing to draw for {_TITLES[kind]}.", "See the note above.")
                continue
            figure = layer_curves(
                group, item.name, axis_title(item), band=behind, n_layers=n_layers, colours=palette()
            )
            drawn = sum(int(curve.table[item.name].notna().any()) for curve in group)
            skipped = sum(int(curve.table[item.name].isna().sum()) for curve in group)
            said = f"{_TITLES[kind]} · {drawn} curve{'' if drawn == 1 else 's'} · {caption}"
            if behind is not None and len(behind):
                said += f" · n = {int(behind['n'].max())} checkpoints in the band"
            if skipped:
                said += f" · {skipped} layer value{'' if skipped == 1 else 's'} missing, reasons in the table"
            show_figure(figure, f"{name}-{kind}-{item.name}", said, alt=f"{item.label} over the layer index")


def _with_spectrum(curves: Mapping[str, Sequence[Curve]]) -> dict[str, list[Curve]]:
    """The curves without the layers where WeightWatcher has no alpha for the same model."""
    seen = {
        curve.name: set(curve.table.loc[curve.table["alpha"].notna(), "layer"])
        for curve in curves.get("weightwatcher", ())
    }
    return {
        kind: [
            Curve(curve.name, curve.table[curve.table["layer"].isin(seen.get(curve.name, set()))], curve.pinned)
            for curve in group
        ]
        for kind, group in curves.items()
    }


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
            "Checkpoint", list(tables), format_func=inert, key="layer-table", persist_state="session"
        )
    else:
        chosen = next(iter(tables))
    merged = merge_views(tables[chosen])
    show_table(merged, f"{name}-layers", columns={"why not": st.column_config.TextColumn(width="medium")})
    missing = merged.loc[merged["why not"] != "", "why not"] if "why not" in merged else pd.Series(dtype=str)
    show_caption(f"{len(merged)} layers · {len(missing)} with a value missing")


def merge_views(views: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The tables of one model side by side; columns of each kind are named after it, reasons are joined."""
    merged: pd.DataFrame | None = None
    for kind, view in views.items():
        part = view.drop(columns=[c for c in ("row", "model", "epoch") if c in view]).reset_index(drop=True)
        title = _TITLES.get(kind, kind)
        names = {column: f"{title} {column}" for column in part if column not in {"layer", "name"}}
        part = part.rename(columns=names)
        merged = part if merged is None else merged.merge(part.drop(columns="name"), on="layer", how="outer")
    if merged is None:
        return pd.DataFrame({"layer": [], "name": []})
    reasons = [column for column in map(str, merged.columns) if column.endswith(" reason")]
    joined = [
        " ".join(
            f"{column.removesuffix(' reason')}: {text}" for column, text in zip(reasons, texts, strict=True) if text
        )
        for texts in merged[reasons].fillna("").astype(str).itertuples(index=False)
    ]
    merged = merged.drop(columns=reasons)
    merged.insert(2, "why not", joined)
    return merged
