"""Rules for what acts on each entry alone, with broadcasting: activations, sums, products, masks, constants."""

from __future__ import annotations

from sane_engine.symmetry.atoms import Axis
from sane_engine.symmetry.labels import even
from sane_engine.symmetry.rules import Call, Result, multiply_signs, rule, tensors_in, unite_unsigned, unsigned
from sane_engine.symmetry.values import Traced, Value, collapse, each, fixed_value, shape_of


def _aligned(call: Call, values: list[Value]) -> list[list[Axis]]:
    """For each dimension of the result, the axes of the arguments that are not broadcast along it."""
    labels = call.labels
    rank = max(len(value.axes) for value in values)
    columns: list[list[Axis]] = []
    for dim in range(-rank, 0):
        axes = [value.axes[dim] for value in values if len(value.axes) >= -dim]
        wide = [axis for axis in axes if labels.size(axis) != 1]
        columns.append(wide or axes[:1])
    return columns


def _unites(call: Call, values: list[Value], *, keeps_sign: bool) -> Value:
    """Entries of all arguments meet: axes are united. ``keeps_sign``: the result flips where all arguments do."""
    labels = call.labels
    axes = []
    for column in _aligned(call, values):
        everywhere = len(column) == len(values)  # a broadcast argument does not flip
        for axis in column:
            unite_unsigned(labels, column[0], axis)
        if keeps_sign and everywhere:
            for axis in column[1:]:
                labels.unite(column[0], axis)
            axes.append(column[0])
        else:
            for axis in column:
                labels.unsigned(axis)
            axes.append(even(column[0]))
    return Value(tuple(axes))


def _tensors(call: Call) -> list[Value]:
    return [t for argument in call.args.values() for t in tensors_in(argument) if isinstance(t, Value)]


@rule("pointwise")
def pointwise(call: Call) -> Result:
    """Any function of entries, of one argument or several."""
    return _unites(call, _tensors(call), keeps_sign=False)


@rule(
    *(
        "tanh",
        "sin",
        "asin",
        "atan",
        "sinh",
        "asinh",
        "atanh",
        "tan",
        "erf",
        "erfinv",
        "neg",
        "sgn",
        "sign",
        "trunc",
    ),
    *("clone", "alias", "detach", "_to_copy", "lift_fresh_copy", "lift_fresh", "contiguous", "dropout"),
    parts=True,
)
def odd(call: Call) -> Result:
    """f(−x) = −f(x): flips go through. Copies too, and they do not tie the parts of a parted tensor."""
    value: Traced = next(tensor for argument in call.args.values() for tensor in tensors_in(argument))
    return each(value, lambda part: part)


@rule("abs", "cos", "cosh")
def even_function(call: Call) -> Result:
    """f(−x) = f(x): flips end here and do no harm."""
    return Value(tuple(even(axis) for axis in call.value("self").axes))


@rule("hardtanh", "clamp")
def clamp(call: Call) -> Result:
    """Odd where the bounds are symmetric, as in ``Hardtanh``."""
    value = call.value("self")
    low = call.args.get("min_val", call.args.get("min"))
    high = call.args.get("max_val", call.args.get("max"))
    if isinstance(low, (int, float)) and isinstance(high, (int, float)) and low == -high:
        return value
    return unsigned(call.labels, value)


@rule("pow")
def power(call: Call) -> Result:
    """Odd or even with the exponent, where it is a whole number."""
    exponent = call.args.get("exponent")
    tensors = _tensors(call)
    if len(tensors) == 1 and isinstance(exponent, (int, float)) and float(exponent).is_integer():
        return tensors[0] if exponent % 2 else Value(tuple(even(axis) for axis in tensors[0].axes))
    return _unites(call, tensors, keeps_sign=False)


@rule("add", "sub", "rsub", "add_", "where")
def add(call: Call) -> Result:
    """A residual connection: both branches are permuted and flipped alike."""
    tensors = _tensors(call)
    if call.name == "where":
        return _where(call)
    if len(tensors) == 1:
        scalars = [call.args.get(key) for key in ("self", "other") if not isinstance(call.args.get(key), Value)]
        return tensors[0] if scalars == [0] else unsigned(call.labels, tensors[0])
    return _unites(call, tensors, keeps_sign=True)


def _where(call: Call) -> Value:
    condition = unsigned(call.labels, call.value("condition"))
    choices = [t for t in (call.args["self"], call.args["other"]) if isinstance(t, Value)]
    if len(choices) < 2:
        return _unites(call, [condition, *choices], keeps_sign=False)
    chosen = _unites(call, choices, keeps_sign=True)
    return _times(call, chosen, condition)


def _times(call: Call, first: Value, second: Value) -> Value:
    labels = call.labels
    axes = []
    rank = max(len(first.axes), len(second.axes))
    for dim in range(-rank, 0):
        pair = [v.axes[dim] for v in (first, second) if len(v.axes) >= -dim]
        wide = [axis for axis in pair if labels.size(axis) != 1]
        if len(wide) == 2:
            unite_unsigned(labels, *wide)
            axes.append(multiply_signs(labels, *wide))
        else:
            axes.append((wide or pair)[0])
    return Value(tuple(axes))


@rule("mul", "div", parts=True)
def multiply(call: Call) -> Result:
    """A gate, a scale, or a number; flips multiply."""
    tensors = [tensor for argument in call.args.values() for tensor in tensors_in(argument)]
    if call.args.get("rounding_mode"):
        return unsigned(call.labels, _plain(call, tensors[0]))
    if len(tensors) == 1:
        is_divisor = call.name == "div" and not tensors_in(call.args["self"])
        return _plain(call, tensors[0]) if is_divisor else tensors[0]
    if len(shape_of(call.labels, tensors[1])) == 0:
        return tensors[0]
    return _times(call, _plain(call, tensors[0]), _plain(call, tensors[1]))


def _plain(call: Call, value: Traced) -> Value:
    return collapse(call.labels, value)


@rule("masked_fill")
def masked_fill(call: Call) -> Result:
    """Entries replaced by a number; the flips survive where the number is zero."""
    value, mask = call.value("self"), unsigned(call.labels, call.value("mask"))
    if call.args.get("value") != 0:
        value = unsigned(call.labels, value)
    return _times(call, value, mask)


@rule(
    *("full", "zeros", "ones", "empty", "scalar_tensor", "full_like", "zeros_like", "ones_like", "empty_like"),
    *("new_zeros", "new_ones", "new_full", "new_empty"),
)
def constant(call: Call) -> Result:
    """The same number everywhere: any order will do, but a constant does not flip."""
    shape = call.out[0] or ()
    return Value(tuple(even(call.labels.free(size, (call.node, dim))) for dim, size in enumerate(shape)))


@rule("arange", "eye", "linspace", "tril_indices", "triu_indices")
def ramp(call: Call) -> Result:
    """Numbers that depend on where they stand."""
    return fixed_value(call.labels, call.out[0] or ())
