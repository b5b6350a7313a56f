"""Where the networks of the page Inspect fall on the zoo's map, and what is near."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import streamlit as st

from pages.components.charts import map_figure
from pages.components.current import Current
from pages.components.errors import explain
from pages.components.hover import hover_texts
from pages.components.inspection import Inspected, placement
from pages.components.labels import in_plot, short_label
from pages.components.palette import palette
from pages.components.show import inert, show_caption, show_figure, show_table, three
from sane_engine.demo import Precomputed
from sane_engine.projection import Placement


def on_the_map(models: Sequence[Inspected], chosen: Inspected, now: Current, known: Precomputed) -> None:
    """The map with a star for each network, and the verdict on the chosen one.

    Args:
        models: In the order of their colours.
        chosen: One of them; its star is the largest.
        now: The zoo.
        known: Its embeddings.
    """
    found = placement(list(models), now)
    if found is None:
        explain("None of these networks could be embedded, so none is on the map.", "The reason stands above.")
        return
    placed, where = found
    left, right = st.columns([1.6, 1], gap="medium")
    with left:
        _map(placed, {model.key: i for i, model in enumerate(models)}, chosen, where, now, known)
    with right:
        if chosen in placed:
            _verdict(chosen, where, placed.index(chosen), now, known)
        else:
            explain(f"{chosen.name} could not be embedded, so it is not on the map.", "The reason stands above.")


def _map(
    placed: Sequence[Inspected],
    colour_of: Mapping[str, int],
    chosen: Inspected,
    where: Placement,
    now: Current,
    known: Precomputed,
) -> None:
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
    # The chosen one last: it lies on top, and is the only one with its name beside it.
    for i in sorted(range(len(placed)), key=lambda i: placed[i] is chosen):
        model, (x, y) = placed[i], (float(value) for value in where.coordinates[i])
        figure.add_scattergl(
            x=[x],
            y=[y],
            mode="markers+text" if model is chosen else "markers",
            text=[in_plot(model.name)],
            textposition="top center",
            name=in_plot(model.name),
            showlegend=len(placed) > 1,
            textfont={"color": colours.text},
            marker={
                "symbol": "star" if model is chosen else "star-diamond",
                "size": 18 if model is chosen else 10,
                "color": colours.category(colour_of[model.key]),
                "line": {"width": 1.5 if model is chosen else 0.8, "color": colours.text},
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
    there = where.neighbours[i] >= 0
    if not there.any():
        explain("The zoo has no other model to compare it with.")
        return
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
    rows = where.neighbours[i][there]
    nearest = now.zoo.table.iloc[rows][["model", "epoch"]].copy()
    if now.accuracy is not None:
        nearest[short_label(now.accuracy)] = now.zoo.table[now.accuracy].iloc[rows].to_numpy()
    nearest.insert(0, "distance (sd)", where.distances[i][there])
    show_table(nearest, f"nearest-{model.key}")
