"""Find the symmetry of a network by tracing it once.

The module is traced with fake tensors into a graph of functional ATen operations. Every parameter axis begins as
one free atom; each operation's rule unites or fixes axes; the passes are repeated until none removes any freedom.
The network's inputs and outputs are fixed. What is left is checked by running the network once with a random
permutation.
"""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from sane_engine.symmetry import rules_channels, rules_contraction, rules_layout, rules_pointwise
from sane_engine.symmetry.atoms import Restart, Sign
from sane_engine.symmetry.labels import Labels
from sane_engine.symmetry.rules import Call, Result, apply_rule, tensors_in
from sane_engine.symmetry.spec import Symmetry
from sane_engine.symmetry.specifying import Numbering, specify
from sane_engine.symmetry.values import Traced, Value, collapse, fixed_value

RULE_FILES = (rules_channels, rules_contraction, rules_layout, rules_pointwise)


class Untraceable(Exception):
    """The network could not be traced, and why."""


@dataclass(frozen=True)
class Reading:
    """A traced network, with what every tensor on its way is labelled with.

    Attributes:
        graph: ATen operations; its inputs are ``tensors``, then the tensors among the example inputs.
        names: All names of each distinct parameter and buffer.
        tensors: One each.
        values: The labelled result of every operation.
        labels: What is known of the labels.
        symmetry: What follows for the parameters.
        numbering: How the symmetry numbers the labels.
    """

    graph: GraphModule
    names: list[list[str]]
    tensors: list[Tensor]
    values: Mapping[Node, Result]
    labels: Labels
    symmetry: Symmetry
    numbering: Numbering


ExampleInput = Tensor | Sequence[Any] | Mapping[str, Any]

_MAX_PASSES = 50
_MAX_RESTARTS = 1000
_TOLERANCE = 1e-3  # of the largest output; a wrong specification is off by order one, float32 rounding by 1e-5


def find_symmetry(module: nn.Module, example_input: ExampleInput, *, verify: bool = True) -> Symmetry:
    """Derive which axes of which tensors share a permutation, and where signs may flip.

    The module is read in evaluation mode and left as it was. Understood are convolutions (grouped, depthwise,
    transposed), linear layers and matrix products, batch, layer, group and RMS norm, residual sums, concatenation,
    pooling, any elementwise function, embeddings, attention (written out, fused, ``nn.MultiheadAttention``) and
    reshapes. The rest fixes what it touches and is named in ``notes``.

    Args:
        module: Any network; its state dict gives the tensor names.
        example_input: A tensor, a sequence of positional arguments, or a mapping of keyword arguments. Only shapes
            matter to the tracing; the check runs on it.
        verify: Run the network on ``example_input`` before and after a random permutation, and give everything up
            if the outputs differ.

    Returns:
        The symmetry. Where the network cannot be traced at all it is trivial, and ``notes`` says why.
    """
    args, kwargs = _arguments(example_input)
    with evaluating(module):
        try:
            symmetry = read(module, example_input).symmetry
        except Untraceable as error:
            return Symmetry((), (), {}, (str(error),))
        if verify and not symmetry.is_trivial:
            difference = _check(module, symmetry, args, kwargs)
            if not difference <= _TOLERANCE:
                note = (
                    "given up: outputs are not numbers, so that nothing can be checked"
                    if math.isnan(difference)
                    else f"given up: a permutation changed the outputs by {difference:.2g} of their size"
                )
                return Symmetry((), (), {}, (*symmetry.notes, note))
    return symmetry


def read(module: nn.Module, example_input: ExampleInput) -> Reading:
    """Trace a module, which should be in evaluation mode, and label every tensor of the trace.

    Raises:
        Untraceable: It cannot be traced, or the labels do not settle.
    """
    args, kwargs = _arguments(example_input)
    names, tensors, movable = _named_tensors(module)
    try:
        graph = _trace(module, names, tensors, args, kwargs)
    except Exception as error:  # whatever a foreign forward raises under tracing means: nothing is known
        raise Untraceable(f"could not be traced: {_one_line(error)}") from error
    return _solve(graph, names, tensors, movable)


