"""Rules for what moves entries without changing them: views, cuts, joins and look-ups."""

from __future__ import annotations

from sane_engine.symmetry.atoms import Axis
from sane_engine.symmetry.rules import Call, Result, rule, tensors_in
from sane_engine.symmetry.values import (
    Parts,
    Traced,
    Value,
    collapse,
    cut,
    each,
    fixed_value,
    reshape,
    shape_of,
    split_axis,
)


def _self(call: Call) -> Traced:
    value = call.args["self"]
    if not isinstance(value, (Value, Parts)):
        raise TypeError(f"{call.name} of something that is no tensor")
    return value


@rule("view", "_unsafe_view", "reshape", "flatten", "unflatten", parts=True)
def view(call: Call) -> Result:
    """Merge and split dimensions: channels with pixels, heads with their widths."""
    return reshape(call.labels, _self(call), call.out[0] or ())


@rule("permute", "transpose", "t", parts=True)
def permute(call: Call) -> Result:
    """Dimensions change places."""
    value = _self(call)
    rank = len(shape_of(call.labels, value))
    order = list(range(rank))
    if call.name == "permute":
        order = [dim % rank for dim in call.args["dims"]]
    elif call.name == "t":
        order = order[::-1]
    else:
        a, b = call.args["dim0"] % rank, call.args["dim1"] % rank
        order[a], order[b] = order[b], order[a]
    return each(value, lambda part: Value(tuple(part.axes[dim] for dim in order)), order.index)


@rule("unsqueeze", parts=True)
def unsqueeze(call: Call) -> Result:
    """A dimension of one is put in."""
    value = _self(call)
    at = call.args["dim"] % (len(shape_of(call.labels, value)) + 1)
    one = call.labels.fixed(1)
    return each(value, lambda part: Value((*part.axes[:at], one, *part.axes[at:])), lambda dim: dim + (dim >= at))


@rule("squeeze", parts=True)
def squeeze(call: Call) -> Result:
    """Dimensions of one are taken out."""
    value = _self(call)
    shape = shape_of(call.labels, value)
    out = [dim for dim in call.dims("dim", len(shape)) if shape[dim] == 1]
    return each(
        value,
        lambda part: Value(tuple(axis for dim, axis in enumerate(part.axes) if dim not in out)),
        lambda dim: dim - sum(o < dim for o in out),
    )


@rule("expand")
def expand(call: Call) -> Result:
    """Repeat along dimensions of one; the copies are equal, so any order will do."""
    labels, value, shape = call.labels, call.value("self"), call.out[0] or ()
    new = len(shape) - len(value.axes)
    axes = []
    for dim, size in enumerate(shape):
        axis = value.axes[dim - new] if dim >= new else labels.fixed(1)
        axes.append(axis if labels.size(axis) == size else labels.fixed(size))
    return Value(tuple(axes))


@rule("repeat")
def repeat(call: Call) -> Result:
    """Tile: the copy is the slow index, the original axis the fast one."""
    labels, value, counts = call.labels, call.value("self"), call.args["repeats"]
    new = len(counts) - len(value.axes)
    axes = [*(labels.fixed(1) for _ in range(new)), *value.axes]
    return Value(
        tuple(
            labels.multiply([labels.fixed(n), labels.resolve(axis)]) for n, axis in zip(counts, axes, strict=True)
        )
    )


@rule("cat")
def cat(call: Call) -> Result:
    """Axes are laid end to end; the others are one."""
    labels = call.labels
    values = [v for v in tensors_in(call.args["tensors"]) if isinstance(v, Value) and shape_of(labels, v) != (0,)]
    dim = call.args.get("dim", 0) % len(values[0].axes)
    for value in values[1:]:
        for other, axis in enumerate(value.axes):
            if other != dim:
                labels.unite(values[0].axes[other], axis)
    joined = tuple(product for value in values for product in value.axes[dim])
    return Value((*values[0].axes[:dim], joined, *values[0].axes[dim + 1 :]))


@rule("stack")
def stack(call: Call) -> Result:
    """Tensors of one labelling side by side along a new, fixed dimension."""
    labels = call.labels
    values = [value for value in tensors_in(call.args["tensors"]) if isinstance(value, Value)]
    dim = call.args.get("dim", 0) % (len(values[0].axes) + 1)
    for value in values[1:]:
        for mine, axis in zip(values[0].axes, value.axes, strict=True):
            labels.unite(mine, axis)
    return Value((*values[0].axes[:dim], labels.fixed(len(values)), *values[0].axes[dim:]))


@rule("select", parts=True)
def select(call: Call) -> Result:
    """One index of a dimension, which is thereby told from all others."""
    value = _self(call)
    shape = shape_of(call.labels, value)
    dim = call.args["dim"] % len(shape)
    at = call.args["index"] % shape[dim]
    piece = cut(call.labels, value, dim, (at, 1, shape[dim] - at - 1))[1]
    return _without(call, piece, dim)


