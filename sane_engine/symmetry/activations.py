"""Alignment by what the hidden units do on data, not by their weights.

Two units are matched if their activations correlate over a batch of inputs (Li, Yosinski, Clune, Lipson, Hopcroft
2015, "Convergent learning", arXiv 1511.07543; Ainsworth, Hayase, Srinivasa 2022, "Git Re-Basin", section 3.1, arXiv
2209.04836). Every group is one linear assignment of its own, so nothing has to be repeated.

Where a group's activations appear is read off the trace that found the symmetry: they are what the next layers take
in, at each place where a layer takes them in. Where activations flip, the absolute correlation counts.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Interpreter, Node

from sane_engine.progress import CancelCheck, stop_if
from sane_engine.symmetry.atoms import Axis
from sane_engine.symmetry.matching import Matcher, best_assignment
from sane_engine.symmetry.permutations import Permutations
from sane_engine.symmetry.restricting import without_signs
from sane_engine.symmetry.spec import Symmetry
from sane_engine.symmetry.tracing import ExampleInput, Reading, Untraceable, evaluating, example_tensors, read
from sane_engine.symmetry.values import Value

_LAYERS = (
    *("convolution", "mm", "addmm", "bmm", "baddbmm", "linear"),
    *("_scaled_dot_product_flash_attention_for_cpu", "scaled_dot_product_attention"),
)


@dataclass(frozen=True)
class ActivationMatch:
    """What the activations say.

    Attributes:
        permutations: For ``symmetry.permute``.
        by_activations: Numbers of the groups whose activations were compared; the others were matched by weights.
        notes: Which groups were matched by weights and why, and how many units were constant on the inputs.
    """

    permutations: Permutations
    by_activations: tuple[int, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Place:
    """Where a group's units stand in a traced tensor."""

    group: int
    sign: int | None
    dim: int
    start: int
    sizes: tuple[int, ...]
    factor: int

    def units(self, tensor: Tensor) -> Tensor:
        """``[samples, units]``: everything but the units is a sample."""
        stretch: Tensor = tensor.narrow(self.dim, self.start, prod(self.sizes))
        split: Tensor = stretch.unflatten(self.dim, self.sizes)  # type: ignore[no-untyped-call]  # torch leaves it
        return split.movedim(self.dim + self.factor, -1).reshape(-1, self.sizes[self.factor])


def match_activations(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    reference: Mapping[str, Tensor],
    symmetry: Symmetry,
    inputs: ExampleInput,
    *,
    seed: int = 0,
    cancelled: CancelCheck | None = None,
) -> ActivationMatch:
    """The permutation after which the hidden units of both networks correlate most on ``inputs``.

    Units inside heads and convolution groups, and groups whose activations appear nowhere in the trace, are matched
    by weights once the others are in place.

    Args:
        module: The network both sets of tensors belong to; it is left as it was.
        tensors: The network to move.
        reference: The network that stays.
        symmetry: Of both: what :func:`find_symmetry` finds for ``module``, with or without its sign flips.
        inputs: A batch, as ``find_symmetry`` takes it: a tensor, a sequence or a mapping. A few hundred samples.
        seed: Order of the visits where weights are matched.
        cancelled: Asked between operations.

    Returns:
        The permutation and how it came about. A unit that is constant on ``inputs`` correlates with nothing: it
        gets one of the places that are left.

    Raises:
        ValueError: The tensors or the symmetry belong to another network, or the module cannot be traced.
        Cancelled: The caller asked to stop.
    """
    symmetry.check(tensors)
    symmetry.check(reference)
    with evaluating(module):
        try:
            reading = read(module, inputs)
        except Untraceable as error:
            raise ValueError(f"the module {error}") from error
        signs = _signs_in(reading.symmetry, symmetry)
        places = _readable(symmetry, _places(reading, signs))
        plain, signed, constant = _correlations(reading, places, tensors, reference, inputs, cancelled)
    permutations = symmetry.identity()
    matched = sorted({place.group for found in places.values() for place in found})
    for group in matched:
        own = {s: values for s, values in signed.items() if symmetry.signs[s] == group}
        value = plain.get(group, 0) + sum(values.abs() for values in own.values())
        order = best_assignment(torch.as_tensor(value))
        permutations.orders[group].copy_(order)
        for s, values in own.items():
            picked = values.gather(1, order[:, None])[:, 0]
            permutations.flips[s].copy_(torch.where(picked < 0, -1, 1))
    rest = [group for group in range(len(symmetry.groups)) if group not in matched]
    if rest:
        moved = symmetry.permute(tensors, permutations)
        with torch.no_grad():
            matcher = Matcher(symmetry, reference, {name: moved[name][None] for name in symmetry.tensors})
            matcher.run(seed, only=rest)
        permutations = symmetry.compose(matcher.permutations(0), permutations)
    notes = [f"{symmetry.groups[group].label}: matched by weights, {_why(symmetry, group)}" for group in rest]
    if constant:
        notes.append(f"{constant} units are constant on the inputs: no activation tells them apart")
    return ActivationMatch(permutations, tuple(matched), tuple(notes))


