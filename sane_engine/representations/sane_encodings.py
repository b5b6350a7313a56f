"""SANE as a representation: as published, per layer, untrained, and the principal components it must beat."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import TYPE_CHECKING, Literal, Self

import numpy as np

from sane_engine.checkpoint import Refusal
from sane_engine.progress import CancelCheck, Progress, no_progress, stop_if
from sane_engine.representations.protocol import Features, as_features, one_layout
from sane_engine.sane.config import SaneConfig
from sane_engine.workspace import discard, workspace_root

if TYPE_CHECKING:
    from torch import Tensor

    from sane_engine.sane import Embeddings, Sane
    from sane_engine.sane.training_set import TrainingSet
    from sane_engine.zoo import Zoo

Pooling = Literal["mean", "layers", "predictive"]

CONFIG = SaneConfig(
    token_size=37, latent=24, d_model=64, layers=2, heads=4, feedforward=128, permute=0.5, permuted_views="one",
    steps=600,
)  # fmt: skip
"""What the probes' encoders are trained with, on every zoo alike."""

_MODELS_AT_ONCE = 256


class SaneEncoding:
    """An autoencoder trained on the training models, its token latents pooled.

    Args:
        name: What to call it.
        pooling: ``"mean"``: one mean over all tokens, as published; ``"layers"``: mean and standard deviation of
            each layer, one after another; ``"predictive"``: what the encoder makes for prediction
            (:attr:`Embeddings.predictive`).
        config: Shape and course of the training.
        seed: In place of the config's.
        trained: ``False`` leaves the weights random: the control for what training adds.
        keep: Keep the trained encoder in the workspace, where the next call finds it.
    """

    def __init__(
        self,
        name: str = "sane-layers",
        *,
        pooling: Pooling = "layers",
        config: SaneConfig = CONFIG,
        seed: int = 0,
        trained: bool = True,
        keep: bool = True,
    ) -> None:
        self.name, self.pooling, self.trained, self.keep = name, pooling, trained, keep
        self.config = dataclasses.replace(config, seed=seed)
        self.encoder: Sane | None = None

    def fit(self, train: Zoo, *, progress: Progress = no_progress, cancelled: CancelCheck | None = None) -> Self:
        """Pretrain on all rows given; an interrupted training goes on where it stopped."""
        from safetensors import SafetensorError

        from sane_engine.sane import pretrain
        from sane_engine.sane.pretraining import fit_prediction

        zoo = train.with_columns(split="train")
        if not self.trained:
            self.encoder, _ = untrained(zoo, self.config, cancelled=cancelled)
            fit_prediction(self.encoder, zoo, np.arange(len(zoo)), cancelled=cancelled)
            return self
        # Encoders that differ in what is read off them alone are trained, and kept, once.
        trained = dataclasses.replace(self.config, readout=0, reactions="none")
        folder = None
        if self.keep:
            key = json.dumps([train.weights_digest, trained.to_json()], sort_keys=True)
            folder = workspace_root() / "probes" / "encoders" / hashlib.sha256(key.encode()).hexdigest()[:16]
        try:
            self.encoder = pretrain(zoo, trained, folder=folder, progress=progress, cancelled=cancelled)
        except (Refusal, SafetensorError):
            if folder is None or not folder.exists():
                raise
            discard(folder)  # its name says that it belongs to this training: what cannot be read is damaged
            self.encoder = pretrain(zoo, trained, folder=folder, progress=progress, cancelled=cancelled)
        self.encoder.config = self.config
        fit_prediction(self.encoder, zoo, np.arange(len(zoo)), cancelled=cancelled)
        return self

    def transform(
        self, zoo: Zoo, *, progress: Progress = no_progress, cancelled: CancelCheck | None = None
    ) -> Features:
        """``[len(zoo), latent]``, ``[len(zoo), layers · 2 · latent]``, or what the encoder makes for prediction."""
        from sane_engine.sane import embed

        if self.encoder is None:
            raise RuntimeError("fit first")
        found = embed(self.encoder, zoo, keep_tokens=False, progress=progress, cancelled=cancelled)
        return pooled(found, self.pooling)


def pooled(embeddings: Embeddings, pooling: Pooling) -> Features:
    """Embeddings as one vector a model; models of different depth only have those of the whole model."""
    if pooling == "mean":
        return as_features(embeddings.models[:, : embeddings.models.shape[1] // 2])
    same = bool((embeddings.layer_count == embeddings.layers.shape[1]).all())
    if pooling == "predictive" and same:
        return as_features(embeddings.predictive)
    return as_features(embeddings.layerwise if same else embeddings.models)


def untrained(zoo: Zoo, config: SaneConfig, *, cancelled: CancelCheck | None = None) -> tuple[Sane, TrainingSet]:
    """A random encoder, aligning and standardising as a trained one would, and its training set."""
    from sane_engine.sane import Sane
    from sane_engine.sane.alignment import Aligner, fit_aligner, symmetries_of
    from sane_engine.sane.training_set import TrainingSet

    rows = np.arange(len(zoo), dtype=np.int64)
    aligner = Aligner()
    if config.align:
        symmetries = symmetries_of(zoo, rows, config.token_size)
        aligner = fit_aligner(zoo, rows, config.token_size, symmetries, cancelled=cancelled)
    training = TrainingSet(zoo, rows, config, aligner=aligner, cancelled=cancelled)
    encoder = Sane(
        config,
        normalizer=training.normalizer,
        aligner=aligner,
        summariser=training.summariser,
        position_range=training.position_range,
    )
    return encoder.eval(), training


class TokenPca:
    """Per-token principal components, as many as SANE has latents, pooled like SANE: what needs no network."""

    name = "token-pca"

    def __init__(self, config: SaneConfig = CONFIG) -> None:
        self.config = config
        self._encoder: Sane | None = None
        self._axes: Tensor | None = None

    def fit(self, train: Zoo, *, progress: Progress = no_progress, cancelled: CancelCheck | None = None) -> Self:
        """Align the models, standardise the tokens and find their principal axes."""
        import torch

        one_layout(train, "Pooling by layer")
        self._encoder, training = untrained(train, self.config, cancelled=cancelled)
        _, vectors = torch.linalg.eigh(training.second_moment())
        self._axes = vectors.flip(1)[:, : self.config.latent].float()
        return self

    def transform(
        self, zoo: Zoo, *, progress: Progress = no_progress, cancelled: CancelCheck | None = None
    ) -> Features:
        """``[len(zoo), layers · 2 · latent]``."""
        from sane_engine.sane.pooling import pool, select_tokens
        from sane_engine.tokens import tokenize_batch

        if self._encoder is None or self._axes is None:
            raise RuntimeError("fit first")
        one_layout(zoo, "Pooling by layer")
        parts = []
        for start in range(0, len(zoo), _MODELS_AT_ONCE):
            stop_if(cancelled)
            rows = range(start, min(start + _MODELS_AT_ONCE, len(zoo)))
            batch = tokenize_batch(zoo.stacked(rows), self.config.token_size)
            batch = self._encoder.aligner.align(batch, cancelled=cancelled)
            tokens, _ = self._encoder.normalizer.normalise(batch.tokens, batch.layout)
            models = pool(tokens @ self._axes, select_tokens(batch.layout, None))
            parts += [model.layers.reshape(-1) for model in models]
            progress(rows.stop, len(zoo), "token PCA")
        return as_features(np.stack(parts))
