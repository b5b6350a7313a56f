"""An encoder's scorecard: how much of a network its latents keep, beside principal components of the same size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st

from pages.components.errors import explain, show_refusal
from pages.components.library import encoder_provenance, training_of
from pages.components.show import inert, show_caption, show_table
from sane_engine.checkpoint import Refusal

_SPLITS = ("test", "validation", "train")
_METHODS = {
    "sane": "R² SANE",
    "pca": "R² PCA, all tokens",
    "pca-layer": "R² PCA, each layer",
    "pca-position": "R² PCA, each position",
}


def scorecard_table(metrics: Mapping[str, Any]) -> pd.DataFrame:
    """One row a split, held-out ones first; accuracies as fractions, their loss in percentage points."""
    rows = []
    for split in (*_SPLITS, *(name for name in metrics if name not in _SPLITS)):
        found = metrics.get(split)
        if not isinstance(found, Mapping):
            continue
        row: dict[str, Any] = {
            "split": split,
            "models": found.get("models"),
            "checkpoints": found.get("checkpoints"),
        }
        scores = found.get("r2") or {}
        row |= {title: scores.get(method) for method, title in _METHODS.items()}
        accuracy = found.get("accuracy") or {}
        row["test accuracy"] = accuracy.get("original")
        row["… decoded"] = accuracy.get("decoded")
        row["loss (points)"] = accuracy.get("loss_points_mean")
        rows.append(row)
    table = pd.DataFrame(rows)
    return table.dropna(axis="columns", how="all")


def scorecard(encoder: str | None, zoo_digest: str) -> None:
    """Draw the scorecard of an encoder, or say how to get one."""
    if encoder is None:
        explain("There is no encoder yet.", "Pretrain one on the page Train.")
        return
    try:
        provenance = encoder_provenance(encoder)
    except Refusal as refusal:
        show_refusal(refusal, encoder)
        return
    metrics = provenance.get("metrics")
    if not isinstance(metrics, Mapping) or not metrics:
        explain(
            f"Nobody has measured what {encoder} keeps of a network.",
            f"Measure it with: python -m sane_engine reconstruct ZOO --encoder {encoder}",
        )
        return
    trained_on = str(provenance.get("zoo", "a zoo without a name"))
    other = "" if provenance.get("zoo_digest") == zoo_digest else ", not on the zoo shown here"
    if said := training_of(encoder):
        trained_on, other = said, "; scores are of all of these together"
    show_table(scorecard_table(metrics), f"{encoder}-scorecard", columns=_formats())
    show_caption(
        f"Encoder {encoder}, trained on {trained_on}{other} · R²: share of the weights' variance that comes back "
        "after encoding and decoding; PCA: as many numbers a token · accuracy of the decoded networks, "
        "loss = original − decoded, mean over checkpoints · split by model"
    )


def _formats() -> dict[str, Any]:
    return {
        "loss (points)": st.column_config.NumberColumn(format="%+.2f"),
        **{inert(title): st.column_config.NumberColumn(format="%.3f") for title in _METHODS.values()},
    }