def _why(symmetry: Symmetry, group: int) -> str:
    if symmetry.groups[group].context or group in symmetry.blocks:
        return "it lies inside heads or convolution groups"
    return "its activations were not found"


def _signs_in(traced: Symmetry, given: Symmetry) -> dict[int, int]:
    """Number of each sign vector of the trace in the symmetry that was given, which may lack some."""
    if without_signs(traced).tensors != without_signs(given).tensors or [g.size for g in traced.groups] != [
        g.size for g in given.groups
    ]:
        raise ValueError("this symmetry belongs to another network than the module")
    numbers: dict[int, int] = {}
    for name, axes in traced.tensors.items():
        for axis, other in zip(axes, given.tensors[name], strict=True):
            for segment, twin in zip(axis, other, strict=True):
                for f, g in zip(segment, twin, strict=True):
                    if f.sign is not None and g.sign is not None:
                        numbers[f.sign] = g.sign
    return numbers


# ---- where the activations are ---------------------------------------------------------------------------------


def _places(reading: Reading, signs: Mapping[int, int]) -> dict[Node, list[_Place]]:
    """Groups without a context in the tensors that layers take in; elsewhere only what no layer takes in."""
    of_inputs: set[Node] = set()
    holders = [node for node in reading.graph.graph.nodes if node.op == "placeholder"]
    of_inputs.update(holders[len(reading.tensors) :])
    taken: dict[Node, list[_Place]] = {}
    others: dict[int, tuple[Node, _Place]] = {}
    for node in reading.graph.graph.nodes:
        if any(source in of_inputs for source in node.all_input_nodes):
            of_inputs.add(node)
        if node not in of_inputs or node.op == "output":
            continue
        found = _groups_of(reading, node, signs)
        if any(_name(user) in _LAYERS for user in node.users):
            taken[node] = found
        others.update({place.group: (node, place) for place in found})
    read_already = {place.group for found in taken.values() for place in found}
    for group, (node, place) in others.items():
        if group not in read_already:
            taken.setdefault(node, []).append(place)
    return {node: found for node, found in taken.items() if found}


def _name(node: Node) -> str:
    target: Any = node.target
    return "" if node.op != "call_function" or target is operator.getitem else target._schema.name.split("::")[-1]


def _groups_of(reading: Reading, node: Node, signs: Mapping[int, int]) -> list[_Place]:
    value = reading.values.get(node)
    if not isinstance(value, Value):
        return []
    found = []
    for dim, axis in enumerate(value.axes):
        found += _along(reading, dim, reading.labels.resolve(axis), signs)
    return found


