"""Reactions to noise, for prediction: a network's answers, and how they compare with those of the training models.

Three kinds of numbers: how a network answers, how near it comes to the mean answer of the training models, and
where among theirs its answers lie. No data and no labels.

Networks are run as their zoo says (``"architecture"``), or, where only weights may be looked at (``"shapes"``),
in two ways: as the plainest chains that tensors of these shapes can belong to, with stride 1 throughout and with
stride 2 in the first convolution. Neither need be what they were trained as; they still preserve most of what tells
a good network from a bad one, and two say more than one.

All numbers stay the same when hidden units change places, or signs behind an odd activation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sane_engine.behaviour.answers import INPUTS, answers, noise
from sane_engine.behaviour.networks import MODELS_AT_ONCE, floats, plainest_architecture, runnable, runner
from sane_engine.progress import CancelCheck, stop_if
from sane_engine.sane.consensus import AGREEMENT, KINDS, Consensus, noise_images
from sane_engine.sane.normalisation import structure
from sane_engine.sane.remembered import Remembered, keys_of
from sane_engine.tokens import TokenBatch, detokenize_batch, layout_of
from sane_engine.zoo.architectures import as_architecture

if TYPE_CHECKING:
    from sane_engine.sane.config import SaneConfig
    from sane_engine.sane.training_set import Rows
    from sane_engine.zoo import Zoo

FUNCTIONS = 30
"""Principal components of the training models' answers."""

MOST_FITTED = 4096
"""Of more training rows, this many, evenly spaced, make the consensus and the components."""

KEPT = 10_000
"""Networks, each way counted, whose answers stay in memory: several representations and splits ask for them."""

_COMPARED = 40
_LARGEST = 1e4
_known = Remembered(KEPT)


STRIDES = (1, 2)
"""Of the first convolution of the networks that are run where nobody says what they are."""


@dataclass(frozen=True)
class Way:
    """One way to run networks, and what the training models answered.

    Attributes:
        architecture: How they are run.
        consensus: Mean answers of the training models.
        mean: Mean of their compared answers, ``[d]``.
        axes: Principal axes of these, ``[d, FUNCTIONS]`` or fewer.
    """

    architecture: Mapping[str, Any]
    consensus: Consensus
    mean: Tensor
    axes: Tensor

    @classmethod
    def of(cls, architecture: Mapping[str, Any], logits: Tensor) -> Way:
        """From the training models' answers ``[m, images, classes]``."""
        compared = _compared(logits)
        mean = compared.mean(dim=0)
        centred = (compared - mean).double()
        variance, basis = torch.linalg.eigh(centred.T @ centred / len(centred))
        kept = (variance > 1e-9 * variance[-1].clamp(min=1e-9)).flip(0)[:FUNCTIONS]
        axes = basis.flip(1)[:, :FUNCTIONS][:, kept]
        # The sign of an eigenvector is arbitrary: the largest entry is +.
        axes = axes * axes.gather(0, axes.abs().argmax(dim=0, keepdim=True)).sign()
        return cls(architecture, Consensus.of(logits), mean, axes.float().contiguous())

    def apply(self, stacked: Mapping[str, Tensor]) -> Tensor:
        """``[m, answers + AGREEMENT + FUNCTIONS]``."""
        numbers, logits = _answers(self.architecture, stacked)
        components = (_compared(logits) - self.mean) @ self.axes
        if components.shape[1] < FUNCTIONS:
            components = torch.nn.functional.pad(components, (0, FUNCTIONS - components.shape[1]))
        return torch.cat((numbers, self.consensus.agreement(logits), components), dim=1).float()

    def state(self) -> dict[str, Tensor]:
        """As named tensors."""
        fitted = {"log_chances": self.consensus.log_chances, "logits": self.consensus.logits}
        return {**fitted, "mean": self.mean, "axes": self.axes}


