"""What the zoo says of a network it has not seen: accuracy, epoch and gap with intervals, or that it cannot say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import streamlit as st

from pages.components.current import Current
from pages.components.inspection import Inspected
from pages.components.labels import label, short_label
from pages.components.library import digest_of
from pages.components.memory import Memory
from pages.components.show import inert, show_caption, show_table, three
from sane_engine.demo import Precomputed
from sane_engine.probing.targets import MAIN

if TYPE_CHECKING:
    from sane_engine.probing import Predictor

_PREDICTORS: Memory[tuple[Predictor, ...]] = Memory(12)


def predictors(now: Current, known: Precomputed, without: str = "") -> tuple[Predictor, ...]:
    """Predictors of the main properties, fitted on all models of the zoo but one.

    Args:
        now: The zoo.
        known: Its embeddings.
        without: The group to leave out: that of a model of the zoo that is to be predicted.
    """
    from sane_engine.probing import fit_predictor, probe_targets
    from sane_engine.probing.folds import groups_of

    def fit() -> tuple[Predictor, ...]:
        table = now.zoo.table
        groups = groups_of(table)
        rows = np.flatnonzero(groups != without)
        features = known.embeddings.layerwise[rows]
        part = table.iloc[rows].reset_index(drop=True)
        wanted = [name for name in probe_targets(table) if name in MAIN]
        return tuple(fit_predictor(features, part, name) for name in wanted)

    return _PREDICTORS.get((digest_of(now.zoo), str(known.record["encoder_digest"]), without), fit)


def prediction(model: Inspected, now: Current, known: Precomputed) -> None:
    """One network: a table of predictions, or one line that says why there are none."""
    layers = model.layer_vectors.get(str(known.record["encoder_digest"]))
    if len(known.embeddings.layer_names) > 1 or layers is None or layers.shape != known.embeddings.layers.shape[1:]:
        show_caption(
            f"No prediction: this network has another architecture than those of {now.name}, so nothing that the "
            "zoo knows can be carried over to it."
        )
        return
    groups = now.zoo.table[now.zoo.group_column].astype(str)
    row = model.zoo_row
    found = predictors(now, known, "" if row is None else str(groups.iloc[row]))
    if not found:
        return
    guesses = [predictor.predict(layers.reshape(1, -1)) for predictor in found]
    distance = float(guesses[0].outside[0])
    if distance > 1:
        st.warning(
            inert(
                f"Outside what this zoo knows: {three(distance)} times the distance below which 98 % of its own "
                "held-out checkpoints lie. Nothing is predicted."
            ),
            icon=":material/travel_explore:",
        )
        return
    table = pd.DataFrame(
        {
            "property": [label(predictor.target) for predictor in found],
            "predicted": [float(guess.value[0]) for guess in guesses],
            "from": [_finite(guess.low[0]) for guess in guesses],
            "to": [_finite(guess.high[0]) for guess in guesses],
        }
    )
    if row is not None:
        table["true"] = [float(now.zoo.table[predictor.target].iloc[row]) for predictor in found]
    show_table(table, f"prediction-{model.key}")
    n = len(set(groups)) - (row is not None)
    fits = ", ".join(f"{short_label(p.target)} {three(p.ridge.r2)}" for p in found)
    show_caption(
        f"Ridge on SANE's layer vectors of {n} models{'' if row is None else ', this one left out'} · "
        f"{found[0].level:.0%} conformal intervals · R² by inner cross-validation: {fits} · "
        f"encoder {now.encoder} · {three(distance)} of the distance at which a network counts as outside"
    )


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
