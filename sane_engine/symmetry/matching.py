"""Weight matching: bring networks into the order of a reference.

Coordinate descent over groups (Ainsworth, Hayase, Srinivasa 2022, "Git Re-Basin", arXiv 2209.04836): with all other
groups held, the best order of one group is a linear assignment. What is different here:

* The first sweep runs from the input on and looks only at tensors whose other axes are settled already; comparing
  weights whose inputs are still in a random order is noise, and half of the work.
* A group is solved again only where a neighbour moved, and similarities are corrected for what moved, not recomputed.
* Heads and convolution groups are matched as blocks, each pair at the best order of the units inside.
* Signs are matched together with the order, by the absolute similarity.
* Every tensor counts by its number of entries: it is divided by the reference's root mean square, so that running
  variances do not outweigh kernels.

All models of a batch are matched at once, each on its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from sane_engine.symmetry.occurrences import Occurrence, flip, move, occurrences
from sane_engine.symmetry.spec import Symmetry

_MAX_SWEEPS = 100
_GAIN = 1e-6  # of a group's similarity; less is rounding
_LARGE = 65_536  # entries from which on similarities are kept and corrected


class Matcher:
    """The state of a batch of models on their way to a reference.

    Attributes:
        orders: Group → int64 ``[m, *context, size]``, as in :class:`~sane_engine.symmetry.permutations.Permutations`.
        flips: Sign vector → ±1, float32, same shape.
        sweeps: How many sweeps were made.
    """

    def __init__(self, symmetry: Symmetry, reference: Mapping[str, Tensor], stacked: Mapping[str, Tensor]) -> None:
        self.symmetry = symmetry
        self.places = occurrences(symmetry)
        self.reference: dict[str, Tensor] = {}
        self.aligned: dict[str, Tensor] = {}
        self.models = 0
        for name in symmetry.tensors:
            target = reference[name].detach()
            self.models = len(stacked[name])
            target = target.to(torch.float64 if target.dtype == torch.float64 else torch.float32)
            scale = float(target.square().mean().sqrt()) or 1.0
            order = _fixed_first(symmetry, name)
            self.reference[name] = (target / scale).permute(order).contiguous()[None]
            batch = stacked[name].detach().to(target.dtype) / scale
            self.aligned[name] = batch.permute(0, *(d + 1 for d in order)).contiguous()
        self.places = {g: [_reordered(symmetry, place) for place in places] for g, places in self.places.items()}
        shapes = [symmetry.family_shape(g) for g in range(len(symmetry.groups))]
        self.orders = {g: torch.arange(s[-1]).expand(self.models, *s).clone() for g, s in enumerate(shapes)}
        self.flips = {s: torch.ones(self.models, *shapes[g]) for s, g in enumerate(symmetry.signs)}
        self.inner = {
            b: [g for g, group in enumerate(symmetry.groups) if group.context == (b,)]
            for b in symmetry.blocks
            if not symmetry.groups[b].context
        }
        self.neighbours = {
            g: frozenset(other for place in places for other in place.others) - {g}
            for g, places in self.places.items()
        }
        self.stale = torch.ones(len(symmetry.groups), self.models, dtype=torch.bool)
        self.kept: dict[Occurrence, Tensor] = {}
        self.sweeps = 0

    def run(self, seed: int) -> None:
        """Sweep until nothing moves any more."""
        settled: set[int] = set()
        for group in range(len(self.symmetry.groups)):
            self._solve(group, settled)
            settled.add(group)
        self.stale[:] = True
        generator = np.random.default_rng(seed)
        self.sweeps = 1
        while bool(self.stale.any()) and self.sweeps < _MAX_SWEEPS:
            for group in generator.permutation(len(self.symmetry.groups)):
                self._solve(int(group), None)
            self.sweeps += 1

    # ---- one step -----------------------------------------------------------------------------------------------

    def _solve(self, group: int, settled: set[int] | None) -> None:
        """Best order (and flips) of one group, or of a block with what is inside, for the models that need it."""
        models = self.stale[group].nonzero().flatten()
        self.stale[group] = False
        if not len(models):
            return
        context = self.symmetry.groups[group].context
        if group in self.inner:
            self._solve_blocks(group, models, settled)
        elif len(context) <= 1 or group not in self.symmetry.blocks:
            self._solve_units(group, models, settled)

    def _chosen(self, group: int, settled: set[int] | None) -> list[Occurrence]:
        places = [place for place in self.places[group] if not place.inside]
        if settled is None:
            return places
        known = [place for place in places if place.others <= settled | {group}]
        return known or places

    def _solve_units(self, group: int, models: Tensor, settled: set[int] | None) -> None:
        plain, signed = self._similarities(self._chosen(group, settled), models)
        shape = self.orders[group].shape[1:]
        total, current = _combine(plain, signed)
        lead = (len(models), prod(shape[:-1]))
        order, gain = _assign(total.reshape(*lead, shape[-1], shape[-1]), current.reshape(*lead, shape[-1]))
        self._accept(group, models, order.reshape(-1, *shape), gain, signed)

    def _accept(
        self, group: int, models: Tensor, order: Tensor, gain: Tensor, signed: Mapping[int, Tensor]
    ) -> None:
        """Write an order and the flips that belong to it; models that gain nothing are left alone."""
        gain = gain.reshape(order.shape[:-1])
        rows = torch.arange(order.shape[-1])
        order = torch.where((gain > 0)[..., None], order, rows)
        picked = {s: torch.gather(values, -1, order[..., None])[..., 0] for s, values in signed.items()}
        signs = {s: torch.where(values < 0, -1.0, 1.0) for s, values in picked.items()}
        signs = {s: torch.where((gain > 0)[..., None], values, 1.0) for s, values in signs.items()}
        changed = (gain > 0).reshape(len(models), -1).any(1)
        if not bool(changed.any()):
            return
        models, order = models[changed], order[changed]
        signs = {s: values[changed] for s, values in signs.items()}
        self._correct(group, models, order, signs)
        self.orders[group][models] = torch.gather(self.orders[group][models], -1, order)
        for s, values in signs.items():
            self.flips[s][models] = values * torch.gather(self.flips[s][models], -1, order)
        for other in self.neighbours[group]:
            self.stale[other, models] = True

    def _correct(self, group: int, models: Tensor, order: Tensor, signs: Mapping[int, Tensor]) -> None:
        """Move the units of a group in all tensors, and correct the similarities that are kept."""
        moved = order[0].flatten() != torch.arange(order.shape[-1]) if order.ndim == 2 and self.models == 1 else None
        for place in self.places[group]:
            stacked = self.aligned[place.tensor]
            if moved is None or not self._correct_kept(place, order[0], moved, signs):
                batch = stacked if len(models) == self.models else stacked[models]
                view = place.view(batch)
                move(view, order)
                if place.sign is not None:
                    flip(view, signs[place.sign])
                if batch is not stacked:
                    stacked[models] = batch
                for other in [kept for kept in self.kept if kept.tensor == place.tensor]:
                    del self.kept[other]

    def _correct_kept(self, place: Occurrence, order: Tensor, moved: Tensor, signs: Mapping[int, Tensor]) -> bool:
        """The same for one large matrix with two permuted axes, at the cost of what moved. Says whether it applied."""
        kept = [other for other in self.kept if other.tensor == place.tensor]
        stacked = self.aligned[place.tensor]
        if place.sign is not None and place.sign in signs:
            moved = moved | (signs[place.sign][0] < 0)
        if not kept or not place.whole or stacked.ndim < 3:
            return False
        if any(not other.whole for other in kept) or int(moved.sum()) * 2 > len(moved):
            return False
        dim = place.dim + 1
        at = moved.nonzero().flatten()
        after = stacked.index_select(dim, order[at])
        if place.sign is not None and place.sign in signs:
            flip(after.movedim(dim, 1), signs[place.sign][:, at])
        before = stacked.index_select(dim, at)
        target = self.reference[place.tensor].index_select(dim, at)
        for other in kept:
            if other.dim == place.dim:
                fresh = self.kept[other].index_select(-1, order)
                if place.sign is not None and place.sign in signs:
                    fresh *= signs[place.sign][:, None, :]
                self.kept[other] = fresh
            else:
                self.kept[other] += _product(other, target, after - before)
        stacked.index_copy_(dim, at, after)
        return True

    # ---- blocks -------------------------------------------------------------------------------------------------

    def _solve_blocks(self, block: int, models: Tensor, settled: set[int] | None) -> None:
        """Match blocks, each pair valued at the best order of the units inside; then the units in matched blocks."""
        count = self.symmetry.groups[block].size
        value = torch.zeros(len(models), count, count, dtype=torch.float64)
        own = self._chosen(block, settled)
        if own:
            plain, _ = self._similarities(own, models)
            value += plain
        inner: dict[int, np.ndarray] = {}
        for group in self.inner[block]:
            places = self._chosen(group, settled)
            free = [place for place in places if not place.coupled] or places
            size = self.symmetry.groups[group].size
            plain, signed = self._similarities(free, models, pairs=True)
            total, _ = _combine(plain, signed)
            tiles = total.reshape(len(models), count, size, count, size).transpose(2, 3)
            best, worth = _best(tiles.reshape(-1, size, size))
            inner[group] = best.reshape(len(models), count, count, size)
            value += torch.from_numpy(worth.reshape(len(models), count, count))
        order, gain = _assign(value[:, None], value.diagonal(dim1=1, dim2=2)[:, None])
        order = torch.where(gain[..., None] > 0, order, torch.arange(count))[:, 0]
        changed = (gain[:, 0] > 0).nonzero().flatten()
        if len(changed):
            self._move_blocks(block, models[changed], order[changed])
        for group in self.inner[block]:
            self._solve_units(group, models, settled)

    def _move_blocks(self, block: int, models: Tensor, order: Tensor) -> None:
        self._correct(block, models, order, {})
        self.orders[block][models] = torch.gather(self.orders[block][models], -1, order)
        rows = torch.arange(len(models))[:, None]
        for group, spec in enumerate(self.symmetry.groups):
            if block in spec.context:
                axis = spec.context.index(block)
                for family in (self.orders, *([self.flips] if group in self.symmetry.signs else [])):
                    keys = [group] if family is self.orders else [
                        s for s, owner in enumerate(self.symmetry.signs) if owner == group
                    ]
                    for key in keys:
                        moved = family[key][models].movedim(axis + 1, 1)[rows, order].movedim(1, axis + 1)
                        family[key][models] = moved
        for other in self.neighbours[block]:
            self.stale[other, models] = True

    # ---- similarities -------------------------------------------------------------------------------------------

    def _similarities(
        self, places: Sequence[Occurrence], models: Tensor, *, pairs: bool = False
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Inner products of every reference unit with every unit of each model, summed over places.

        Returns:
            Those that do not flip, and those that flip by sign vector; float64 ``[m, *context, size, size]``, or
            ``[m, units, units]`` over all blocks if ``pairs``.
        """
        plain: Tensor | None = None
        signed: dict[int, Tensor] = {}
        for place in places:
            values = self._similarity(place, models, pairs).double()
            if place.sign is None:
                plain = values if plain is None else plain + values
            else:
                signed[place.sign] = values + signed[place.sign] if place.sign in signed else values
        if plain is None:
            plain = torch.zeros_like(next(iter(signed.values())))
        return plain, signed

    def _similarity(self, place: Occurrence, models: Tensor, pairs: bool) -> Tensor:
        stacked, target = self.aligned[place.tensor], self.reference[place.tensor]
        keeps = self.models == 1 and place.whole and stacked.ndim >= 3 and target.numel() >= _LARGE
        if keeps:
            if place not in self.kept:
                self.kept[place] = _product(place, target, stacked)
            return self.kept[place]
        batch = stacked if len(models) == self.models else stacked[models]
        ours, theirs = place.view(target), place.view(batch)
        lead = 2 + len(place.context)
        if pairs:
            units = prod(ours.shape[1:lead])
            return ours.reshape(units, -1) @ theirs.reshape(len(batch), units, -1).transpose(1, 2)
        return ours.flatten(lead) @ theirs.flatten(lead).transpose(-1, -2) if ours.ndim > lead else (
            ours[..., None] * theirs[..., None, :]
        )


