"""A traced tensor: one labelled axis for each of its dimensions, and how a change of shape changes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod

from sane_engine.symmetry.atoms import Atom, Axis, Product
from sane_engine.symmetry.labels import Labels


@dataclass(frozen=True)
class Value:
    """A tensor whose axes are labelled independently of each other."""

    axes: tuple[Axis, ...]


@dataclass(frozen=True)
class Parts:
    """A tensor whose other axes are labelled differently along ``dim``: queries, keys, values before they part."""

    dim: int
    values: tuple[Value, ...]


Traced = Value | Parts


def shape_of(labels: Labels, value: Traced) -> tuple[int, ...]:
    """Sizes of the dimensions."""
    if isinstance(value, Value):
        return tuple(labels.size(axis) for axis in value.axes)
    shape = list(shape_of(labels, value.values[0]))
    shape[value.dim] = sum(labels.size(part.axes[value.dim]) for part in value.values)
    return tuple(shape)


def fixed_value(labels: Labels, shape: Sequence[int]) -> Value:
    """A tensor no axis of which may be reordered."""
    return Value(tuple(labels.fixed(size) for size in shape))


def collapse(labels: Labels, value: Traced) -> Value:
    """One labelling for the whole tensor: what differs between parts is tied together."""
    if isinstance(value, Value):
        return value
    first = value.values[0]
    axes = list(first.axes)
    for part in value.values[1:]:
        for dim, axis in enumerate(part.axes):
            if dim != value.dim:
                labels.unite(axes[dim], axis)
    axes[value.dim] = tuple(product for part in value.values for product in part.axes[value.dim])
    return settle_value(labels, Value(tuple(axes)))


def settle(labels: Labels, value: Traced) -> Traced:
    """Settle each part of a tensor."""
    return each(value, lambda part: settle_value(labels, part))


def settle_value(labels: Labels, value: Value) -> Value:
    """Resolve the axes, and drop every dependence on an atom that this tensor does not tell."""
    value = Value(tuple(labels.resolve(axis) for axis in value.axes))
    for dim, axis in enumerate(value.axes):
        for product in axis:
            for atom, _ in product:
                if not atom.fixed:
                    for outer in labels.context(atom):
                        if not stands_with(value.axes, dim, product, outer):
                            labels.drop(atom, outer)
    return value


def stands_with(axes: Sequence[Axis], dim: int, product: Product, outer: Atom) -> bool:
    """Whether the index of ``outer`` is known wherever ``product`` of axis ``dim`` is indexed.

    It is if ``outer`` is a factor of the same product, once, or else if it stands in another axis that is one
    product, and nowhere else.
    """
    here = sum(atom is outer for atom, _ in product)
    if here:
        return here == 1
    everywhere = [d for d, axis in enumerate(axes) for p in axis for atom, _ in p if atom is outer]
    return len(everywhere) == 1 and everywhere[0] != dim and len(axes[everywhere[0]]) == 1


def each(value: Traced, change: Callable[[Value], Value], dim: Callable[[int], int] = lambda dim: dim) -> Traced:
    """Apply a change that treats every part alike; ``dim`` says where the parted dimension goes."""
    if isinstance(value, Value):
        return change(value)
    return Parts(dim(value.dim), tuple(change(part) for part in value.values))


def cut(labels: Labels, value: Traced, dim: int, sizes: Sequence[int]) -> list[Traced]:
    """Cut ``dim`` into consecutive stretches of ``sizes``."""
    if isinstance(value, Parts):
        if dim != value.dim:
            rows = [cut(labels, part, dim, sizes) for part in value.values]
            return [
                Parts(value.dim, tuple(collapse(labels, p) for p in column)) for column in zip(*rows, strict=True)
            ]
        return _cut_parts(labels, value, sizes)
    axis = cut_axis(labels, labels.resolve(value.axes[dim]), sizes)
    pieces: list[Traced] = []
    rest = list(axis)
    for size in sizes:
        taken: list[Product] = []
        while size:
            product, *rest = rest
            length = labels.size((product,))
            if length > size:  # only fixed stretches are merged across a cut
                product, beyond = labels.fixed(size)[0], labels.fixed(length - size)[0]
                rest, length = [beyond, *rest], size
            taken.append(product)
            size -= length
        products = tuple(taken) or labels.fixed(0)
        pieces.append(Value((*value.axes[:dim], products, *value.axes[dim + 1 :])))
    return pieces


def _cut_parts(labels: Labels, value: Parts, sizes: Sequence[int]) -> list[Traced]:
    bounds = [labels.size(part.axes[value.dim]) for part in value.values]
    pieces: list[Traced] = []
    queue = list(zip(bounds, value.values, strict=True))
    for size in sizes:
        taken: list[Value] = []
        while size:
            length, part = queue.pop(0)
            if length > size:
                head, tail = cut(labels, part, value.dim, (size, length - size))
                queue.insert(0, (length - size, collapse(labels, tail)))
                length, part = size, collapse(labels, head)
            taken.append(part)
            size -= length
        pieces.append(taken[0] if len(taken) == 1 else Parts(value.dim, tuple(taken)))
    return pieces


def cut_axis(labels: Labels, axis: Axis, sizes: Sequence[int]) -> Axis:
    """The axis with a bound between segments at every cut."""
    bounds = {sum(sizes[: i + 1]) for i in range(len(sizes))}
    result: list[Axis] = []
    position = 0
    for product in axis:
        length = labels.size((product,))
        inside = sorted(b - position for b in bounds if position < b < position + length)
        if inside:
            edges = [0, *inside, length]
            result.append(labels.cut_product(product, [b - a for a, b in pairwise(edges)]))
        else:
            result.append((product,))
        position += length
    return tuple(product for part in result for product in part)


def reshape(labels: Labels, value: Traced, shape: Sequence[int]) -> Traced:
    """Row-major reshape: dimensions are grouped so that each group keeps its product, then merged and split."""
    if isinstance(value, Parts):
        where = _untouched(shape_of(labels, value), shape, value.dim)
        if where is None:
            return reshape(labels, collapse(labels, value), shape)
        parts = []
        for part in value.values:
            target = [*shape[:where], labels.size(part.axes[value.dim]), *shape[where + 1 :]]
            parts.append(collapse(labels, reshape(labels, part, target)))
        return Parts(where, tuple(parts))
    axes: list[Axis] = []
    parted: tuple[int, list[list[Axis]]] | None = None
    for ins, outs in _groups([labels.size(axis) for axis in value.axes], shape):
        whole = labels.resolve(labels.multiply([labels.resolve(value.axes[i]) for i in ins]))
        sizes = [shape[o] for o in outs]
        if len(sizes) == 1:
            axes.append(whole)
        elif len(whole) == 1 or parted is not None:
            axes.extend(split_axis(labels, whole, sizes))
        else:
            below = prod(sizes[1:])
            if any(labels.size((p,)) % below for p in whole):
                axes.extend(split_axis(labels, whole, sizes))
            else:
                split = [split_axis(labels, (p,), [labels.size((p,)) // below, *sizes[1:]]) for p in whole]
                parted = (len(axes), split)
                axes.extend(split[0])
    if parted is None:
        return Value(tuple(axes))
    start, split = parted
    count = len(split[0])
    return Parts(start, tuple(Value((*axes[:start], *piece, *axes[start + count :])) for piece in split))


def split_axis(labels: Labels, axis: Axis, sizes: Sequence[int]) -> list[Axis]:
    """Read one axis as several, row-major; an axis that is not one product of fitting blocks is fixed."""
    axis = labels.resolve(axis)
    if sum(size > 1 for size in sizes) <= 1:
        return [axis if size > 1 else labels.fixed(size) for size in sizes]
    if len(axis) > 1:
        labels.fix(axis)
        axis = labels.fixed(labels.size(axis))
    leaves = list(reversed(axis[0]))
    result: list[Axis] = []
    for size in sizes:
        taken = []
        while size > 1:
            leaf = leaves.pop()
            if leaf[0].size > size:
                if leaf[0].size % size:
                    break
                leaf, inner = labels.refine(leaf, size)
                leaves.append(inner)
            elif size % leaf[0].size:
                break
            taken.append(leaf)
            size //= leaf[0].size
        if size > 1:
            labels.fix(axis)
            return [labels.fixed(s) for s in sizes]
        result.append((tuple(taken),) if taken else labels.fixed(1))
    return result


def _groups(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Smallest consecutive groups of dimensions with equal products, as indices before and after."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        ins, outs = ([i], [j]) if i < len(before) and j < len(after) else ([], [])
        if not ins:  # only ones are left on one side
            ins, outs = list(range(i, len(before))), list(range(j, len(after)))
            if groups:
                groups[-1][0].extend(ins)
                groups[-1][1].extend(outs)
            else:
                groups.append((ins, outs))
            break
        i, j = i + 1, j + 1
        a, b = before[ins[0]], after[outs[0]]
        while a != b:
            if a < b:
                ins.append(i)
                a *= before[i]
                i += 1
            else:
                outs.append(j)
                b *= after[j]
                j += 1
        groups.append((ins, outs))
    return groups


def _untouched(before: Sequence[int], after: Sequence[int], dim: int) -> int | None:
    """Where ``dim`` stands after the reshape if it is neither merged nor split."""
    for ins, outs in _groups(before, after):
        if ins == [dim]:
            return outs[0] if len(outs) == 1 else None
    return None
