"""Hyper-representations: the whole network as one sequence, encoded into one vector.

Schürholt, Kostadinov and Borth, "Self-supervised representation learning on neural network weights for model
characteristic prediction" (NeurIPS 2021, arXiv:2110.15288) and, with the layer-wise normalised loss, Schürholt,
Knyazev, Giró-i-Nieto and Borth, "Hyper-representations as generative models" (NeurIPS 2022, arXiv:2209.14733): an
attention autoencoder whose latent is what a learnt *compression token* has gathered, trained by reconstruction of
weights of which every layer counts the same, and by contrast between views that are permuted, noisy and partly
erased. Position embeddings and the maps into and out of the residual stream belong to one architecture: unlike
SANE, it takes no other.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sane_engine.checkpoint import Refusal
from sane_engine.progress import CancelCheck, Progress, no_progress, stop_if
from sane_engine.sane.alignment import symmetries_of
from sane_engine.sane.config import SaneConfig
from sane_engine.sane.loss import entry_weights, masked_mean_squared_error, nt_xent
from sane_engine.sane.model import Block
from sane_engine.sane.pretraining import learning_rate
from sane_engine.sane.training_set import TrainingSet, standardise, step_seed, token_batch

if TYPE_CHECKING:
    from sane_engine.sane.augmentation import View
    from sane_engine.tokens import Layout
    from sane_engine.zoo import Zoo

_WIDEST_TOKEN = 256
_MODELS_AT_ONCE = 256


@dataclass(frozen=True)
class HyperConfig:
    """Shape and training of a hyper-representation.

    Attributes:
        latent: Width of the vector that stands for a network.
        d_model: Width of the residual stream; a multiple of ``heads``.
        layers: Transformer blocks in the encoder, and again in the decoder.
        heads: Attention heads a block.
        feedforward: Hidden width of a block's perceptron.
        gamma: Share of the contrastive loss, 0 to 1.
        temperature: Of the contrastive loss.
        noise: Standard deviation of the multiplicative noise of a view.
        erase: Share of the entries of a view that are set to zero.
        steps: Optimiser steps.
        batch_size: Networks a step.
        learning_rate: Peak of the one-cycle schedule.
        seed: Fixes initial weights, batches and views.
    """

    latent: int = 64
    d_model: int = 64
    layers: int = 2
    heads: int = 4
    feedforward: int = 128
    gamma: float = 0.25
    temperature: float = 0.1
    noise: float = 0.1
    erase: float = 0.1
    steps: int = 600
    batch_size: int = 64
    learning_rate: float = 1e-3
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """The config as plain values."""
        return asdict(self)


class HyperAutoencoder(nn.Module):
    """A network's tokens to one vector and back, for one layout."""

    layer: Tensor

    def __init__(self, config: HyperConfig, layout: Layout, shape: SaneConfig) -> None:
        super().__init__()
        self.register_buffer("layer", layout.layer_of_token(), persistent=False)
        n_layers, d, width = len(layout.layers), config.d_model, layout.token_size
        self.enter = nn.Parameter(torch.empty(n_layers, width, d))
        self.leave = nn.Parameter(torch.empty(n_layers, d, width))
        self.positions = nn.Parameter(torch.empty(layout.n_tokens, d))
        self.places = nn.Parameter(torch.empty(layout.n_tokens, d))
        self.compression = nn.Parameter(torch.empty(1, 1, d))
        self.encoder = nn.ModuleList(Block(shape) for _ in range(config.layers))
        self.decoder = nn.ModuleList(Block(shape) for _ in range(config.layers))
        self.squeeze = nn.Linear(d, config.latent)
        self.unsqueeze = nn.Linear(config.latent, d)
        self.projection = nn.Sequential(nn.Linear(config.latent, d), nn.GELU(), nn.Linear(d, 32))
        generator = torch.Generator().manual_seed(config.seed)
        for name, parameter in self.named_parameters():
            if parameter.ndim < 2 and "norm" not in name:
                nn.init.zeros_(parameter)
            elif parameter.ndim >= 2:
                inputs = (
                    parameter.shape[1] if parameter.ndim == 3 and name != "compression" else parameter.shape[-1]
                )
                scale = 0.02 if name in {"positions", "places", "compression"} else inputs**-0.5
                nn.init.trunc_normal_(parameter, std=scale, generator=generator)

    def encode(self, tokens: Tensor) -> Tensor:
        """Latents ``[b, latent]`` of standardised tokens ``[b, n, token_size]``."""
        x = torch.einsum("bnw,nwd->bnd", tokens, self.enter[self.layer]) + self.positions
        x = torch.cat((self.compression.expand(len(x), -1, -1), x), dim=1)
        for block in self.encoder:
            x = block(x, None)
        return self.squeeze(x[:, 0])  # type: ignore[no-any-return]  # torch types a module's call as Any

    def decode(self, latents: Tensor) -> Tensor:
        """Standardised tokens ``[b, n, token_size]`` of latents ``[b, latent]``."""
        x = self.unsqueeze(latents)[:, None] + self.places
        for block in self.decoder:
            x = block(x, None)
        return torch.einsum("bnd,ndw->bnw", x, self.leave[self.layer])