def _fixed_first(symmetry: Symmetry, name: str) -> list[int]:
    """Dimensions with the fixed ones in front: kernel positions become a batch of matrices."""
    axes = symmetry.tensors[name]
    fixed = [d for d, axis in enumerate(axes) if all(f.group is None for segment in axis for f in segment)]
    return [*fixed, *(d for d in range(len(axes)) if d not in fixed)]


def _reordered(symmetry: Symmetry, place: Occurrence) -> Occurrence:
    order = _fixed_first(symmetry, place.tensor)
    fields = {name: getattr(place, name) for name in place.__dataclass_fields__}
    fields["dim"] = order.index(place.dim)
    fields["context"] = tuple((order.index(axis), factor) for axis, factor in place.context)
    return Occurrence(**fields)


def _product(place: Occurrence, target: Tensor, stacked: Tensor) -> Tensor:
    """``[1, size, size]`` for an axis that is the last or the last but one, without copying the tensors."""
    rank = target.ndim
    ours, theirs = target.reshape(-1, *target.shape[-2:]), stacked.reshape(-1, *stacked.shape[-2:])
    if place.dim + 1 == rank - 2:
        out = ours[0] @ theirs[0].T
        for a, b in zip(ours[1:], theirs[1:], strict=True):
            out.addmm_(a, b.T)
    elif place.dim + 1 == rank - 1:
        out = ours[0].T @ theirs[0]
        for a, b in zip(ours[1:], theirs[1:], strict=True):
            out.addmm_(a.T, b)
    else:
        out = place.view(target).reshape(target.shape[place.dim + 1], -1) @ place.view(stacked).reshape(
            target.shape[place.dim + 1], -1
        ).T
    return out[None]


