"""How new a model is: the angle to the nearest training model, and whether it makes the same mistakes.

An angle, because scaling all weights by 1.5 would otherwise pass for novelty. To the training models *and* their
ways through a space and back, because what an autoencoder loses would otherwise pass for it too. After alignment,
because a network with its hidden units reshuffled is the same network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sane_engine.progress import CancelCheck, stop_if
from sane_engine.sampling.frame import Frame, finite_stack, training_rows
from sane_engine.sampling.spaces import Space, decode_models, encode_models
from sane_engine.symmetry import Symmetry, align_zoo, symmetry_of_zoo
from sane_engine.ties import once_each

if TYPE_CHECKING:
    from sane_engine.sampling.anchors import Anchors
    from sane_engine.zoo import Zoo

Stacked = Mapping[str, Tensor]

MATCHED = 2
"""Nearest models that a sample is matched to once more, each for itself."""

_MOST_ENTRIES = 1 << 27


@dataclass(frozen=True, eq=False)
class Nearest:
    """For each of ``m`` models the nearest reference.

    Attributes:
        angle: In radians, 0 to π: ``[m]``.
        index: Number of the reference: ``[m]``.
    """

    angle: NDArray[np.float64]
    index: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Reference:
    """What a model is compared with: the training models and their decodings.

    Attributes:
        frame: In which all are aligned.
        stacked: The networks ``[r, …]`` a tensor, aligned.
        names: What each is.
        groups: The model each belongs to, of which checkpoints and decodings are not new to each other.
        scale: Root mean square of each tensor over the training models.
        symmetry: For matching one by one; ``None`` where nothing is known.
    """

    frame: Frame
    stacked: Stacked
    names: tuple[str, ...]
    groups: NDArray[np.object_]
    scale: Mapping[str, float]
    symmetry: Symmetry | None
    _directions: Tensor

    def nearest(
        self, stacked: Stacked, *, own: Sequence[str] | None = None, cancelled: CancelCheck | None = None
    ) -> Nearest:
        """The nearest reference of each of ``m`` networks.

        Args:
            stacked: Tensor name → ``[m, …]``, in any order of the hidden units.
            own: The model each network belongs to, which is then left out; for models of the zoo itself.
            cancelled: Asked between models.
        """
        stop_if(cancelled)
        angles = torch.arccos((self.directions(self.frame.align(stacked)) @ self._directions.T).clamp(-1, 1))
        if own is not None:
            same = torch.from_numpy(np.asarray(own, dtype=object)[:, None] == self.groups[None, :])
            angles[same] = torch.inf
        found = angles.min(dim=1)
        best, index = found.values.clone(), found.indices.clone()
        if self.symmetry is not None:
            closest = angles.topk(min(MATCHED, angles.shape[1]), dim=1, largest=False).indices
            for number in range(len(angles)):
                stop_if(cancelled)
                one = {name: stacked[name][number : number + 1] for name in self.symmetry.tensors}
                for candidate in closest[number].tolist():
                    if not torch.isfinite(angles[number, candidate]):
                        continue
                    target = {name: self.stacked[name][candidate] for name in self.symmetry.tensors}
                    moved = {n: t[number : number + 1] for n, t in stacked.items()}
                    moved |= align_zoo(one, target, self.symmetry)
                    cosine = self.directions(moved)[0] @ self._directions[candidate]
                    angle = torch.arccos(cosine.clamp(-1, 1))
                    if angle < best[number]:
                        best[number], index[number] = angle, candidate
        return Nearest(best.double().numpy(), index.numpy())

    def directions(self, stacked: Stacked) -> Tensor:
        """Weight vectors of length one ``[m, p]``, every tensor by its scale; running statistics count too."""
        return _directions(stacked, self.scale)

    def pair_angles(self, stacked: Stacked) -> NDArray[np.float64]:
        """Angle between any two different networks of a stack, in radians: ``[m (m − 1) / 2]``."""
        unit = self.directions(self.frame.align(stacked))
        angles = torch.arccos((unit @ unit.T).clamp(-1, 1))
        rows, columns = torch.triu_indices(len(unit), len(unit), offset=1)
        return angles[rows, columns].double().numpy()

    def networks(self, index: NDArray[np.int64]) -> dict[str, Tensor]:
        """Some of the references as a stack."""
        where = torch.from_numpy(index)
        return {name: tensor[where] for name, tensor in self.stacked.items()}


def reference_of(
    zoo: Zoo,
    frame: Frame,
    spaces: Sequence[Space],
    *,
    row: int,
    anchors: Anchors | None = None,
    decode: Callable[[Space, Tensor], Stacked] = decode_models,
    cancelled: CancelCheck | None = None,
) -> Reference:
    """The training models of one layout and their decodings through some spaces.

    Args:
        zoo: Its training rows count; in a huge zoo, as many as fit into memory, evenly spaced.
        frame: Of the layout.
        spaces: Through which they are sent and back; the weights themselves add nothing.
        row: Any row of the layout.
        anchors: Added to them, should some not be training models.
        decode: How vectors become networks: as those that are compared, should their norms be measured again.
        cancelled: Asked between steps.
    """
    rows = training_rows(zoo, row)
    own = frame.layout.n_tokens * frame.layout.token_size * (1 + len(spaces))
    most = max(2, _MOST_ENTRIES // own)
    if len(rows) > most:
        rows = rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]
    table = zoo.table
    rows, raw = finite_stack(zoo, rows)
    names = [f"{table['model'].iloc[r]} epoch {table['epoch'].iloc[r]}" for r in rows.tolist()]
    groups = [str(g) for g in table[zoo.group_column].iloc[rows]]
    if anchors is not None:
        extra = np.ones(len(anchors), dtype=bool) if anchors.rows is None else ~np.isin(anchors.rows, rows)
        if extra.any():
            where = torch.from_numpy(np.flatnonzero(extra))
            added = anchors.stacked
            raw = once_each(raw, lambda name, tensor: torch.cat((tensor, added[name][where])))
            names += [anchors.names[i] for i in np.flatnonzero(extra)]
            if anchors.rows is None:
                groups += [anchors.names[i] for i in np.flatnonzero(extra)]
            else:
                groups += [str(g) for g in table[zoo.group_column].iloc[anchors.rows[extra]]]
    stop_if(cancelled)
    stacks = [frame.align(raw)]
    for space in spaces:
        if space.name != "weights":
            stop_if(cancelled)
            stacks.append(dict(decode(space, encode_models(space, raw))))
    tokenised = [slot.name for slot in frame.layout.slots if slot.view]
    stacked = once_each(stacks[0], lambda name, _: torch.cat([stack[name] for stack in stacks]))
    labels = [*names, *(f"{name}, decoded" for _ in stacks[1:] for name in names)]
    scale = {name: max(float(raw[name].float().square().mean().sqrt()), 1e-12) for name in tokenised}
    symmetry: Symmetry | None = symmetry_of_zoo(zoo, row)
    if symmetry is not None and symmetry.is_trivial:
        symmetry = None
    models = np.array(groups * len(stacks), dtype=object)
    return Reference(frame, stacked, tuple(labels), models, scale, symmetry, _directions(stacked, scale))


def _directions(stacked: Stacked, scale: Mapping[str, float]) -> Tensor:
    flat = torch.cat([stacked[name].float().flatten(1) / unit for name, unit in scale.items()], dim=1)
    length: Tensor = flat.norm(dim=1, keepdim=True)
    return flat / length.clamp_min(1e-12)


def agreement(predicted: Tensor, other: Tensor, labels: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How alike two models answer, for each of ``m`` pairs.

    Args:
        predicted: Classes ``[m, b]``.
        other: Classes ``[m, b]``.
        labels: True classes ``[b]``.

    Returns:
        Share of images with the same answer, and shared errors as a part of the errors of either (1 where there
        are none).
    """
    same = (predicted == other).double().mean(dim=1)
    wrong, also = predicted != labels, other != labels
    both, either = (wrong & also).sum(dim=1).double(), (wrong | also).sum(dim=1).double()
    overlap = torch.where(either > 0, both / either.clamp(min=1), torch.ones_like(both))
    return same.numpy(), overlap.numpy()
