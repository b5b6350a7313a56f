"""State dicts without a module: known families are recognised, others are left alone."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
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


class Skips(nn.Module):
    """A chain by its tensors; where skips are, and whether there are any, is not written there."""

    def __init__(self, widths: list[int], skips: dict[int, int], kernel: int = 0) -> None:
        super().__init__()
        self.skips = skips
        for i, (a, b) in enumerate(pairwise(widths)):
            self.add_module(f"l{i}", nn.Conv2d(a, b, kernel, padding=kernel // 2) if kernel else nn.Linear(a, b))

    def forward(self, x: Tensor) -> Tensor:
        seen = [x]
        for i, layer in enumerate(self.children()):
            x = torch.relu(layer(x)) if i + 1 < len(list(self.children())) else layer(x)
            x = x + seen[self.skips[i]] if i in self.skips else x
            seen.append(x)
        return x


def change(module: nn.Module, symmetry: Symmetry, inputs: Tensor) -> float:
    """Largest relative change of the outputs over a few random permutations."""
    state, worst = {k: v.detach() for k, v in module.eval().state_dict().items()}, 0.0
    with torch.no_grad():
        before = module(inputs)
        for seed in range(5):
            moved = symmetry.permute(state, symmetry.random(torch.Generator().manual_seed(seed)))
            after = torch.func.functional_call(module, moved, (inputs,))
            worst = max(worst, float((after - before).abs().max() / before.abs().max()))
    return worst


@pytest.mark.parametrize("skips", [{}, {2: 2}, {3: 1}, {2: 2, 3: 1}])
@pytest.mark.parametrize("kernel", [0, 3])
def test_layers_of_one_width_are_tied_for_the_sake_of_a_skip(skips: dict[int, int], kernel: int) -> None:
    torch.manual_seed(0)
    module = Skips([5, 8, 6, 6, 8, 3], skips, kernel)
    found = symmetry_of_tensors(module.state_dict())
    assert [group.size for group in found.groups] == [8, 6]
    assert any("skip" in note for note in found.notes)
    assert change(module, found, torch.randn(4, 5, *((7, 7) if kernel else ()))) < 1e-5


def test_layers_as_wide_as_input_or_output_may_be_added_to_them() -> None:
    torch.manual_seed(0)
    module = Skips([5, 9, 5, 7, 3, 3], {1: 0, 4: 4})
    found = symmetry_of_tensors(module.state_dict())
    assert [group.size for group in found.groups] == [9, 7]
    assert change(module, found, torch.randn(4, 5)) < 1e-5


def test_two_networks_in_one_file_are_no_chain() -> None:
    state = {f"{part}.{k}": v for part in ("actor", "critic") for k, v in Skips([4, 8, 4], {}).state_dict().items()}
    assert symmetry_of_tensors(state).is_trivial


class Cifar(nn.Module):
    """A ResNet for small images; where it widens, the shortcut has no weights."""

    def __init__(self, shortcut: Callable[[Tensor, int], Tensor], width: int = 4, depth: int = 2) -> None:
        super().__init__()
        self.shortcut = shortcut
        self.conv1, self.bn1 = nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        channels = width
        for stage in range(3):
            blocks = []
            for _ in range(depth):
                blocks.append(Residual(channels, width * 2**stage, 1, False))
                blocks[-1].downsample = None
                channels = width * 2**stage
            self.add_module(f"layer{stage + 1}", nn.Sequential(*map(Renamed, blocks)))
        self.linear = nn.Linear(channels, 10)
        for norm in (m for m in self.modules() if isinstance(m, nn.BatchNorm2d)):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.uniform_(norm.bias, -0.5, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        for block in (b for stage in (self.layer1, self.layer2, self.layer3) for b in stage):
            y = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(x)))))
            x = torch.relu(y + (x if x.shape[1] == y.shape[1] else self.shortcut(x, y.shape[1])))
        return self.linear(x.mean((2, 3)))


class Renamed(nn.Module):
    """A block under torchvision's names."""

    def __init__(self, block: Residual) -> None:
        super().__init__()
        (self.conv1, self.conv2), (self.bn1, self.bn2) = block.convs, block.norms


