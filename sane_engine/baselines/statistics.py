"""Simple statistics of weights and biases of each layer, vectorised over the models of a zoo.

Mean, population variance and the 0/25/50/75/100 % quantiles (linear interpolation) of the layer's weights and of
its biases: the features of Unterthiner et al., "Predicting neural network accuracy from weights" (2020). All in the
units of the weights (variance: squared). A layer without biases has NaN there, and no reason: nothing is missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from sane_engine.baselines.catalogue import FEATURES
from sane_engine.baselines.layer_axis import WeightLayer, weight_layers
from sane_engine.progress import CancelCheck, Progress, no_progress, stop_if

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray
    from torch import Tensor

    from sane_engine.zoo import Zoo

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
_COLUMNS = tuple(feature.name for feature in FEATURES["statistics"])
_N_MOMENTS = 2 + len(QUANTILES)
_MODELS_OF_CHUNK = 512


def moments(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Mean, variance and quantiles of each row.

    Args:
        values: Finite values [m, n], n ≥ 1.

    Returns:
        float64 [m, 7]: mean, population variance, quantiles 0/25/50/75/100 %.
    """
    import numpy as np

    values = values.astype(np.float64, copy=False)
    quantiles = np.quantile(values, QUANTILES, axis=1).T
    return np.concatenate([values.mean(axis=1, keepdims=True), values.var(axis=1)[:, None], quantiles], axis=1)


def _layer_statistics(
    stacked: Mapping[str, Tensor], layer: WeightLayer, n_models: int
) -> tuple[NDArray[np.float64], list[str]]:
    """Features [m, 14] of one layer of m models, and the reasons."""
    import numpy as np
    import torch

    cells = np.full((n_models, 2 * _N_MOMENTS), np.nan)
    reasons = [""] * n_models
    parts = ((layer.weight,), layer.biases)
    for part, names in enumerate(parts):
        tensors = [stacked[name].detach().reshape(n_models, -1).to(torch.float64) for name in names]
        values = torch.cat(tensors, dim=1).numpy() if tensors else np.empty((n_models, 0))
        if not values.shape[1]:
            if part == 0:
                reasons = ["The layer has no entries."] * n_models
            continue
        n_bad = values.shape[1] - np.isfinite(values).sum(axis=1)
        good = n_bad == 0
        if good.any():
            cells[good, part * _N_MOMENTS : (part + 1) * _N_MOMENTS] = moments(values[good])
        what = ("weights", "biases")[part]
        for model in np.flatnonzero(~good):
            sentence = f"{n_bad[model]:,} of {values.shape[1]:,} {what} are NaN or infinite."
            reasons[model] = f"{reasons[model]} {sentence}".strip()
    return cells, reasons


def _statistics(
    stacked: Mapping[str, Tensor],
    rows: Sequence[int],
    layers: Sequence[WeightLayer] | None = None,
    progress: Progress = no_progress,
    cancelled: CancelCheck | None = None,
) -> pd.DataFrame:
    """The table of m models that share a layout, given their tensors [m, …]."""
    import pandas as pd

    frames = []
    if layers is None:
        layers = weight_layers({name: tensor[0] for name, tensor in stacked.items()})
    for done, layer in enumerate(layers, 1):
        stop_if(cancelled)
        cells, reasons = _layer_statistics(stacked, layer, len(rows))
        progress(done, len(layers), "Weight statistics")
        frame = pd.DataFrame(cells, columns=list(_COLUMNS))
        frame.insert(0, "row", list(rows))
        frame.insert(1, "layer", layer.index)
        frame.insert(2, "name", layer.name)
        frame["reason"] = reasons
        frames.append(frame)
    if not frames:
        return pd.DataFrame(columns=["row", "layer", "name", *_COLUMNS, "reason"])
    return pd.concat(frames, ignore_index=True).sort_values(["row", "layer"], kind="stable", ignore_index=True)


class _OneModel(Mapping[str, "Tensor"]):
    """A model as a stack of one; each tensor is looked up when it is needed, which may read it from a file."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name][None]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def weight_statistics(
    tensors: Mapping[str, Tensor], *, progress: Progress = no_progress, cancelled: CancelCheck | None = None
) -> pd.DataFrame:
    """Statistics of every layer; see :func:`sane_engine.baselines.layer_features`."""
    layers = weight_layers(tensors)
    return _statistics(_OneModel(tensors), [0], layers, progress, cancelled).drop(columns="row")


def zoo_weight_statistics(
    zoo: Zoo, rows: Sequence[int], *, progress: Progress = no_progress, cancelled: CancelCheck | None = None
) -> pd.DataFrame:
    """Statistics of many checkpoints; see :func:`sane_engine.baselines.zoo_layer_features`."""
    import pandas as pd

    wanted = set(rows)
    frames = []
    done = 0
    for group in zoo.layout_groups():
        members = [int(row) for row in group if int(row) in wanted]
        for start in range(0, len(members), _MODELS_OF_CHUNK):
            stop_if(cancelled)
            chunk = members[start : start + _MODELS_OF_CHUNK]
            frames.append(_statistics(zoo.stacked(chunk), chunk))
            done += len(chunk)
            progress(done, len(rows), "Weight statistics")
    if not frames:
        return _statistics({}, [])
    return pd.concat(frames, ignore_index=True)
