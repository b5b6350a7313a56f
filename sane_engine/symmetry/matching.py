"""Weight matching: bring networks into the order of a reference.

Coordinate descent over groups (Ainsworth, Hayase, Srinivasa 2022, "Git Re-Basin", arXiv 2209.04836): with all other
groups held, the best order of one group is a linear assignment. What is different here:

* The first sweep runs from the input on and looks only at tensors whose other axes are settled already; comparing
  weights whose inputs are still in a random order is noise, and half of the work.
* A group is solved again only where a neighbour moved, and similarities are corrected for what moved, not
  recomputed.
* Heads and convolution groups are matched as blocks, each pair at the best order of the units inside.
* Signs are matched together with the order, by the absolute similarity.
* Every tensor counts by its number of entries: its inner products are divided by the reference's mean square, so
  that running variances do not outweigh kernels.
* Units that lie where they belong are recognised from norms, without the products of all pairs.

All models of a batch are matched at once, each on its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from sane_engine.symmetry.occurrences import Occurrence, flip, move, occurrences, take
from sane_engine.symmetry.permutations import Permutations
from sane_engine.symmetry.spec import Symmetry

_MAX_SWEEPS = 100
_GAIN = 1e-3  # of what the group's order is worth, or a fifth of one unit's share: less is not worth another sweep
_LARGE = 65_536  # entries from which on similarities are kept and corrected
_RECOMPUTE = 0.75  # share of an axis that moved, from which on a similarity is computed anew


class Matcher:
    """The state of a batch of models on their way to a reference.

    Attributes:
        orders: Group → int64 ``[m, *context, size]``, as in ``Permutations``.
        flips: Sign vector → ±1, float32, same shape.
        sweeps: How many sweeps were made.
    """

    def __init__(self, symmetry: Symmetry, reference: Mapping[str, Tensor], stacked: Mapping[str, Tensor]) -> None:
        self.symmetry = symmetry
        self.places = occurrences(symmetry)
        self.reference: dict[str, Tensor] = {}
        self.weight: dict[str, float] = {}
        self.aligned: dict[str, Tensor] = {}
        self.models = 0
        for name in symmetry.tensors:
            target = reference[name].detach()
            self.models = len(stacked[name])
            target = target.to(torch.float64 if target.dtype == torch.float64 else torch.float32)
            mean = float(target.square().sum(dtype=torch.float64)) / max(target.numel(), 1)
            self.weight[name] = 1 / mean if mean > 0 else 1.0
            order = _fixed_first(symmetry, name)
            self.reference[name] = target.permute(order).contiguous()[None]
            batch = stacked[name].detach().to(target.dtype).permute(0, *(d + 1 for d in order))
            self.aligned[name] = batch.clone(memory_format=torch.contiguous_format)
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

    def run(self, seed: int, only: Sequence[int] | None = None) -> None:
        """Sweep until nothing moves any more; groups that are not among ``only`` stay where they are."""
        every = range(len(self.symmetry.groups))
        groups = list(every if only is None else only)
        settled = set(every) - set(groups)
        for group in groups:
            self._solve(group, settled)
            settled.add(group)
        self.stale[:] = True
        generator = np.random.default_rng(seed)
        self.sweeps = 1
        while bool(self.stale[groups].any()) and self.sweeps < _MAX_SWEEPS:
            for index in generator.permutation(len(groups)):
                self._solve(groups[index], None)
            self.sweeps += 1

    def permutations(self, model: int) -> Permutations:
        """What was found for one model of the batch."""
        orders = tuple(self.orders[group][model] for group in range(len(self.orders)))
        return Permutations(orders, tuple(self.flips[s][model].to(torch.int8) for s in range(len(self.flips))))

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
        places = self._chosen(group, settled)
        if settled is None and self._in_place(places):
            return
        plain, signed = self._similarities(places, models)
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
        for place in self.places[group]:
            stacked = self.aligned[place.tensor]
            sign = None if place.sign is None else signs.get(place.sign)
            kept = [other for other in self.kept if other.tensor == place.tensor]
            if kept and self._correct_kept(place, kept, order, sign):
                continue
            if self.models == 1 and place.whole and order.ndim == 2:
                stacked = self.aligned[place.tensor] = take(stacked, place.dim + 1, order[0])
                if sign is not None:
                    flip(place.view(stacked), sign)
                continue
            batch = stacked if len(models) == self.models else stacked[models]
            view = place.view(batch)
            move(view, order)
            if sign is not None:
                flip(view, sign)
            if batch is not stacked:
                stacked[models] = batch

    def _correct_kept(
        self, place: Occurrence, kept: Sequence[Occurrence], order: Tensor, sign: Tensor | None
    ) -> bool:
        """Correct what is kept of a large tensor, at the cost of what moved; forget it where that costs more.

        Returns:
            Whether the tensor itself was moved, too.
        """
        if not place.whole:
            for other in kept:
                del self.kept[other]
            return False
        across = []
        for other in kept:
            if other.dim == place.dim:  # units of this very axis: the columns move along
                values = take(self.kept[other], 2, order[0])
                self.kept[other] = values if sign is None else values * sign[:, None, :]
            else:
                across.append(other)
        moved = order[0] != torch.arange(order.shape[-1])
        if sign is not None:
            moved |= sign[0] < 0
        if float(moved.float().mean()) > _RECOMPUTE:
            for other in across:
                del self.kept[other]
            return False
        dim = place.dim + 1
        stacked = self.aligned[place.tensor]
        at = moved.nonzero().flatten()
        after = take(stacked, dim, order[0][at])
        if sign is not None:
            flip(after.movedim(dim, 1), sign[:, at])
        if across:
            change = after - take(stacked, dim, at)
            target = take(self.reference[place.tensor], dim, at)
            for other in across:
                self.kept[other] += _product(other, target, change)
        stacked.index_copy_(dim, at, after)
        return True

    # ---- blocks -------------------------------------------------------------------------------------------------

    def _solve_blocks(self, block: int, models: Tensor, settled: set[int] | None) -> None:
        """Match blocks, each pair valued at the best order inside; then the units in matched blocks."""
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
                    keys = (
                        [group]
                        if family is self.orders
                        else [s for s, owner in enumerate(self.symmetry.signs) if owner == group]
                    )
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
            values = self._similarity(place, models, pairs).double() * self.weight[place.tensor]
            if place.sign is None:
                plain = values if plain is None else plain + values
            else:
                signed[place.sign] = values + signed[place.sign] if place.sign in signed else values
        if plain is None:
            plain = torch.zeros_like(next(iter(signed.values())))
        return plain, signed

    def _in_place(self, places: Sequence[Occurrence]) -> bool:
        """Whether the present order is certainly the best, seen without the products that are not kept.

        If no pair is worth more than the mean of its two units' present worths, no order is worth more than the
        present one. What a missing product can be worth at most is the product of the norms (Cauchy and Schwarz).
        """
        large = [place for place in places if self._keeps(place)]
        missing = [place for place in large if place not in self.kept]
        known = [place for place in places if place not in missing]
        if not missing or not known or any(place.sign is not None for place in places):
            return False
        worth = self._similarities(known, torch.zeros(1, dtype=torch.int64))[0][0]
        present = worth.diagonal().clone()
        if bool((worth > (present[:, None] + present[None, :]) / 2).any()):
            return False
        for place in missing:
            ours, theirs = place.view(self.reference[place.tensor])[0], place.view(self.aligned[place.tensor])[0]
            rest = tuple(range(1, ours.ndim))
            weight = self.weight[place.tensor]
            present += (ours * theirs).sum(rest).double() * weight
            bound = torch.outer(ours.square().sum(rest).sqrt(), theirs.square().sum(rest).sqrt())
            worth += bound.double() * weight
        worth.fill_diagonal_(-torch.inf)
        return bool((worth <= (present[:, None] + present[None, :]) / 2).all())

    def _keeps(self, place: Occurrence) -> bool:
        large = self.reference[place.tensor].numel() >= _LARGE
        return self.models == 1 and place.whole and large and self.aligned[place.tensor].ndim >= 3

    def _similarity(self, place: Occurrence, models: Tensor, pairs: bool) -> Tensor:
        stacked, target = self.aligned[place.tensor], self.reference[place.tensor]
        if self._keeps(place):
            if place not in self.kept:
                self.kept[place] = _product(place, target, stacked)
            return self.kept[place]
        batch = stacked if len(models) == self.models else stacked[models]
        ours, theirs = place.view(target), place.view(batch)
        lead = 2 + len(place.context)
        if pairs:
            units = prod(ours.shape[1:lead])
            return ours.reshape(units, -1) @ theirs.reshape(len(batch), units, -1).transpose(1, 2)
        return (
            ours.flatten(lead) @ theirs.flatten(lead).transpose(-1, -2)
            if ours.ndim > lead
            else (ours[..., None] * theirs[..., None, :])
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
        out = (
            place.view(target).reshape(target.shape[place.dim + 1], -1)
            @ place.view(stacked).reshape(target.shape[place.dim + 1], -1).T
        )
    return out[None]


def _combine(plain: Tensor, signed: Mapping[int, Tensor]) -> tuple[Tensor, Tensor]:
    """Value of matching every pair with its best flips, and what the present order and flips are worth."""
    total = plain + sum((values.abs() for values in signed.values()), torch.zeros_like(plain))
    here = plain + sum(signed.values(), torch.zeros_like(plain))
    return total, here.diagonal(dim1=-2, dim2=-1)


def best_assignment(values: Tensor) -> Tensor:
    """For each row of ``[n, n]`` its column, so that the sum of their values is largest: int64 ``[n]``."""
    return torch.from_numpy(_best(values[None])[0])[0]


def _best(costs: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Best assignment of each matrix ``[b, n, n]`` and its value."""
    matrices = costs.numpy()
    orders = np.empty(matrices.shape[:2], dtype=np.int64)
    for index, matrix in enumerate(matrices):
        orders[index] = linear_sum_assignment(matrix, maximize=True)[1]
    return orders, np.take_along_axis(matrices, orders[..., None], 2)[..., 0].sum(1)


def _assign(total: Tensor, current: Tensor) -> tuple[Tensor, Tensor]:
    """Orders ``[m, c, n]`` that maximise ``total [m, c, n, n]``, and their gain over ``current``, or 0."""
    m, c, n, _ = total.shape
    orders, worth = _best(total.reshape(m * c, n, n))
    value = torch.from_numpy(worth).reshape(m, c)
    gain = value - current.sum(-1)
    enough = gain > min(_GAIN, 0.2 / n) * value.abs()
    return torch.from_numpy(orders).reshape(m, c, n), torch.where(enough, gain, torch.zeros_like(gain))
