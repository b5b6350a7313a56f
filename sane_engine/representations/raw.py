"""The weights themselves, as they are or aligned to one training model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

import numpy as np

from sane_engine.checkpoint import Refusal
from sane_engine.progress import CancelCheck, Progress, no_progress, stop_if
from sane_engine.representations.protocol import Features, as_features, one_layout

if TYPE_CHECKING:
    from torch import Tensor

    from sane_engine.symmetry import Symmetry
    from sane_engine.zoo import Zoo

_MODELS_AT_ONCE = 512


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
    """All weights after bringing hidden units into the order, and signs, closest to one training model.

    The reference is the last checkpoint of the first training model. Signs are flipped only where the activation of
    all models is odd.
    """

    name = "aligned"

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self._reference: Mapping[str, Tensor] | None = None
        self._symmetry: Symmetry | None = None

    def fit(self, train: Zoo, *, progress: Progress = no_progress, cancelled: CancelCheck | None = None) -> Self:
        """Choose the reference and find the symmetry.

        Raises:
            Refusal: The models differ in layout, or nothing is known of their symmetry (``unknown-symmetry``).
        """
        from sane_engine.symmetry import symmetry_of_zoo

        one_layout(train, "Alignment")
        symmetry = symmetry_of_zoo(train)
        if not symmetry.groups:
            raise Refusal(
                "unknown-symmetry", "Nothing is known of these networks' symmetry.", "Use another representation."
            )
        table = train.table
        first = table["model"] == table["model"].iloc[0]
        self._reference = train.tensors(int(table["epoch"][first].idxmax()))
        self._symmetry = symmetry
        return self

    def transform(
        self, zoo: Zoo, *, progress: Progress = no_progress, cancelled: CancelCheck | None = None
    ) -> Features:
        """``[len(zoo), weights]``."""
        from sane_engine.symmetry import align_zoo

        if self._reference is None or self._symmetry is None:
            raise RuntimeError("fit first")
        one_layout(zoo, "Alignment")
        parts = []
        for start in range(0, len(zoo), _MODELS_AT_ONCE):
            stop_if(cancelled)
            rows = range(start, min(start + _MODELS_AT_ONCE, len(zoo)))
            aligned = align_zoo(zoo.stacked(rows), self._reference, self._symmetry, seed=self.seed)
            parts.append(flattened(aligned))
            progress(rows.stop, len(zoo), "aligning")
        return np.concatenate(parts)