@dataclass(frozen=True)
class Reactions:
    """Fitted on the training models of one layout.

    Attributes:
        structure: Of the layout; see :func:`~sane_engine.sane.normalisation.structure`.
        ways: One or two.
    """

    structure: str
    ways: tuple[Way, ...]

    def apply(self, batch: TokenBatch) -> Tensor | None:
        """``[m, ways, answers + AGREEMENT + FUNCTIONS]``, float32; ``None`` for networks of another layout."""
        if structure(batch.layout) != self.structure:
            return None
        stacked = detokenize_batch(batch)
        return torch.stack([way.apply(stacked) for way in self.ways], dim=1)

    def state(self) -> dict[str, Tensor]:
        """As named tensors."""
        return {
            f"reactions.{place}.{name}": tensor
            for place, way in enumerate(self.ways)
            for name, tensor in way.state().items()
        }

    def record(self) -> dict[str, Any]:
        """What is not tensors, as plain values."""
        return {"structure": self.structure, "architectures": [dict(way.architecture) for way in self.ways]}

    @classmethod
    def from_state(cls, tensors: Mapping[str, Tensor], record: Mapping[str, Any] | None) -> Reactions | None:
        """The inverse of :meth:`state` and :meth:`record`; ``None`` where there are none."""
        if not record:
            return None

        def way(place: int, architecture: Mapping[str, Any]) -> Way:
            names = ("log_chances", "logits", "mean", "axes")
            log_chances, logits, mean, axes = (tensors[f"reactions.{place}.{name}"] for name in names)
            return Way(architecture, Consensus(log_chances, logits), mean, axes)

        return cls(str(record["structure"]), tuple(way(*each) for each in enumerate(record["architectures"])))


def split_reactions(width: int) -> tuple[slice, slice, slice]:
    """Where, in the ``width`` numbers of one way, the answers, the agreement and the components lie."""
    first, second = width - FUNCTIONS - AGREEMENT, width - FUNCTIONS
    return slice(0, first), slice(first, second), slice(second, width)


@torch.no_grad()
def fit_reactions(
    zoo: Zoo, rows: Rows, config: SaneConfig, *, cancelled: CancelCheck | None = None
) -> Reactions | None:
    """Of some rows of a zoo, which should be those trained on.

    Returns:
        ``None`` where the config asks for none, the rows differ in layout, or nobody knows how to run them.
    """
    groups = [np.intersect1d(members, rows) for members in zoo.layout_groups()]
    groups = [own for own in groups if len(own)]
    if config.reactions == "none" or len(groups) != 1:
        return None
    own = groups[0]
    chosen = own[np.linspace(0, len(own) - 1, min(len(own), MOST_FITTED)).astype(np.int64)]
    ways = []
    for architecture in _architectures(zoo, own, config):
        parts = []
        for first in range(0, len(chosen), MODELS_AT_ONCE):
            stop_if(cancelled)
            parts.append(_answers(architecture, zoo.stacked(chosen[first : first + MODELS_AT_ONCE]))[1])
        ways.append(Way.of(architecture, torch.cat(parts)))
    key = structure(layout_of(zoo.tensors(int(own[0])), config.token_size))
    return Reactions(key, tuple(ways)) if ways else None


def _architectures(zoo: Zoo, own: Rows, config: SaneConfig) -> list[Mapping[str, Any]]:
    """The ways to run the networks of these rows."""
    if config.reactions == "architecture" and (told := runnable(zoo, own)) is not None:
        return [told]
    shapes = {p.name: p.shape for p in zoo.signature(int(own[0]))}
    plain = [plainest_architecture(shapes, stride=stride) for stride in STRIDES]
    return [each.to_json() for each in dict.fromkeys(plain) if each is not None]


def _compared(logits: Tensor) -> Tensor:
    """Answers to some images of each kind, without size and level: ``[m, d]``."""
    kinds = logits.reshape(len(logits), len(KINDS), INPUTS, -1)[:, :, :_COMPARED].flatten(1, 2)
    centred: Tensor = (kinds - kinds.mean(dim=2, keepdim=True)).flatten(1)
    size: Tensor = centred.std(dim=1, keepdim=True).clamp(min=1e-6)
    return centred / size


@torch.no_grad()
def _answers(architecture: Mapping[str, Any], stacked: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Numbers ``[m, k]`` and logits ``[m, images, classes]`` of networks, those met before from memory."""
    stacked = {name: stacked[name] for name in as_architecture(architecture).shapes}
    keys = keys_of(json.dumps(architecture, sort_keys=True), list(stacked.values()))

    def make(places: list[int]) -> tuple[Tensor, Tensor]:
        return _run(architecture, floats({name: tensor[places] for name, tensor in stacked.items()}))

    numbers, logits = _known.rows(keys, make, MODELS_AT_ONCE)
    return numbers, logits


def _run(description: Mapping[str, Any], stacked: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    architecture = as_architecture(description)
    shape = tuple(architecture.input_shape)
    of_kinds = (*noise(shape, 0), noise_images(architecture.input_shape)[-INPUTS:])
    outputs = runner(architecture, stacked)(torch.cat(of_kinds))
    parts = [[out[:, first : first + INPUTS] for out in outputs] for first in range(0, 3 * INPUTS, INPUTS)]
    numbers = answers(parts, stacked, signs=False)
    return numbers, torch.nan_to_num(outputs[-1].clamp(-_LARGEST, _LARGEST)).contiguous()