def example_tensors(example_input: ExampleInput) -> list[Tensor]:
    """The tensors of an example input, in the order in which a trace takes them."""
    return [leaf for leaf in pytree.tree_leaves(_arguments(example_input)) if isinstance(leaf, Tensor)]


def _arguments(example: ExampleInput) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example, Tensor):
        return (example,), {}
    if isinstance(example, Mapping):
        return (), dict(example)
    return tuple(example), {}


def _one_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients, and attention by its written-out path, which can be read."""
    modes = {child: child.training for child in module.modules()}
    fast = torch.backends.mha.get_fastpath_enabled()
    module.eval()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for child, mode in modes.items():
            child.training = mode


def _named_tensors(module: nn.Module) -> tuple[list[list[str]], list[Tensor], list[bool]]:
    """The distinct tensors of a module, all names of each, and whether it may move: saved, and no mask or count."""
    saved = set(module.state_dict())
    every = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    names: dict[tuple[Any, ...], list[str]] = {}
    tensors: dict[tuple[Any, ...], Tensor] = {}
    for name, tensor in every:
        storage = tensor.data_ptr() if tensor.numel() else id(tensor)
        key = (storage, tuple(tensor.shape), tensor.stride(), tensor.dtype)
        names.setdefault(key, []).append(name)
        tensors.setdefault(key, tensor)
    movable = [
        tensor.is_floating_point() and any(name in saved for name in names[key]) for key, tensor in tensors.items()
    ]
    return list(names.values()), list(tensors.values()), movable


def _trace(
    module: nn.Module, names: list[list[str]], tensors: list[Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> GraphModule:
    leaves, structure = pytree.tree_flatten((args, kwargs))
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]

    def run(weights: list[Tensor], inputs: list[Tensor]) -> Any:
        state = {name: weight for group, weight in zip(names, weights, strict=True) for name in group}
        filled = list(leaves)
        for place, value in zip(places, inputs, strict=True):
            filled[place] = value
        arguments, keywords = pytree.tree_unflatten(filled, structure)
        output = torch.func.functional_call(module, state, arguments, keywords, tie_weights=False)
        return [leaf for leaf in pytree.tree_leaves(_plain(output)) if isinstance(leaf, Tensor)]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a foreign forward warns of while traced is not about this trace
        return make_fx(torch.func.functionalize(run), tracing_mode="fake", _allow_non_fake_inputs=True)(
            [tensor.detach() for tensor in tensors], [leaves[place] for place in places]
        )


def _plain(output: Any) -> Any:
    """Outputs that are dataclasses or attribute dictionaries, as containers that can be flattened."""
    return dict(output) if isinstance(output, Mapping) else output


def _solve(graph: GraphModule, names: list[list[str]], tensors: list[Tensor], movable: list[bool]) -> Reading:
    cuts: dict[tuple[str, int], set[int]] = {}
    for _ in range(_MAX_RESTARTS):
        labels = Labels()
        notes: dict[str, None] = {}
        weights = [
            _weight(labels, group[0], tensor, cuts) if free else fixed_value(labels, tensor.shape)
            for group, tensor, free in zip(names, tensors, movable, strict=True)
        ]
        try:
            for _ in range(_MAX_PASSES):
                before = labels.events
                values = _pass(graph, labels, weights, notes)
                if labels.events == before:
                    kept = {
                        name: weight
                        for group, weight, free in zip(names, weights, movable, strict=True)
                        if free
                        for name in group
                    }
                    symmetry, numbering = specify(labels, kept, list(notes))
                    return Reading(graph, names, tensors, values, labels, symmetry, numbering)
        except Restart as restart:
            bounds = cuts.setdefault((restart.tensor, restart.dim), set())
            position = restart.offset
            for size in restart.sizes:
                position += size
                bounds.add(position)
    raise Untraceable("could not be settled")


def _weight(labels: Labels, name: str, tensor: Tensor, cuts: Mapping[tuple[str, int], set[int]]) -> Value:
    """A parameter: every axis free, and free to depend on the axes before it."""
    axes = []
    outer: list[Any] = []
    for dim, size in enumerate(tensor.shape):
        bounds = sorted({0, size, *(b for b in cuts.get((name, dim), ()) if 0 < b < size)})
        segments = []
        atoms = []
        for start, end in pairwise(bounds):
            atom = labels.atom(end - start, [tuple(outer)])
            labels.origins.append((atom, name, dim, start))
            atoms.append(atom)
            segments.append(((atom, Sign()),))
        outer.extend(atoms if len(atoms) == 1 else [])
        axes.append(tuple(segments) or labels.fixed(0))
    return Value(tuple(axes))


def _pass(
    graph: GraphModule, labels: Labels, weights: Sequence[Value], notes: dict[str, None]
) -> dict[Node, Result]:
    known: dict[Node, Result] = {}
    placeholders = 0
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            if placeholders < len(weights):
                known[node] = weights[placeholders]
            else:
                known[node] = fixed_value(labels, node.meta["val"].shape)
            placeholders += 1
            if not node.users:
                _fix(labels, known[node])
        elif node.op == "get_attr":
            constant = getattr(graph, str(node.target))
            known[node] = fixed_value(labels, constant.shape) if isinstance(constant, Tensor) else None
        elif node.op == "output":
            for value in pytree.tree_leaves(node.args):
                if isinstance(value, Node):
                    _fix(labels, known[value])
        elif node.target is operator.getitem:
            source = known[node.args[0]]
            index = node.args[1]
            known[node] = source[index] if isinstance(source, tuple) else None
        else:
            call = _call(labels, node, known)
            known[node] = apply_rule(node.target, call, lambda text: notes.setdefault(text))
    return known


def _fix(labels: Labels, value: Result) -> None:
    for tensor in tensors_in(value):
        for axis in collapse(labels, tensor).axes:
            labels.fix(axis)


def _call(labels: Labels, node: Node, known: Mapping[Node, Result]) -> Call:
    target: Any = node.target

    def traced(argument: Any) -> Any:
        if isinstance(argument, Node):
            return known[argument]
        if isinstance(argument, (list, tuple)):
            return [traced(item) for item in argument]
        return argument

    arguments: dict[str, Any] = {}
    for position, parameter in enumerate(target._schema.arguments):
        if position < len(node.args) and not parameter.kwarg_only:
            arguments[parameter.name] = traced(node.args[position])
        elif parameter.name in node.kwargs:
            arguments[parameter.name] = traced(node.kwargs[parameter.name])
        elif parameter.has_default_value():
            arguments[parameter.name] = parameter.default_value
    results = node.meta.get("val")
    shapes = [
        tuple(result.shape) if isinstance(result, Tensor) else None
        for result in (results if isinstance(results, (list, tuple)) else [results])
    ]
    return Call(labels, node.name, target._schema.name.split("::")[-1], arguments, shapes)


def _check(module: nn.Module, symmetry: Symmetry, args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
    """Largest change of an output under a random permutation, relative to the largest output; NaN if one is NaN."""
    state = {name: tensor.detach() for name, tensor in module.state_dict().items()}
    permuted = symmetry.permute(state, symmetry.random(torch.Generator().manual_seed(0)))
    outputs = []
    for tensors in (state, permuted):
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the module's own
            torch.manual_seed(0)
            outputs.append(torch.func.functional_call(module, tensors, args, kwargs, tie_weights=False))
    changes = [0.0]
    for before, after in zip(*(pytree.tree_leaves(_plain(output)) for output in outputs), strict=True):
        if isinstance(before, Tensor) and before.numel() and before.is_floating_point():
            # Masks may be infinite; what stays infinite has not changed.
            scale = before.abs().where(before.isfinite(), 0).max().clamp_min(torch.finfo(before.dtype).tiny)
            changes.append(float((before - after).where(before != after, 0).abs().max() / scale))
    return math.nan if any(map(math.isnan, changes)) else max(changes)


__all__ = ["ExampleInput", "Traced", "find_symmetry"]
