"""The frame for the rules: what a rule gets, how it is registered, and what happens where there is none.

A rule takes the traced arguments of one ATen operation and returns its traced result. It states which axes must be
permuted alike for the operation to commute with the permutation; everything it leaves unsaid stays free. An
operation without a rule, or one whose rule fails, fixes every axis of every tensor it reads: sound, if not
generous.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sane_engine.symmetry.atoms import Axis, Leaf, Restart
from sane_engine.symmetry.labels import Labels, even
from sane_engine.symmetry.values import Parts, Traced, Value, collapse, fixed_value, settle, shape_of

Result = Traced | tuple[Traced | None, ...] | None


@dataclass
class Call:
    """One operation of the traced graph.

    Attributes:
        labels: The axes known so far.
        node: Name of the operation in the graph, unique.
        name: ATen name without overload, for example ``"convolution"``.
        args: Positional arguments, tensors replaced by their traced values; missing defaults are filled in.
        out: Shape of the result (or of each result); ``None`` for what is not a tensor.
    """

    labels: Labels
    node: str
    name: str
    args: dict[str, Any]
    out: list[tuple[int, ...] | None]

    def value(self, name: str) -> Value:
        """The traced tensor argument called ``name`` in the operation's schema."""
        argument = self.args[name]
        if not isinstance(argument, Value):
            raise TypeError(f"{self.name} has no single tensor {name}")
        return argument

    def optional(self, name: str) -> Value | None:
        """The same, or ``None`` where the argument is absent."""
        argument = self.args.get(name)
        return argument if isinstance(argument, Value) else None

    def dims(self, name: str, rank: int) -> list[int]:
        """A dimension or list of dimensions, counted from the front; all of them where none is given."""
        given = self.args.get(name)
        if given is None or given == []:
            return list(range(rank))
        listed = given if isinstance(given, (list, tuple)) else [given]
        return [int(dim) % max(rank, 1) for dim in listed]

    def fixed_out(self, index: int = 0) -> Value:
        """A result no axis of which may be reordered."""
        return fixed_value(self.labels, self.out[index] or ())


Rule = Callable[[Call], Result]
_RULES: dict[str, tuple[Rule, bool]] = {}


def rule(*names: str, parts: bool = False) -> Callable[[Rule], Rule]:
    """Register a rule for ATen operations; ``parts`` says that it deals with :class:`Parts` itself."""

    def register(function: Rule) -> Rule:
        for name in names:
            _RULES[name] = (function, parts)
        return function

    return register


def tensors_in(argument: Any) -> list[Traced]:
    """All traced tensors in an argument, also inside lists."""
    if isinstance(argument, (Value, Parts)):
        return [argument]
    if isinstance(argument, (list, tuple)):
        return [tensor for item in argument for tensor in tensors_in(item)]
    return []


def freeze(call: Call) -> Result:
    """Fix every axis of every argument; the results are then fixed as well."""
    for argument in call.args.values():
        for tensor in tensors_in(argument):
            for axis in collapse(call.labels, tensor).axes:
                call.labels.fix(axis)
    if len(call.out) == 1:
        return call.fixed_out()
    return tuple(None if shape is None else fixed_value(call.labels, shape) for shape in call.out)


def apply_rule(target: torch._ops.OpOverload, call: Call, note: Callable[[str], None]) -> Result:
    """Trace one operation; never fails but for :class:`Restart`."""
    found = _RULES.get(call.name)
    if found is None and torch.Tag.pointwise in target.tags:
        found = _RULES["pointwise"]
    if found is None:
        if any(any(not atom.fixed for p in axis for atom, _ in p) for axis in _axes(call)):
            note(f"{call.name}: no rule, its tensors are left fixed")
        return freeze(call)
    function, takes_parts = found
    if not takes_parts:
        call.args = {key: _collapsed(call.labels, argument) for key, argument in call.args.items()}
    try:
        result = function(call)
        _check(call, result)
    except Restart:
        raise
    except (ValueError, TypeError, IndexError, KeyError, NotImplementedError) as error:
        note(f"{call.name}: {error}; its tensors are left fixed")
        return freeze(call)
    if isinstance(result, tuple):
        return tuple(None if value is None else settle(call.labels, value) for value in result)
    return None if result is None else settle(call.labels, result)


def _axes(call: Call) -> list[Axis]:
    values = [collapse(call.labels, t) for argument in call.args.values() for t in tensors_in(argument)]
    return [call.labels.resolve(axis) for value in values for axis in value.axes]


def _check(call: Call, result: Result) -> None:
    results: Sequence[Traced | None] = result if isinstance(result, tuple) else (result,)
    for value, shape in zip(results, call.out, strict=False):
        if value is not None and shape is not None and shape_of(call.labels, value) != shape:
            raise ValueError(f"traced shape {shape_of(call.labels, value)} is not {shape}")


def _collapsed(labels: Labels, argument: Any) -> Any:
    if isinstance(argument, Parts):
        return collapse(labels, argument)
    if isinstance(argument, (list, tuple)):
        return [_collapsed(labels, item) for item in argument]
    return argument


def unsigned(labels: Labels, value: Value) -> Value:
    """The value after a function that is neither odd nor even."""
    return Value(tuple(labels.unsigned(axis) for axis in value.axes))


def keep_contexts(labels: Labels, axis: Axis, among: Sequence[Axis]) -> None:
    """After a contraction over ``axis``: its atoms may depend on nothing but atoms of the axes ``among``."""
    allowed = {atom for other in among for product in labels.resolve(other) for atom, _ in product}
    for product in labels.resolve(axis):
        for atom, _ in product:
            if not atom.fixed:
                for outer in labels.context(atom) - allowed:
                    labels.drop(atom, outer)


def contract(labels: Labels, first: Axis, second: Axis, batch: Sequence[Axis] = ()) -> None:
    """Sum over the product of two axes: both are permuted and flipped alike."""
    labels.unite(first, second)
    keep_contexts(labels, first, [first, *batch])


def multiply_signs(labels: Labels, first: Axis, second: Axis) -> Axis:
    """Axis of a product of two tensors whose axes are already united: equal signs cancel."""
    a, b = labels.resolve(first), labels.resolve(second)
    products = []
    for p, q in zip(a, b, strict=True):
        leaves: list[Leaf] = []
        for (atom, sign), (_, other) in zip(p, q, strict=True):
            if sign is other:
                leaves.append((atom, None))
            elif sign is None:
                leaves.append((atom, other))
            else:
                labels.fix_sign(other)  # one of two independent flips is given up
                leaves.append((atom, sign))
        products.append(tuple(leaves))
    return tuple(products)


def unite_unsigned(labels: Labels, first: Axis, second: Axis) -> None:
    """Permuted alike, whatever the signs of either do."""
    labels.unite(even(first), even(second))
