"""State dicts without a module: known families are recognised, others are left alone."""

from __future__ import annotations

import pytest
import torch
from symmetry_networks import CASES, Residual
from test_symmetry_finding import symmetry_of
from torch import Tensor, nn

from sane_engine.symmetry import Symmetry, symmetry_of_tensors


def torchvision_names(depths: tuple[int, ...], width: int = 4) -> tuple[dict[str, Tensor], int]:
    """A basic ResNet's state dict under torchvision's names, and its number of neurons."""
    state = {f"conv1.{k}": v for k, v in nn.Conv2d(3, width, 7, bias=False).state_dict().items()}
    state |= {f"bn1.{k}": v for k, v in nn.BatchNorm2d(width).state_dict().items()}
    channels, neurons = width, width * 2 ** len(depths) - width
    for stage, depth in enumerate(depths):
        for i in range(depth):
            block = Residual(channels, width * 2**stage, 2 if stage and i == 0 else 1, False).state_dict()
            for key, tensor in block.items():
                kind, index, *rest = key.split(".")
                names = {
                    "convs": f"conv{int(index) + 1}",
                    "norms": f"bn{int(index) + 1}",
                    "downsample": f"downsample.{index}",
                }
                state[f"layer{stage + 1}.{i}.{names[kind]}.{'.'.join(rest)}"] = tensor
            channels = width * 2**stage
            neurons += channels
    return state | {f"fc.{k}": v for k, v in nn.Linear(channels, 10).state_dict().items()}, neurons


def without_signs(symmetry: Symmetry) -> list[tuple[int, tuple[int, ...]]]:
    return [(group.size, group.context) for group in symmetry.groups]


@pytest.mark.parametrize("name", ["mlp", "small-cnn", "lenet-5"])
def test_plain_chains_are_recognised(name: str) -> None:
    found = symmetry_of_tensors(CASES[name].make().state_dict())
    assert without_signs(found) == without_signs(symmetry_of(name))
    assert found.signs == ()
    assert set(found.tensors) == set(symmetry_of(name).tensors)


def test_resnets_are_recognised() -> None:
    state, neurons = torchvision_names((2, 2, 2, 2))
    found = symmetry_of_tensors(state)
    assert found.n_neurons == neurons == 4 * 45
    assert found.notes == ()


@pytest.mark.parametrize("name", ["densenet-121", "mobilenet-v2", "vit-tiny", "gpt-2"])
def test_other_families_are_left_alone(name: str) -> None:
    found = symmetry_of_tensors(CASES[name].make().state_dict())
    assert found.is_trivial
    assert found.notes[0].startswith("unknown: not aligned")


def test_a_layer_that_keeps_its_width_may_hide_a_skip() -> None:
    state = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)).state_dict()
    assert symmetry_of_tensors(state).is_trivial


def test_a_shortcut_without_projection_is_not_guessed() -> None:
    state, _ = torchvision_names((1, 1))
    state = {name: tensor for name, tensor in state.items() if "downsample" not in name}
    assert symmetry_of_tensors(state).is_trivial


def test_a_bag_of_numbers_is_no_network() -> None:
    assert symmetry_of_tensors({"loss": torch.zeros(3), "step.weight": torch.zeros(2, 2, 2)}).is_trivial
