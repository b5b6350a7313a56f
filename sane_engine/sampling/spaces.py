"""Where samples are drawn: SANE latents, per-token principal components, or the aligned weights themselves.

A space turns networks into one vector a token and such vectors back into networks. A sampler sees only the vectors,
so every method runs in every space, and a user sees what the autoencoder adds.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, Protocol, get_args

import torch
from torch import Tensor

from sane_engine.checkpoint import Refusal
from sane_engine.progress import CancelCheck, stop_if
from sane_engine.sampling.frame import Frame, finite_stack, training_rows, with_note
from sane_engine.sane.embedding import encode_tokens
from sane_engine.sane.positions import positions_for
from sane_engine.sane.windows import map_windows, plan_windows
from sane_engine.tokens import tokenize_batch

if TYPE_CHECKING:
    from sane_engine.sane import Sane
    from sane_engine.zoo import Zoo

SpaceName = Literal["latents", "pca", "weights"]
SPACES: tuple[SpaceName, ...] = get_args(SpaceName)

COMPONENTS = 30
"""Principal components a token where no encoder says how wide a latent is."""

_CHUNK_ENTRIES = 1 << 22
_MOST_IN_CHUNK = 16
_BASIS_ENTRIES = 1 << 26
"""One basis a token position where all of them have at most this many entries, else one a layer."""


class Space(Protocol):
    """Vectors ``[m, n, k]``, one a token, for networks of one frame."""

    name: SpaceName
    frame: Frame

    def encode(self, tokens: Tensor) -> Tensor:
        """Vectors ``[m, n, k]`` of standardised tokens ``[m, n, d]``."""

    def decode(self, vectors: Tensor) -> Tensor:
        """Standardised tokens ``[m, n, d]`` of vectors ``[m, n, k]``; gradients flow to the vectors."""

    def rearranged(self, frame: Frame, tokens: Tensor) -> Space:
        """The space for networks of another frame, whose token i takes after this one's token ``tokens[i]``."""


class WeightSpace:
    """The standardised weights as they are: the control that costs nothing."""

    name: SpaceName = "weights"

    def __init__(self, frame: Frame) -> None:
        self.frame = frame

    def encode(self, tokens: Tensor) -> Tensor:
        """The tokens."""
        return tokens

    def decode(self, vectors: Tensor) -> Tensor:
        """The vectors, nothing in the padding."""
        return vectors * self.frame.layout.mask()

    def rearranged(self, frame: Frame, tokens: Tensor) -> WeightSpace:
        """Tokens as they are."""
        return WeightSpace(frame)


class PcaSpace:
    """Principal components of each token position over the training models; of each layer in a huge network."""

    name: SpaceName = "pca"

    def __init__(self, frame: Frame, tokens: Tensor, components: int) -> None:
        """Fit on the training models' standardised tokens ``[m, n, d]``."""
        self.frame = frame
        _, n, d = tokens.shape
        components = min(components, d)
        by_position = n * d * d <= _BASIS_ENTRIES
        group = torch.arange(n) if by_position else frame.layout.layer_of_token()
        members = torch.zeros(int(group.max()) + 1, dtype=torch.float64).index_add_(
            0, group, torch.full((n,), float(len(tokens)), dtype=torch.float64)
        )
        total = torch.zeros(len(members), d, dtype=torch.float64).index_add_(0, group, tokens.double().sum(0))
        squares = torch.zeros(len(members), d, d, dtype=torch.float64)
        for first in range(0, n, 1024):
            block = tokens[:, first : first + 1024].double()
            squares.index_add_(0, group[first : first + 1024], torch.einsum("mnd,mne->nde", block, block))
        mean = total / members[:, None]
        covariance = squares / members[:, None, None] - mean[:, :, None] * mean[:, None, :]
        basis = torch.linalg.eigh(covariance).eigenvectors[..., -components:].flip(-1)
        # An eigenvector's sign is the solver's whim: its largest entry is made positive.
        largest = basis.gather(1, basis.abs().argmax(dim=1, keepdim=True))
        self._basis = (basis * torch.where(largest < 0, -1.0, 1.0)).float()[group]
        self._mean = mean.float()[group]

    def encode(self, tokens: Tensor) -> Tensor:
        """Coordinates in the basis of each token."""
        return torch.einsum("mnd,ndk->mnk", tokens - self._mean, self._basis)

    def decode(self, vectors: Tensor) -> Tensor:
        """The point of the affine subspace."""
        tokens = torch.einsum("mnk,ndk->mnd", vectors, self._basis) + self._mean
        return tokens * self.frame.layout.mask()

    def rearranged(self, frame: Frame, tokens: Tensor) -> PcaSpace:
        """The bases of the tokens that are taken after."""
        other = copy.copy(self)
        other.frame, other._basis, other._mean = frame, self._basis[tokens], self._mean[tokens]
        return other


