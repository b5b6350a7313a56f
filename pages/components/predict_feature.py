"""A property over any single feature of the networks: the paper's question to WeightWatcher's alpha and to SANE."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import streamlit as st

from pages.components import state
from pages.components.charts import map_figure
from pages.components.choices import choose, choose_property
from pages.components.current import Current, embedded
from pages.components.errors import explain
from pages.components.hover import hover_texts
from pages.components.labels import label
from pages.components.palette import palette
from pages.components.predict_beside import FAMILY, Family, others, pick_others, together
from pages.components.predict_features import VIEWS, layer_table_of
from pages.components.show import inert, show_caption, show_figure, show_table, three
from pages.components.working import working
from sane_engine.baselines import FEATURES, feature
from sane_engine.probing.folds import groups_of
from sane_engine.probing.single_feature import Correlation, correlate
from sane_engine.zoo.table import kind_of

if TYPE_CHECKING:
    from sane_engine.zoo import Zoo

ALL_LAYERS = "mean over layers"
_PREFERRED = {"weightwatcher": "alpha", "sane": "pc1", "statistics": "weight_var"}


def feature_view(now: Current) -> None:
    """Choose a feature, a layer and a property; see the scatter and the ranking of all features."""
    known = embedded(now)
    if known is None:
        return
    numeric = [name for name in now.zoo.properties if now.zoo.kind(name) == "numeric" and name != "seed"]
    if not numeric:
        explain("This zoo has no numeric property.", "Open a zoo with a table of properties.")
        return
    a, b, c, d, e = st.columns(5)
    view = choose(
        a, "Feature of", list(VIEWS), state.FEATURE_VIEW, default="weightwatcher", shown=VIEWS.__getitem__
    )
    names = [item.name for item in FEATURES[view]]
    chosen = choose(
        b,
        "Feature",
        names,
        state.FEATURE_NAME,
        default=_PREFERRED[view],
        shown=lambda name: feature(view, name).label,
    )
    with working("Looking at the layers") as progress:
        own = Family(now.name, now.zoo, layer_table_of(view, now, known, progress))
    frame = own.frame
    layers = [ALL_LAYERS, *dict.fromkeys(frame["name"].tolist())][:200]
    layer = choose(c, "Layer", layers, state.FEATURE_LAYER, default=ALL_LAYERS)
    target = choose_property(d, "Property", numeric, state.PREDICT_TARGET, default=now.accuracy)
    keys = pick_others(now)
    with working("Looking at the other zoos") as progress:
        families = [own, *others(view, keys, now, known, progress)]
    shared = set.intersection(*(set(family.zoo.table.columns) for family in families))
    colours = [name for name in ("family", *now.zoo.properties) if name in shared]
    if len(families) > 1:
        colours.insert(0, FAMILY)
        if st.session_state.get("feature-beside-before") != keys:
            st.session_state["feature-colour"] = FAMILY  # what was asked for is to be seen at once
    st.session_state["feature-beside-before"] = keys
    colour = choose_property(e, "Colour", colours, "feature-colour", default="epoch")
    values = by_model(frame, names, layer, len(now.zoo.table))
    left, right = st.columns([1.5, 1], gap="medium")
    with left:
        _scatter(now, families, view, chosen, layer, target, colour)
    with right:
        st.subheader("All features", anchor=False)
        if len(families) > 1:
            show_caption(f"Of {inert(now.name)}.")
        show_table(ranking(values, now.zoo, view, target), f"features-{now.name}-{view}-{target}", height=440)


def by_model(frame: pd.DataFrame, names: list[str], layer: str, n_rows: int) -> pd.DataFrame:
    """One number a feature and checkpoint: that of a layer, or the mean over the layers that have one."""
    part = frame if layer == ALL_LAYERS else frame[frame["name"] == layer]
    return part.groupby("row")[names].mean().reindex(range(n_rows))


def ranking(values: pd.DataFrame, zoo: Zoo, view: str, target: str) -> pd.DataFrame:
    """Every feature with its rank correlation, the strongest first; intervals by drawing whole models."""
    truth = zoo.table[target].to_numpy(dtype=float, na_value=np.nan)
    groups = groups_of(zoo.table)
    rows = []
    for name in values.columns:
        found = correlate(values[name].to_numpy(dtype=float), truth, groups)
        if found is not None:
            rows.append(
                {
                    "feature": feature(view, str(name)).label,
                    "Spearman's ρ": found.rho,
                    "low": found.low,
                    "high": found.high,
                    "Kendall's τ": found.tau,
                    "n": found.n,
                }
            )
    table = pd.DataFrame(rows, columns=["feature", "Spearman's ρ", "low", "high", "Kendall's τ", "n"])
    return table.sort_values("Spearman's ρ", key=np.abs, ascending=False, ignore_index=True)


def said_of(found: Correlation | None) -> str:
    """The correlation as a caption says it."""
    if found is None:
        return "no correlation: a column never varies, or too few values"
    interval = f" (95 % interval {three(found.low)} to {three(found.high)})" if found.low == found.low else ""
    return (
        f"Spearman's ρ = {three(found.rho)}{interval}, Kendall's τ = {three(found.tau)}, n = {found.n} checkpoints "
        f"of {found.n_groups} models, all splits, bootstrap over models, seed {found.seed}"
    )


def _scatter(
    now: Current, families: list[Family], view: str, name: str, layer: str, target: str, colour: str
) -> None:
    item = feature(view, name)
    placed = [
        (family, by_model(family.frame, [name], layer, len(family.zoo.table))[name].to_numpy())
        for family in families
        if target in family.zoo.table
    ]
    points = together(placed, list(dict.fromkeys(["model", "epoch", target, *({colour} - {FAMILY})])))
    points["y"] = points[target].to_numpy(dtype=float, na_value=np.nan)
    points["hover"] = hover_texts(points, [target])
    points = points[np.isfinite(points["x"]) & np.isfinite(points["y"])].reset_index(drop=True)
    if not len(points):
        explain(f"{VIEWS[view]} has no {item.label} for this layer.", "Choose another layer or feature.")
        return
    where = layer if layer == ALL_LAYERS else f"layer {layer}"
    figure = map_figure(
        points,
        colour,
        numeric=kind_of(points[colour]) == "numeric",
        axes=(f"{item.label}, {where}", label(target)),
        colours=palette(),
        chosen=set(),
        dragmode="pan",
        pinned=now.pinned,
        height=440,
    )
    figure.update_xaxes(title=f"{item.label} ({where})")
    said = [item.meaning]
    for family, x in placed:
        truth = family.zoo.table[target].to_numpy(dtype=float, na_value=np.nan)
        found = said_of(correlate(x, truth, groups_of(family.zoo.table)))
        said.append(found if len(placed) == 1 else f"{family.name}: {found}.")
    if view == "sane":
        said.append(f"· encoder {now.encoder}")
    text = " ".join(said)
    show_figure(figure, f"feature-{now.name}-{view}-{name}-{target}", text, alt=f"{target} over {item.label}")
