"""Find the state dict in whatever a training script saved around it.

The walk goes down from the top: into a key that is known to hold weights, or into the only part that holds any.
Where several parts do (generator and discriminator, a list of state dicts) they are kept together under dotted
names. Numbers and short texts met on the way become properties; all else is listed with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from sane_engine.intake import refusals
from sane_engine.intake.constructors import QUANTISED, NumpyArray
from sane_engine.intake.limits import Limits
from sane_engine.intake.tree import Contents, Opaque, TensorView

_WEIGHTS = (
    *("state_dict", "model_state_dict", "model_state", "modelstatedict", "model", "net_state_dict", "net_state"),
    *("net", "network", "module", "params", "parameters", "weights"),
)
"""Keys that hold a model, best first."""

_AVERAGED = ("ema_state_dict", "state_dict_ema", "model_ema", "ema_model", "ema", "params_ema", "shadow_params")
"""Keys of an exponential moving average: taken only where the plain weights are absent."""

_TRAINING_ALWAYS = re.compile(r"^callbacks$|^loops$|rng|^random_state$|^amp$", re.IGNORECASE)
_TRAINING = re.compile(rf"scheduler|scaler|{_TRAINING_ALWAYS.pattern}", re.IGNORECASE)
_LIGHTNING = {
    *("pytorch-lightning_version", "hyper_parameters", "optimizer_states", "lr_schedulers"),
    *("callbacks", "loops", "global_step"),
}
"""Keys that only Lightning writes; in its files the network is an attribute, mostly ``model``."""

_PREFIXES = ("module.", "_orig_mod.")
"""What nn.DataParallel and torch.compile put before every name."""

_TENSOR = re.compile(r"tensor|array|is not read|table of several")
"""Reasons that belong to a tensor, as opposed to a number or a text beside it."""

_PROPERTY_CHARACTERS = 200
_PROPERTY_DEPTH = 3
_INTEGER_BITS = 64


@dataclass
class Found:
    """A state dict and its surroundings.

    Attributes:
        tensors: Name → view, prefixes stripped.
        key_path: Keys followed from the top.
        prefixes: Prefixes stripped, outermost first.
        properties: Plain values met on the way.
        values: 0-d tensors beside the state dict, which become properties once they are read.
        ignored: What was left out, each with the reason.
    """

    tensors: dict[str, TensorView] = field(default_factory=dict)
    key_path: list[str] = field(default_factory=list)
    prefixes: list[str] = field(default_factory=list)
    properties: dict[str, object] = field(default_factory=dict)
    values: dict[str, TensorView] = field(default_factory=dict)
    ignored: list[tuple[str, str]] = field(default_factory=list)


def unwrap(contents: Contents, limits: Limits) -> Found:
    """Choose the tensors of a parsed file.

    Raises:
        Refusal: ``optimizer-only``, ``no-tensors`` or ``too-large``.
    """
    found = Found(ignored=list(contents.ignored))
    root = _resolved(contents.root)
    bearing = _bearing(root, limits)
    node = root if contents.flat else _descend(root, bearing, found, limits)
    _flatten(node, found, limits)
    for name, value in contents.metadata.items():
        _remember(found, name, _number(value), limits)
    if not found.tensors:
        if _is_optimizer(root) or any("optimizer" in reason for _, reason in found.ignored):
            raise refusals.optimizer_only()
        left_out = [(name, reason) for name, reason in found.ignored if _TENSOR.search(reason)]
        if any(reason == QUANTISED for _, reason in left_out):
            raise refusals.quantised()
        if left_out:
            raise refusals.nothing_readable(*left_out[0], len(left_out))
        raise refusals.no_tensors(_describe(root))
    if len(found.tensors) > limits.tensors:
        raise refusals.too_large(f"{len(found.tensors):,} tensors")
    lightning = isinstance(root, dict) and not _LIGHTNING.isdisjoint(map(str, root))
    _strip_prefixes(found, (*_PREFIXES, "model.") if lightning else _PREFIXES)
    return found


def _resolved(value: object) -> object:
    return value.value if isinstance(value, NumpyArray) else value


def _text(value: object) -> str:
    """A key or text as Unicode: half a surrogate pair, which a pickle may hold, could not be written anywhere."""
    if isinstance(value, int) and value.bit_length() > _INTEGER_BITS:
        return "<large integer>"  # Python refuses to write out thousands of digits
    return str(value).encode("utf-8", "replace").decode("utf-8")


def _children(node: object) -> Iterator[tuple[str, object]]:
    """Keys and values of a dict, a list, or a list of (name, tensor) pairs."""
    if isinstance(node, dict):
        # dict.items(d), not d.items(): the tree holds only dicts made here, and stays right if that changes.
        for key, value in dict.items(node):
            yield _text(key), _resolved(value)
    elif isinstance(node, list | tuple):
        pairs = [item for item in node if isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str)]
        if node and len(pairs) == len(node) and all(isinstance(_resolved(value), TensorView) for _, value in pairs):
            yield from ((_text(name), _resolved(value)) for name, value in pairs)
        else:
            yield from ((str(i), _resolved(value)) for i, value in enumerate(node))


def _bearing(root: object, limits: Limits) -> set[int]:
    """Identities of the containers with a tensor in them, at any depth. Iterative: depth is the file's choice."""
    parents: dict[int, list[int]] = {id(root): []}
    pending, holders, entries = [root], [], 0
    while pending:
        node = pending.pop()
        for _, value in _children(node):
            entries += 1
            if entries > limits.tree_entries:
                raise refusals.too_large(f"more than {limits.tree_entries:,} entries beside the tensors")
            if isinstance(value, TensorView):
                holders.append(id(node))
            elif isinstance(value, dict | list | tuple):
                if id(value) not in parents:
                    parents[id(value)] = []
                    pending.append(value)
                parents[id(value)].append(id(node))
    bearing: set[int] = set()
    while holders:
        identity = holders.pop()
        if identity not in bearing:
            bearing.add(identity)
            holders.extend(parents[identity])
    return bearing


