"""What a network does with noise: a baseline that needs the architecture and a forward pass, but no data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import numpy as np

from sane_engine.checkpoint import Refusal
from sane_engine.progress import CancelCheck, Progress, no_progress, stop_if
from sane_engine.representations.protocol import Features, as_features

if TYPE_CHECKING:
    from sane_engine.zoo import Zoo
    from sane_engine.zoo.architecture_families import Architecture


class NoiseBehaviour:
    """Path norms, activations of each layer and the spread of the outputs on fixed noise, white and smooth.

    What :func:`sane_engine.behaviour.answers.answers` says.
    """

    name = "behaviour"

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def fit(self, train: Zoo, *, progress: Progress = no_progress, cancelled: CancelCheck | None = None) -> Self:
        """Nothing to learn; see that the architecture is known.

        Raises:
            Refusal: It is not (``unknown-architecture``).
        """
        _architecture(train)
        return self

    def transform(
        self, zoo: Zoo, *, progress: Progress = no_progress, cancelled: CancelCheck | None = None
    ) -> Features:
        """``[len(zoo), layers + 2 · (5 · layers + 11)]``."""
        import torch

        from sane_engine.behaviour.answers import answers, noise
        from sane_engine.behaviour.networks import MODELS_AT_ONCE, by_activation, floats, runner

        known = _architecture(zoo)
        images = noise(tuple(known.input_shape), self.seed)
        features: Features | None = None
        done = 0
        for architecture, rows in by_activation(zoo, known):
            for start in range(0, len(rows), MODELS_AT_ONCE):
                stop_if(cancelled)
                part = rows[start : start + MODELS_AT_ONCE]
                stacked = floats(zoo.stacked(part))
                with torch.inference_mode():
                    outputs = map(runner(architecture, stacked), images)
                    found = as_features(answers(list(outputs), stacked).numpy())
                if features is None:
                    features = np.zeros((len(zoo), found.shape[1]), dtype=np.float32)
                features[part] = found
                done += len(part)
                progress(done, len(zoo), "behaviour on noise")
        return np.zeros((0, 0), dtype=np.float32) if features is None else features


def _architecture(zoo: Zoo) -> Architecture:
    from sane_engine.behaviour.networks import architecture_of

    found = architecture_of(zoo)
    if found is None:
        raise Refusal(
            "unknown-architecture",
            "Nothing is known of how to run these networks.",
            "Use a representation that needs the weights alone.",
        )
    return found
