"""How near a network's answers to noise come to what the training models agree on."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from sane_engine.checkpoint import Refusal
from sane_engine.progress import CancelCheck, Progress, no_progress, stop_if
from sane_engine.representations.protocol import Features, as_features, one_layout

if TYPE_CHECKING:
    from torch import Tensor

    from sane_engine.sane.consensus import Consensus
    from sane_engine.sane.remembered import Remembered
    from sane_engine.zoo import Zoo

    Stacked = dict[str, Tensor]

_KEPT = 4096
"""Networks whose answers stay in memory, 23 KB each: every outer split asks for them again."""

_MODELS_AT_ONCE = 256


@lru_cache(maxsize=1)
def _remembered() -> Remembered:
    from sane_engine.sane.remembered import Remembered

    return Remembered(_KEPT)


class ConsensusAgreement:
    """Agreement with the mean answer of the training models to fixed noise, and its squares.

    A linear probe cannot see that accuracy bends at its upper end; the squares, about the training mean, let it.
    """

    name = "consensus"

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self._architecture: dict[str, Any] = {}
        self._consensus: Consensus | None = None
        self._centre = self._scale = np.zeros(0)

    def fit(self, train: Zoo, *, progress: Progress = no_progress, cancelled: CancelCheck | None = None) -> Self:
        """Take the mean answer of all rows.

        Raises:
            Refusal: It is not known how to run these networks (``unknown-architecture``).
        """
        from sane_engine.sane.consensus import Consensus

        if train.architecture is None:
            raise Refusal(
                "unknown-architecture",
                "Nothing is known of how to run these networks.",
                "Use a representation that needs the weights alone.",
            )
        self._architecture = train.architecture
        logits = self._answers(train, progress, cancelled)
        self._consensus = Consensus.of(logits)
        found = self._consensus.agreement(logits).double().numpy()
        self._centre, self._scale = found.mean(axis=0), np.maximum(found.std(axis=0), 1e-9)
        return self

    def transform(
        self, zoo: Zoo, *, progress: Progress = no_progress, cancelled: CancelCheck | None = None
    ) -> Features:
        """``[len(zoo), 24]``. Networks of the training models' layout are run as these, whatever their zoo says."""
        if self._consensus is None:
            raise RuntimeError("fit first")
        found = self._consensus.agreement(self._answers(zoo, progress, cancelled)).double().numpy()
        return as_features(np.concatenate((found, ((found - self._centre) / self._scale) ** 2), axis=1))

    def _answers(self, zoo: Zoo, progress: Progress, cancelled: CancelCheck | None) -> Tensor:
        import torch

        from sane_engine.behaviour.networks import by_activation
        from sane_engine.sane.consensus import answers, noise_images
        from sane_engine.sane.remembered import keys_of
        from sane_engine.zoo.architectures import as_architecture

        one_layout(zoo, "Agreement on noise")
        known = as_architecture(self._architecture)
        if {p.name: p.shape for p in zoo.signature(0)} != dict(known.shapes):
            raise Refusal("mixed-layouts", "These networks have another layout than the fitted ones.", "Fit anew.")
        images = noise_images(tuple(self._architecture["input_shape"]), self.seed)
        found = torch.empty(len(zoo), len(images), int(self._architecture["classes"]))
        done = 0
        for architecture, own in by_activation(zoo, known):
            for start in range(0, len(own), _MODELS_AT_ONCE):
                stop_if(cancelled)
                rows = own[start : start + _MODELS_AT_ONCE]
                stacked, activation = zoo.stacked(rows), architecture.activation
                way = json.dumps([self._architecture, activation, self.seed], sort_keys=True)

                def make(
                    places: list[int], stacked: Stacked = stacked, activation: str = activation
                ) -> tuple[Tensor, ...]:
                    missing = {name: tensor[places] for name, tensor in stacked.items()}
                    return (answers(self._architecture, missing, images, activation=activation),)

                keys = keys_of(way, [stacked[name] for name in known.shapes])
                (found[rows],) = _remembered().rows(keys, make, _MODELS_AT_ONCE)
                done += len(rows)
                progress(done, len(zoo), "answers to noise")
        return found