class LatentSpace:
    """The latents of a SANE encoder; decoding is the transformer, all tokens of a window together."""

    name: SpaceName = "latents"

    def __init__(self, frame: Frame, encoder: Sane) -> None:
        self.frame = frame
        self.encoder = encoder.eval()
        self._positions = positions_for(encoder, frame.layout)
        self._plan = plan_windows(frame.layout.n_tokens, encoder.config.window, encoder.config.halo)

    def encode(self, tokens: Tensor) -> Tensor:
        """The encoder's latents."""
        models = tokenize_batch(self.frame.models(tokens), self.frame.layout.token_size)
        return encode_tokens(self.encoder, tokens, models)

    def decode(self, vectors: Tensor) -> Tensor:
        """The decoder's tokens, nothing in the padding."""
        device = self.encoder.device

        def on_device(inputs: Tensor, positions: Tensor) -> Tensor:
            return self.encoder.decode(inputs.to(device), positions.to(device)).float().cpu()

        decoded = map_windows(on_device, vectors, self._positions, self._plan, batch_size=64)
        return decoded * self.frame.layout.mask()

    def rearranged(self, frame: Frame, tokens: Tensor) -> LatentSpace:
        """The same decoder at the other network's positions."""
        return LatentSpace(frame, self.encoder)


def space_of(
    name: SpaceName,
    frame: Frame,
    *,
    encoder: Sane | None = None,
    zoo: Zoo | None = None,
    row: int = 0,
    components: int | None = None,
    cancelled: CancelCheck | None = None,
) -> Space:
    """A space by its name, fitted where it has something to fit.

    Args:
        name: One of :data:`SPACES`.
        frame: Of the networks.
        encoder: For ``"latents"``; for ``"pca"`` it says how many components are a fair comparison.
        zoo: For ``"pca"``: its training rows are fitted.
        row: Any row of the layout.
        components: Principal components a token, instead of the encoder's latent width.
        cancelled: Asked before fitting.

    Raises:
        Refusal: The space needs what was not given (``no-encoder``), or the name is unknown (``bad-space``).
    """
    if name == "weights":
        return WeightSpace(frame)
    if name == "latents":
        if encoder is None:
            raise Refusal("no-encoder", "Sampling latents needs an encoder.", "Give one, or sample weights or pca.")
        return LatentSpace(frame, encoder)
    if name != "pca" or zoo is None:
        raise Refusal("bad-space", f"There is no space {name!r}.", f"Choose from {', '.join(SPACES)}.")
    stop_if(cancelled)
    width = components or (encoder.config.latent if encoder is not None else COMPONENTS)
    rows = training_rows(zoo, row)
    finite, stacked = finite_stack(zoo, rows)
    frame = replace(frame, notes=with_note(frame.notes, len(rows) - len(finite)))
    return PcaSpace(frame, frame.tokens(frame.align(stacked)), width)


@torch.no_grad()
def decode_models(space: Space, vectors: Tensor) -> dict[str, Tensor]:
    """Networks ``[m, …]`` a tensor of vectors ``[m, n, k]``; each comes out to the bit as it would alone.

    Matrix products of other batch sizes add in another order. So the batch is always the same, filled up with
    zeros: a draw then does not depend on how many others are made.
    """
    size = max(1, min(_MOST_IN_CHUNK, _CHUNK_ENTRIES // max(1, vectors[0].numel())))
    parts = []
    for first in range(0, len(vectors), size):
        chunk = vectors[first : first + size]
        filled = torch.cat((chunk, chunk.new_zeros(size - len(chunk), *chunk.shape[1:])))
        parts.append(space.decode(filled)[: len(chunk)])
    return space.frame.models(torch.cat(parts))


def encode_models(space: Space, stacked: Mapping[str, Tensor]) -> Tensor:
    """Vectors ``[m, n, k]`` of networks, aligned first."""
    return space.encode(space.frame.tokens(space.frame.align(stacked)))
