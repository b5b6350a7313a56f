"""The autoencoder: a transformer from weight tokens to latents, and one back."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sane_engine.sane.alignment import Aligner
from sane_engine.sane.config import SaneConfig
from sane_engine.sane.layer_cloud import LayerCloud
from sane_engine.sane.normalisation import Normalizer
from sane_engine.sane.reactions import Reactions
from sane_engine.sane.readout import Readout
from sane_engine.sane.scale_features import SCALE_FEATURES, scale_features
from sane_engine.sane.summariser import Summariser, summary_width

if TYPE_CHECKING:
    from sane_engine.tokens import Layout

COMPUTED_FROM = (
    "token_size", "latent", "d_model", "layers", "heads", "feedforward", "window", "halo", "position_features",
    "max_wavelength",
)  # fmt: skip
"""Fields of the config that change what an encoder computes."""


class PositionEncoding(nn.Module):
    """Positions (token, layer, place in the layer) as vectors of the residual stream.

    Each coordinate is expanded into sines and cosines of geometrically spaced wavelengths, which a small perceptron
    mixes. Unlike a table of learned embeddings, this takes any position, between two integers or beyond the longest
    network seen in training.
    """

    wavelengths: Tensor

    def __init__(self, config: SaneConfig) -> None:
        super().__init__()
        self.register_buffer("wavelengths", torch.empty(config.position_features), persistent=False)
        self.hidden = nn.Linear(3 * 2 * config.position_features, config.d_model)
        self.out = nn.Linear(config.d_model, config.d_model)

    def forward(self, positions: Tensor) -> Tensor:
        """Map ``[..., 3]`` to ``[..., d_model]``."""
        phase = positions.to(self.wavelengths.dtype)[..., None] * (2 * math.pi / self.wavelengths)
        waves = torch.cat((phase.sin(), phase.cos()), dim=-1).flatten(-2)
        mixed: Tensor = self.out(F.gelu(self.hidden(waves)))
        return mixed


class Block(nn.Module):
    """A pre-norm transformer block with full attention."""

    def __init__(self, config: SaneConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
        self.attention_norm = nn.LayerNorm(config.d_model)
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model)
        self.attention_out = nn.Linear(config.d_model, config.d_model)
        self.feedforward_norm = nn.LayerNorm(config.d_model)
        self.feedforward_in = nn.Linear(config.d_model, config.feedforward)
        self.feedforward_out = nn.Linear(config.feedforward, config.d_model)

    def forward(self, x: Tensor, attend: Tensor | None) -> Tensor:
        """Map ``[b, n, d_model]`` to the same shape; ``attend`` is ``[b, 1, 1, n]``, true at tokens."""
        b, n, d = x.shape
        q, k, v = self.qkv(self.attention_norm(x)).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=attend, dropout_p=dropout)
        x = x + F.dropout(self.attention_out(seen.transpose(1, 2).reshape(b, n, d)), dropout)
        hidden = F.gelu(self.feedforward_in(self.feedforward_norm(x)))
        return x + F.dropout(self.feedforward_out(hidden), dropout)


class Stack(nn.Module):
    """Linear in, positions added, transformer blocks, linear out.

    An encoder may have two more ways in: for the scale of each token, and for summary tokens, which come last.

    The residual stream goes out without a last norm: a linear map of the token, which is what per-token PCA is,
    stays within reach, and the blocks learn what is to be gained beyond it.
    """

    def __init__(
        self, config: SaneConfig, inputs: int, outputs: int, *, scale: bool = False, summaries: bool = False
    ) -> None:
        super().__init__()
        self.enter = nn.Linear(inputs, config.d_model)
        self.enter_scale = nn.Linear(SCALE_FEATURES, config.d_model) if scale else None
        width = summary_width(universal=config.universal)
        self.enter_summary = nn.Linear(width, config.d_model) if summaries else None
        self.positions = PositionEncoding(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.leave = nn.Linear(config.d_model, outputs)

    def forward(
        self, x: Tensor, positions: Tensor, mask: Tensor | None, summaries: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """Map ``[b, n, inputs]``, and summaries ``[b, L, s]`` with their positions, to ``[b, n + L, outputs]``."""
        scale = None if self.enter_scale is None else self.enter_scale(scale_features(x))
        x = self.enter(x) + self.positions(positions)
        if scale is not None:
            x = x + scale
        if summaries is not None and self.enter_summary is not None:
            values, places = summaries
            x = torch.cat((x, self.enter_summary(values) + self.positions(places)), dim=1)
            mask = None if mask is None else F.pad(mask, (0, values.shape[1]), value=True)
        attend = None if mask is None else mask[:, None, None, :]
        for block in self.blocks:
            x = block(x, attend)
        out: Tensor = self.leave(x)
        return out


class Sane(nn.Module):
    """Sequential autoencoder for neural embeddings (Schürholt et al., ICML 2024, arXiv:2406.09997).

    Works on *standardised* tokens of *aligned* models: :attr:`aligner` and :attr:`normalizer` make them (see
    :func:`sane_engine.sane.embed`, which does).

    Attributes:
        config: What it was built from.
        normalizer: Mean and standard deviation of every tensor of the layouts it was trained on.
        aligner: Reference networks of the layouts whose models are aligned before they are tokenised.
        position_range: Largest (token, layer, place in the layer) in training; other networks are rescaled to it.
        summariser: Makes the layers' summaries, where it has summary tokens.
        reactions: Makes the reactions to noise, where the config asks for them.
        readout: Makes the vector to predict from, where the config asks for one.
        cloud: What layers look like to it, where it is universal; see ``layer_cloud.py``.
        provenance: Zoo, history and versions of its training; plain JSON values.
    """

    def __init__(
        self,
        config: SaneConfig,
        *,
        normalizer: Normalizer | None = None,
        aligner: Aligner | None = None,
        position_range: tuple[float, float, float] = (0.0, 0.0, 0.0),
        summariser: Summariser | None = None,
        reactions: Reactions | None = None,
        readout: Readout | None = None,
        cloud: LayerCloud | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.normalizer = normalizer if normalizer is not None else Normalizer({})
        self.aligner = aligner if aligner is not None else Aligner()
        self.position_range = position_range
        self.summariser = summariser if summariser is not None else Summariser(universal=config.universal)
        self.reactions = reactions
        self.readout = readout
        self.cloud = cloud
        self.provenance: dict[str, Any] = dict(provenance or {})
        # Built without storage and filled from a generator of its own: the global random state is not touched.
        with torch.device("meta"):
            self.encoder = Stack(
                config,
                config.token_size,
                config.latent,
                scale=config.scale_features,
                summaries=config.summary_weight > 0,
            )
            self.decoder = Stack(config, config.latent, config.token_size)
            self.projection_hidden = nn.Linear(config.latent, config.d_model)
            self.projection_out = nn.Linear(config.d_model, config.projection)
            if config.summary_weight > 0:
                self.summary_out = nn.Linear(config.latent, summary_width(universal=config.universal))
        self.to_empty(device="cpu")
        self._initialise(torch.Generator().manual_seed(config.seed))

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=module.in_features**-0.5, generator=generator)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, PositionEncoding):
                exponents = torch.linspace(0, 1, len(module.wavelengths))
                module.wavelengths.copy_(4.0 * (self.config.max_wavelength / 4.0) ** exponents)
        for module in self.modules():
            if isinstance(module, Block):
                # As in GPT-2: the residual stream keeps its variance however many blocks add to it.
                module.attention_out.weight /= math.sqrt(2 * self.config.layers)
                module.feedforward_out.weight /= math.sqrt(2 * self.config.layers)

    def encode(self, tokens: Tensor, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        """Latents of one window of standardised tokens.

        Args:
            tokens: ``[b, n, token_size]``.
            positions: ``[n, 3]`` shared, or ``[b, n, 3]``; integers or fractions.
            mask: ``[b, n]``, false where a token is only padding and must not be attended to.

        Returns:
            ``[b, n, latent]``.

        Raises:
            ValueError: The shapes do not fit together or the token width is not the encoder's.
        """
        self._check(tokens, positions, self.config.token_size, "tokens")
        latents: Tensor = self.encoder(tokens, positions, mask)
        return latents

    def encode_with_summaries(
        self, tokens: Tensor, positions: Tensor, summaries: Tensor, places: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Latents of one window of standardised tokens, and of the summary tokens of all layers.

        Args:
            tokens: ``[b, n, token_size]``.
            positions: ``[n, 3]`` shared, or ``[b, n, 3]``.
            summaries: Standardised, ``[b, L, SUMMARY]``.
            places: Positions of the summary tokens, ``[L, 3]``.

        Returns:
            ``[b, n, latent]`` and ``[b, L, latent]``.

        Raises:
            ValueError: The encoder was trained without summary tokens, or the shapes do not fit.
        """
        if not self.has_summaries:
            raise ValueError("this encoder was trained without summary tokens")
        self._check(tokens, positions, self.config.token_size, "tokens")
        latents: Tensor = self.encoder(tokens, positions, None, (summaries, places))
        return latents[:, : tokens.shape[1]], latents[:, tokens.shape[1] :]

    @property
    def has_summaries(self) -> bool:
        """Whether it takes summary tokens."""
        return self.config.summary_weight > 0

    def decode(self, z: Tensor, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        """Standardised tokens ``[b, n, token_size]`` from latents ``[b, n, latent]``.

        Raises:
            ValueError: The shapes do not fit together or the latent width is not the encoder's.
        """
        self._check(z, positions, self.config.latent, "latents")
        tokens: Tensor = self.decoder(z, positions, mask)
        return tokens

    def project(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
        """What the contrastive loss compares: ``[b, projection]`` from latents ``[b, n, latent]``."""
        if mask is None:
            pooled = z.mean(dim=1)
        else:
            pooled = (z * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)
        projected: Tensor = self.projection_out(F.gelu(self.projection_hidden(pooled)))
        return projected

    def forward(
        self, tokens: Tensor, positions: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Latents, reconstruction and projection of one window."""
        z = self.encode(tokens, positions, mask)
        return z, self.decode(z, positions, mask), self.project(z, mask)

    def _check(self, x: Tensor, positions: Tensor, width: int, what: str) -> None:
        if x.ndim != 3 or x.shape[-1] != width:
            raise ValueError(f"{what} have the shape {list(x.shape)}; this encoder takes [batch, tokens, {width}]")
        if tuple(positions.shape) not in {(x.shape[1], 3), (x.shape[0], x.shape[1], 3)}:
            raise ValueError(f"positions have the shape {list(positions.shape)}; {what} have {list(x.shape)}")

    def knows(self, layout: Layout) -> bool:
        """Whether it was trained on this layout, or to take any."""
        return self.config.universal or self.normalizer.knows(layout)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.projection_out.weight.device

    @property
    def digest(self) -> str:
        """SHA-256 of what it computes: shape, weights, normaliser, references and position range.

        How it was trained is left out, so that a new option of the training leaves earlier encoders what they are.
        """
        shape = {name: getattr(self.config, name) for name in COMPUTED_FROM}
        state = hashlib.sha256(json.dumps(shape, sort_keys=True).encode())
        state.update(json.dumps([float(limit) for limit in self.position_range]).encode())
        for key, symmetry in sorted(self.aligner.symmetries().items()):
            state.update(f"{key} {symmetry}".encode())
        if self.summariser.architectures:
            state.update(json.dumps(self.summariser.architectures, sort_keys=True).encode())
        if self.reactions is not None:
            state.update(json.dumps(self.reactions.record(), sort_keys=True).encode())
        tensors = {**self.state_dict(), **self.fitted_state()}
        for name, tensor in sorted(tensors.items()):
            state.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
            state.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return state.hexdigest()

    def fitted_state(self) -> dict[str, Tensor]:
        """What was fitted on the training models and not trained, as named tensors."""
        parts = (self.normalizer, self.aligner, self.summariser, self.reactions, self.readout, self.cloud)
        return {name: tensor for part in parts if part is not None for name, tensor in part.state().items()}

    def save(self, folder: str | Path) -> None:
        """Write ``encoder.safetensors`` and ``encoder.json`` into a folder, replacing it whole or not at all."""
        from sane_engine.sane.encoder_file import save_encoder

        save_encoder(self, folder)
