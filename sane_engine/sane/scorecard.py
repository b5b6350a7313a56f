"""The scorecard of an encoder on a zoo: what survives the way through the latents, split by split."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sane_engine.checkpoint import Refusal
from sane_engine.progress import CancelCheck, Progress, no_progress, stop_if
from sane_engine.sane.fidelity import decoded_accuracy, reconstruction

if TYPE_CHECKING:
    import pandas as pd

    from sane_engine.sane.model import Sane
    from sane_engine.zoo import Zoo


def scorecard(
    encoder: Sane, zoo: Zoo, *, progress: Progress = no_progress, cancelled: CancelCheck | None = None
) -> dict[str, Any]:
    """Reconstruction R² beside principal components of the same size, and the accuracy of decoded models.

    Args:
        encoder: Trained on the zoo's layout.
        zoo: The zoo, with its split.
        progress: Called with the checkpoints done.
        cancelled: Asked between chunks.

    Returns:
        Plain JSON values. By split: ``models``, ``checkpoints``, ``r2`` (method → R² about each tensor's mean),
        ``r2_weight`` (method → R² about each weight's mean over the training models; stricter) and, where the
        zoo's data set and architecture are known, ``accuracy``: mean over checkpoints of the test accuracy
        ``original``, ``decoded``, and the ``loss`` in percentage points (mean, standard deviation, worst). What
        needs training models of the zoo (controls, ``r2_weight``) is left out where it has none.

    Raises:
        Refusal: The encoder knows none of the zoo's layouts (``foreign-zoo``).
        Cancelled: ``cancelled`` returned true.
    """
    table = reconstruction(encoder, zoo, progress=progress, cancelled=cancelled)
    stop_if(cancelled)
    card: dict[str, Any] = {}
    splits = zoo.table["split"].to_numpy()
    for split, part in table[table["layer"] == "all"].groupby("split", sort=False):
        rows = np.flatnonzero(splits == split)
        by_method = part.set_index("method")
        card[str(split)] = {
            "models": int(zoo.table["model"].iloc[rows].nunique()),
            "checkpoints": int(part["models"].max()),
            "r2": _rounded(by_method["r2"]),
            "r2_weight": _rounded(by_method["r2_weight"]),
        }
        accuracy = _decoded(encoder, zoo, rows, cancelled)
        if accuracy is not None:
            card[str(split)]["accuracy"] = accuracy
    return card


def _rounded(scores: pd.Series[float]) -> dict[str, float]:
    """By method, without those that could not be measured."""
    return {str(name): round(float(value), 4) for name, value in scores.dropna().items()}


def _decoded(
    encoder: Sane, zoo: Zoo, rows: np.ndarray[Any, Any], cancelled: CancelCheck | None
) -> dict[str, float] | None:
    """Accuracy before and after; ``None`` where how to run the models is unknown, or their images are missing."""
    import torch

    from sane_engine.zoo.task import task_of_zoo

    try:
        task = task_of_zoo(zoo)
    except Refusal:
        return None
    with torch.inference_mode():
        found = decoded_accuracy(encoder, zoo, task.images, task.labels, rows, cancelled=cancelled)
    loss = 100.0 * (found["original"] - found["decoded"])
    return {
        "original": round(float(found["original"].mean()), 4),
        "decoded": round(float(found["decoded"].mean()), 4),
        "loss_points_mean": round(float(loss.mean()), 3),
        "loss_points_deviation": round(float(loss.std()), 3),
        "loss_points_worst": round(float(loss.max()), 3),
    }
