"""Views of a minibatch: what the encoder is shown, and what it is asked to reconstruct.

An augmentation maps a view to a view. One that *corrupts* (noise, erasing) changes the tokens and leaves the
target: the clean weights are reconstructed. One that *transforms* (window, mixing, permutation) changes tokens and
target alike. On a zoo whose models share one initialisation, permuting costs reconstruction: channel 3 of one model
*is* channel 3 of the next.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from sane_engine.sane.config import SaneConfig
from sane_engine.sane.token_permutations import TokenPermutations


@dataclass(frozen=True)
class View:
    """A minibatch on its way into the encoder.

    Attributes:
        tokens: What the encoder is shown, standardised: ``[b, n, d]``.
        target: What it is to reconstruct: ``[b, n, d]``.
        mask: True entries: ``[b, n, d]``.
        weight: How much each entry counts in the reconstruction loss: ``[b, n, d]``, 0 at padding.
        positions: ``[b, n, 3]``.
        layer: The layer of each token, int64 ``[b, n]``; positions may be rescaled.
        permutations: Those that are known to keep what these networks compute; of the whole sequence.
        group: Which of the training set's layouts these models have.
        summaries: Of each layer of the models as they were, standardised: ``[b, L, s]``.
        targets: What the auxiliary head is to predict, standardised: ``[b, k]``.
    """

    tokens: Tensor
    target: Tensor
    mask: Tensor
    weight: Tensor
    positions: Tensor
    layer: Tensor
    permutations: TokenPermutations | None = None
    group: int = 0
    summaries: Tensor | None = None
    targets: Tensor | None = None


class Augmentation(Protocol):
    """Maps a view to a view, drawing only from the generator it is given."""

    def __call__(self, view: View, generator: torch.Generator, /) -> View:
        """A new view; the one passed in is not changed."""


@dataclass(frozen=True)
class RandomWindow:
    """A window of ``size`` tokens at a place of each model's own, where the sequence is longer than that."""

    size: int

    def __call__(self, view: View, generator: torch.Generator, /) -> View:
        """Cut tokens, target, mask, weight and positions alike."""
        b, n, _ = view.tokens.shape
        if n <= self.size:
            return view
        # Starts reach half a window beyond either end and are pushed back: otherwise the first and the last
        # tokens would be in almost no window.
        reach = self.size // 2
        start = torch.randint(-reach, n - self.size + reach + 1, (b, 1), generator=generator).clamp(
            0, n - self.size
        )
        index = (start + torch.arange(self.size))[..., None]

        def cut(x: Tensor) -> Tensor:
            return x.gather(1, index.expand(-1, -1, x.shape[-1]))

        return replace(
            view,
            tokens=cut(view.tokens),
            target=cut(view.target),
            mask=cut(view.mask),
            weight=cut(view.weight),
            positions=cut(view.positions),
            layer=cut(view.layer[..., None])[..., 0],
            # What a window leaves of a network cannot be permuted.
            permutations=None,
        )


@dataclass(frozen=True)
class MultiplicativeNoise:
    """Every weight times ``1 + std·ε``, ε standard normal."""

    std: float

    def __call__(self, view: View, generator: torch.Generator, /) -> View:
        """Corrupt the tokens; the target stays clean."""
        noise = torch.randn(view.tokens.shape, generator=generator)
        return replace(view, tokens=view.tokens * (1.0 + self.std * noise))


@dataclass(frozen=True)
class RandomErasing:
    """A rectangle of tokens × entries set to zero (Zhong et al. 2017, arXiv:1708.04896, on weights).

    Attributes:
        probability: Share of the models it happens to.
        fraction: Largest share of the tokens, and of their entries, that the rectangle spans.
    """

    probability: float
    fraction: float

    def __call__(self, view: View, generator: torch.Generator, /) -> View:
        """Corrupt the tokens; the target stays clean."""
        b, n, d = view.tokens.shape
        draw = torch.rand(5, b, 1, generator=generator)

        def span(length: int, size: Tensor, place: Tensor) -> Tensor:
            extent = size * self.fraction * length
            first = place * (length - extent)
            index = torch.arange(length)
            return (index >= first) & (index < first + extent)

        hit = draw[0] < self.probability
        rows, columns = span(n, draw[1], draw[2]) & hit, span(d, draw[3], draw[4])
        return replace(view, tokens=view.tokens.masked_fill(rows[:, :, None] & columns[:, None, :], 0.0))


