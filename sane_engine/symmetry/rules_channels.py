"""Rules for normalisation, pooling, padding and reductions: what treats all channels alike, or sums over them."""

from __future__ import annotations

from sane_engine.symmetry.labels import even
from sane_engine.symmetry.rules import Call, Result, rule, unsigned
from sane_engine.symmetry.values import Value, cut, fixed_value, split_axis


@rule("_native_batch_norm_legit_no_training", "native_batch_norm", "cudnn_batch_norm", "batch_norm")
def batch_norm(call: Call) -> Result:
    """Scale, shift and running statistics follow the channel; mean and shift flip with it, the rest stays."""
    labels, value = call.labels, call.value("input")
    channels = value.axes[1]
    for name in ("bias", "running_mean"):
        if (tensor := call.optional(name)) is not None:
            labels.unite(channels, tensor.axes[0])
    for name in ("weight", "running_var"):
        if (tensor := call.optional(name)) is not None:
            labels.unite(even(channels), tensor.axes[0])
    if call.optional("running_mean") is None:
        value = unsigned(labels, value)
    rest = [None if shape is None else fixed_value(labels, shape) for shape in call.out[1:]]
    return (value, *rest) if rest else value


@rule("native_layer_norm", "layer_norm")
def layer_norm(call: Call) -> Result:
    """Mean and variance over the last axes: any order of them, but no flips, which move the mean."""
    labels, value = call.labels, call.value("input")
    count = len(call.args["normalized_shape"])
    value = Value((*value.axes[:-count], *(labels.unsigned(axis) for axis in value.axes[-count:])))
    for name in ("weight", "bias"):
        if (tensor := call.optional(name)) is not None:
            for mine, other in zip(value.axes[-count:], tensor.axes, strict=True):
                labels.unite(mine, other)
    value = unsigned(labels, value) if call.optional("bias") is not None else value
    statistics = Value((*(even(axis) for axis in value.axes[:-count]), *(labels.fixed(1) for _ in range(count))))
    return (value, statistics, statistics)[: len(call.out)] if len(call.out) > 1 else value


