"""Tokens: every network comes back bit for bit, whatever it is made of."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from sane_engine import detokenize, tokenize
from sane_engine.tokens import Layout, layout_of, output_axes_of

NAN_DTYPES = {
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
    torch.float8_e4m3fn: torch.uint8,
    torch.float8_e4m3fnuz: torch.uint8,
    torch.float8_e5m2: torch.uint8,
    torch.float8_e5m2fnuz: torch.uint8,
    torch.float8_e8m0fnu: torch.uint8,
}


def assert_same_bits(got: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert list(got) == list(expected)
    for name, tensor in expected.items():
        back = got[name]
        assert back.dtype == tensor.dtype, name
        assert back.shape == tensor.shape, name
        assert back.is_contiguous(), name
        assert not back.requires_grad and type(back) is Tensor, name
        a, b = back, tensor.detach().contiguous()
        if integer := NAN_DTYPES.get(tensor.dtype):
            a, b = a.view(integer), b.view(integer)
        assert torch.equal(a, b), name
        if tensor.numel():
            assert back.untyped_storage().data_ptr() != tensor.untyped_storage().data_ptr(), name


def assert_round_trip(tensors: Mapping[str, Tensor], token_size: int = 7, **options: object) -> Layout:
    sequence = tokenize(tensors, token_size, **options)
    assert_same_bits(detokenize(sequence), tensors)
    layout = sequence.layout
    assert sequence.tokens.shape == sequence.mask.shape == (layout.n_tokens, token_size)
    assert not sequence.tokens[~sequence.mask].any(), "padding is zero"
    assert_same_bits(detokenize(tokenize(tensors, 1000, **options)), tensors)
    return layout


def members(layout: Layout) -> list[tuple[str, ...]]:
    return [layer.members for layer in layout.layers]


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


MODULES = {
    "conv1d": (lambda: nn.Conv1d(3, 4, 3), 1),
    "conv2d": (lambda: nn.Conv2d(3, 4, 3), 1),
    "conv3d": (lambda: nn.Conv3d(2, 4, 3), 1),
    "conv of one channel": (lambda: nn.Conv2d(8, 1, 3), 1),
    "grouped conv": (lambda: nn.Conv2d(8, 12, 3, groups=4), 1),
    "depthwise conv": (lambda: nn.Conv2d(8, 8, 3, groups=8), 1),
    "conv without bias": (lambda: nn.Conv2d(3, 4, 3, bias=False), 1),
    "linear": (lambda: nn.Linear(5, 3), 1),
    "linear to one": (lambda: nn.Linear(5, 1), 1),
    "bilinear": (lambda: nn.Bilinear(3, 4, 5), 1),
    "embedding": (lambda: nn.Embedding(11, 6), 1),
    "batch norm": (lambda: nn.BatchNorm2d(6), 1),
    "batch norm without affine": (lambda: nn.BatchNorm2d(6, affine=False), 1),
    "batch norm without statistics": (lambda: nn.BatchNorm2d(6, track_running_stats=False), 1),
    "layer norm": (lambda: nn.LayerNorm(6), 1),
    "layer norm over two axes": (lambda: nn.LayerNorm([4, 6]), 2),
    "group norm": (lambda: nn.GroupNorm(2, 6), 1),
    "prelu": (lambda: nn.PReLU(), 1),
    "transposed conv 1d": (lambda: nn.ConvTranspose1d(6, 4, 3), 1),
    "transposed conv 2d": (lambda: nn.ConvTranspose2d(6, 4, 3), 1),
    "grouped transposed conv": (lambda: nn.ConvTranspose2d(6, 4, 3, groups=2), 1),
    "depthwise transposed conv": (lambda: nn.ConvTranspose2d(6, 6, 3, groups=6), 1),
    "lstm": (lambda: nn.LSTM(3, 5, num_layers=2, bidirectional=True), 8),
    "lstm with projection": (lambda: nn.LSTM(3, 5, proj_size=2), 3),
    "gru": (lambda: nn.GRU(3, 5), 2),
    "attention": (lambda: nn.MultiheadAttention(8, 2), 2),
    "attention with separate inputs": (lambda: nn.MultiheadAttention(8, 2, kdim=5, vdim=3, add_bias_kv=True), 7),
    "transformer": (lambda: nn.TransformerEncoderLayer(8, 2, 16), 6),
    "weight norm": (lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), 1),
    "weight norm of transposed conv": (
        lambda: nn.utils.parametrizations.weight_norm(nn.ConvTranspose1d(6, 4, 3), dim=1),
        1,
    ),
    "spectral norm": (lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(5, 3)), 3),
}


@pytest.mark.parametrize("kind", MODULES)
def test_module_comes_back(kind: str) -> None:
    make, n_layers = MODULES[kind]
    module = make()
    with torch.no_grad():
        for i, tensor in enumerate(module.state_dict().values()):
            if tensor.is_floating_point():
                tensor.copy_(randn(*tensor.shape, seed=i))
    layout = assert_round_trip(module.state_dict())
    assert len(layout.layers) == n_layers
    # The module's own parameters, which require gradients, and tensors in another memory order come back as well.
    assert_round_trip(dict(module.named_parameters()) or module.state_dict())
    assert_round_trip({k: v.mT if v.dim() > 1 else v for k, v in module.state_dict().items()})


def test_rows_are_output_channels_and_columns_fan_in_then_bias() -> None:
    weight, bias = randn(3, 2, 2, 2), randn(3)
    sequence = tokenize({"conv.weight": weight, "conv.bias": bias}, 10)
    torch.testing.assert_close(sequence.tokens[:, :8], weight.reshape(3, 8), rtol=0, atol=0)
    torch.testing.assert_close(sequence.tokens[:, 8], bias, rtol=0, atol=0)
    assert sequence.mask.sum() == 27 and sequence.layout.layer_names == ("conv",)
    # Longer rows are split into consecutive tokens.
    split = tokenize({"conv.weight": weight, "conv.bias": bias}, 5)
    assert torch.equal(split.tokens.reshape(3, 10), sequence.tokens)


def test_rows_of_transposed_convolution_are_output_channels() -> None:
    weight, bias = randn(6, 4, 3), randn(4)
    tokens = tokenize({"up.weight": weight, "up.bias": bias}, 19).tokens
    assert torch.equal(tokens[1], torch.cat([weight[:, 1].flatten(), bias[1:2]]))
    # Two groups: output channels 4–7 read the inputs 3–5.
    bias = randn(8)
    tokens = tokenize({"up.weight": weight, "up.bias": bias}, 10).tokens
    assert torch.equal(tokens[5], torch.cat([weight[3:, 1].flatten(), bias[5:6]]))


def test_positions_count_in_the_sequence_and_within_each_layer() -> None:
    tensors = {"a.weight": randn(2, 5), "a.bias": randn(2), "b.weight": randn(3, 2), "scale": torch.tensor(2.0)}
    sequence = tokenize(tensors, 4)
    assert sequence.positions.tolist() == [
        [0, 0, 0],
        [1, 0, 1],
        [2, 0, 2],
        [3, 0, 3],
        [4, 1, 0],
        [5, 1, 1],
        [6, 1, 2],
        [7, 2, 0],
    ]
    assert sequence.positions.dtype == torch.int64
    assert sequence.layout.layer_of_token().tolist() == [0, 0, 0, 0, 1, 1, 1, 2]
    assert sequence.layout.layer_names == ("a", "b", "scale")


def test_component_map_names_the_tensor_of_each_entry() -> None:
    tensors = {"a.bias": randn(2), "a.weight": randn(2, 3), "steps": torch.tensor(3), "scale": torch.tensor(2.0)}
    layout = layout_of(tensors, 5)
    assert layout.component_of_entry().tolist() == [[1, 1, 1, 0, -1], [1, 1, 1, 0, -1], [3, -1, -1, -1, -1]]
    assert torch.equal(layout.component_of_entry() >= 0, layout.mask())


def test_norm_is_one_layer_with_its_statistics() -> None:
    norm = nn.BatchNorm2d(3).state_dict()
    sequence = tokenize({f"bn.{k}": v for k, v in norm.items()}, 4)
    assert members(sequence.layout) == [("bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")]
    assert sequence.tokens.tolist() == [[1, 0, 0, 1]] * 3
    assert list(sequence.carried) == ["bn.num_batches_tracked"]


def test_weight_norm_by_its_old_names_is_one_layer() -> None:
    tensors = {"c.bias": randn(4), "c.weight_g": randn(4, 1, 1), "c.weight_v": randn(4, 3, 5)}
    assert members(assert_round_trip(tensors)) == [("c.weight_v", "c.bias", "c.weight_g")]
    # A transposed convolution normalised along its inputs: the magnitudes are no property of an output channel.
    tensors = {"c.bias": randn(4), "c.weight_g": randn(6, 1, 1), "c.weight_v": randn(6, 4, 5)}
    assert members(assert_round_trip(tensors)) == [("c.weight_v", "c.bias"), ("c.weight_g",)]
    tensors = {"c.bias": randn(4), "c.weight_g": randn(1, 4, 1), "c.weight_v": randn(6, 4, 5)}
    assert members(assert_round_trip(tensors)) == [("c.weight_v", "c.bias", "c.weight_g")]


def test_norms_of_other_libraries_keep_scale_and_shift_together() -> None:
    tensors = {"a.gamma": randn(4), "a.beta": randn(4), "ln1.w": randn(3), "ln1.b": randn(3), "ln2.w": randn(3)}
    layout = assert_round_trip(tensors)
    assert members(layout) == [("a.gamma", "a.beta"), ("ln1.w", "ln1.b"), ("ln2.w",)]
    assert layout.layer_names == ("a", "ln1", "ln2")


def gpt2() -> dict[str, Tensor]:
    shapes = {
        "wte.weight": (50, 8),
        "wpe.weight": (16, 8),
        "h.0.ln_1.weight": (8,),
        "h.0.ln_1.bias": (8,),
        "h.0.attn.c_attn.weight": (8, 24),
        "h.0.attn.c_attn.bias": (24,),
        "h.0.attn.c_proj.weight": (8, 8),
        "h.0.attn.c_proj.bias": (8,),
        "h.0.mlp.c_fc.weight": (8, 32),
        "h.0.mlp.c_fc.bias": (32,),
        "h.0.mlp.c_proj.weight": (32, 8),
        "h.0.mlp.c_proj.bias": (8,),
    }
    return {name: randn(*shape) for name, shape in shapes.items()}


def test_gpt2_has_its_outputs_in_axis_one() -> None:
    tensors = gpt2()
    layout = assert_round_trip(tensors)
    axes = {slot.name: slot.axis for slot in layout.slots if slot.role == "matrix"}
    assert axes == {
        "wte.weight": 0,
        "wpe.weight": 0,
        "h.0.ln_1.weight": 0,
        "h.0.attn.c_attn.weight": 1,
        "h.0.attn.c_proj.weight": 1,  # square: decided by its namesake in the MLP
        "h.0.mlp.c_fc.weight": 1,
        "h.0.mlp.c_proj.weight": 1,
    }
    tokens = tokenize(tensors, 9).tokens[layout_of(tensors, 9).layers[4].start + 2]
    assert torch.equal(tokens[:8], tensors["h.0.attn.c_proj.weight"][:, 2])


def test_caller_can_say_the_output_axis() -> None:
    tensors = {"up.weight": randn(4, 4, 3), "up.bias": randn(4)}
    assert layout_of(tensors, 8).slots[0].axis == 0
    assert assert_round_trip(tensors, output_axes={"up.weight": 1}).slots[0].axis == 1
    token = tokenize(tensors, 13, output_axes={"up.weight": 1}).tokens[2]
    assert torch.equal(token[:12], tensors["up.weight"][:, 2].flatten())
    for axes, message in (
        ({"up.weight": 3}, "out of range"),
        ({"nothing": 1}, "'nothing'"),
        ({"up.weight": (1, 3)}, "no 3 groups"),
    ):
        with pytest.raises(ValueError, match=message):
            tokenize(tensors, 8, output_axes=axes)


def test_output_axes_are_read_off_a_module() -> None:
    module = nn.Sequential(
        nn.ConvTranspose2d(8, 4, 3, groups=2, bias=False),
        nn.Conv2d(4, 4, 3),
        nn.utils.parametrizations.weight_norm(nn.ConvTranspose1d(4, 4, 3)),
        nn.ConvTranspose3d(4, 4, 3),
    )
    axes = output_axes_of(module)
    assert axes == {"0.weight": (1, 2), "2.parametrizations.weight.original1": 1, "3.weight": 1}
    layout = assert_round_trip(module.state_dict(), output_axes=axes)
    assert layout.layers[0].rows == 4 and layout.layers[0].width == 4 * 9
    assert output_axes_of(nn.ConvTranspose1d(2, 2, 1)) == {"weight": 1}


def test_vision_transformer_keeps_tokens_tables_and_scales() -> None:
    tensors = {
        "cls_token": randn(1, 1, 8),
        "pos_embed": randn(1, 17, 8),
        "patch_embed.proj.weight": randn(8, 3, 4, 4),
        "patch_embed.proj.bias": randn(8),
        "blocks.0.ls1.gamma": randn(8),
        "blocks.0.attn.relative_position_bias_table": randn(9, 2),
        "norm.weight": randn(8),
        "norm.bias": randn(8),
        "logit_scale": torch.tensor(4.6),
        "head.bias": randn(10),
        "layer_scale": randn(1, 8, 1, 1),
        "out.weight": randn(1, 8, 3, 3),
    }
    layout = assert_round_trip(tensors)
    rows = {layer.name: (layer.rows, layer.width) for layer in layout.layers}
    assert rows["cls_token"] == (1, 8)
    assert rows["pos_embed"] == (17, 8)
    assert rows["logit_scale"] == (1, 1)
    assert rows["head.bias"] == (10, 1)
    assert rows["layer_scale"] == (8, 1)
    assert rows["out"] == (1, 72)
    assert rows["blocks.0.attn.relative_position_bias_table"] == (9, 2)


def test_tied_tensors_are_tokenised_once_and_stay_tied() -> None:
    embedding = nn.Embedding(11, 6)
    head = nn.Linear(6, 11)
    head.weight = embedding.weight
    tensors = {
        **{f"embed.{k}": v for k, v in embedding.state_dict().items()},
        **{f"head.{k}": v for k, v in head.state_dict().items()},
        "view": embedding.weight.detach()[:5],
    }
    sequence = tokenize(tensors, 6)
    assert sequence.tokens.shape[0] == 11 + 11 + 5, "the head's weight is not repeated, another view is"
    back = detokenize(sequence)
    assert back["embed.weight"] is back["head.weight"]
    assert_same_bits(back, tensors)
    # A tensor may even have no name.
    back = detokenize(tokenize({"": tensors["view"], "again": tensors["view"]}, 3))
    assert back[""] is back["again"]
    counter = torch.tensor([1, 2])
    back = detokenize(tokenize({"w": randn(2), "a": counter, "b": counter}, 3))
    assert back["a"] is back["b"] and back["a"] is not counter


def test_channels_last_and_strided_tensors_come_back() -> None:
    base = randn(8, 12)
    assert_round_trip(
        {
            "a.weight": randn(4, 3, 3, 3).contiguous(memory_format=torch.channels_last),
            "up.weight": randn(6, 4, 3, 3).contiguous(memory_format=torch.channels_last),
            "up.bias": randn(4),
            "b": base[::2, 1::3],
            "c": base.T,
            "d": randn(3, 1).expand(3, 4),
        }
    )


@pytest.mark.parametrize("dtype", NAN_DTYPES, ids=str)
@pytest.mark.parametrize("wide", [False, True], ids=["float32 tokens", "float64 tokens"])
def test_every_bit_pattern_survives(dtype: torch.dtype, wide: bool) -> None:
    integer = NAN_DTYPES[dtype]
    info = torch.iinfo(integer)
    if info.bits <= 16:
        bits = torch.arange(info.min, info.max + 1, dtype=torch.int32).to(integer)
    else:
        bits = torch.randint(info.min, info.max, (1000,), generator=torch.Generator().manual_seed(0), dtype=integer)
        exponent = {32: 0x7F800000, 64: 0x7FF0000000000000}[info.bits]
        special = [0, info.min, 1, info.min + 1, exponent, exponent + 1, exponent + 2**20, -1, info.max]
        bits = torch.cat([bits, bits & ~info.min | exponent, torch.tensor(special, dtype=integer)])
    tensors = {"a.weight": bits.view(dtype).reshape(-1, 1).clone(), "a.bias": bits.flip(0).view(dtype)}
    if wide:
        tensors["double"] = torch.ones(1, dtype=torch.float64)
    sequence = tokenize(tensors, 2)
    assert sequence.tokens.dtype == (torch.float64 if wide or dtype == torch.float64 else torch.float32)
    assert_same_bits(detokenize(sequence), tensors)


def test_what_is_not_a_float_is_carried() -> None:
    tensors = {
        "w": randn(2, 3),
        "steps": torch.tensor(7),
        "mask": torch.tensor([True, False]),
        "half": torch.tensor([1 + 2j], dtype=torch.complex64),
        "quantised": torch.tensor([-3], dtype=torch.int8),
        "empty": torch.zeros(0, 4),
        "empty.weight": torch.zeros(3, 0, dtype=torch.float16),
    }
    layout = assert_round_trip(tensors)
    assert [slot.role for slot in layout.slots] == ["matrix"] + ["carried"] * 6
    with_sparse = {"w": randn(2), "s": torch.eye(2).to_sparse()}
    assert torch.equal(detokenize(tokenize(with_sparse, 2))["s"].to_dense(), torch.eye(2))


def test_bad_input_has_a_name() -> None:
    tensors = {"w": randn(2)}
    for size in (0, -1, 2.0, True):
        with pytest.raises(ValueError, match="token_size must be a whole number"):
            tokenize(tensors, size)  # type: ignore[arg-type]  # the point of the test
    for nothing in ({}, {"steps": torch.tensor(1)}, {"empty": torch.zeros(0)}):
        with pytest.raises(ValueError, match="no floating-point tensor"):
            tokenize(nothing, 4)
    with pytest.raises(ValueError, match="'loss' is not a tensor but float"):
        tokenize({"w": randn(2), "loss": 0.5}, 4)  # type: ignore[dict-item]  # the point of the test
    with pytest.raises(ValueError, match="mapping"):
        tokenize([randn(2)], 4)  # type: ignore[arg-type]  # the point of the test


def test_results_do_not_follow_later_changes_of_the_input() -> None:
    tensors = {"a.weight": randn(3, 4), "steps": torch.tensor(1)}
    before = copy.deepcopy(tensors)
    sequence = tokenize(tensors, 4)
    back = detokenize(sequence)
    for tensor in tensors.values():
        tensor.fill_(9)
    sequence.tokens.zero_()
    sequence.carried["steps"].fill_(5)
    assert_same_bits(back, before)


def test_permuting_output_channels_permutes_the_tokens_of_the_layer() -> None:
    tensors = {"a.weight": randn(5, 3, 2), "a.bias": randn(5), "b.weight": randn(4, 5), "up.weight": randn(4, 6, 2)}
    tensors["up.bias"] = randn(6)
    before = tokenize(tensors, 4)
    for layer, axis in (("a", 0), ("up", 1)):
        slot = next(each for each in before.layout.layers if each.name == layer)
        order = torch.randperm(slot.rows, generator=torch.Generator().manual_seed(3))
        changed = dict(tensors)
        changed[f"{layer}.weight"] = tensors[f"{layer}.weight"].index_select(axis, order)
        changed[f"{layer}.bias"] = tensors[f"{layer}.bias"][order]
        expected = before.tokens.clone()
        rows = expected[slot.start : slot.stop].reshape(slot.rows, -1)
        expected[slot.start : slot.stop] = rows[order].reshape(slot.n_tokens, -1)
        assert torch.equal(tokenize(changed, 4).tokens, expected)