SHORTCUTS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "both sides": lambda x, n: F.pad(x, (0, 0, 0, 0, (n - x.shape[1]) // 2, (n - x.shape[1]) // 2)),
    "behind": lambda x, n: F.pad(x, (0, 0, 0, 0, 0, n - x.shape[1])),
    "in front": lambda x, n: F.pad(x, (0, 0, 0, 0, n - x.shape[1], 0)),
    "repeated": lambda x, n: x.repeat(1, n // x.shape[1], 1, 1),
    "none": lambda x, n: torch.zeros(len(x), n, *x.shape[2:]),
}


@pytest.mark.parametrize("name", SHORTCUTS)
def test_a_shortcut_without_weights_fixes_the_stream_only(name: str) -> None:
    torch.manual_seed(0)
    module = Cifar(SHORTCUTS[name])
    found = symmetry_of_tensors(module.state_dict())
    assert found.n_neurons == 2 * (4 + 8 + 16)
    assert "56 units" in found.notes[-1]
    assert change(module, found, torch.randn(4, 3, 8, 8)) < 1e-4


def test_a_promised_shortcut_frees_the_stream() -> None:
    torch.manual_seed(0)
    module = Cifar(SHORTCUTS["both sides"])
    found = symmetry_of_tensors(module.state_dict(), padded_shortcuts=True)
    # the first stream, and what is padded around it: 2 + 2 of 8, and 4 + 4 of 16
    assert found.n_neurons == 2 * (4 + 8 + 16) + 4 + 2 + 2 + 4 + 4
    assert change(module, found, torch.randn(4, 3, 8, 8)) < 1e-4
    # the promise matters: another shortcut would not have kept its function
    assert change(Cifar(SHORTCUTS["behind"]), found, torch.randn(4, 3, 8, 8)) > 1e-2


def test_one_width_does_not_tell_where_the_norms_are() -> None:
    state, _ = torchvision_names((2,))
    assert symmetry_of_tensors(state).is_trivial


def pytorchcv_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in state.items():
        new = re.sub(r"^(conv|bn)1\.", r"features.init_block.conv.\1.", name)
        new = re.sub(
            r"^layer(\d)\.(\d)\.(conv|bn)(\d)",
            lambda m: f"features.stage{m[1]}.unit{int(m[2]) + 1}.body.conv{m[4]}.{m[3]}",
            new,
        )
        new = re.sub(
            r"^layer(\d)\.(\d)\.downsample\.([01])",
            lambda m: f"features.stage{m[1]}.unit{int(m[2]) + 1}.identity_conv.{('conv', 'bn')[int(m[3])]}",
            new,
        )
        renamed[re.sub(r"^fc\.", "output.", new)] = tensor
    return renamed


def test_other_words_for_the_same_network() -> None:
    state, neurons = torchvision_names((2, 2, 2, 2))
    found = symmetry_of_tensors(pytorchcv_names(state))
    assert found.n_neurons == neurons
    assert "features.stage2.unit1.identity_conv.bn.running_var" in found.tensors
    assert list(found.tensors.values()) == list(symmetry_of_tensors(state).tensors.values())


def test_the_order_in_the_file_does_not_matter_for_resnets() -> None:
    state, neurons = torchvision_names((2, 2))
    found = symmetry_of_tensors({name: state[name] for name in sorted(state)})
    assert found.n_neurons == neurons


def test_vggs_are_recognised_under_both_names() -> None:
    vgg = CASES["vgg16-bn"].make().state_dict()
    layers = {int(name.split(".")[0]) for name in vgg if vgg[name].ndim > 1}
    first = min(number for number in layers if vgg[f"{number}.weight"].ndim == 2)
    torchvision, pytorchcv, stage, unit = {}, {}, 1, 0
    for name, tensor in vgg.items():
        number, key = int(name.split(".")[0]), name.split(".")[1]
        part = "features" if number < first else "classifier"
        torchvision[f"{part}.{number if number < first else number - first}.{key}"] = tensor
        unit += number in layers and key == "weight"
        if part == "features":
            kind = "conv" if number in layers else "bn"
            pytorchcv[f"features.stage{stage}.unit{unit}.{kind}.{key}"] = tensor
        else:
            pytorchcv[f"output.fc{unit}.{'fc.' if number < max(layers) else ''}{key}"] = tensor
    for state in (torchvision, pytorchcv):
        found = symmetry_of_tensors(state)
        assert found.n_neurons == CASES["vgg16-bn"].neurons
        assert set(found.tensors) <= set(state)


def test_a_bag_of_numbers_is_no_network() -> None:
    assert symmetry_of_tensors({"loss": torch.zeros(3), "step.weight": torch.zeros(2, 2, 2)}).is_trivial