@rule("native_group_norm", "group_norm")
def group_norm(call: Call) -> Result:
    """Groups are exchanged as blocks, channels inside a group on their own."""
    labels, value = call.labels, unsigned(call.labels, call.value("input"))
    groups = call.args["group"] if "group" in call.args else call.args["num_groups"]
    block, inside = split_axis(labels, value.axes[1], [groups, labels.size(value.axes[1]) // groups])
    channels = labels.multiply([labels.resolve(block), labels.resolve(inside)])
    for name in ("weight", "bias"):
        if (tensor := call.optional(name)) is not None:
            labels.unite(channels, tensor.axes[0])
    value = Value((value.axes[0], channels, *value.axes[2:]))
    statistics = Value((value.axes[0], even(block)))
    return (value, statistics, statistics) if len(call.out) > 1 else value


@rule("_fused_rms_norm")
def rms_norm(call: Call) -> Result:
    """Root mean square over the last axes: any order, and any flips."""
    labels, value = call.labels, call.value("input")
    count = len(call.args["normalized_shape"])
    if (weight := call.optional("weight")) is not None:
        for mine, other in zip(value.axes[-count:], weight.axes, strict=True):
            labels.unite(even(mine), other)
    statistics = Value((*(even(axis) for axis in value.axes[:-count]), *(labels.fixed(1) for _ in range(count))))
    return value, statistics


@rule("_weight_norm_interface")
def weight_norm(call: Call) -> Result:
    """Weights g · v / ‖v‖, a norm for each index of one axis: it follows that axis and no other."""
    labels, direction, size, dim = call.labels, call.value("v"), call.value("g"), call.args["dim"]
    rank = len(direction.axes)
    labels.unite(even(direction.axes[dim % rank]), size.axes[dim % len(size.axes)])
    norm = tuple(even(axis) if d == dim % rank else labels.fixed(1) for d, axis in enumerate(direction.axes))
    return direction, Value(norm)


@rule("_softmax", "_log_softmax", "softmax", "log_softmax", "_safe_softmax")
def softmax(call: Call) -> Result:
    """Any order along the axis that is normalised, and along all others."""
    return unsigned(call.labels, call.value("self"))


def _reduce(call: Call, value: Value, dims: list[int], keep: bool) -> Value:
    axes = [
        call.labels.fixed(1) if dim in dims else axis
        for dim, axis in enumerate(value.axes)
        if keep or dim not in dims
    ]
    return Value(tuple(axes))


@rule("sum", "mean")
def linear_reduction(call: Call) -> Result:
    """A sum does not see the order; it keeps the flips of the axes that remain."""
    value = call.value("self")
    dims = call.dims("dim", len(value.axes))
    for dim in dims:
        call.labels.unsigned(value.axes[dim])
    return _reduce(call, value, dims, bool(call.args.get("keepdim")))


@rule("amax", "amin", "var", "std", "var_mean", "prod", "logsumexp", "linalg_vector_norm", "any", "all", "norm")
def reduction(call: Call) -> Result:
    """A symmetric function of the entries along some axes."""
    value = unsigned(call.labels, call.value("x" if "x" in call.args else "self"))
    result = _reduce(call, value, call.dims("dim", len(value.axes)), bool(call.args.get("keepdim")))
    return result if len(call.out) == 1 else (result,) * len(call.out)


@rule("max", "min", "argmax", "argmin", "sort", "topk", "argsort", "cumsum", "cumprod", "flip", "roll", "median")
def along(call: Call) -> Result:
    """What names positions along an axis fixes that axis; the others stay as they are."""
    value = unsigned(call.labels, call.value("self"))
    if call.args.get("dim", call.args.get("dims")) is None:
        raise NotImplementedError("the whole tensor is searched")
    dims = call.dims("dim" if "dim" in call.args else "dims", len(value.axes))
    for dim in dims:
        call.labels.fix(value.axes[dim])
    shape = call.out[0] or ()
    if len(shape) == len(value.axes):
        axes = tuple(call.labels.fixed(shape[d]) if d in dims else axis for d, axis in enumerate(value.axes))
    else:
        axes = tuple(axis for dim, axis in enumerate(value.axes) if dim not in dims)
    return Value(axes) if len(call.out) == 1 else (Value(axes),) * len(call.out)


_POOLS = {
    1: ("avg_pool1d", "_adaptive_avg_pool1d", "adaptive_avg_pool1d", "upsample_nearest1d", "upsample_linear1d"),
    2: ("avg_pool2d", "_adaptive_avg_pool2d", "upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d"),
    3: ("avg_pool3d", "_adaptive_avg_pool3d", "upsample_nearest3d", "upsample_trilinear3d"),
}
_PADS = {k: (f"reflection_pad{k}d", f"replication_pad{k}d") for k in (1, 2, 3)}
_MAX_POOLS = {k: (f"max_pool{k}d_with_indices", f"adaptive_max_pool{k}d") for k in (1, 2, 3)}


def _spatial(call: Call, count: int, value: Value) -> Value:
    for axis in value.axes[-count:]:
        call.labels.fix(axis)
    shape = call.out[0] or ()
    return Value((*value.axes[:-count], *(call.labels.fixed(size) for size in shape[-count:])))


@rule(*(name for table in (_POOLS, _PADS) for names in table.values() for name in names))
def pool(call: Call) -> Result:
    """Averages, interpolation and reflected borders: every channel alike, and linear."""
    count = next(k for table in (_POOLS, _PADS) for k, names in table.items() if call.name in names)
    return _spatial(call, count, call.value("self" if "self" in call.args else "input"))


@rule(*(name for names in _MAX_POOLS.values() for name in names))
def max_pool(call: Call) -> Result:
    """A maximum: every channel alike, but not odd."""
    count = next(k for k, names in _MAX_POOLS.items() if call.name in names)
    result = _spatial(call, count, unsigned(call.labels, call.value("self")))
    return result, result


@rule("constant_pad_nd")
def constant_pad(call: Call) -> Result:
    """A border of one number. Channels added to a shortcut are constant, so their order is free."""
    labels, value = call.labels, call.value("self")
    if call.args.get("value", 0) != 0:
        value = unsigned(labels, value)
    axes = list(value.axes)
    pad = list(call.args["pad"])
    for index in range(len(pad) // 2):
        dim = len(axes) - 1 - index
        before, after = pad[2 * index], pad[2 * index + 1]
        if before == 0 and after == 0:
            continue
        size = labels.size(axes[dim])
        if before < 0 or after < 0:
            head, tail = max(-before, 0), max(-after, 0)
            middle = cut(labels, Value(tuple(axes)), dim, (head, size - head - tail, tail))[1]
            axes[dim] = middle.axes[dim] if isinstance(middle, Value) else labels.fixed(size - head - tail)
        for count, front in ((max(before, 0), True), (max(after, 0), False)):
            if count:
                border = labels.free(count, (call.node, dim, front))
                border = border if call.args.get("value", 0) == 0 else even(border)
                axes[dim] = (*border, *axes[dim]) if front else (*axes[dim], *border)
    return Value(tuple(axes))