@dataclass(frozen=True)
class TokenMixing:
    """Every token turned towards the same token of another model of the minibatch, by an angle of its own.

    Independently initialised models are few samples of a large space, and an autoencoder soon knows them by heart:
    its reconstruction of unseen models then falls below that of principal components. Mixtures fill the space
    between. A rotation, unlike an average, keeps the variance of standardised independent tokens.

    Attributes:
        extent: Largest angle in quarter turns, 0 to 1.
    """

    extent: float

    def __call__(self, view: View, generator: torch.Generator, /) -> View:
        """Change tokens and target alike."""
        b, n, _ = view.tokens.shape
        partner = torch.randint(b, (b, n), generator=generator)
        angle = torch.rand(b, n, 1, generator=generator) * (self.extent * math.pi / 2)

        def mix(x: Tensor) -> Tensor:
            return x * angle.cos() + x[partner, torch.arange(n)] * angle.sin()

        return replace(view, tokens=mix(view.tokens), target=mix(view.target))


@dataclass(frozen=True)
class Jitter:
    """Gaussian noise on every true entry, in what is shown and in what is to be reconstructed.

    Keeps the principal directions of the tokens and makes as many different ones as there are steps.

    Attributes:
        std: Standard deviation, in that of the standardised weights.
    """

    std: float

    def __call__(self, view: View, generator: torch.Generator, /) -> View:
        """Change tokens and target alike."""
        noise = self.std * torch.randn(view.tokens.shape, generator=generator) * view.mask
        return replace(view, tokens=view.tokens + noise, target=view.target + noise)


@dataclass(frozen=True)
class RandomPermutation:
    """Hidden units of some models in another order, and with other signs where that keeps the function.

    A view whose layout has no known symmetry stays as it is.

    Attributes:
        share: Of the models of a minibatch.
    """

    share: float

    def __call__(self, view: View, generator: torch.Generator, /) -> View:
        """Change tokens and target alike, by the same permutation."""
        bank = view.permutations
        if bank is None:
            return view
        b = len(view.tokens)
        hit = (torch.rand(b, generator=generator) < self.share)[:, None, None]
        which = torch.randint(len(bank), (b,), generator=generator)
        tokens = torch.where(hit, bank.apply(view.tokens, which), view.tokens)
        target = (
            tokens if view.target is view.tokens else torch.where(hit, bank.apply(view.target, which), view.target)
        )
        return replace(view, tokens=tokens, target=target)


def transformations(config: SaneConfig) -> tuple[Augmentation, ...]:
    """The augmentations that make other models of the minibatch's: target included, shared by both views."""
    chosen: list[Augmentation] = []
    if config.mixing > 0:
        chosen.append(TokenMixing(config.mixing))
    if config.jitter > 0:
        chosen.append(Jitter(config.jitter))
    return tuple(chosen)


def corruptions(config: SaneConfig) -> tuple[Augmentation, ...]:
    """The augmentations that each of the two views gets on its own; the target stays clean."""
    chosen: list[Augmentation] = []
    if config.noise > 0:
        chosen.append(MultiplicativeNoise(config.noise))
    if config.erase_probability > 0:
        chosen.append(RandomErasing(config.erase_probability, config.erase_fraction))
    return tuple(chosen)


def augment(view: View, augmentations: tuple[Augmentation, ...], generator: torch.Generator) -> View:
    """Apply the augmentations one after another."""
    for augmentation in augmentations:
        view = augmentation(view, generator)
    return view


def views(
    minibatch: View, config: SaneConfig, generator: torch.Generator, siblings: View | None = None
) -> list[View]:
    """What a step of training is shown: one view of each model, or two where the contrastive loss compares them.

    Two views are of the same window, and of the same models or, where siblings are given, of two checkpoints of one
    run. They differ in their corruptions and, if the config says so, in that one is permuted.
    """
    sources = [augment(minibatch, transformations(config), generator)]
    if siblings is not None:
        sources.append(augment(siblings, transformations(config), generator))
    if config.permute > 0:
        permute, state = RandomPermutation(config.permute), generator.get_state()
        permuted = []
        for source in sources:
            generator.set_state(state)
            permuted.append(permute(source, generator))
        compares = config.permuted_views == "one" and config.gamma > 0
        sources = [sources[0], permuted[-1]] if compares else permuted
    state = generator.get_state()
    cut = []
    for source in sources:
        generator.set_state(state)
        cut.append(RandomWindow(config.window)(source, generator))
    seen = (cut * 2)[:2] if config.gamma > 0 else cut
    return [augment(view, corruptions(config), generator) for view in seen]
