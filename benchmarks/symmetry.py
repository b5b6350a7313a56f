"""What is found in networks of full size: neurons against the known count, outputs kept, planted permutations back.

Run from the repository's root: ``python -m benchmarks.symmetry``. Weights are random (seed 0); norms get scales,
shifts and running statistics of one batch. Times are cpu seconds of this process.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from symmetry_networks import (  # noqa: E402  (needs the path above)
    GPT,
    ViT,
    densenet121,
    images,
    lenet5,
    mlp,
    mobilenet_v2,
    resnet18,
    resnet50,
    small_cnn,
    tokens,
    vgg16_bn,
)

from sane_engine.symmetry import Permutations, Symmetry, find_symmetry, match  # noqa: E402  (after the path)

Make = tuple[Callable[[], nn.Module], Callable[[], Tensor], int]

# Each network at full width, an input, and the number of units that are known to be exchangeable.
NETWORKS: dict[str, Make] = {
    "MLP": (mlp, images(10), 32 + 16),
    "small CNN": (small_cnn, images(1, 14, 14), 8 + 6 + 4 + 20),
    "LeNet-5": (lenet5, images(1, 28, 28), 6 + 16 + 120 + 84),
    "ResNet-18": (lambda: resnet18(64), images(3, 64, 64), 64 * (15 + 2 * 15)),
    "ResNet-50": (lambda: resnet50(64), images(3, 64, 64), 64 * (1 + 4 * 15 + 2 * (3 + 4 * 2 + 6 * 4 + 3 * 8))),
    "VGG16-bn": (lambda: vgg16_bn(64, 4096), images(3, 64, 64), 64 * (2 + 4 + 12 + 48) + 2 * 4096),
    "DenseNet-121": (lambda: densenet121(32), images(3, 64, 64), 32 * (2 + 58 * 5 + 4 + 8 + 16)),
    "MobileNetV2": (lambda: mobilenet_v2(1), images(3, 64, 64), 32 + 712 + 7104 + 1280),
    "ViT-tiny": (lambda: ViT(192), images(3, 32, 32), 192 + 12 * (192 + 192 + 768)),
    "GPT-2 blocks": (
        lambda: GPT(768, 12, 2, 1000, 32),
        tokens(16, 1000),
        768 + 2 * (768 + 768 + 4 * 768),
    ),
}


def alive(module: nn.Module, example: Tensor) -> nn.Module:
    """Norms that tell channels apart, with running statistics of one batch."""
    for child in module.modules():
        if isinstance(child, (nn.BatchNorm2d, nn.LayerNorm)):
            nn.init.uniform_(child.weight, 0.5, 1.5)
            nn.init.uniform_(child.bias, -0.5, 0.5)
        if isinstance(child, nn.BatchNorm2d):
            child.momentum = 1.0
    if example.is_floating_point():
        with torch.no_grad():
            module.train()(torch.randn(8, *example.shape[1:]))
    return module.eval()


def change(module: nn.Module, symmetry: Symmetry, example: Tensor) -> float:
    """Largest change of an output under a random permutation with flips, relative to the largest output."""
    state = {name: tensor.detach() for name, tensor in module.state_dict().items()}
    permuted = symmetry.permute(state, symmetry.random(torch.Generator().manual_seed(0)))
    with torch.no_grad():
        before, after = (
            torch.func.functional_call(module, tensors, (example,), tie_weights=False)
            for tensors in (state, permuted)
        )
    return float((after - before).abs().max() / before.abs().max())


def recovered(symmetry: Symmetry, original: dict[str, Tensor]) -> float:
    """Share of units that find back from a random place and sign, with 1 % noise on every tensor."""
    generator = torch.Generator().manual_seed(5)
    planted = symmetry.random(generator)
    copy = {
        name: tensor + 0.01 * tensor.std() * torch.randn(tensor.shape, generator=generator)
        if tensor.is_floating_point() and tensor.numel() > 1
        else tensor
        for name, tensor in symmetry.permute(original, planted).items()
    }
    found: Permutations = symmetry.compose(match(copy, original, symmetry), planted)
    units = sum(order.numel() for order in found.orders)
    wrong = found.moved() + sum(int((flip < 0).sum()) for flip in found.flips)
    return 1 - wrong / units


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="one of the networks, by name")
    options = parser.parse_args()
    head = ("network", "parameters", "known", "found", "float32", "float64", "recovered", "find s", "match s")
    print("{:13} {:>11} {:>6} {:>6} {:>8} {:>8} {:>9} {:>7} {:>8}".format(*head))
    for name, (make, example_of, known) in NETWORKS.items():
        if options.only not in (None, name):
            continue
        torch.manual_seed(0)
        example = example_of()
        module = alive(make(), example)
        start = time.process_time()
        symmetry = find_symmetry(module, example, verify=False)
        finding = time.process_time() - start
        original = {key: tensor.detach().clone() for key, tensor in module.state_dict().items()}
        start = time.process_time()
        share = recovered(symmetry, original)
        matching = time.process_time() - start
        single = change(module, symmetry, example)
        double = change(module.double(), symmetry, example.double() if example.is_floating_point() else example)
        count = sum(parameter.numel() for parameter in module.parameters())
        print(
            f"{name:13} {count:11,} {known:6} {symmetry.n_neurons:6} {single:8.1e} {double:8.1e} {share:9.3%} "
            f"{finding:7.2f} {matching:8.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
