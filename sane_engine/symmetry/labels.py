"""What the tracer knows about an axis: which of its indices may be exchanged, and together with what.

An axis is a *concatenation* of segments, a segment is a *product* of leaves in row-major order, and a leaf is an
:class:`Atom`: ``size`` interchangeable indices. Two axes that must be permuted alike are *united*; to be united,
atoms are refined, either into a product (a flattened image is channels × pixels, a head axis is heads × width) or
into a concatenation (what DenseNet appends). Every operation on :class:`Labels` only ever removes freedom, so
applying the rules of a network again and again ends, and stopping to understand something never makes the answer
wrong.

An atom may depend on others, its *context*: inside each attention head, or inside each group of a grouped
convolution, units permute on their own, so the permutation of the inner atom is a family indexed by the outer one
(a wreath product). A context is kept only where the outer atom stands in the same tensor, exactly once.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from itertools import accumulate, pairwise
from math import prod

from sane_engine.symmetry.atoms import Atom, Axis, Leaf, Product, Restart, Sign

_REPLICATE_AT_MOST = 256  # how many times a fixed leading axis may repeat a concatenation behind it


class Labels:
    """All atoms of one network, and the operations that remove freedom from them.

    Attributes:
        events: How many times freedom was removed; a pass over the network that adds none is the last one.
        origins: Atoms that a parameter's axis began with: (atom, tensor, dim, offset along the axis).
    """

    def __init__(self) -> None:
        self.events = 0
        self.atoms: list[Atom] = []
        self.origins: list[tuple[Atom, str, int, int]] = []
        self._fixed_sizes: dict[int, Atom] = {}
        self._free: dict[Hashable, Axis] = {}

    # ---- making and reading ------------------------------------------------------------------------------------

    def atom(self, size: int, contexts: Iterable[tuple[Atom, ...]] = ((),)) -> Atom:
        """A new atom of ``size`` indices, free until something is learnt about it."""
        atom = Atom(size, list(contexts), len(self.atoms))
        self.atoms.append(atom)
        return atom

    def fixed(self, size: int) -> Axis:
        """An axis whose order must not change."""
        if size not in self._fixed_sizes:
            atom = Atom(size, [()], -1)
            atom.fixed = True
            self._fixed_sizes[size] = atom
        return (((self._fixed_sizes[size], None),),)

    def free(self, size: int, key: Hashable) -> Axis:
        """An axis along which a tensor is constant: its order may be whatever its partner's is.

        The same ``key`` gives the same axis, so that a second pass finds what the first one made.
        """
        if size == 1:
            return self.fixed(1)
        if key not in self._free:
            self._free[key] = (((self.atom(size), Sign()),),)
        return self._free[key]

    @staticmethod
    def find(atom: Atom) -> Atom:
        """The atom that stands for all atoms united with this one."""
        while atom.parent is not None:
            if atom.parent.parent is not None:
                atom.parent = atom.parent.parent
            atom = atom.parent
        return atom

    @staticmethod
    def find_sign(sign: Sign | None) -> Sign | None:
        """The sign that stands for all signs united with this one; ``None`` where no flip is allowed."""
        while sign is not None and sign.parent is not None:
            sign = sign.parent
        return None if sign is None or sign.fixed else sign

    def context(self, atom: Atom) -> frozenset[Atom]:
        """The leaves a permutation may depend on: what every united member allows, less what was dropped."""
        root = self.find(atom)
        if all(not members for members in root.contexts):
            return frozenset()
        sets = [
            frozenset(leaf for outer in members for leaf in self.leaves_below(outer))
            for members in set(root.contexts)
        ]
        kept = frozenset.intersection(*sets)
        for outer in root.dropped:
            kept -= set(self.leaves_below(outer))
        return frozenset(leaf for leaf in kept if not leaf.fixed and leaf.size > 1 and leaf is not root)

    def leaves_below(self, atom: Atom) -> list[Atom]:
        """Representatives of the unrefined atoms below ``atom``; none for a concatenation: it is no one index."""
        root = self.find(atom)
        if root.parts is None or root.fixed:
            return [root]
        return [] if root.concat else [leaf for part in root.parts for leaf in self.leaves_below(part)]

    def resolve(self, axis: Axis) -> Axis:
        """The axis in terms of representatives: refined atoms opened, neighbouring fixed stretches merged."""
        segments: list[Product] = []
        for product in axis:
            segments.extend(self._open_product(product))
        merged: list[Product] = []
        run = 0
        for product in segments:
            if all(atom.fixed for atom, _ in product):
                run += self.size((product,))
            else:
                if run:
                    merged.extend(self.fixed(run))
                merged.append(product)
                run = 0
        if run:
            merged.extend(self.fixed(run))
        return tuple(merged)

    def _open_leaf(self, leaf: Leaf) -> Axis:
        atom, sign = self.find(leaf[0]), leaf[1]
        if atom.fixed:
            return self.fixed(atom.size)
        if atom.parts is None:
            return (((atom, self.find_sign(sign)),),)
        signs = self._sign_parts(sign, len(atom.parts))
        opened = [self._open_leaf((part, s)) for part, s in zip(atom.parts, signs, strict=True)]
        return tuple(p for axis in opened for p in axis) if atom.concat else self.multiply(opened)

    def _open_product(self, product: Product) -> Axis:
        return self.multiply([self._open_leaf(leaf) for leaf in product])

    def _sign_parts(self, sign: Sign | None, count: int) -> tuple[Sign | None, ...]:
        root = self.find_sign(sign)
        if root is None:
            return (None,) * count
        if root.parts is None:
            root.parts = tuple(Sign() for _ in range(count))
        return root.parts

    def multiply(self, axes: Sequence[Axis]) -> Axis:
        """Row-major product of resolved axes, as one axis. What is no concatenation of products is fixed."""
        result: Axis = self.fixed(1)
        for axis in axes:
            if len(axis) == 1:
                result = tuple(_tidy(self, (*product, *axis[0])) for product in result)
                continue
            ahead = self.size(result)
            if ahead == 1:
                result = axis
            elif all(atom.fixed for product in result for atom, _ in product) and ahead <= _REPLICATE_AT_MOST:
                result = tuple(axis * ahead)
            else:
                self.fix(axis)
                tail = self.fixed(self.size(axis))
                result = tuple(_tidy(self, (*product, *tail[0])) for product in result)
        return result

    @staticmethod
    def size(axis: Axis) -> int:
        """Number of indices of an axis."""
        return sum(_length(product) for product in axis)

    # ---- removing freedom --------------------------------------------------------------------------------------

    def fix(self, axis: Axis) -> None:
        """The order along this axis, and the signs, must stay."""
        for product in axis:
            for atom, sign in product:
                self._fix_atom(atom)
                self.fix_sign(sign)

    def _fix_atom(self, atom: Atom) -> None:
        root = self.find(atom)
        if not root.fixed:
            root.fixed = True
            self.events += 1
        for part in root.parts or ():
            self._fix_atom(part)

    def fix_sign(self, sign: Sign | None) -> None:
        """No flips of this sign."""
        while sign is not None and sign.parent is not None:
            sign = sign.parent
        if sign is None:
            return
        if not sign.fixed:
            sign.fixed = True
            self.events += 1
        for part in sign.parts or ():
            self.fix_sign(part)

    def unsigned(self, axis: Axis) -> Axis:
        """The same axis after a function that is neither odd nor even: its signs are fixed."""
        for product in axis:
            for _, sign in product:
                self.fix_sign(sign)
        return even(axis)

    def drop(self, atom: Atom, outer: Atom) -> None:
        """The permutation of ``atom`` no longer depends on ``outer``: one for all of its indices."""
        self.find(atom).dropped.add(outer)
        self.events += 1

    def unite(self, first: Axis, second: Axis) -> None:
        """Both axes are permuted alike from here on.

        Raises:
            ValueError: The axes do not have the same length.
        """
        if self.size(first) != self.size(second):
            raise ValueError(f"axes of {self.size(first)} and {self.size(second)} indices cannot be one")
        a, b = self.resolve(first), self.resolve(second)
        while True:
            at = next((i for i, (p, q) in enumerate(zip(a, b, strict=False)) if _length(p) != _length(q)), None)
            if at is None:
                break
            if _length(a[at]) < _length(b[at]):
                a, b = b, a
            length = _length(a[at])
            covered = [
                product
                for product, end in zip(b[at:], _ends(b[at:]), strict=True)
                if end - _length(product) < length
            ]
            if all(atom.fixed for atom, _ in a[at]):  # a fixed stretch has no bounds of its own: fix all it covers
                self.fix(tuple(covered))
            else:
                edges = [0, *(end for end in _ends(tuple(covered)) if end < length), length]
                sizes = [end - start for start, end in pairwise(edges)]
                a = (*a[:at], *self.cut_product(a[at], sizes), *a[at + 1 :])
            a, b = self.resolve(a), self.resolve(b)
        for p, q in zip(a, b, strict=True):
            self._unite_products(p, q)

    def _unite_products(self, first: Product, second: Product) -> None:
        a, b = list(reversed(first)), list(reversed(second))
        while a and b:
            p, q = a.pop(), b.pop()
            if p[0].size == q[0].size:
                self._unite_leaves(p, q)
                continue
            (small, large), rest = ((p, q), b) if p[0].size < q[0].size else ((q, p), a)
            if large[0].size % small[0].size:
                self.fix((first,))
                self.fix((second,))
                return
            outer, inner = self.refine(large, small[0].size)
            self._unite_leaves(small, outer)
            rest.append(inner)

    def _unite_leaves(self, first: Leaf, second: Leaf) -> None:
        a, b = self.find(first[0]), self.find(second[0])
        if a is not b:
            if a.fixed or b.fixed:
                self.fix(((first,), (second,)))
                return
            b.parent = a
            a.contexts = list(dict.fromkeys([*a.contexts, *b.contexts]))
            a.dropped |= b.dropped
            self.events += 1
        self.unite_signs(first[1], second[1])

    def unite_signs(self, first: Sign | None, second: Sign | None) -> None:
        """Both are flipped alike, or not at all."""
        a, b = self.find_sign(first), self.find_sign(second)
        if a is b:
            return
        if a is None or b is None:
            self.fix_sign(a or b)
            return
        if a.parts is not None or b.parts is not None:
            count = len(a.parts or b.parts or ())
            for p, q in zip(self._sign_parts(a, count), self._sign_parts(b, count), strict=True):
                self.unite_signs(p, q)
        b.parent = a
        self.events += 1

    def refine(self, leaf: Leaf, outer_size: int) -> tuple[Leaf, Leaf]:
        """Read one leaf as ``outer_size`` blocks; the order inside a block may depend on the block."""
        atom, sign = leaf
        root = self.find(atom)
        if root.fixed:
            return self.fixed(outer_size)[0][0], self.fixed(root.size // outer_size)[0][0]
        if root.parts is None:
            outer = self.atom(outer_size, root.contexts)
            inner = self.atom(root.size // outer_size, [(*members, outer) for members in root.contexts])
            outer.dropped, inner.dropped = set(root.dropped), set(root.dropped)
            root.parts, root.concat = (outer, inner), False
            self.events += 1
        signs = self._sign_parts(sign, 2)
        return (root.parts[0], signs[0]), (root.parts[1], signs[1])

    def cut_product(self, product: Product, sizes: Sequence[int]) -> Axis:
        """Cut one segment into stretches of ``sizes``; where the cut falls between blocks, blocks are cut."""
        if all(atom.fixed for atom, _ in product):
            return tuple(p for size in sizes if size for p in self.fixed(size))
        (atom, _), *inner = product
        below = prod(leaf.size for leaf, _ in inner)
        if any(size % below for size in sizes):
            self.fix((product,))
            return self.cut_product(self.fixed(sum(sizes))[0], sizes)
        if not atom.fixed:
            self._cut_atom(self.find(atom), [size // below for size in sizes])
        elif inner:  # stretches of a fixed outer index: the order inside is the same in each of them
            stretches = [(*self.fixed(size // below)[0], *inner) for size in sizes]
            return tuple(_tidy(self, stretch) for stretch in stretches)
        return self.resolve((product,))

    def _cut_atom(self, atom: Atom, sizes: Sequence[int]) -> None:
        dependents = [
            a
            for a in self.atoms
            if a.parent is None and not a.fixed and a.size > 1 and any(a.contexts) and atom in self.context(a)
        ]
        if dependents:
            self._restart_if_leading(atom, sizes)
            for dependent in dependents:
                self.drop(dependent, atom)
        parts = tuple(self.atom(size, atom.contexts) for size in sizes)
        for part in parts:
            part.dropped = set(atom.dropped)
        atom.parts, atom.concat = parts, True
        self.events += 1

    def _restart_if_leading(self, atom: Atom, sizes: Sequence[int]) -> None:
        """If ``atom`` is the slowest index of a whole parameter axis, cut that axis: queries, keys, values."""
        whole: Atom | None = atom
        below = 1
        while whole is not None:
            for origin, tensor, dim, offset in self.origins:
                if self.find(origin) is whole:
                    raise Restart(tensor, dim, offset, [size * below for size in sizes])
            leading = whole
            whole = next(
                (a for a in self.atoms if a.parts and not a.concat and self.find(a.parts[0]) is leading), None
            )
            below = below if whole is None else below * whole.size // leading.size


def _length(product: Product) -> int:
    return prod(atom.size for atom, _ in product)


def _ends(axis: Axis) -> list[int]:
    return list(accumulate(_length(product) for product in axis))


def even(axis: Axis) -> Axis:
    """The same axis, where flips of sign have cancelled or do not reach."""
    return tuple(tuple((atom, None) for atom, _ in product) for product in axis)


def _tidy(labels: Labels, product: Product) -> Product:
    """Drop leaves of size one and merge neighbouring fixed leaves."""
    leaves: list[Leaf] = []
    for leaf in product:
        if leaf[0].size == 1:
            continue
        if leaf[0].fixed and leaves and leaves[-1][0].fixed:
            leaves[-1] = labels.fixed(leaves[-1][0].size * leaf[0].size)[0][0]
        else:
            leaves.append(leaf)
    return tuple(leaves) or labels.fixed(1)[0]