def _without(call: Call, value: Traced, dim: int) -> Traced:
    if isinstance(value, Parts) and value.dim == dim:
        value = collapse(call.labels, value)
    return each(value, lambda part: Value((*part.axes[:dim], *part.axes[dim + 1 :])), lambda d: d - (d > dim))


@rule("unbind", parts=True)
def unbind(call: Call) -> Result:
    """Every index of a dimension on its own: queries, keys and values."""
    value = _self(call)
    shape = shape_of(call.labels, value)
    dim = call.args["dim"] % len(shape)
    return tuple(_without(call, piece, dim) for piece in cut(call.labels, value, dim, (1,) * shape[dim]))


@rule("slice", parts=True)
def slice_(call: Call) -> Result:
    """A stretch of a dimension. Every n-th index is not a stretch: the dimension is fixed."""
    labels, value = call.labels, _self(call)
    shape = shape_of(labels, value)
    dim = call.args["dim"] % len(shape)
    start, stop, step = slice(call.args["start"], call.args["end"], call.args["step"]).indices(shape[dim])
    if step != 1:
        plain = collapse(labels, value)
        labels.fix(plain.axes[dim])
        count = len(range(start, stop, step))
        return Value((*plain.axes[:dim], labels.fixed(count), *plain.axes[dim + 1 :]))
    if (start, stop) == (0, shape[dim]):
        return value
    return cut(labels, value, dim, (start, max(stop - start, 0), shape[dim] - max(stop, start)))[1]


@rule("split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes", "chunk", parts=True)
def split(call: Call) -> Result:
    """Consecutive stretches of a dimension."""
    value = _self(call)
    shape = shape_of(call.labels, value)
    dim = call.args["dim"] % len(shape)
    sizes = [out[dim] for out in call.out if out is not None]
    return tuple(cut(call.labels, value, dim, sizes))


@rule("pixel_shuffle", "pixel_unshuffle")
def pixel_shuffle(call: Call) -> Result:
    """Channels become pixels, or pixels channels: the r² of a pixel keep their order."""
    labels, value, shape = call.labels, call.value("self"), call.out[0] or ()
    for axis in value.axes[-2:]:
        labels.fix(axis)
    ahead = value.axes[:-3]
    if call.name == "pixel_unshuffle":
        inside = labels.fixed(call.args["downscale_factor"] ** 2)
        channels = labels.multiply([labels.resolve(value.axes[-3]), inside])
    else:
        channels, inside = split_axis(labels, value.axes[-3], [shape[-3], call.args["upscale_factor"] ** 2])
        labels.fix(inside)
    return Value((*ahead, channels, labels.fixed(shape[-2]), labels.fixed(shape[-1])))


@rule("embedding")
def embedding(call: Call) -> Result:
    """Rows are looked up by number: their order is fixed, the embedding's axis is not."""
    labels, weight, indices = call.labels, call.value("weight"), call.value("indices")
    for axis in (weight.axes[0], *indices.axes):
        labels.fix(axis)
    return Value((*(labels.fixed(labels.size(axis)) for axis in indices.axes), weight.axes[1]))


@rule("index_select")
def index_select(call: Call) -> Result:
    """Indices of one dimension, picked by number."""
    labels, value = call.labels, call.value("self")
    dim = call.args["dim"] % len(value.axes)
    labels.fix(value.axes[dim])
    shape = call.out[0] or ()
    return Value((*value.axes[:dim], labels.fixed(shape[dim]), *value.axes[dim + 1 :]))


@rule("index")
def index(call: Call) -> Result:
    """Advanced indexing along neighbouring dimensions: those are fixed, the others pass."""
    labels, value = call.labels, call.value("self")
    chosen = call.args["indices"]
    picked = [dim for dim, entry in enumerate(chosen) if entry is not None]
    if picked != list(range(picked[0], picked[-1] + 1)):
        raise NotImplementedError("indices of dimensions that are not neighbours")
    for entry in tensors_in(chosen):
        for axis in collapse(labels, entry).axes:
            labels.fix(axis)
    for dim in picked:
        labels.fix(value.axes[dim])
    rest: tuple[Axis, ...] = value.axes[picked[-1] + 1 :]
    shape = call.out[0] or ()
    middle = shape[picked[0] : len(shape) - len(rest)]
    return Value((*value.axes[: picked[0]], *(labels.fixed(size) for size in middle), *rest))


@rule("triu", "tril")
def triangle(call: Call) -> Result:
    """Half of a matrix."""
    value = call.value("self")
    for axis in value.axes[-2:]:
        call.labels.fix(axis)
    return Value((*value.axes[:-2], *fixed_value(call.labels, (call.out[0] or ())[-2:]).axes))