def _is_optimizer(value: object) -> bool:
    if isinstance(value, dict):
        return "param_groups" in value and "state" in value
    return (
        isinstance(value, list | tuple)
        and bool(value)
        and all(isinstance(v, dict) and _is_optimizer(v) for v in value)
    )


def _training_state(key: str, value: object, *, bears: bool) -> str:
    """Why an entry is part of the training and not of the model, or nothing; ``bears``: it has tensors in it."""
    if isinstance(value, TensorView):
        return "random-number state" if "rng" in key.lower() and value.dtype == "uint8" else ""
    if not isinstance(value, dict | list | tuple):
        return ""
    if _is_optimizer(value) or re.search(r"optim|^opt$", key, re.IGNORECASE):
        return "optimizer state"
    # A part with tensors that is called scaler may well be a network; the one of mixed precision has none.
    return "state of the training" if (_TRAINING_ALWAYS if bears else _TRAINING).search(key) else ""


def _descend(root: object, bearing: set[int], found: Found, limits: Limits) -> object:
    node = root
    if _is_optimizer(node):
        raise refusals.optimizer_only()
    for _ in range(limits.tree_depth):
        kept = []
        for key, value in _children(node):
            reason = _training_state(key, value, bears=id(value) in bearing)
            if reason:
                found.ignored.append((key, reason))
            else:
                kept.append((key, value))
        parts = {key: value for key, value in kept if id(value) in bearing}
        leaves = {key: value for key, value in kept if isinstance(value, TensorView)}
        chosen = _choice(parts, leaves)
        if chosen is None:
            return dict(kept)
        found.key_path.append(chosen)
        for name, value in kept:
            if name in parts and name != chosen:
                found.ignored.append((name, _other(name)))
            elif name in leaves:
                if leaves[name].elements == 1 and not leaves[name].shape:
                    found.values[name] = leaves[name]
                else:
                    found.ignored.append((name, "tensor beside the state dict"))
            elif name != chosen:
                _remember(found, name, value, limits)
        node = parts[chosen]
    return node


def _other(name: str) -> str:
    return "moving average of the weights" if name.lower() in _AVERAGED else "another set of weights"