def _along(reading: Reading, dim: int, axis: Axis, signs: Mapping[int, int]) -> list[_Place]:
    found, start = [], 0
    for product in axis:
        sizes = tuple(atom.size for atom, _ in product)
        for factor, (atom, sign) in enumerate(product):
            group = reading.numbering.groups.get(atom)
            if group is None or reading.symmetry.groups[group].context or group in reading.symmetry.blocks:
                continue
            root = reading.labels.find_sign(sign)
            number = None if root is None else reading.numbering.signs.get(root)
            found.append(_Place(group, None if number is None else signs.get(number), dim, start, sizes, factor))
        start += prod(sizes)
    return found


def _readable(symmetry: Symmetry, places: dict[Node, list[_Place]]) -> dict[Node, list[_Place]]:
    """Without the groups that have a sign vector which shows in no activation."""
    shown = {place.sign for found in places.values() for place in found}
    hidden = {owner for sign, owner in enumerate(symmetry.signs) if sign not in shown}
    kept = {node: [place for place in found if place.group not in hidden] for node, found in places.items()}
    return {node: found for node, found in kept.items() if found}


# ---- what they are ---------------------------------------------------------------------------------------------


def _correlations(
    reading: Reading,
    places: Mapping[Node, Sequence[_Place]],
    tensors: Mapping[str, Tensor],
    reference: Mapping[str, Tensor],
    inputs: ExampleInput,
    cancelled: CancelCheck | None,
) -> tuple[dict[int, Tensor], dict[int, Tensor], int]:
    """Run both networks side by side, one operation at a time, and keep nothing but correlations.

    Returns:
        By group those of activations that do not flip, by sign vector those that do, ``[reference, moving]``,
        summed over places; and how many units were constant.
    """
    plain: dict[int, Tensor] = {}
    signed: dict[int, Tensor] = {}
    alive: dict[int, Tensor] = {}
    last_use = {source: node for node in reading.graph.graph.nodes for source in node.all_input_nodes}
    runs = [_interpreter(reading, state, inputs) for state in (reference, tensors)]
    for node in reading.graph.graph.nodes:
        stop_if(cancelled)
        if node.op == "output":
            break
        for run in runs:
            if node not in run.env:
                run.env[node] = run.run_node(node)
        for place in places.get(node, ()):
            ours, theirs = (_standardised(place.units(run.env[node])) for run in runs)
            store, key = (plain, place.group) if place.sign is None else (signed, place.sign)
            values = (ours.T @ theirs).double() / len(ours)
            store[key] = store[key] + values if key in store else values
            lively = torch.stack([ours.any(0), theirs.any(0)])
            alive[place.group] = lively | alive[place.group] if place.group in alive else lively
        for source in {*node.all_input_nodes, node}:
            if last_use.get(source, source) is node:
                for run in runs:
                    run.env.pop(source, None)
    return plain, signed, sum(int((~lively).sum(1).max()) for lively in alive.values())


def _standardised(units: Tensor) -> Tensor:
    """Mean 0 and variance 1 for each unit; 0 where it is constant (up to rounding) or not finite."""
    centred = units - units.mean(0)
    spread = centred.square().mean(0).sqrt()
    scale = units.abs().amax(0) * 8 * torch.finfo(units.dtype).eps
    return torch.where((spread > scale) & spread.isfinite(), centred / spread, torch.zeros_like(centred))


def _interpreter(reading: Reading, state: Mapping[str, Tensor], inputs: ExampleInput) -> Interpreter:
    values = []
    for names, own in zip(reading.names, reading.tensors, strict=True):
        given = next((state[name] for name in names if name in state), own)
        values.append(given.detach().to(own.dtype))
    run = Interpreter(reading.graph, garbage_collect_values=False)
    holders = [node for node in reading.graph.graph.nodes if node.op == "placeholder"]
    run.env = dict(zip(holders, [*values, *example_tensors(inputs)], strict=True))
    return run
