"""Alignment by activations: a planted permutation comes back, and the function stays."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from symmetry_networks import CASES
from test_symmetry_aligning import state
from test_symmetry_finding import Grouped, network, symmetry_of
from torch import Tensor, nn

from sane_engine.progress import Cancelled
from sane_engine.symmetry import align, find_symmetry, match_activations
from sane_engine.symmetry.restricting import without_signs


def batch(name: str, size: int = 64) -> Tensor:
    example = CASES[name].example()
    generator = torch.Generator().manual_seed(4)
    if not example.is_floating_point():
        return torch.randint(0, int(example.max()), (size, *example.shape[1:]), generator=generator)
    return torch.randn(size, *example.shape[1:], generator=generator)


def outputs(module: nn.Module, tensors: dict[str, Tensor], inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.func.functional_call(module, tensors, (inputs,), tie_weights=False)


@pytest.mark.parametrize("name", ["mlp", "small-cnn", "lenet-5", "resnet-18", "vgg16-bn", "mobilenet-v2", "gpt-2"])
def test_a_planted_permutation_is_undone(name: str) -> None:
    """Also the flips; units that no input excites have no activation to be told by, and only they may be lost."""
    module, symmetry, inputs = network(name), symmetry_of(name), batch(name)
    original = state(module)
    planted = symmetry.random(torch.Generator().manual_seed(1))
    found = match_activations(module, symmetry.permute(original, planted), original, symmetry, inputs)
    back = symmetry.compose(found.permutations, planted)
    wrong = back.moved() + sum(int((flip < 0).sum()) for flip in back.flips)
    constant = [int(note.split()[0]) for note in found.notes if "constant" in note]
    assert wrong <= sum(constant)
    assert sum(constant) < 0.05 * symmetry.n_neurons
    aligned = symmetry.permute(original, found.permutations)
    before, after = outputs(module, original, inputs), outputs(module, aligned, inputs)
    assert float((after - before).abs().max()) < 1e-4 * float(before.abs().max())


@pytest.mark.parametrize("name", ["mlp", "small-cnn", "resnet-18", "vgg16-bn"])
def test_every_group_is_read_where_there_are_no_heads(name: str) -> None:
    module, symmetry = network(name), symmetry_of(name)
    found = match_activations(module, state(module), state(module), symmetry, batch(name, 4))
    assert found.by_activations == tuple(range(len(symmetry.groups)))
    assert not any("weights" in note for note in found.notes)


@pytest.mark.parametrize("make", [lambda: network("vit-tiny"), Grouped])
def test_what_lies_inside_heads_and_groups_is_matched_by_weights_and_said(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    module = make().eval()
    inputs = torch.randn(4, 3, 32, 32)
    symmetry = find_symmetry(module, inputs[:2])
    inside = {g for g, group in enumerate(symmetry.groups) if group.context} | symmetry.blocks
    found = match_activations(module, state(module), state(module), symmetry, inputs)
    assert set(found.by_activations) == set(range(len(symmetry.groups))) - inside
    assert sum("matched by weights" in note for note in found.notes) == len(inside) > 0


def test_the_scale_of_a_unit_does_not_matter() -> None:
    """Units scaled before ReLU and back after it lie far off in weights; their activations correlate fully."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
    inputs = torch.randn(200, 6)
    symmetry = find_symmetry(module, inputs)
    original = state(module)
    scale = torch.logspace(-2, 2, 12)[torch.randperm(12)]
    other = {
        "0.weight": original["0.weight"] * scale[:, None],
        "0.bias": original["0.bias"] * scale,
        "2.weight": original["2.weight"] / scale,
        "2.bias": original["2.bias"],
    }
    planted = symmetry.random(torch.Generator().manual_seed(1))
    mixed = symmetry.permute(other, planted)
    options = {"method": "activations", "module": module, "inputs": inputs}
    by_activations = align(mixed, original, symmetry, **options)
    assert all(torch.equal(by_activations[key], other[key]) for key in other)


def test_a_symmetry_without_signs_is_respected() -> None:
    module, full, inputs = network("small-cnn"), symmetry_of("small-cnn"), batch("small-cnn")
    planted = full.random(torch.Generator().manual_seed(1), flips=False)
    mixed = full.permute(state(module), planted)
    plain = without_signs(full)
    back = plain.permute(mixed, match_activations(module, mixed, state(module), plain, inputs).permutations)
    assert all(torch.equal(back[key], tensor) for key, tensor in state(module).items())


def test_what_cannot_work_is_refused() -> None:
    module, symmetry, inputs = network("mlp"), symmetry_of("mlp"), batch("mlp")
    tensors = state(module)
    with pytest.raises(ValueError, match="module and a batch"):
        align(tensors, tensors, symmetry, method="activations", inputs=inputs)
    with pytest.raises(ValueError, match="method"):
        align(tensors, tensors, symmetry, method="magic")  # type: ignore[arg-type]  # on purpose
    with pytest.raises(ValueError, match="another network"):
        match_activations(network("small-cnn"), tensors, tensors, symmetry, batch("small-cnn"))
    with pytest.raises(Cancelled):
        match_activations(module, tensors, tensors, symmetry, inputs, cancelled=lambda: True)