def _choice(parts: dict[str, object], leaves: dict[str, TensorView]) -> str | None:
    """The entry to go into, or None where the node itself is the state dict."""
    lower = {key.lower(): key for key in reversed(parts)}
    for name in (*_WEIGHTS, *_AVERAGED):
        if name in lower:
            return lower[name]
    if len(parts) == 1 and all(not leaf.shape for leaf in leaves.values()):
        return next(iter(parts))
    return None


def _flatten(node: object, found: Found, limits: Limits) -> None:
    pending = [("", node, 0)]
    seen: set[int] = set()
    while pending:
        prefix, value, depth = pending.pop()
        if isinstance(value, TensorView):
            if prefix in found.tensors:
                found.ignored.append((prefix, "second tensor of this name"))
            elif len(prefix) > limits.name_characters:
                found.ignored.append((prefix[:40] + "…", "its name is too long"))
            elif prefix == "n_averaged" and not value.shape:
                found.values[prefix] = value
            else:
                found.tensors[prefix] = value
        elif isinstance(value, dict | list | tuple) and (id(value) not in seen) and depth < limits.tree_depth:
            if isinstance(value, list) and len(value) > 0 and all(isinstance(v, int | float) for v in value):
                found.ignored.append((prefix, f"list of {len(value)} numbers"))
                continue
            seen.add(id(value))
            below = [(f"{prefix}.{key}" if prefix else key, child, depth + 1) for key, child in _children(value)]
            pending.extend(reversed(below))
        elif isinstance(value, dict | list | tuple):
            found.ignored.append((prefix, "nested too deep, or a second time"))
        elif value is not None:
            _remember(found, prefix, value, limits)


def _remember(found: Found, name: str, value: object, limits: Limits) -> None:
    """Keep plain values as properties, nested ones under dotted names; list the rest as ignored."""
    pending = [(name, value, 0)]
    while pending:
        name, value, depth = pending.pop()
        if isinstance(value, int) and value.bit_length() > _INTEGER_BITS:
            found.ignored.append((name, f"integer of more than {_INTEGER_BITS} bits"))
        elif isinstance(value, bool | int | float) or (
            isinstance(value, str) and len(value) <= _PROPERTY_CHARACTERS
        ):
            if len(found.properties) < limits.properties and len(name) <= _PROPERTY_CHARACTERS:
                found.properties[name] = _text(value) if isinstance(value, str) else value
        elif isinstance(value, dict) and depth < _PROPERTY_DEPTH:
            pending.extend((f"{name}.{key}", child, depth + 1) for key, child in [*_children(value)][::-1])
        elif isinstance(value, dict | list | tuple):
            found.ignored.append((name, f"{type(value).__name__} of {len(value)} entries"))
        elif value is not None:
            kind = value.kind if isinstance(value, Opaque) else f"{type(value).__name__}"
            found.ignored.append((name, "long text" if isinstance(value, str) else kind))


def _number(value: object) -> object:
    """A safetensors file keeps every property as text; numbers become numbers again."""
    if isinstance(value, str):
        if re.fullmatch(r"[+-]?\d{1,18}", value):
            return int(value)
        if re.fullmatch(r"[+-]?(\d{1,18}\.\d{0,18}|\.?\d{1,18})([eE][+-]?\d{1,3})?", value):
            return float(value)
    return value


def _strip_prefixes(found: Found, prefixes: tuple[str, ...]) -> None:
    while True:
        for prefix in prefixes:
            if all(name.startswith(prefix) and len(name) > len(prefix) for name in found.tensors):
                found.tensors = {name[len(prefix) :]: tensor for name, tensor in found.tensors.items()}
                found.prefixes.append(prefix)
                break
        else:
            return


def _describe(root: object) -> str:
    if isinstance(root, dict) and root:
        names = ", ".join(refusals.printable(str(key), 24) for key in list(root)[:3])
        return f"a dict with {names}{' …' if len(root) > 3 else ''}"
    if isinstance(root, dict | list | tuple):
        return f"a {type(root).__name__} of {len(root)} entries"
    if isinstance(root, TensorView):
        return "one tensor without a name"
    return root.kind if isinstance(root, Opaque) else f"one value of the type {type(root).__name__}"
