"""Inspect: drop checkpoints, see what is in them, their layer curves, and where they fall on the map."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import streamlit as st

from pages.components import state
from pages.components.charts import map_figure
from pages.components.current import Current, current, embedded
from pages.components.errors import explain, show_failure, show_refusal
from pages.components.hover import hover_texts
from pages.components.identity import identity_card
from pages.components.inspect_intake import intake
from pages.components.inspect_prediction import prediction
from pages.components.inspection import (
    Inspected,
    embed_model,
    files,
    placement,
    problems,
    spectral,
    universal_view,
)
from pages.components.labels import in_plot, short_label
from pages.components.layer_charts import Curve, bands
from pages.components.layer_views import KINDS, curve_pair, feature_pickers, layer_table
from pages.components.library import sane_layers, training_of
from pages.components.navigation import page
from pages.components.networks import Networks
from pages.components.palette import palette
from pages.components.show import inert, show_caption, show_figure, show_table, three
from pages.components.spectrum_section import Network, offered_layers, spectrum_section
from pages.components.symmetry_section import follow, symmetry_section
from pages.components.working import working
from sane_engine.demo import Precomputed
from sane_engine.progress import Progress
from sane_engine.projection import Placement
from sane_engine.sane.encoder_file import UNIVERSAL


def _curves(
    models: list[Inspected], now: Current | None, known: Precomputed | None
) -> dict[str, dict[str, pd.DataFrame]]:
    """Compute and draw both views of all networks; returns their tables by model and kind."""
    st.subheader("Layer curves", anchor=False)
    features = feature_pickers()
    tables: dict[str, dict[str, pd.DataFrame]] = {model.name: {} for model in models}
    with working("Looking at the layers") as progress:
        for i, model in enumerate(models):

            def report(done: int, total: int, message: str, /, i: int = i, name: str = model.name) -> None:
                progress(int(1000 * (i + done / max(total, 1))), 1000 * len(models), f"{name}: {message}")

            report(0, 1, "WeightWatcher")
            tables[model.name] |= _views(model, now if known is not None else None, report)
        universal = _universal(models, tables, known, progress)
    for model in models:
        for refusal in problems(model):
            show_refusal(refusal, model.name)
    curves = {kind: [Curve(name, views[kind]) for name, views in tables.items() if kind in views] for kind in KINDS}
    band: dict[str, pd.DataFrame | None] = {}
    caption = f"n = {len(models)} network{'' if len(models) == 1 else 's'}"
    if now is not None and known is not None:
        axes = {tuple(view["name"]) for views in tables.values() for view in views.values()}
        zoo_axis = known.embeddings.names_of(0)
        if axes == {zoo_axis} and not universal:
            last = now.zoo.table.index[now.zoo.table["epoch"] == now.zoo.table["epoch"].max()]
            known_tables = (known.weightwatcher, sane_layers(known))
            for kind, whole, item in zip(KINDS, known_tables, features, strict=True):
                band[kind] = bands(whole[whole["row"].isin(last)], item.name)
            caption += f" · band: last epoch of {now.name}, all splits"
        else:
            caption += f" · no band: other layers than {now.name}"
    if universal:
        caption += f" · encoder {UNIVERSAL}, for any architecture, trained on {training_of(UNIVERSAL)}"
    elif now is not None and known is not None:
        caption += f" · encoder {now.encoder}"
    spectra = _spectra(models, tables)
    offered_layers(spectra)
    curve_pair(curves, features, band, name="inspect", caption=caption)
    if spectra:
        spectrum_section(spectra, name="inspect")
    return tables


def _universal(
    models: list[Inspected],
    tables: dict[str, dict[str, pd.DataFrame]],
    known: Precomputed | None,
    progress: Progress,
) -> bool:
    """Where an encoder does not know one of the networks, SANE's tables of all by the universal one; whether so.

    Curves of two encoders in one plot could not be compared.
    """
    digest = "" if known is None else str(known.record["encoder_digest"])
    if all(not model.foreign.get(digest, True) for model in models):
        return False
    found = {}
    for i, model in enumerate(models):

        def report(done: int, total: int, message: str, /, i: int = i, name: str = model.name) -> None:
            progress(int(1000 * (i + done / max(total, 1))), 1000 * len(models), f"{name}: {message}")

        found[model.name] = universal_view(model, report)
    views = {name: view for name, view in found.items() if view is not None}
    for name, view in views.items():
        tables[name]["sane"] = view
    return bool(views)


def _views(model: Inspected, now: Current | None, progress: Progress) -> dict[str, pd.DataFrame]:
    """The layer tables of one network by kind; what fails is said, and the rest is shown."""
    views: dict[str, pd.DataFrame] = {}
    try:
        views["weightwatcher"] = spectral(model, progress)
        views["statistics"] = model.layers["statistics"]
    except (ValueError, RuntimeError, OSError) as error:
        show_failure(error, f"looking at the spectra of {model.name}")
    if now is not None:
        try:
            found = embed_model(model, now, progress)
        except (ValueError, RuntimeError, OSError) as error:
            show_failure(error, f"embedding {model.name}")
        else:
            views |= {} if found is None else {"sane": found}
    return {kind: views[kind] for kind in (*KINDS, "statistics") if kind in views}


def _spectra(models: list[Inspected], tables: dict[str, dict[str, pd.DataFrame]]) -> list[Network]:
    """The networks whose layers have spectra, coloured as in the curves."""
    found = [model for model in models if "weightwatcher" in tables[model.name]]
    return [
        Network(model.name, model.key, partial(getattr, model, "tensors"), tables[model.name]["weightwatcher"], i)
        for i, model in enumerate(found)
    ]


def _predictions(models: list[Inspected], now: Current, known: Precomputed) -> None:
    """What the zoo predicts for each network, or that it cannot."""
    st.subheader("Prediction", anchor=False)
    if now.accuracy is None:
        explain("The zoo says nothing of its models' accuracy, so nothing can be learnt from it.")
        return
    places = st.tabs([inert(model.name) for model in models]) if len(models) > 1 else [st.container()]
    for place, model in zip(places, models, strict=True):
        with place:
            prediction(model, now, known)


def _where(models: list[Inspected], now: Current, known: Precomputed) -> None:
    st.subheader("On the map", anchor=False)
    found = placement(models, now)
    if found is None:
        explain("None of these networks could be embedded, so none is on the map.", "The reason stands above.")
        return
    placed, where = found
    left, right = st.columns([1.6, 1], gap="medium")
    with left:
        _map(placed, where, now, known)
    with right:
        # One below the other, several verdicts would push the layer table off the screen.
        places = st.tabs([inert(model.name) for model in placed]) if len(placed) > 1 else [st.container()]
        for i, (place, model) in enumerate(zip(places, placed, strict=True)):
            with place:
                _verdict(model, where, i, now, known)


def _map(placed: list[Inspected], where: Placement, now: Current, known: Precomputed) -> None:
    projection = known.projections["models", "umap"]
    colour = now.accuracy or "epoch"
    table = now.zoo.table
    points = pd.DataFrame(
        {
            "x": projection.coordinates[:, 0],
            "y": projection.coordinates[:, 1],
            "row": np.arange(len(table)),
            "layer": -1,
            "hover": hover_texts(table, [colour] if colour != "epoch" else []),
            colour: table[colour].to_numpy(),
        }
    )
    colours = palette()
    figure = map_figure(
        points,
        colour,
        numeric=now.zoo.kind(colour) == "numeric",
        axes=("UMAP 1 (no unit)", "UMAP 2 (no unit)"),
        colours=colours,
        chosen=set(),
        dragmode="pan",
        height=460,
    )
    for i, model in enumerate(placed):
        x, y = (float(value) for value in where.coordinates[i])
        figure.add_scattergl(
            x=[x],
            y=[y],
            # One name fits beside its star; several, often at nearly the same place, stand in the legend.
            mode="markers+text" if len(placed) == 1 else "markers",
            text=[in_plot(model.name)],
            textposition="top center",
            name=in_plot(model.name),
            showlegend=len(placed) > 1,
            textfont={"color": colours.text},
            marker={
                "symbol": "star",
                "size": 17 if len(placed) == 1 else max(22 - 4 * i, 10),
                "color": colours.category(i),
                "line": {"width": 1.5, "color": colours.text},
            },
            hovertemplate=f"{in_plot(model.name)}<extra></extra>",
        )
    show_figure(
        figure,
        "inspect-map",
        f"{now.scope}, all splits · {len(placed)} placed among the {where.neighbours.shape[1]} nearest in the "
        f"embedding space · {projection.method.upper()}, seed {projection.seed} · "
        f"trustworthiness {three(projection.trustworthiness)}",
        alt=f"Map of the zoo with {len(placed)} networks placed on it",
    )


def _verdict(model: Inspected, where: Placement, i: int, now: Current, known: Precomputed) -> None:
    st.text(model.name)
    ratio, nearest_sd = float(where.ratio[i]), float(where.distances[i, 0])
    notes = model.notes.get(str(known.record["encoder_digest"]), ())
    if where.outside[i]:
        st.warning(
            inert(
                f"Outside what this zoo knows: its nearest model is {nearest_sd:.3g} sd away, while 95 % of the "
                f"zoo's own models have another within {nearest_sd / ratio:.3g} sd. "
                "Its place on the map says little."
            ),
            icon=":material/travel_explore:",
        )
    elif notes:
        show_caption(
            f"Near the zoo in the embedding ({three(ratio)} of the 95th percentile of the zoo's own nearest "
            "distances), but of another architecture: read its place with care."
        )
    else:
        show_caption(f"Inside the zoo: {three(ratio)} of the 95th percentile of the zoo's own nearest distances.")
    if model.zoo_row is not None:
        show_caption("A model of the zoo: its own epochs do not count as its neighbours.")
    for note in notes:
        said = note.removeprefix("1 of 1 models: ")
        show_caption(said[:1].upper() + said[1:])
    there = where.neighbours[i] >= 0
    rows = where.neighbours[i][there]
    nearest = now.zoo.table.iloc[rows][["model", "epoch"]].copy()
    if now.accuracy is not None:
        nearest[short_label(now.accuracy)] = now.zoo.table[now.accuracy].iloc[rows].to_numpy()
    nearest.insert(0, "distance (sd)", where.distances[i][there])
    show_table(nearest, f"nearest-{model.key}")


def _symmetry(models: list[Inspected], now: Current | None) -> None:
    """Dropped checkpoints and the opened model of the zoo, against each other or against the zoo."""
    opened = int(st.session_state.get(state.OPENED_MODEL) or 0)
    moving: list[int | str] = [opened if model.checkpoint is None else model.key for model in models]
    dropped = [model for model in models if model.checkpoint is not None]
    follow("inspect", tuple(moving))
    reference = now.pinned if now is not None else None
    symmetry_section(Networks(now, dropped), moving, reference=reference, name="inspect")


def _tell_apart(models: list[Inspected]) -> None:
    """Two files may have the same name; curves and tables need different ones."""
    names: set[str] = set()
    for model in models:
        if model.name in names:
            model.name = f"{model.name} ({model.key[:6]})"
        names.add(model.name)


def main() -> None:
    now = current()
    models = intake(now)
    if not models:
        if not files():
            explain(
                "Nothing to inspect yet.",
                "Drop a checkpoint above, or open a model of the zoo. Dropped files are private to this session "
                "and gone after a reload; to keep them, open a zip of them as a zoo in the sidebar and press Keep.",
            )
        return
    _tell_apart(models)
    tabs = st.tabs([inert(model.name) for model in models])
    for tab, model in zip(tabs, models, strict=True):
        with tab:
            identity_card(model)
    known = embedded(now) if now is not None else None
    tables = _curves(models, now, known)
    if now is not None and known is not None:
        _predictions(models, now, known)
        _where(models, now, known)
    _symmetry(models, now)
    st.subheader("Layers", anchor=False)
    layer_table(tables, "inspect")


with page("Inspect"):
    main()
