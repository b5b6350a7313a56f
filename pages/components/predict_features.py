"""Features that are at hand on the page without training: SANE's per layer, weight statistics, WeightWatcher."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pages.components.current import Current
from pages.components.library import digest_of, sane_layers
from pages.components.memory import Memory
from sane_engine.baselines import FEATURES, zoo_layer_features
from sane_engine.demo import Precomputed
from sane_engine.progress import Progress
from sane_engine.representations.layer_tables import by_layer
from sane_engine.zoo import Zoo

VIEWS = {"sane": "SANE, per layer", "weightwatcher": "WeightWatcher", "statistics": "Weight statistics s(W)"}

_LAYERED: Memory[Layered] = Memory(6)
_STATISTICS: Memory[pd.DataFrame] = Memory(4)


@dataclass(frozen=True)
class Layered:
    """Features by layer.

    Attributes:
        values: ``[n, L, f]``, finite.
        names: Names of the layers.
        note: What a reader should know, or empty.
    """

    values: NDArray[np.float32]
    names: tuple[str, ...]
    note: str = ""


def statistics_of(zoo: Zoo, progress: Progress) -> pd.DataFrame:
    """The weight statistics of all rows, computed once."""
    return _STATISTICS.get(digest_of(zoo), lambda: zoo_layer_features(zoo, None, "statistics", progress=progress))


def layer_table_of(view: str, now: Current, known: Precomputed, progress: Progress) -> pd.DataFrame:
    """One row a layer and checkpoint, in one of the three views."""
    if view == "weightwatcher":
        return known.weightwatcher
    return sane_layers(known) if view == "sane" else statistics_of(now.zoo, progress)


def layered(view: str, now: Current, known: Precomputed, progress: Progress) -> Layered | None:
    """The features of all rows by layer; None where the models differ in their layers or a view lacks rows."""
    names = known.embeddings.names_of(0)
    if len(known.embeddings.layer_names) > 1:
        return None
    key = (view, digest_of(now.zoo), str(known.record["encoder_digest"]))
    found = _LAYERED.peek(key)
    if found is None:
        if view == "sane":
            found = Layered(known.embeddings.layers, names)
        else:
            frame = layer_table_of(view, now, known, progress)
            if frame["row"].nunique() < len(now.zoo.table):
                return None
            found = _filled(frame, view, (now.zoo.table["split"] != "test").to_numpy(), names)
        _LAYERED.put(key, found)
    return found


def _filled(frame: pd.DataFrame, view: str, train: NDArray[np.bool_], names: tuple[str, ...]) -> Layered:
    """Gaps get the median of the training rows; features that no training row has are dropped to 0."""
    n = len(train)
    columns = [feature.name for feature in FEATURES[view]]
    values = by_layer(frame, columns, n).reshape(n, -1, len(columns))
    missing = ~np.isfinite(values)
    flat = np.where(missing, np.nan, values).reshape(n, -1)
    seen = np.isfinite(flat[train]).any(axis=0)
    medians = np.zeros(flat.shape[1])
    medians[seen] = np.nanmedian(flat[train][:, seen], axis=0)
    flat = np.where(seen, flat, 0.0)
    filled = np.where(np.isfinite(flat), flat, medians).reshape(values.shape)
    share = float(missing.any(axis=2).mean())
    note = f"{share:.0%} of the layers lack a value, filled by the training median" if share > 0 else ""
    return Layered(filled.astype(np.float32), names, note)
