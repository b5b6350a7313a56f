"""Alignment finds a planted permutation, is deterministic, and a zoo comes out as its models would alone."""

from __future__ import annotations

import pytest
import torch
from symmetry_networks import CASES
from test_symmetry_finding import Grouped, network, symmetry_of
from torch import Tensor, nn

from sane_engine.progress import Cancelled
from sane_engine.symmetry import Symmetry, align, align_zoo, distance, find_symmetry, match

Tensors = dict[str, Tensor]


def state(module: nn.Module) -> Tensors:
    return {name: tensor.detach() for name, tensor in module.state_dict().items()}


def noisy(tensors: Tensors, generator: torch.Generator) -> Tensors:
    """A copy with 1 % noise, relative to each tensor's own spread."""
    return {
        name: tensor + 0.01 * tensor.std() * torch.randn(tensor.shape, generator=generator)
        if tensor.is_floating_point() and tensor.numel() > 1
        else tensor
        for name, tensor in tensors.items()
    }


def misplaced(symmetry: Symmetry, tensors: Tensors, reference: Tensors, planted: object) -> float:
    """Share of units that are not back in their place, or not back to their sign."""
    found = symmetry.compose(match(tensors, reference, symmetry), planted)  # type: ignore[arg-type]  # Permutations
    wrong = found.moved() + sum(int((flip < 0).sum()) for flip in found.flips)
    return wrong / sum(order.numel() for order in found.orders)


@pytest.mark.parametrize("name", CASES)
def test_a_planted_permutation_is_recovered(name: str) -> None:
    symmetry, original = symmetry_of(name), state(network(name))
    generator = torch.Generator().manual_seed(5)
    planted = symmetry.random(generator)
    copy = noisy(symmetry.permute(original, planted), generator)
    assert misplaced(symmetry, copy, original, planted) <= 0.001
    assert distance(copy, original) > 1
    assert distance(align(copy, original, symmetry), original) < 0.011


def test_convolution_groups_are_recovered_as_blocks() -> None:
    torch.manual_seed(0)
    module = Grouped()
    symmetry = find_symmetry(module, torch.randn(1, 3, 8, 8))
    generator = torch.Generator().manual_seed(2)
    planted = symmetry.random(generator)
    copy = noisy(symmetry.permute(state(module), planted), generator)
    assert misplaced(symmetry, copy, state(module), planted) == 0


def test_alignment_keeps_the_function_and_comes_closer() -> None:
    torch.manual_seed(1)
    symmetry, example = symmetry_of("small-cnn"), CASES["small-cnn"].example()
    module, reference = CASES["small-cnn"].make(), state(CASES["small-cnn"].make())
    aligned = align(state(module), reference, symmetry)
    assert distance(aligned, reference) < 0.95 * distance(state(module), reference)
    with torch.no_grad():
        outputs = torch.func.functional_call(module, aligned, (example,))
        assert torch.allclose(outputs, module(example), atol=1e-5)


@pytest.mark.parametrize("name", ["small-cnn", "resnet-18", "vit-tiny"])
def test_results_are_the_same_on_every_run_and_thread_count(name: str) -> None:
    torch.manual_seed(2)
    symmetry, first, second = symmetry_of(name), state(CASES[name].make()), state(CASES[name].make())
    results = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 1):
            torch.set_num_threads(count)
            torch.rand(3)  # the global random state plays no part
            results.append(align(first, second, symmetry, seed=7))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(other[key], results[0][key]) for key in other)


@pytest.mark.parametrize("name", ["small-cnn", "gpt-2", "mobilenet-v2"])
def test_a_zoo_comes_out_as_its_models_would_alone(name: str) -> None:
    torch.manual_seed(3)
    symmetry = symmetry_of(name)
    models = [state(CASES[name].make()) for _ in range(4)]
    stacked = {key: torch.stack([model[key] for model in models]) for key in models[0]}
    together = align_zoo(stacked, models[0], symmetry)
    for i, model in enumerate(models):
        alone = align(model, models[0], symmetry)
        for key in alone:
            assert torch.allclose(together[key][i], alone[key]), key
    assert all(torch.equal(together[key][0], models[0][key]) for key in models[0])


def test_a_zoo_can_be_stopped_and_reports() -> None:
    symmetry, model = symmetry_of("mlp"), state(network("mlp"))
    stacked = {key: tensor[None] for key, tensor in model.items()}
    reports: list[tuple[int, int]] = []
    align_zoo(stacked, model, symmetry, progress=lambda done, total, _: reports.append((done, total)))
    assert reports == [(1, 1)]
    with pytest.raises(Cancelled):
        align_zoo(stacked, model, symmetry, cancelled=lambda: True)


def test_a_stranger_is_refused() -> None:
    with pytest.raises(ValueError, match="another network"):
        align(state(network("lenet-5")), state(network("small-cnn")), symmetry_of("small-cnn"))


def test_dead_and_equal_units_do_no_harm() -> None:
    symmetry = symmetry_of("mlp")
    zeros = {name: torch.zeros_like(tensor) for name, tensor in state(network("mlp")).items()}
    assert all(torch.equal(align(zeros, zeros, symmetry)[name], zeros[name]) for name in zeros)
