"""The weights themselves, as they are or aligned to the mean of the training models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

import numpy as np

from sane_engine.checkpoint import Refusal
from sane_engine.progress import CancelCheck, Progress, no_progress, stop_if
from sane_engine.representations.protocol import Features, as_features, one_layout

if TYPE_CHECKING:
    from torch import Tensor

    from sane_engine.sane.alignment import Aligner
    from sane_engine.zoo import Zoo

_MODELS_AT_ONCE = 512
# Only how the aligner reads the models; their weights come back as they are.
_TOKEN_SIZE = 64


def flattened(stacked: Mapping[str, Tensor]) -> Features:
    """All floating-point entries of stacked models ``[m, …]``, one row a model ``[m, p]``."""
    parts = [tensor.flatten(1).float().numpy() for tensor in stacked.values() if tensor.is_floating_point()]
    return as_features(np.concatenate(parts, axis=1))


class RawWeights:
    """All weights of a model, one after another."""

    name = "raw"

    def fit(self, train: Zoo, *, progress: Progress = no_progress, cancelled: CancelCheck | None = None) -> Self:
        """Nothing to learn."""
        one_layout(train, "A representation by raw weights")
        return self

    def transform(
        self, zoo: Zoo, *, progress: Progress = no_progress, cancelled: CancelCheck | None = None
    ) -> Features:
        """``[len(zoo), weights]``."""
        one_layout(zoo, "A representation by raw weights")
        parts = []
        for start in range(0, len(zoo), _MODELS_AT_ONCE):
            stop_if(cancelled)
            rows = range(start, min(start + _MODELS_AT_ONCE, len(zoo)))
            parts.append(flattened(zoo.stacked(rows)))
            progress(rows.stop, len(zoo), "raw weights")
        return np.concatenate(parts)


class AlignedWeights:
    """All weights, hidden units in the order, and with the signs, closest to the mean of the training models.

    The mean is that of the aligned training models. Signs flip only where the activation of all models is odd.
    """

    name = "aligned"

    def __init__(self) -> None:
        self._aligner: Aligner | None = None

    def fit(self, train: Zoo, *, progress: Progress = no_progress, cancelled: CancelCheck | None = None) -> Self:
        """Find the symmetry and make the reference.

        Raises:
            Refusal: The models differ in layout, or nothing is known of their symmetry (``unknown-symmetry``).
        """
        from sane_engine.sane.alignment import fit_aligner, symmetries_of

        one_layout(train, "Alignment")
        rows = np.arange(len(train), dtype=np.int64)
        symmetries = symmetries_of(train, rows, _TOKEN_SIZE)
        if not symmetries:
            raise Refusal(
                "unknown-symmetry", "Nothing is known of these networks' symmetry.", "Use another representation."
            )
        self._aligner = fit_aligner(train, rows, _TOKEN_SIZE, symmetries, cancelled=cancelled)
        return self

    def transform(
        self, zoo: Zoo, *, progress: Progress = no_progress, cancelled: CancelCheck | None = None
    ) -> Features:
        """``[len(zoo), weights]``."""
        from sane_engine.tokens import detokenize_batch, tokenize_batch

        if self._aligner is None:
            raise RuntimeError("fit first")
        one_layout(zoo, "Alignment")
        parts = []
        for start in range(0, len(zoo), _MODELS_AT_ONCE):
            stop_if(cancelled)
            rows = range(start, min(start + _MODELS_AT_ONCE, len(zoo)))
            batch = self._aligner.align(tokenize_batch(zoo.stacked(rows), _TOKEN_SIZE), cancelled=cancelled)
            parts.append(flattened(detokenize_batch(batch)))
            progress(rows.stop, len(zoo), "aligning")
        return np.concatenate(parts)
