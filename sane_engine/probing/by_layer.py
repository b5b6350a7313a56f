"""Which layer carries the signal: the same probe on each layer's features by itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sane_engine.probing.held_out import probe
from sane_engine.progress import CancelCheck, Progress, no_progress


def probe_layers(
    layers: NDArray[np.floating],
    names: Sequence[str],
    table: pd.DataFrame,
    target: str,
    *,
    seed: int = 0,
    progress: Progress = no_progress,
    cancelled: CancelCheck | None = None,
) -> pd.DataFrame:
    """Probe each layer alone, and all together.

    Args:
        layers: Features ``[n, L, f]``, finite; every checkpoint has every layer.
        names: Names of the layers ``[L]``.
        table: One row a checkpoint, with its split.
        target: Column to predict.
        seed: Of the inner folds.
        progress: Called with layers done.
        cancelled: Asked between layers.

    Returns:
        ``layer`` (index, −1 for all together), ``name``, ``score`` (R² or balanced accuracy on held-out models),
        ``kendall_tau``, ``n_train_models``, ``n_test_models``.
    """
    values = np.asarray(layers)
    rows = []
    for index in (*range(values.shape[1]), -1):
        part = values.reshape(len(values), -1) if index < 0 else values[:, index]
        found = probe(part, table, target, seed=seed, cancelled=cancelled)
        rows.append(
            {
                "layer": index,
                "name": "all layers" if index < 0 else names[index],
                "score": found.headline,
                "kendall_tau": found.kendall_tau,
                "n_train_models": found.n_train_models,
                "n_test_models": found.n_test_models,
            }
        )
        progress(len(rows), values.shape[1] + 1, f"probing {rows[-1]['name']}")
    return pd.DataFrame(rows)