def _combine(plain: Tensor, signed: Mapping[int, Tensor]) -> tuple[Tensor, Tensor]:
    """Value of matching every pair with its best flips, and what the present order and flips are worth."""
    total = plain + sum((values.abs() for values in signed.values()), torch.zeros_like(plain))
    here = plain + sum(signed.values(), torch.zeros_like(plain))
    return total, here.diagonal(dim1=-2, dim2=-1)


def _best(costs: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Best assignment of each matrix ``[b, n, n]`` and its value."""
    matrices = costs.numpy()
    orders = np.empty(matrices.shape[:2], dtype=np.int64)
    for index, matrix in enumerate(matrices):
        orders[index] = linear_sum_assignment(matrix, maximize=True)[1]
    return orders, np.take_along_axis(matrices, orders[..., None], 2)[..., 0].sum(1)


def _assign(total: Tensor, current: Tensor) -> tuple[Tensor, Tensor]:
    """Orders ``[m, c, n]`` that maximise ``total [m, c, n, n]``, and their gain over ``current [m, c, n]`` or zero."""
    m, c, n, _ = total.shape
    orders, worth = _best(total.reshape(m * c, n, n))
    gain = torch.from_numpy(worth).reshape(m, c) - current.sum(-1)
    scale = total.abs().amax((-1, -2)) * n
    return torch.from_numpy(orders).reshape(m, c, n), torch.where(gain > _GAIN * scale, gain, torch.zeros_like(gain))
