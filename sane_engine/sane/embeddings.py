"""Embeddings of models: per token, per layer and per model, as plain arrays.

No torch here: precomputed embeddings are shown before torch is loaded.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sane_engine.checkpoint import Refusal
from sane_engine.workspace import atomic_file

Floats = npt.NDArray[np.float32]

FORMAT = "sane-explorer/embeddings/1"


@dataclass(frozen=True)
class Embeddings:
    """What an encoder says of ``m`` models.

    Attributes:
        models: ``[m, 2z]``: mean, then standard deviation, of the latents over all tokens of a model. Comparable
            across architectures.
        layers: ``[m, L, 2z]``: the same over the tokens of each layer; NaN after the last layer of a model that
            has fewer than the deepest.
        layer_count: ``[m]``: how many layers each model has.
        layer_names: One tuple of names for each model, or a single one that all share.
        foreign: ``[m]``: whether the encoder was trained on another layout than this model's.
        summaries: ``[m, L, z + s]``: latent of each layer's summary token, then the summary itself (standardised),
            where the encoder has them; NaN likewise.
        reactions: ``[m, w, r]``: reactions to noise in ``w`` ways to run a network, where the encoder has them; NaN
            for models of another layout.
        readout: ``[m, k]``: the vector to predict from, where the encoder has a readout for these layers.
        tokens: ``[m, n, z]``: the latents themselves, where they were asked for and all models share a layout.
        encoder_digest: Which encoder.
        zoo_digest: Which zoo; empty when the models came from no zoo.
        notes: What a reader of these numbers should know, a sentence each.
    """

    models: Floats
    layers: Floats
    layer_count: npt.NDArray[np.int64]
    layer_names: tuple[tuple[str, ...], ...]
    foreign: npt.NDArray[np.bool_]
    tokens: Floats | None = None
    summaries: Floats | None = None
    reactions: Floats | None = None
    readout: Floats | None = None
    encoder_digest: str = ""
    zoo_digest: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        m = len(self.models)
        if self.models.ndim != 2 or self.layers.ndim != 3 or self.layers.shape[2] != self.models.shape[1]:
            raise ValueError(f"models {self.models.shape} and layers {self.layers.shape} do not fit together")
        if not len(self.layers) == len(self.layer_count) == len(self.foreign) == m:
            raise ValueError("models, layers, layer_count and foreign differ in length")
        if len(self.layer_names) not in {1, m}:
            raise ValueError(f"{len(self.layer_names)} tuples of layer names for {m} models")

    def __len__(self) -> int:
        return len(self.models)

    def names_of(self, i: int) -> tuple[str, ...]:
        """Names of the layers of model ``i``, first to last."""
        return self.layer_names[i if len(self.layer_names) > 1 else 0]

    @property
    def layerwise(self) -> Floats:
        """``[m, L·2z]``: the layers of each model one after another, the features that predict best.

        Raises:
            ValueError: The models differ in their number of layers.
        """
        if len(self) and (self.layer_count != self.layers.shape[1]).any():
            raise ValueError("the models differ in their layers: compare them by their model vectors")
        return self.layers.reshape(len(self), -1)

    @property
    def predictive(self) -> Floats:
        """``[m, k]``: the vector to predict properties of models from.

        The readout where there is one. Else of an encoder with summary tokens the mean latent of each layer, the
        latent of its summary and the summary itself; of any other :attr:`layerwise`.

        Raises:
            ValueError: The models differ in their number of layers.
        """
        if self.readout is not None:
            return self.readout
        if self.summaries is None:
            return self.layerwise
        means = self.layerwise.reshape(len(self), self.layers.shape[1], -1)[..., : self.layers.shape[2] // 2]
        return np.concatenate((means, self.summaries), axis=2).reshape(len(self), -1)

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, atomically; what is no array goes into its metadata."""
        from safetensors.numpy import save_file

        arrays = {
            name: np.ascontiguousarray(value)
            for name, value in vars(self).items()
            if isinstance(value, np.ndarray)  # foreign is bool, which safetensors keeps
        }
        metadata = {
            "format": FORMAT,
            "layer_names": json.dumps(self.layer_names),
            "encoder_digest": self.encoder_digest,
            "zoo_digest": self.zoo_digest,
            "notes": json.dumps(self.notes),
        }
        with atomic_file(path) as temporary:
            save_file(arrays, temporary, metadata=metadata)

    @classmethod
    def load(cls, path: str | Path) -> Embeddings:
        """Read what :meth:`save` wrote.

        Raises:
            Refusal: The file is not such a file.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="np") as file:
                metadata: dict[str, str] = file.metadata() or {}
                if metadata.get("format") != FORMAT:
                    raise Refusal("not-embeddings", "This file holds no embeddings.", "Make them with `embed`.")
                arrays: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
            unknown = set(arrays) - {field.name for field in fields(cls)}
            if unknown:
                raise ValueError(f"unknown arrays: {', '.join(sorted(unknown))}")
            return cls(
                **arrays,
                layer_names=tuple(tuple(names) for names in json.loads(metadata["layer_names"])),
                encoder_digest=metadata["encoder_digest"],
                zoo_digest=metadata["zoo_digest"],
                notes=tuple(json.loads(metadata["notes"])),
            )
        except Refusal:
            raise
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise Refusal(
                "broken-embeddings", f"The embeddings cannot be read: {error}.", "Make them again."
            ) from error
