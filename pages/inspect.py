"""Inspect: drop checkpoints, see what is in them, their layer curves, and where they fall on the map."""

from __future__ import annotations

from functools import partial

import pandas as pd
import streamlit as st

from pages.components import state
from pages.components.current import Current, current, embedded
from pages.components.errors import explain, show_failure, show_refusal
from pages.components.identity import identity_card
from pages.components.inspect_choice import choose_networks
from pages.components.inspect_intake import intake
from pages.components.inspect_map import on_the_map
from pages.components.inspect_prediction import prediction
from pages.components.inspection import (
    Inspected,
    embed_model,
    files,
    problems,
    spectral,
    universal_view,
)
from pages.components.layer_charts import Curve, bands
from pages.components.layer_views import KINDS, curve_pair, feature_pickers, layer_table
from pages.components.library import sane_layers, training_of
from pages.components.navigation import page
from pages.components.networks import Networks
from pages.components.spectrum_section import Network, offered_layers, spectrum_section
from pages.components.symmetry_section import follow, symmetry_section
from pages.components.working import working
from sane_engine.checkpoint import Refusal
from sane_engine.demo import Precomputed
from sane_engine.progress import Progress
from sane_engine.sane.encoder_file import UNIVERSAL


def _curves(
    models: list[Inspected], chosen: Inspected, now: Current | None, known: Precomputed | None
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
    curves = {
        kind: [
            Curve(model.name, tables[model.name][kind], pinned=model is chosen and len(models) > 1)
            for model in models
            if kind in tables[model.name]
        ]
        for kind in KINDS
    }
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
    spectra = sorted(_spectra(models, tables), key=lambda network: network.name != chosen.name)
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
    except Refusal as refusal:
        model.problems["spectra"] = refusal
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
    return [
        Network(model.name, model.key, partial(getattr, model, "tensors"), tables[model.name]["weightwatcher"], i)
        for i, model in enumerate(models)
        if "weightwatcher" in tables[model.name]
    ]


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
    shown, chosen = choose_networks(models)
    identity_card(chosen)
    known = embedded(now) if now is not None else None
    tables = _curves(shown, chosen, now, known)
    if now is not None and known is not None:
        st.subheader("Prediction", anchor=False)
        if now.accuracy is None:
            explain("The zoo says nothing of its models' accuracy, so nothing can be learnt from it.")
        else:
            prediction(chosen, now, known)
        st.subheader("On the map", anchor=False)
        on_the_map(shown, chosen, now, known)
    _symmetry(shown, now)
    st.subheader("Layers", anchor=False)
    layer_table({chosen.name: tables[chosen.name]}, "inspect")


with page("Inspect"):
    main()
