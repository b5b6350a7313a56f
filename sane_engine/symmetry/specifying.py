"""From traced labels to a :class:`~sane_engine.symmetry.spec.Symmetry`: number the groups, keep what is sound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sane_engine.symmetry.atoms import Atom, Axis, Sign
from sane_engine.symmetry.labels import Labels
from sane_engine.symmetry.spec import AxisSpec, Factor, Group, Symmetry
from sane_engine.symmetry.values import Value, stands_with


@dataclass(frozen=True)
class Numbering:
    """Which atom became which group, and which sign which sign vector."""

    groups: Mapping[Atom, int]
    signs: Mapping[Sign, int]


def specify(labels: Labels, weights: Mapping[str, Value], notes: Sequence[str]) -> tuple[Symmetry, Numbering]:
    """Number the groups in the order they are met, blocks before what is inside them.

    A context is kept only if every tensor that holds the inner group tells the outer one's index, and if it is
    enclosed itself (otherwise permutations would not compose). Signs of blocks are dropped: the units' own signs
    already contain them.
    """
    resolved = {name: tuple(labels.resolve(axis) for axis in value.axes) for name, value in weights.items()}
    _fix_loners(labels, resolved)
    resolved = {name: tuple(labels.resolve(axis) for axis in axes) for name, axes in resolved.items()}
    contexts = _sound_contexts(labels, resolved)
    blocks = {outer for context in contexts.values() for outer in context}
    numbers: dict[Atom, int] = {}
    groups: list[Group] = []
    signs: dict[Sign, int] = {}
    owners: list[int] = []

    def number(atom: Atom, label: str) -> int:
        if atom not in numbers:
            context = tuple(
                sorted(number(outer, label) for outer in sorted(contexts[atom], key=lambda a: a.serial))
            )
            numbers[atom] = len(groups)
            groups.append(Group(atom.size, context, label))
        return numbers[atom]

    def factor(atom: Atom, sign: Sign | None, label: str) -> Factor:
        if atom.fixed or atom.size == 1:
            return Factor(atom.size)
        group = number(atom, label)
        root = labels.find_sign(sign)
        if root is None or atom in blocks:
            return Factor(atom.size, group)
        if root not in signs:
            signs[root] = len(owners)
            owners.append(group)
        return Factor(atom.size, group, signs[root])

    def axis_spec(axis: Axis, label: str) -> AxisSpec:
        return tuple(tuple(factor(atom, sign, label) for atom, sign in product) for product in axis)

    tensors = {}
    for name, axes in resolved.items():
        spec = tuple(axis_spec(axis, f"{name}[{dim}]") for dim, axis in enumerate(axes))
        if any(f.group is not None for axis in spec for segment in axis for f in segment):
            tensors[name] = spec
    return Symmetry(tuple(groups), tuple(owners), tensors, tuple(notes)), Numbering(numbers, signs)


def _fix_loners(labels: Labels, resolved: Mapping[str, tuple[Axis, ...]]) -> None:
    """Fix what stands in one place only: no hidden unit, which is made and used, but rows that were not read."""
    seen: dict[Atom, tuple[int, Axis]] = {}
    for axes in set(resolved.values()):  # tied tensors count once
        for axis in axes:
            for product in axis:
                for atom, _ in product:
                    if not atom.fixed:
                        seen[atom] = (seen.get(atom, (0, ()))[0] + 1, (product,))
    for count, axis in seen.values():
        if count == 1:
            labels.fix(axis)


def _sound_contexts(labels: Labels, resolved: Mapping[str, tuple[Axis, ...]]) -> dict[Atom, frozenset[Atom]]:
    contexts: dict[Atom, frozenset[Atom]] = {}
    for axes in resolved.values():
        for dim, axis in enumerate(axes):
            for product in axis:
                for atom, _ in product:
                    if not atom.fixed and atom.size > 1:
                        told = {
                            c
                            for c in contexts.get(atom, labels.context(atom))
                            if stands_with(axes, dim, product, c)
                        }
                        contexts[atom] = frozenset(told)
    while True:
        enclosed = {
            atom: frozenset(outer for outer in context if contexts[outer] <= context - {outer})
            for atom, context in contexts.items()
        }
        if enclosed == contexts:
            return contexts
        contexts = enclosed
