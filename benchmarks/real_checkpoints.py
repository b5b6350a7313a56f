"""What happens to checkpoints that other people made: load, tokens, back, both layer curves.

``python -m benchmarks.real_checkpoints FILE…`` prints one line a file. Tensors are compared bit by bit: as loaded
against torch's own (weights-only) or safetensors' reading, and after the way through tokens against those loaded.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from sane_engine import Refusal, detokenize, layer_features, load_checkpoint, load_encoder, tokenize


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Equal dtype, shape and every bit, NaNs included."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    as_bytes = [t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (a, b)]
    return bool(torch.equal(*as_bytes))


def reference(path: Path) -> dict[str, Tensor]:
    """All tensors of a file by dotted key, as the libraries that define the formats read it."""
    if path.suffix == ".safetensors":
        return load_file(path)
    found: dict[str, Tensor] = {}
    waiting = [("", torch.load(path, map_location="cpu", weights_only=True))]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, Tensor):
            found[name] = value
        elif isinstance(value, Mapping):
            waiting += [(f"{name}.{key}" if name else str(key), item) for key, item in value.items()]
    return found


def check(path: Path, encoder_name: str) -> str:
    """One line about one file."""
    start = time.perf_counter()
    try:
        checkpoint = load_checkpoint(path)
    except Refusal as refusal:
        return f"{path.name}: refused ({refusal.code}): {refusal.line()}"
    loaded = time.perf_counter() - start
    tensors, expected = checkpoint.tensors, reference(path)
    as_read = all(
        any(name.endswith(key) and same_bits(value, tensors[key]) for name, value in expected.items())
        for key in tensors
    )
    sequence = tokenize(tensors, 37)
    back = detokenize(sequence)
    exact = list(back) == list(tensors) and all(same_bits(back[key], tensors[key]) for key in tensors)
    encoder = load_encoder(encoder_name)
    curves = []
    for kind in ("weightwatcher", "sane"):
        start = time.perf_counter()
        table = layer_features(tensors, kind, encoder=encoder)
        column = "alpha" if kind == "weightwatcher" else "norm"
        seconds = time.perf_counter() - start
        curves.append(f"{kind} {int(table[column].notna().sum())} of {len(table)} layers in {seconds:.1f} s")
    return (
        f"{path.name}: {checkpoint.provenance.container}, {len(tensors)} tensors, "
        f"{checkpoint.n_parameters:,} weights, read in {loaded:.2f} s, as torch reads it {as_read}, "
        f"{len(sequence.tokens):,} tokens, bit-exact {exact}, {', '.join(curves)}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--encoder", default="digits-sane")
    given = parser.parse_args()
    for file in given.files:
        print(check(file, given.encoder), flush=True)
