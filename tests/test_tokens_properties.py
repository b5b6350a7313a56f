"""Tokens of random architectures: whatever a state dict holds, it comes back."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sane_engine import detokenize, tokenize, tokenize_batch
from sane_engine.tokens import Layout
from tests.test_tokens import NAN_DTYPES, assert_same_bits

LEAVES = [
    *("weight", "bias", "weight_g", "weight_v", "weight_orig", "weight_u", "running_mean", "running_var", "gamma"),
    *("beta", "weight_ih_l0", "bias_ih_l0", "in_proj_weight", "in_proj_bias", "parametrizations.weight.original0"),
    *("parametrizations.weight.original1", "parametrizations.weight.original", "cls_token", "num_batches_tracked"),
    *("", "weight.weight", "kernel", "重み", "W", ".", "bias_weight"),
]
MODULES = ["", "a", "a.b", "layers.0", "layers.1", "c_proj", "h.0.c_proj", "h.1.c_proj", "bn", "conv"]
OTHER_DTYPES = [torch.int64, torch.int8, torch.bool, torch.complex64]
SIZES = st.sampled_from([0, 1, 1, 2, 2, 3, 4, 4, 6])


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    shape = tuple(draw(st.lists(SIZES, max_size=4)))
    dtype = draw(st.sampled_from([torch.float32] * 4 + list(NAN_DTYPES) + OTHER_DTYPES))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    if dtype in NAN_DTYPES:  # any bit pattern: NaNs with payloads, infinities, subnormals, signed zeros
        bits = torch.randint(0, 256, (math.prod(shape) * dtype.itemsize,), generator=generator, dtype=torch.uint8)
        # A tensor without elements has no bytes to view.
        tensor = bits.view(dtype).reshape(shape) if bits.numel() else torch.empty(shape, dtype=dtype)
    else:
        tensor = torch.randint(0, 2, shape, generator=generator).to(dtype)
    if len(shape) > 1 and draw(st.booleans()):
        tensor = tensor.transpose(0, -1)
    return tensor


@st.composite
def models(draw: st.DrawFn) -> dict[str, Tensor]:
    names = st.builds(
        lambda m, leaf: f"{m}.{leaf}" if m else leaf, st.sampled_from(MODULES), st.sampled_from(LEAVES)
    )
    model: dict[str, Tensor] = {}
    for name in draw(st.lists(names, min_size=1, max_size=12, unique=True)):
        tie = model and draw(st.integers(0, 5)) == 0
        model[name] = draw(st.sampled_from(list(model.values()))) if tie else draw(tensors())
    model["always"] = torch.ones(draw(st.integers(1, 3)))
    return model


@settings(max_examples=300, deadline=None)
@given(models(), st.integers(1, 20))
def test_any_state_dict_comes_back(model: dict[str, Tensor], token_size: int) -> None:
    sequence = tokenize(model, token_size)
    back = detokenize(sequence)
    assert_same_bits(back, model)
    for name, tensor in model.items():
        for other, value in model.items():
            assert (back[name] is back[other]) == (tensor is value), "ties stay, and none is made up"
    layout = sequence.layout
    unique = {id(t): t for t in model.values() if t.dtype in NAN_DTYPES}
    assert sequence.mask.sum() == sum(t.numel() for t in unique.values())
    assert torch.equal(layout.component_of_entry() >= 0, sequence.mask)
    assert not sequence.tokens.masked_select(~sequence.mask).any()
    assert len(set(layout.layer_names)) == len(layout.layers)
    owners = [slot.name for slot in layout.slots if slot.role in ("matrix", "column")]
    assert sorted(owners) == sorted(name for layer in layout.layers for name in layer.members)
    assert Layout.from_json(layout.to_json()) == layout
    n, layers, within = sequence.positions.unbind(1)
    assert torch.equal(n, torch.arange(layout.n_tokens))
    assert torch.equal(n - within, torch.tensor([layer.start for layer in layout.layers])[layers])


@settings(max_examples=60, deadline=None)
@given(models(), st.integers(1, 20), st.integers(1, 3))
def test_batch_of_any_models_is_its_models(model: dict[str, Tensor], token_size: int, count: int) -> None:
    def copied() -> dict[str, Tensor]:
        copies = {id(tensor): tensor.clone() for tensor in model.values()}
        return {name: copies[id(tensor)] for name, tensor in model.items()}

    batch = tokenize_batch([copied() for _ in range(count)], token_size)
    single = tokenize(model, token_size)
    assert batch.layout == single.layout
    integer = NAN_DTYPES[single.tokens.dtype]
    for sequence in batch:
        assert torch.equal(sequence.tokens.view(integer), single.tokens.view(integer))
        assert_same_bits(detokenize(sequence), model)
