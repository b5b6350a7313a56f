"""What an autoencoder is built from and how it is trained, as one value that goes to JSON and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

LossNormalisation = Literal["entry", "token", "layer"]
PermutedViews = Literal["both", "one"]
FunctionInputs = Literal["images", "noise"]
Positives = Literal["views", "checkpoints"]
Reacting = Literal["none", "shapes", "architecture"]


@dataclass(frozen=True)
class SaneConfig:
    """Shape of the autoencoder and the course of its training.

    Attributes:
        token_size: Width of a token in weights; wider rows are split, narrower ones padded.
        latent: Width of a token's latent.
        d_model: Width of the residual stream; a multiple of ``heads``.
        layers: Transformer blocks in the encoder, and again in the decoder.
        heads: Attention heads a block.
        feedforward: Hidden width of a block's multilayer perceptron.
        window: Tokens seen at once, in training and when embedding.
        halo: Tokens of context on either side of what a window keeps, when embedding sequences longer than
            ``window``; ``None`` is a tenth of the window, which costs at most 1.25 times the tokens.
        dropout: Share of activations dropped in training.
        position_features: Frequencies a position coordinate is expanded into, a sine and a cosine for each.
        max_wavelength: Longest of their wavelengths, in positions.
        projection: Width of the vectors that the contrastive loss compares.
        gamma: Share of the contrastive loss, 0 to 1; 0 leaves it out and halves the work of a step.
        temperature: Temperature of the contrastive loss.
        positives: What the contrastive loss holds together: two views of a checkpoint (``"views"``), or it and
            another checkpoint of the same run (``"checkpoints"``).
        align: Bring the models of a layout whose symmetry is known into one order of their hidden units first, in
            training and whenever the encoder is used.
        scale_features: Show the encoder, beside each token, how large its weights are.
        summary_weight: Share of the loss that the reconstruction of *summary tokens* adds: one a layer, which hold
            its statistics, singular values and paths and go through the encoder with the others. 0 is none.
        auxiliary_weight: Share of the loss that a linear head adds, which predicts the summaries from the layers'
            mean latents (and those of the summary tokens). 0 is none.
        noise_behaviour: Let summaries, where the architecture is known, also say what the network does with noise.
        reactions: What the readout is told of reactions to noise (see ``reactions.py``): nothing (``"none"``),
            those of the two plainest networks that have such weights (``"shapes"``), or, where it is known how to
            run them, of the networks themselves (``"architecture"``).
        readout: Random features of the embedding that a linear probe is given, so that it can follow what is not
            linear (see ``readout.py``). 0 is none.
        universal: Standardise every network by its own means and standard deviations, tensor by tensor, and rescale
            its positions, in training as in use: one encoder for networks of any architecture. How large the
            weights are is then told by the summaries alone, which are those of single layers.
        loss_normalisation: What counts the same in the reconstruction loss: every weight (``"entry"``), every
            token (``"token"``), or every layer (``"layer"``).
        noise: Standard deviation of the multiplicative noise of a view; 0 is none.
        mixing: Largest angle, in quarter turns, by which a token is mixed with that of another model, in what is
            shown and what is to be reconstructed; 0 is none. For zoos of independent initialisations.
        jitter: Standard deviation of noise added to what is shown and what is to be reconstructed alike; 0 is none.
            Where models are few, it keeps the autoencoder from knowing them by heart.
        permute: Share of each minibatch whose hidden units change places at random, and signs where that keeps the
            function; in what is shown and what is to be reconstructed. 0 is none. Needs a known symmetry.
        permuted_views: Where the contrastive loss compares two views, whether both of a model are permuted, alike
            (``"both"``), or only the second (``"one"``), so that the order of hidden units is learnt away. A
            single view (``gamma`` 0) is permuted either way.
        erase_probability: Share of the views of which a rectangle (tokens × entries) is set to zero.
        erase_fraction: Largest share of a view's tokens, and of their entries, in that rectangle.
        perturbation_weight: Share of the loss that *perturbed* latents add: every minibatch is decoded once more
            from latents moved as samplers move them, and its weights, moved alike, are to come out. 0 is none. For
            encoders that are to be sampled from.
        latent_swap: Largest share of a model's tokens whose latents are taken from other models. 0 is none.
        latent_difference: Largest part of the difference of two other models that is added to a model's latents,
            in units of 1/√2. 0 is none.
        latent_noise: Standard deviation of noise on the latents, in that of each coordinate over the minibatch;
            what is to come out stays without. 0 is none.
        function_weight: Share of the loss that asks of networks decoded from perturbed latents to answer as those
            that were moved did (cross-entropy, in nats). 0 is none. Needs a zoo that says how to run its models.
        function_inputs: What they answer: the images the zoo was trained on, without their labels (``"images"``),
            or standard normal noise (``"noise"``).
        steps: Optimiser steps.
        batch_size: Checkpoints a step.
        learning_rate: Peak of the one-cycle schedule.
        warm_up: Share of the steps in which the learning rate rises.
        weight_decay: Decoupled weight decay of AdamW, on matrices only.
        clip_norm: Largest norm of the gradient.
        seed: Fixes the initial weights, the order of the batches and every augmentation.
    """

    token_size: int = 37
    latent: int = 24
    d_model: int = 96
    layers: int = 2
    heads: int = 4
    feedforward: int = 384
    window: int = 64
    halo: int | None = None
    dropout: float = 0.0
    position_features: int = 16
    max_wavelength: float = 40_000.0
    projection: int = 32
    align: bool = True
    scale_features: bool = False
    summary_weight: float = 0.0
    auxiliary_weight: float = 0.0
    noise_behaviour: bool = False
    reactions: Reacting = "none"
    readout: int = 0
    universal: bool = False
    gamma: float = 0.05
    temperature: float = 0.1
    positives: Positives = "views"
    loss_normalisation: LossNormalisation = "token"
    noise: float = 0.05
    mixing: float = 0.0
    jitter: float = 0.0
    permute: float = 0.0
    permuted_views: PermutedViews = "both"
    erase_probability: float = 0.0
    erase_fraction: float = 0.3
    perturbation_weight: float = 0.0
    latent_swap: float = 0.0
    latent_difference: float = 0.0
    latent_noise: float = 0.0
    function_weight: float = 0.0
    function_inputs: FunctionInputs = "images"
    steps: int = 3000
    batch_size: int = 64
    learning_rate: float = 1.5e-3
    warm_up: float = 0.1
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in (
            "token_size", "latent", "d_model", "layers", "heads", "feedforward", "window", "position_features",
            "projection", "steps", "batch_size",
        ):  # fmt: skip
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} is {value!r}; it must be a whole number of at least 1")
        for name in ("readout", "seed"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ValueError(f"{name} is {value!r}; it must be a whole number of at least 0")
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(field.default, float) and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise ValueError(f"{field.name} is {value!r}; it must be a number")
        if self.d_model % self.heads:
            raise ValueError(f"d_model is {self.d_model}; it must be a multiple of heads ({self.heads})")
        if self.halo is not None and not 0 <= 2 * self.halo < self.window:
            raise ValueError(f"halo is {self.halo}; it must be 0 or more, less than half of window ({self.window})")
        for name in ("gamma", "mixing", "permute", "erase_probability", "erase_fraction", "warm_up", "latent_swap"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must lie between 0 and 1")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout is {self.dropout!r}; it must be at least 0 and less than 1")
        for name in ("temperature", "learning_rate", "clip_norm", "max_wavelength"):
            if not getattr(self, name) > 0.0:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be positive")
        for name in (
            "noise", "jitter", "weight_decay", "summary_weight", "auxiliary_weight", "perturbation_weight",
            "latent_difference", "latent_noise", "function_weight",
        ):  # fmt: skip
            if not getattr(self, name) >= 0.0:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must not be negative")
        for name in ("align", "scale_features", "noise_behaviour", "universal"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be true or false")
        for name, options in (
            ("loss_normalisation", LossNormalisation),
            ("permuted_views", PermutedViews),
            ("positives", Positives),
            ("function_inputs", FunctionInputs),
            ("reactions", Reacting),
        ):
            if (value := getattr(self, name)) not in get_args(options):
                raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(get_args(options))}")
        if self.universal and (self.align or self.noise_behaviour or self.readout):
            raise ValueError("universal needs align and noise_behaviour false and readout 0: these know one layout")
        if self.gamma > 0.0 and self.batch_size < 2:
            raise ValueError("batch_size is 1; the contrastive loss needs at least 2, or gamma 0")

    def to_json(self) -> dict[str, Any]:
        """The config as plain values, every field named."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> SaneConfig:
        """A config from plain values; fields that are left out keep their defaults.

        Raises:
            ValueError: A field is unknown, or a value is out of its range.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(
                f"unknown in a SANE config: {', '.join(unknown)}; known are {', '.join(sorted(known))}"
            )
        return cls(**values)

    @classmethod
    def from_file(cls, path: str | Path) -> SaneConfig:
        """A config from a JSON file.

        Raises:
            ValueError: The file holds no JSON object, or no config.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{Path(path).name} is not JSON: {error}") from error
        if not isinstance(values, dict):
            raise ValueError(f"{Path(path).name} holds no JSON object")
        return cls.from_json(values)
