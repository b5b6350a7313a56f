"""Checkpoints of the published code give the latents that its formulas give.

The restatement here is written from the formulas, on bare tensors, and shares nothing with the engine.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from sane_engine.sane import load_reference_encoder

CONFIG: dict[str, Any] = {
    "ae:i_dim": 11,
    "ae:d_model": 24,
    "ae:nhead": 3,
    "ae:num_layers": 2,
    "ae:lat_dim": 5,
    "ae:max_positions": [40, 9, 12],
    "training::windowsize": 7,
}


def random_state(config: dict[str, Any]) -> dict[str, Tensor]:
    """Weights under the names of the published checkpoints."""
    d, wide = config["ae:d_model"], config["ae:i_dim"]
    shapes: dict[str, tuple[int, ...]] = {
        "tokenizer.weight": (d, wide), "tokenizer.bias": (d,),
        "encoder_comp.weight": (config["ae:lat_dim"], d), "encoder_comp.bias": (config["ae:lat_dim"],),
        "detokenizer.weight": (wide, d), "detokenizer.bias": (wide,),
        "decoder_comp.weight": (d, config["ae:lat_dim"]), "decoder_comp.bias": (d,),
        "projection_head.head.0.weight": (30, config["ae:lat_dim"] * config["training::windowsize"]),
        "projection_head.head.1.weight": (30,), "projection_head.head.1.bias": (30,),
        "projection_head.head.3.weight": (30, 30),
        "projection_head.head.4.weight": (30,), "projection_head.head.4.bias": (30,),
    }  # fmt: skip
    for i, size in enumerate(config["ae:max_positions"], start=1):
        shapes[f"pe.pe{i}.weight"] = (size, d // 2)
    for side in ("transformer_encoder", "transformer_decoder"):
        for i in range(config["ae:num_layers"]):
            if config["ae:transformer_type"] == "gpt2":
                block = f"{side}.transformer.{i}"
                shapes |= {
                    f"{block}.ln_1.weight": (d,), f"{block}.ln_2.weight": (d,),
                    f"{block}.attn.c_attn.weight": (3 * d, d), f"{block}.attn.c_proj.weight": (d, d),
                    f"{block}.mlp.c_fc.weight": (4 * d, d), f"{block}.mlp.c_proj.weight": (d, 4 * d),
                }  # fmt: skip
            else:
                block = f"{side}.layers.{i}"
                shapes |= {
                    f"{block}.self_attn.in_proj_weight": (3 * d, d), f"{block}.self_attn.in_proj_bias": (3 * d,),
                    f"{block}.self_attn.out_proj.weight": (d, d), f"{block}.self_attn.out_proj.bias": (d,),
                    f"{block}.linear1.weight": (2048, d), f"{block}.linear1.bias": (2048,),
                    f"{block}.linear2.weight": (d, 2048), f"{block}.linear2.bias": (d,),
                    f"{block}.norm1.weight": (d,), f"{block}.norm1.bias": (d,),
                    f"{block}.norm2.weight": (d,), f"{block}.norm2.bias": (d,),
                }  # fmt: skip
    generator = torch.Generator().manual_seed(3)
    return {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def norm(x: Tensor, weight: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight + bias


def attention(x: Tensor, qkv: Tensor, heads: int) -> Tensor:
    """Full attention along the second axis of ``x`` ``[b, n, d]``."""
    q, k, v = qkv.chunk(3, dim=-1)
    size = x.shape[-1] // heads
    parts = []
    for h in range(heads):
        own = slice(h * size, (h + 1) * size)
        scores = torch.einsum("bqc,bkc->bqk", q[..., own], k[..., own]) / math.sqrt(size)
        parts.append(scores.softmax(-1) @ v[..., own])
    return torch.cat(parts, dim=-1)


def restated(state: dict[str, Tensor], config: dict[str, Any], x: Tensor, positions: Tensor, side: str) -> Tensor:
    into, out = ("tokenizer", "encoder_comp") if side == "transformer_encoder" else ("decoder_comp", "detokenizer")
    x = x @ state[f"{into}.weight"].T + state[f"{into}.bias"]
    tables = [state[f"pe.pe{i + 1}.weight"][positions[..., i]] for i in range(positions.shape[-1])]
    halves = [tables[0] + tables[1], tables[2]] if len(tables) == 3 else tables
    x = x + torch.cat(halves, dim=-1)
    heads = config["ae:nhead"]
    for i in range(config["ae:num_layers"]):
        if config["ae:transformer_type"] == "gpt2":
            w = {name: state[f"{side}.transformer.{i}.{name}.weight"] for name in
                 ("ln_1", "ln_2", "attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")}  # fmt: skip
            seen = attention(x, norm(x, w["ln_1"]) @ w["attn.c_attn"].T, heads)
            x = x + seen @ w["attn.c_proj"].T
            hidden = norm(x, w["ln_2"]) @ w["mlp.c_fc"].T
            x = x + (hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))) @ w["mlp.c_proj"].T
        else:
            p = f"{side}.layers.{i}"
            qkv = x @ state[f"{p}.self_attn.in_proj_weight"].T + state[f"{p}.self_attn.in_proj_bias"]
            # The published quirk: the first axis, of models, is taken for the sequence.
            seen = attention(x.transpose(0, 1), qkv.transpose(0, 1), heads).transpose(0, 1)
            seen = seen @ state[f"{p}.self_attn.out_proj.weight"].T + state[f"{p}.self_attn.out_proj.bias"]
            x = norm(x + seen, state[f"{p}.norm1.weight"], state[f"{p}.norm1.bias"])
            hidden = (x @ state[f"{p}.linear1.weight"].T + state[f"{p}.linear1.bias"]).relu()
            hidden = hidden @ state[f"{p}.linear2.weight"].T + state[f"{p}.linear2.bias"]
            x = norm(x + hidden, state[f"{p}.norm2.weight"], state[f"{p}.norm2.bias"])
    return x @ state[f"{out}.weight"].T + state[f"{out}.bias"]


def setting(kind: str, sizes: list[int]) -> tuple[dict[str, Any], dict[str, Tensor], Tensor, Tensor]:
    config = {**CONFIG, "ae:transformer_type": kind, "ae:max_positions": sizes}
    generator = torch.Generator().manual_seed(0)
    positions = torch.stack([torch.randint(0, size, (4, 7), generator=generator) for size in sizes], dim=-1)
    return config, random_state(config), torch.randn(4, 7, 11, generator=generator), positions


@pytest.mark.parametrize("sizes", [[40, 9, 12], [40, 9]])
@pytest.mark.parametrize("kind", ["gpt2", "pytorch"])
def test_latents_and_reconstruction_are_those_of_the_formulas(kind: str, sizes: list[int]) -> None:
    config, state, x, positions = setting(kind, sizes)
    encoder = load_reference_encoder(state, config)
    z = encoder.encode(x, positions)
    expected = restated(state, config, x, positions, "transformer_encoder")
    assert z.shape == (4, 7, 5)
    assert torch.allclose(z, expected, atol=1e-4, rtol=1e-4)
    y = encoder.decode(z, positions)
    assert torch.allclose(y, restated(state, config, z, positions, "transformer_decoder"), atol=1e-4, rtol=1e-4)


def test_the_pytorch_kind_attends_across_the_batch_and_the_gpt2_kind_does_not() -> None:
    for kind, across in (("pytorch", True), ("gpt2", False)):
        config, state, x, positions = setting(kind, [40, 9, 12])
        encoder = load_reference_encoder(state, config)
        together, alone = encoder.encode(x, positions)[:1], encoder.encode(x[:1], positions[:1])
        assert torch.allclose(together, alone, atol=1e-5) is not across


def test_wrappers_of_the_state_dict_are_taken_off_and_the_head_may_be_missing() -> None:
    config, state, x, positions = setting("gpt2", [40, 9, 12])
    expected = load_reference_encoder(state, config).encode(x, positions)
    bare = {name: tensor for name, tensor in state.items() if not name.startswith("projection_head")}
    for wrapped in (
        {"model": state, "optimizer": {"lr": 1.0}},
        {"state_dict": {f"model.{name}": tensor for name, tensor in state.items()}, "epoch": 3},
        {f"module._orig_mod.{name}": tensor for name, tensor in state.items()},
        bare,
    ):
        assert torch.equal(load_reference_encoder(wrapped, config).encode(x, positions), expected)
    encoder = load_reference_encoder(bare, config)
    with pytest.raises(ValueError, match="no projection head"):
        encoder.project(expected)
    assert load_reference_encoder(state, config).project(expected).shape == (4, 30)


def test_mismatches_say_which_tensor() -> None:
    config, state, x, positions = setting("gpt2", [40, 9, 12])
    with pytest.raises(ValueError, match=r"'tokenizer.weight' has the shape \[24, 11\].*\[24, 13\]"):
        load_reference_encoder(state, {**config, "ae:i_dim": 13})
    with pytest.raises(ValueError, match=r"lacks 12 tensors.*transformer_encoder.transformer.2"):
        load_reference_encoder(state, {**config, "ae:num_layers": 3})
    with pytest.raises(ValueError, match=r"has 12 tensors.*transformer_encoder.transformer.1"):
        load_reference_encoder(state, {**config, "ae:num_layers": 1})
    with pytest.raises(ValueError, match="gpt2"):
        load_reference_encoder(state, {**config, "ae:transformer_type": "bert"})
    encoder = load_reference_encoder(state, config)
    with pytest.raises(ValueError, match="tables end"):
        encoder.encode(x, positions + 40)
    with pytest.raises(ValueError, match="coordinates"):
        encoder.encode(x, positions[..., :2])
    with pytest.raises(ValueError, match="takes"):
        encoder.encode(x[..., :3], positions)


def test_loading_leaves_the_global_generator_alone() -> None:
    config, state, _, _ = setting("pytorch", [40, 9, 12])
    before = torch.get_rng_state()
    load_reference_encoder(state, config)
    assert torch.equal(before, torch.get_rng_state())
