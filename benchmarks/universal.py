"""The universal encoder beside encoders of single zoos, an untrained one and principal components.

python -m benchmarks.universal zoos/mnist zoos/wild … --files resnet20.th --markdown docs/universal.md

On held-out models of each zoo: R² of the reconstructed weights (each tensor about its own mean, in units of its own
standard deviation), and R² of ridge probes on the vectors. The zoo's own encoder has the same configuration and is
trained on that zoo's training models alone.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.universal_report import markdown
from sane_engine.intake import load_checkpoints
from sane_engine.probing import probe
from sane_engine.revision import commit
from sane_engine.sane import Sane, SaneConfig, embed, load_encoder, pretrain
from sane_engine.sane.encoder_file import UNIVERSAL
from sane_engine.sane.fidelity import reconstruct_tokens
from sane_engine.sane.layer_cloud import fit_cloud
from sane_engine.sane.normalisation import own_statistics
from sane_engine.sane.pooling import pool, select_tokens
from sane_engine.sane.training_set import TrainingSet, rows_of_split, token_batch
from sane_engine.tokens import TokenBatch, tokenize_batch
from sane_engine.workspace import atomic_file
from sane_engine.zoo import Zoo, load_zoo

TARGETS = ("test_accuracy", "epoch", "generalisation_gap")
_SCORED = 200
_AT_ONCE = 64


@dataclass(frozen=True)
class Basis:
    """Per-token PCA: the mean and axes of standardised tokens."""

    mean: Tensor
    axes: Tensor

    def reconstruct(self, tokens: Tensor) -> Tensor:
        """Through as many components as there are axes."""
        return (tokens - self.mean) @ self.axes @ self.axes.T + self.mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoos", nargs="*")
    parser.add_argument("--encoder", default=UNIVERSAL)
    parser.add_argument("--files", type=Path, nargs="*", default=[], help="checkpoints of architectures never seen")
    parser.add_argument("--most", type=int, default=1200, help="checkpoints of a zoo, whole models")
    parser.add_argument("--own-steps", type=int, default=300, help="of the encoders of single zoos; 0 trains none")
    parser.add_argument("--out", type=Path, help="add the numbers to this JSON")
    parser.add_argument("--markdown", type=Path)
    arguments = parser.parse_args()
    encoder = load_encoder(arguments.encoder)
    record: dict[str, Any] = {"zoos": {}, "files": []}
    if arguments.out is not None and arguments.out.exists():
        record = json.loads(arguments.out.read_text(encoding="utf-8"))
    if record.get("digest") != encoder.digest:
        record = {"zoos": {}, "files": [], "digest": encoder.digest}
    record |= {"provenance": encoder.provenance, "config": encoder.config.to_json(), "commit": commit()}
    for name in arguments.zoos:
        zoo = _thinned(load_zoo(name), arguments.most)
        started = time.process_time()
        record["zoos"][zoo.name] = _of_zoo(zoo, encoder, own_steps=arguments.own_steps)
        record["zoos"][zoo.name]["cpu_seconds"] = round(time.process_time() - started)
        print(zoo.name, json.dumps(record["zoos"][zoo.name]), flush=True)
        _write(record, arguments)
    if arguments.files:
        record["files"] = [_of_file(path, encoder) for path in arguments.files]
    _write(record, arguments)


def _write(record: dict[str, Any], arguments: argparse.Namespace) -> None:
    if arguments.out is not None:
        with atomic_file(arguments.out) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if arguments.markdown is not None:
        arguments.markdown.write_text(markdown(record), encoding="utf-8")


def _thinned(zoo: Zoo, most: int) -> Zoo:
    """Whole models until there are as many checkpoints."""
    # Not the seed that splits are drawn by: the first models of that order are all for training.
    order = np.random.default_rng(1).permutation(np.asarray(zoo.table["model"].unique().tolist(), dtype=object))
    place = zoo.table["model"].map({model: i for i, model in enumerate(order)}).to_numpy()
    sizes = zoo.table.groupby("model").size().reindex(order).cumsum().to_numpy()
    return zoo.select(np.flatnonzero(place < max(1, int((sizes <= most).sum()))))


def _of_zoo(zoo: Zoo, encoder: Sane, *, own_steps: int) -> dict[str, Any]:
    encoders = {"universal": encoder, "untrained": _untrained(zoo, encoder.config)}
    if own_steps:
        encoders["own"] = pretrain(zoo, replace(encoder.config, steps=own_steps))
    basis = _basis(zoo, encoder.config)
    test = rows_of_split(zoo, "test")
    test = test[np.linspace(0, len(test) - 1, min(_SCORED, len(test))).astype(np.int64)]
    scores: dict[str, dict[str, float]] = {}
    for name, one in encoders.items():
        found = embed(one, zoo, keep_tokens=False)
        scores[name] = {"r2": _r2(zoo, test, one)} | _probed(found.layerwise, zoo, "latents")
        scores[name] |= _probed(found.predictive, zoo, "all")
    scores["pca"] = {"r2": _r2(zoo, test, basis, encoder.config)} | _probed(
        _pooled(zoo, basis, encoder.config), zoo, "latents"
    )
    models = zoo.table.groupby("split")["model"].nunique()
    return {
        "scores": scores,
        "own_steps": own_steps,
        "models": {str(k): int(v) for k, v in models.items()},
        "scored": len(test),
    }


def _probed(features: np.ndarray, zoo: Zoo, what: str) -> dict[str, float]:
    known = [target for target in TARGETS if target in zoo.table]
    return {f"{what} {target}": probe(features, zoo.table, target).r2 for target in known}


def _untrained(zoo: Zoo, config: SaneConfig) -> Sane:
    training = TrainingSet(zoo, rows_of_split(zoo, "train"), config)
    made = Sane(config, summariser=training.summariser, position_range=training.position_range).eval()
    made.cloud = fit_cloud(embed(made, zoo.select(rows_of_split(zoo, "train")), keep_tokens=False))
    return made


def _standardised(batch: TokenBatch) -> Tensor:
    return own_statistics(batch.tokens, batch.layout).apply(batch.tokens, batch.layout)


def _chunks(zoo: Zoo, rows: np.ndarray, config: SaneConfig) -> list[TokenBatch]:
    return [
        token_batch(zoo, rows[first : first + _AT_ONCE], config.token_size)
        for first in range(0, len(rows), _AT_ONCE)
    ]


def _basis(zoo: Zoo, config: SaneConfig) -> Basis:
    """Fitted on the training models of the zoo, true entries and padding alike, as many axes as latents."""
    count, total = 0, torch.zeros(config.token_size, dtype=torch.float64)
    squares = torch.zeros(config.token_size, config.token_size, dtype=torch.float64)
    for batch in _chunks(zoo, rows_of_split(zoo, "train"), config):
        tokens = _standardised(batch).double().flatten(0, 1)
        count, total, squares = count + len(tokens), total + tokens.sum(dim=0), squares + tokens.T @ tokens
    mean = total / count
    axes = torch.linalg.eigh(squares / count - mean[:, None] * mean).eigenvectors[:, -config.latent :]
    return Basis(mean.float(), axes.float())


def _r2(zoo: Zoo, rows: np.ndarray, how: Sane | Basis, config: SaneConfig | None = None) -> float:
    config = how.config if isinstance(how, Sane) else config
    assert config is not None
    error = variance = 0.0
    for batch in _chunks(zoo, rows, config):
        missed, size = _missed(batch, how)
        error, variance = error + missed, variance + size
    return 1.0 - error / variance


def _missed(batch: TokenBatch, how: Sane | Basis) -> tuple[float, float]:
    """Squared error and squares of standardised tokens, true entries."""
    tokens, mask = _standardised(batch), batch.layout.mask()
    with torch.inference_mode():
        found = how.reconstruct(tokens) if isinstance(how, Basis) else reconstruct_tokens(how, tokens, batch)
    return float(((found - tokens).square() * mask).double().sum()), float((tokens.square() * mask).double().sum())


def _pooled(zoo: Zoo, basis: Basis, config: SaneConfig) -> np.ndarray:
    parts = []
    for batch in _chunks(zoo, np.arange(len(zoo)), config):
        latents = (_standardised(batch) - basis.mean) @ basis.axes
        parts += [one.layers.reshape(-1) for one in pool(latents, select_tokens(batch.layout, None))]
    return np.stack(parts)


def _of_file(path: Path, encoder: Sane) -> dict[str, Any]:
    """A checkpoint of somebody else's: how much of it comes back, and whether its layers have a place."""
    checkpoint = load_checkpoints(path)[0]
    tensors: Mapping[str, Tensor] = {n: t for n, t in checkpoint.tensors.items() if t.is_floating_point()}
    batch = tokenize_batch([tensors], encoder.config.token_size)
    missed, size = _missed(batch, encoder)
    untrained = Sane(
        replace(encoder.config, seed=1), summariser=encoder.summariser, position_range=encoder.position_range
    ).eval()
    error, _ = _missed(batch, untrained)
    flat = _standardised(batch)[0].double()
    axes = torch.linalg.eigh(flat.T @ flat).eigenvectors[:, -encoder.config.latent :]
    own = (flat - flat @ axes @ axes.T).square() * batch.layout.mask()
    found = embed(encoder, [tensors], keep_tokens=False)
    return {
        "file": path.name,
        "parameters": int(sum(t.numel() for t in tensors.values())),
        "layers": int(found.layer_count[0]),
        "finite": int(np.isfinite(found.layers[0]).all(axis=1).sum()),
        "universal": 1 - missed / size,
        "untrained": 1 - error / size,
        "own_pca": 1 - float(own.sum()) / size,
    }


if __name__ == "__main__":
    main()
