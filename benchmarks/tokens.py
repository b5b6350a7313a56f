"""How fast are tokens? Run ``python -m benchmarks.tokens`` from the root of the repository.

Two claims are measured, medians over repeats, on one thread (``--threads 2`` for two; on a busy machine the second
thread waits for a core and small operations become many times slower):

* Tokenising ResNet-50 costs at most 3 times a plain copy (allocate, then copy) of the bytes it writes.
* ``tokenize_batch`` on 1,000 small CNNs costs at most a twentieth, per model, of 1,000 single calls.

The definition of ResNet-50 comes from pytorchcv if it is there (``pip install --no-deps pytorchcv==0.0.67``; later
versions pull in torchvision), otherwise from a table of the same shapes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from sane_engine.tokens import tokenize, tokenize_batch

RESNET_TOKEN_SIZE = 288
SMALL_TOKEN_SIZE = 37
N_MODELS = 1000
REPEATS = 15


def resnet50() -> tuple[dict[str, Tensor], str]:
    """ResNet-50's state dict, random, and where the definition came from."""
    try:
        from pytorchcv.models.resnet import resnet50 as definition
    except ImportError:
        return resnet50_from_shapes(), "table of shapes"
    return dict(definition(pretrained=False).state_dict()), "pytorchcv"


def resnet50_from_shapes() -> dict[str, Tensor]:
    """The 320 tensors of ResNet-50 (He et al. 2016, bottleneck blocks 3-4-6-3), random."""
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, Tensor] = {}

    def conv_and_norm(conv: str, norm: str, out: int, inputs: int, kernel: int) -> None:
        tensors[f"{conv}.weight"] = torch.randn(out, inputs, kernel, kernel, generator=generator)
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            tensors[f"{norm}.{leaf}"] = torch.rand(out, generator=generator)
        tensors[f"{norm}.num_batches_tracked"] = torch.tensor(0)

    conv_and_norm("conv1", "bn1", 64, 3, 7)
    inputs = 64
    for stage, (blocks, width) in enumerate(zip((3, 4, 6, 3), (64, 128, 256, 512), strict=True), start=1):
        for block in range(blocks):
            prefix = f"layer{stage}.{block}"
            conv_and_norm(f"{prefix}.conv1", f"{prefix}.bn1", width, inputs, 1)
            conv_and_norm(f"{prefix}.conv2", f"{prefix}.bn2", width, width, 3)
            conv_and_norm(f"{prefix}.conv3", f"{prefix}.bn3", 4 * width, width, 1)
            if block == 0:
                conv_and_norm(f"{prefix}.downsample.0", f"{prefix}.downsample.1", 4 * width, inputs, 1)
            inputs = 4 * width
    tensors["fc.weight"] = torch.randn(1000, inputs, generator=generator)
    tensors["fc.bias"] = torch.randn(1000, generator=generator)
    return tensors


def small_cnns(count: int) -> list[dict[str, Tensor]]:
    """State dicts of the CNN of the small-CNN zoos, 1,696 parameters, random."""
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "conv1": (8, 1, 5, 5),
        "conv2": (6, 8, 3, 3),
        "conv3": (4, 6, 2, 2),
        "fc1": (20, 36),
        "fc2": (10, 20),
    }
    return [
        {
            f"{name}.{leaf}": torch.randn(shape if leaf == "weight" else shape[:1], generator=generator)
            for name, shape in shapes.items()
            for leaf in ("weight", "bias")
        }
        for _ in range(count)
    ]


def seconds(work: dict[str, Callable[[], object]], repeats: int = REPEATS) -> dict[str, float]:
    """Median time of each piece of work, taken in turn so that a busy machine slows all alike; one warm-up."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for repeat in range(repeats + 1):
        for name, function in work.items():
            start = time.perf_counter()
            result = function()
            elapsed = time.perf_counter() - start
            del result
            if repeat:
                times[name].append(elapsed)
    return {name: median(each) for name, each in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the speed of tokens.")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: 1)")
    torch.set_num_threads(parser.parse_args().threads)
    tensors, source = resnet50()
    sequence = tokenize(tensors, RESNET_TOKEN_SIZE)
    written = sequence.tokens.clone()
    shape, megabytes = tuple(sequence.tokens.shape), sequence.tokens.nbytes / 1e6
    del sequence
    took = seconds(
        {
            "copy": lambda: torch.empty_like(written).copy_(written),
            "tokenize": lambda: tokenize(tensors, RESNET_TOKEN_SIZE),
        }
    )
    print(f"ResNet-50 ({source}), {len(tensors)} tensors -> tokens {list(shape)}, {megabytes:.0f} MB")
    print(f"  copy of the bytes {took['copy'] * 1e3:8.1f} ms")
    print(
        f"  tokenize          {took['tokenize'] * 1e3:8.1f} ms   {took['tokenize'] / took['copy']:.2f}x (at most 3)"
    )

    models = small_cnns(N_MODELS)
    stacked = {name: torch.stack([model[name] for model in models]) for name in models[0]}
    took = seconds(
        {
            "single": lambda: [tokenize(model, SMALL_TOKEN_SIZE) for model in models],
            "list": lambda: tokenize_batch(models, SMALL_TOKEN_SIZE),
            "stacked": lambda: tokenize_batch(stacked, SMALL_TOKEN_SIZE),
        }
    )
    print(f"{N_MODELS} small CNNs, a model")
    print(f"  single calls                    {took['single'] / N_MODELS * 1e6:8.2f} us")
    for name, label in (
        ("list", "tokenize_batch, list of models "),
        ("stacked", "tokenize_batch, stacked tensors"),
    ):
        ratio = took["single"] / took[name]
        print(f"  {label} {took[name] / N_MODELS * 1e6:8.2f} us   {ratio:.0f}x (target >= 20)")


if __name__ == "__main__":
    main()
