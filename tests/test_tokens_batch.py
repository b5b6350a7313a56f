"""Batches, layouts and decoded tokens: many models are one model many times."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sane_engine import detokenize, tokenize, tokenize_batch
from sane_engine.tokens import Layout, detokenize_batch, layout_of
from tests.test_tokens import assert_same_bits, gpt2, randn


def model(seed: int) -> dict[str, Tensor]:
    """A little of everything: convolution, norm, transposed convolution, a tie, formats, a buffer, a scalar."""
    shared = randn(5, 4, seed=seed)
    return {
        "conv.weight": randn(4, 2, 3, 3, seed=seed),
        "conv.bias": randn(4, seed=seed),
        "bn.weight": randn(4, seed=seed + 1),
        "bn.running_mean": randn(4, seed=seed + 2),
        "bn.num_batches_tracked": torch.tensor(seed),
        "up.weight": randn(4, 3, 2, seed=seed).half(),
        "up.bias": randn(6, seed=seed).bfloat16(),
        "embed.weight": shared,
        "head.weight": shared,
        "scale": torch.tensor(float(seed)),
    }


def test_batch_is_its_models_one_by_one() -> None:
    models = [model(seed) for seed in range(5)]
    models[3]["up.weight"][0, 0] = float("nan")
    batch = tokenize_batch(models, 6)
    assert len(batch) == 5
    assert not batch.tokens.is_inference() and not batch.carried["bn.num_batches_tracked"].is_inference()
    for i, each in enumerate(models):
        single = tokenize(each, 6)
        assert batch.layout == single.layout
        assert torch.equal(batch[i].tokens.view(torch.int32), single.tokens.view(torch.int32))
        assert_same_bits(detokenize(batch[i]), each)
    assert torch.equal(batch.mask, single.mask) and torch.equal(batch.positions, single.positions)
    assert [sequence.carried["bn.num_batches_tracked"].item() for sequence in batch] == [0, 1, 2, 3, 4]


def test_stacked_tensors_are_the_same_batch() -> None:
    models = [model(seed) for seed in range(3)]
    stacked = {name: torch.stack([each[name] for each in models]) for name in models[0]}
    stacked["head.weight"] = stacked["embed.weight"]
    batch, other = tokenize_batch(stacked, 6), tokenize_batch(models, 6)
    assert batch.layout == other.layout
    assert torch.equal(batch.tokens, other.tokens)
    assert_same_bits(detokenize_batch(batch), stacked)
    back = detokenize_batch(batch)
    assert back["head.weight"] is back["embed.weight"]
    permuted = {name: tensor.movedim(0, -1).contiguous().movedim(-1, 0) for name, tensor in stacked.items()}
    permuted["head.weight"] = permuted["embed.weight"]
    assert torch.equal(tokenize_batch(permuted, 6).tokens, batch.tokens)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conv.bias": randn(5)}, r"'conv.bias' of model 2 is float32 \[5\], of model 0 float32 \[4\]"),
        ({"conv.bias": randn(4).half()}, r"'conv.bias' of model 2 is float16 \[4\]"),
        ({"bn.num_batches_tracked": torch.tensor(1.0)}, r"'bn.num_batches_tracked' of model 2 is float32 \[\]"),
        ({"head.weight": randn(5, 4)}, r"'head.weight' of model 2 is float32 \[5, 4\], of model 0 .* tied to"),
        ({"head.weight": randn(5, 3)}, r"'head.weight' of model 2 is float32 \[5, 3\]"),
        ({"new": randn(1)}, "model 2 has a tensor 'new' that model 0 lacks"),
        ({"scale": 1.0}, "model 2: 'scale' is not a tensor but float"),
        ({"head.weight": None}, "model 2: 'head.weight' is not a tensor but NoneType"),
    ],
)
def test_models_of_another_layout_are_named(change: dict[str, Tensor], message: str) -> None:
    models = [model(0), model(1), {**model(2), **change}]
    with pytest.raises(ValueError, match=message):
        tokenize_batch(models, 6)


def test_batches_refuse_missing_tensors_other_orders_and_new_ties() -> None:
    first, other = model(0), model(1)
    missing = {name: tensor for name, tensor in other.items() if name != "scale"}
    with pytest.raises(ValueError, match="model 1 lacks the tensor 'scale'"):
        tokenize_batch([first, missing], 6)
    with pytest.raises(ValueError, match="another order"):
        tokenize_batch([first, dict(reversed(other.items()))], 6)
    apart = {"a": randn(3), "b": randn(3, seed=1)}
    tied = {"a": apart["a"], "b": apart["a"]}
    with pytest.raises(ValueError, match=r"'b' of model 1 is .* tied to 'a'"):
        tokenize_batch([apart, tied], 2)
    assert len(tokenize_batch([apart, apart], 2)) == 2, "two models may be the same one"
    with pytest.raises(ValueError, match="no models"):
        tokenize_batch([], 6)
    with pytest.raises(ValueError, match=r"'b' of shape \[2\] does not stack 3 models"):
        tokenize_batch({"a": randn(3, 2), "b": randn(2)}, 6)
    with pytest.raises(ValueError, match="'a' of shape"):
        tokenize_batch({"a": torch.tensor(1.0)}, 6)


def test_batch_does_not_share_memory_with_its_models() -> None:
    stacked = {"w": randn(2, 3, 4), "steps": torch.arange(2)}
    batch = tokenize_batch(stacked, 4)
    kept = batch.tokens.clone()
    stacked["w"].zero_()
    stacked["steps"].zero_()
    assert torch.equal(batch.tokens, kept)
    back = detokenize_batch(batch)
    batch.tokens.zero_()
    batch.carried["steps"].zero_()
    assert back["w"].any() and back["steps"].tolist() == [0, 1]


def test_layouts_are_equal_by_content_and_have_a_stable_digest() -> None:
    layout = layout_of(model(0), 6)
    again = Layout.from_json(layout.to_json())
    assert again == layout and hash(again) == hash(layout) and again.digest() == layout.digest()
    assert pickle.loads(pickle.dumps(layout)) == layout
    assert torch.equal(again.mask(), layout.mask()) and torch.equal(again.positions(), layout.positions())
    sequence = tokenize(model(3), 6)
    assert_same_bits(again.unfold(sequence.tokens, sequence.carried), model(3))
    assert layout_of(model(7), 6) == layout
    renamed = {name.replace("conv", "c"): tensor for name, tensor in model(0).items()}
    untied = {**model(0), "head.weight": randn(5, 4)}
    double = {name: tensor.double() for name, tensor in model(0).items()}
    others = [layout_of(model(0), 7), *(layout_of(each, 6) for each in (renamed, untied, double))]
    assert len({layout.digest(), *(other.digest() for other in others)}) == 5
    assert all(other != layout for other in others) and layout != "layout"


def test_digest_is_the_same_in_another_process(tmp_path: Path) -> None:
    code = (
        "import torch; from sane_engine.tokens import layout_of\n"
        "model = {'a.weight': torch.zeros(3, 2), 'a.bias': torch.zeros(3), 'n': torch.tensor(1)}\n"
        "print(layout_of(model, 4).digest())"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    here = layout_of({"a.weight": torch.zeros(3, 2), "a.bias": torch.zeros(3), "n": torch.tensor(1)}, 4).digest()
    assert done.stdout.strip() == here


def test_layout_refuses_what_is_not_its_json() -> None:
    content = json.loads(layout_of(model(0), 6).to_json())
    wrong = [
        "[]",
        "nonsense",
        json.dumps({**content, "format": 99}),
        json.dumps({**content, "slots": [{**content["slots"][0], "dtype": "Tensor"}]}),
        json.dumps({**content, "layers": None}),
    ]
    for text in wrong:
        with pytest.raises(ValueError, match=r"layout|Expecting"):
            Layout.from_json(text)


def test_decoded_tokens_become_tensors_with_gradients() -> None:
    layout = layout_of(gpt2(), 9)
    decoded = torch.randn(2, 3, layout.n_tokens, 9, generator=torch.Generator().manual_seed(0), requires_grad=True)
    tensors = layout.unfold(decoded)
    assert tensors["h.0.attn.c_proj.weight"].shape == (2, 3, 8, 8)
    sum(tensor.square().sum() for tensor in tensors.values()).backward()
    expected = 2 * decoded.detach() * layout.mask()
    torch.testing.assert_close(decoded.grad, expected)
    assert torch.equal(layout.fold({k: v.detach() for k, v in tensors.items()}), decoded.detach() * layout.mask())


def test_decoded_tokens_of_another_precision_get_the_tensors_own() -> None:
    sequence = tokenize(model(0), 6)
    back = sequence.layout.unfold(sequence.tokens.double() + 1e-9, sequence.carried)
    assert back["up.weight"].dtype == torch.float16 and back["up.bias"].dtype == torch.bfloat16
    torch.testing.assert_close(back["conv.weight"], model(0)["conv.weight"])
    assert torch.equal(back["up.weight"], model(0)["up.weight"])


def test_unfold_says_what_does_not_fit() -> None:
    sequence = tokenize(model(0), 6)
    with pytest.raises(ValueError, match=r"shape \[\.\.\., \d+, 6\], got"):
        sequence.layout.unfold(sequence.tokens[1:], sequence.carried)
    with pytest.raises(ValueError, match=r"carried tensor 'bn.num_batches_tracked' is missing"):
        sequence.layout.unfold(sequence.tokens)
