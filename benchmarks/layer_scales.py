"""A handful of strong features a layer: how large its weights are, and how far they have come from their start."""

from __future__ import annotations

from typing import Self

import numpy as np
import torch
from torch import Tensor

from sane_engine.progress import CancelCheck, Progress, no_progress
from sane_engine.representations.protocol import Features, as_features
from sane_engine.zoo import Zoo

_TINY = 1e-12


class LayerScales:
    """Of every weight tensor: log Frobenius and spectral norm, log median singular value, stable rank, kurtosis.

    Training moves a few directions and leaves the rest where initialisation put it: the median singular value tells
    the start, the largest the way from there. Of every bias: log norm. Then the sums of log norms over layers.
    """

    name = "scales"

    def fit(self, train: Zoo, *, progress: Progress = no_progress, cancelled: CancelCheck | None = None) -> Self:
        """Nothing to learn."""
        return self

    def transform(
        self, zoo: Zoo, *, progress: Progress = no_progress, cancelled: CancelCheck | None = None
    ) -> Features:
        """``[len(zoo), 5 · weights + biases + 2]``."""
        columns: list[Tensor] = []
        frobenius, spectral = torch.zeros(len(zoo)), torch.zeros(len(zoo))
        for tensor in zoo.stacked().values():
            flat = tensor.double().flatten(1)
            size = _log(flat.norm(dim=1))
            if tensor.dim() < 3:
                columns.append(size)
                continue
            values = torch.linalg.svdvals(tensor.double().flatten(2))
            largest, median = _log(values[:, 0]), _log(values.median(dim=1).values)
            centred = flat - flat.mean(dim=1, keepdim=True)
            kurtosis = _log((centred**4).mean(dim=1) / (centred**2).mean(dim=1) ** 2)
            columns += [size, largest, median, 2 * (size - largest), kurtosis]
            frobenius, spectral = frobenius + size, spectral + largest
        return as_features(np.stack([column.numpy() for column in (*columns, frobenius, spectral)], axis=1))


def _log(values: Tensor) -> Tensor:
    return values.clamp(min=_TINY).log()