class HyperRepresentation:
    """A hyper-representation trained on the training models; a representation of the probe table.

    Attributes:
        history: Mean reconstruction and contrastive loss of every tenth of the training.
    """

    name = "hyper-representation"

    def __init__(self, config: HyperConfig | None = None, *, seed: int | None = None) -> None:
        config = config or HyperConfig()
        self.config = config if seed is None else replace(config, seed=seed)
        self.model: HyperAutoencoder | None = None
        self.history: list[tuple[float, float]] = []
        self._training: TrainingSet | None = None
        self._shape: SaneConfig | None = None

    def fit(self, train: Zoo, *, progress: Progress = no_progress, cancelled: CancelCheck | None = None) -> Self:
        """Train on all rows given.

        Raises:
            Refusal: They differ in layout (``mixed-layouts``).
            Cancelled: The caller asked to stop.
        """
        from sane_engine.tokens import layout_of

        if len(train.layout_groups()) > 1:
            raise Refusal(
                "mixed-layouts", "A hyper-representation is of one architecture.", "Take models of one layout."
            )
        config = self.config
        widest = max(layer.width for layer in layout_of(train.tensors(0), _WIDEST_TOKEN).layers)
        self._shape = SaneConfig(
            token_size=min(widest, _WIDEST_TOKEN), d_model=config.d_model, layers=config.layers, heads=config.heads,
            feedforward=config.feedforward, steps=config.steps, batch_size=config.batch_size,
            learning_rate=config.learning_rate, align=False, permute=1.0, loss_normalisation="layer",
            seed=config.seed,
        )  # fmt: skip
        rows = np.arange(len(train), dtype=np.int64)
        symmetries = symmetries_of(train, rows, self._shape.token_size)
        self._training = TrainingSet(train, rows, self._shape, symmetries=symmetries, cancelled=cancelled)
        # Modules draw their first weights from the global generator before they get their own.
        with torch.random.fork_rng(devices=[]):
            self.model = HyperAutoencoder(config, self._training.groups[0].layout, self._shape)
        self._train(self.model, self._training, self._shape, progress, cancelled)
        return self

    def _train(
        self,
        model: HyperAutoencoder,
        training: TrainingSet,
        shape: SaneConfig,
        progress: Progress,
        cancelled: CancelCheck | None,
    ) -> None:
        config = self.config
        weight = entry_weights(training.groups[0].layout, "layer")
        optimiser = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=0.01)
        total = np.zeros(2)
        every = max(1, config.steps // 10)
        model.train()
        for step in range(config.steps):
            stop_if(cancelled)
            generator = torch.Generator().manual_seed(step_seed(config.seed, 6, step))
            clean = training.minibatch(step)
            targets = [self._permuted(clean, generator) for _ in range(2)]
            latents = [model.encode(self._corrupted(target, generator)) for target in targets]
            reconstruction = torch.zeros(())
            for latent, target in zip(latents, targets, strict=True):
                error = masked_mean_squared_error(model.decode(latent), target, weight.expand_as(target))
                reconstruction = reconstruction + error / 2
            first, second = (model.projection(latent) for latent in latents)
            contrast = nt_xent(first, second, config.temperature)
            loss = (1.0 - config.gamma) * reconstruction + config.gamma * contrast
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(step, shape)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch gives Tensor.backward no types
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            value = float(loss.detach())
            if not math.isfinite(value):
                raise Refusal("training-diverged", f"The loss is {value} at step {step}.", "Lower the rate.")
            total += (float(reconstruction.detach()), float(contrast.detach()))
            if (step + 1) % every == 0:
                self.history.append((float(total[0]) / every, float(total[1]) / every))
                total = np.zeros(2)
            progress(step + 1, config.steps, f"hyper-representation, loss {value:.4f}")
        model.eval()

    def _permuted(self, view: View, generator: torch.Generator) -> Tensor:
        """The networks of a minibatch with their hidden units in another order, where that is known."""
        if view.permutations is None:
            return view.tokens
        which = torch.randint(len(view.permutations), (len(view.tokens),), generator=generator)
        return view.permutations.apply(view.tokens, which)

    def _corrupted(self, tokens: Tensor, generator: torch.Generator) -> Tensor:
        noise = 1.0 + self.config.noise * torch.randn(tokens.shape, generator=generator)
        kept = torch.rand(tokens.shape, generator=generator) >= self.config.erase
        return tokens * noise * kept

    @torch.inference_mode()
    def transform(
        self, zoo: Zoo, *, progress: Progress = no_progress, cancelled: CancelCheck | None = None
    ) -> NDArray[np.float32]:
        """The vectors ``[len(zoo), latent]``.

        Raises:
            Refusal: A network is of another layout (``foreign-layout``).
        """
        if self.model is None or self._training is None or self._shape is None:
            raise RuntimeError("fit first")
        group = self._training.groups[0]
        parts = []
        for start in range(0, len(zoo), _MODELS_AT_ONCE):
            stop_if(cancelled)
            rows = np.arange(start, min(start + _MODELS_AT_ONCE, len(zoo)), dtype=np.int64)
            batch = token_batch(zoo, rows, self._shape.token_size)
            if not self._training.normalizer.knows(batch.layout):
                raise Refusal(
                    "foreign-layout", "This network has another architecture.", "A hyper-representation takes one."
                )
            parts.append(self.model.encode(standardise(batch, group.statistics)).numpy())
            progress(int(rows[-1]) + 1, len(zoo), "hyper-representation")
        return np.concatenate(parts)

    @torch.inference_mode()
    def reconstruction_r2(self, zoo: Zoo) -> float:
        """R² of the standardised weights decoded from the vectors, about each tensor's training mean."""
        if self.model is None or self._training is None or self._shape is None:
            raise RuntimeError("fit first")
        group = self._training.groups[0]
        batch = token_batch(zoo, np.arange(len(zoo), dtype=np.int64), self._shape.token_size)
        tokens = standardise(batch, group.statistics)
        error = (self.model.decode(self.model.encode(tokens)) - tokens).square() * batch.layout.mask()
        return 1.0 - float(error.sum()) / float((tokens.square() * batch.layout.mask()).sum())
