"""What a representation is: fitted on training models, then a vector for every model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from sane_engine.checkpoint import Refusal
from sane_engine.progress import CancelCheck, Progress, no_progress

if TYPE_CHECKING:
    from sane_engine.zoo import Zoo

Features = NDArray[np.float32]


class Representation(Protocol):
    """Turns models into vectors. Structural: a class anywhere fits that has these three members."""

    name: str

    def fit(self, train: Zoo, *, progress: Progress = no_progress, cancelled: CancelCheck | None = None) -> Self:
        """Learn from training models; no label is looked at, but by representations that say so (functional).

        Args:
            train: The training rows only.
            progress: Called with steps done and in all.
            cancelled: Asked between steps.
        """

    def transform(
        self, zoo: Zoo, *, progress: Progress = no_progress, cancelled: CancelCheck | None = None
    ) -> Features:
        """The vectors of any models of the same layouts: ``[len(zoo), k]``, finite."""


def as_features(values: NDArray[np.floating]) -> Features:
    """As float32, with the limits of float32 in place of infinities and 0 in place of NaN."""
    limit = float(np.finfo(np.float32).max) / 16
    return np.asarray(np.nan_to_num(np.clip(values, -limit, limit), nan=0.0), dtype=np.float32)


def one_layout(zoo: Zoo, what: str) -> None:
    """Refuse zoos whose models differ in names or shapes of tensors.

    Raises:
        Refusal: They do (``mixed-layouts``).
    """
    if len(zoo.layout_groups()) > 1:
        raise Refusal(
            "mixed-layouts", f"{what} compares weight with weight, and these models differ.", "Take one layout."
        )
