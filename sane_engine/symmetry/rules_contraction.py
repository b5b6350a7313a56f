"""Rules for sums of products: linear layers, matrix products, convolutions and fused attention."""

from __future__ import annotations

from sane_engine.symmetry.atoms import Axis
from sane_engine.symmetry.labels import even
from sane_engine.symmetry.rules import (
    Call,
    Result,
    contract,
    keep_contexts,
    multiply_signs,
    rule,
    unite_unsigned,
    unsigned,
)
from sane_engine.symmetry.values import Value, split_axis


def _add_bias(call: Call, bias: Value | None, axis: Axis) -> None:
    """A bias is permuted and flipped with the outputs it is added to."""
    if bias is not None:
        call.labels.unite(bias.axes[-1], axis)


@rule("mm", "addmm")
def mm(call: Call) -> Result:
    """``[n, k] × [k, m] (+ bias)``: the k axes are one."""
    names = ("mat1", "mat2") if call.name == "addmm" else ("self", "mat2")
    left, right = call.value(names[0]), call.value(names[1])
    contract(call.labels, left.axes[1], right.axes[0])
    result = Value((left.axes[0], right.axes[1]))
    bias = call.value("self") if call.name == "addmm" else None
    if bias is not None and len(bias.axes) > 1:
        raise NotImplementedError("a matrix is added")
    if bias is not None:
        call.labels.unsigned(left.axes[0])  # rows share the bias, so they cannot flip
        _add_bias(call, bias, right.axes[1])
        result = Value((even(left.axes[0]), right.axes[1]))
    return result


@rule("linear")
def linear(call: Call) -> Result:
    """``[…, k] × [m, k]ᵀ (+ bias)``."""
    value, weight = call.value("input"), call.value("weight")
    contract(call.labels, value.axes[-1], weight.axes[1])
    bias = call.optional("bias")
    if bias is not None:
        value = Value((*(call.labels.unsigned(axis) for axis in value.axes[:-1]), value.axes[-1]))
    _add_bias(call, bias, weight.axes[0])
    return Value((*value.axes[:-1], weight.axes[0]))


@rule("mv", "dot")
def vector_product(call: Call) -> Result:
    """A matrix or a vector times a vector."""
    left = call.value("self")
    right = call.value("vec" if call.name == "mv" else "tensor")
    contract(call.labels, left.axes[-1], right.axes[0])
    return Value(left.axes[:-1])


@rule("bmm")
def bmm(call: Call) -> Result:
    """``[b, n, k] × [b, k, m]``: what is inside a head may depend on the head, which stands in the batch axis."""
    labels = call.labels
    left, right = call.value("self"), call.value("mat2")
    unite_unsigned(labels, left.axes[0], right.axes[0])
    contract(labels, left.axes[2], right.axes[1], [left.axes[0]])
    return Value((multiply_signs(labels, left.axes[0], right.axes[0]), left.axes[1], right.axes[2]))


@rule("baddbmm")
def baddbmm(call: Call) -> Result:
    """A batched product added to something of its shape."""
    labels = call.labels
    left, right, start = call.value("batch1"), call.value("batch2"), call.value("self")
    unite_unsigned(labels, left.axes[0], right.axes[0])
    contract(labels, left.axes[2], right.axes[1], [left.axes[0]])
    result = unsigned(
        labels, Value((multiply_signs(labels, left.axes[0], right.axes[0]), left.axes[1], right.axes[2]))
    )
    start = unsigned(labels, start)
    for dim in range(-len(start.axes), 0):
        if labels.size(start.axes[dim]) > 1:
            labels.unite(result.axes[dim], start.axes[dim])
    return result


@rule("convolution")
def convolution(call: Call) -> Result:
    """Convolution of any dimension, plain, transposed, grouped or depthwise.

    Groups of a grouped convolution are exchanged as blocks, and inputs and outputs inside a group on their own.
    """
    labels = call.labels
    value, weight, bias = call.value("input"), call.value("weight"), call.optional("bias")
    transposed, groups = call.args["transposed"], call.args["groups"]
    for axis in (*value.axes[2:], *weight.axes[2:]):
        labels.fix(axis)
    inputs, outputs = (weight.axes[0], weight.axes[1]) if transposed else (weight.axes[1], weight.axes[0])
    if groups == 1:
        contract(labels, value.axes[1], inputs)
        channels = outputs
    else:
        block, inside = split_axis(labels, value.axes[1], [groups, labels.size(value.axes[1]) // groups])
        whole = inputs if transposed else outputs
        weight_block, weight_inside = split_axis(labels, whole, [groups, labels.size(whole) // groups])
        unite_unsigned(labels, block, weight_block)
        if transposed:
            contract(labels, inside, weight_inside, [block])
            weight_inside = outputs
        else:
            contract(labels, inside, inputs, [block])
        keep_contexts(labels, weight_inside, [weight_inside, block])
        channels = labels.multiply([multiply_signs(labels, block, weight_block), labels.resolve(weight_inside)])
    if bias is not None:
        value = Value((labels.unsigned(value.axes[0]), *value.axes[1:]))
    _add_bias(call, bias, channels)
    return Value((value.axes[0], channels, *(labels.fixed(size) for size in (call.out[0] or ())[2:])))


@rule("_scaled_dot_product_flash_attention_for_cpu", "scaled_dot_product_attention")
def attention(call: Call) -> Result:
    """softmax(q kᵀ) v. Heads are exchanged as blocks; inside a head, q with k, and v on its own."""
    labels = call.labels
    query, key, value = call.value("query"), call.value("key"), call.value("value")
    mask = call.optional("attn_mask")
    heads = query.axes[:-2]
    for mine, other in zip(heads, key.axes[:-2], strict=True):
        labels.unite(mine, other)
    for mine, other in zip(heads, value.axes[:-2], strict=True):
        unite_unsigned(labels, mine, other)
    contract(labels, query.axes[-1], key.axes[-1], heads)
    queries, keys = labels.unsigned(query.axes[-2]), labels.unsigned(key.axes[-2])
    labels.unite(keys, labels.unsigned(value.axes[-2]))
    if call.args.get("is_causal"):
        labels.fix(queries)
        labels.fix(keys)
    if mask is not None:
        scores = [*(even(axis) for axis in heads), queries, keys]
        for dim in range(-len(mask.axes), 0):
            masked = labels.unsigned(mask.axes[dim])
            if labels.size(masked) > 1:
                labels.unite(scores[dim], masked)
    result = Value((*value.axes[:-2], queries, value.axes[-1]))
    if call.name == "scaled_dot_product_attention":
        return result
    return result, Value((*(even(axis) for axis in heads), queries))
