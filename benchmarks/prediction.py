"""What each part of SANE for prediction is good for, one left out at a time; and what training would add.

python -m benchmarks.prediction ZOO --out ablation-ZOO.json [--steps 300] [--splits 2]

On the first outer splits that ``python -m sane_engine probe`` makes too: fitted on their training models, scored on
the others. :mod:`benchmarks.prediction_report` makes docs/prediction.md of such files and of probe tables.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sane_engine.probing import probe
from sane_engine.probing.folds import grouped_folds, groups_of
from sane_engine.representations.protocol import as_features
from sane_engine.representations.sane_encodings import untrained
from sane_engine.revision import commit
from sane_engine.sane import Embeddings, Sane, SaneConfig, embed, pretrain, reconstruction
from sane_engine.sane.config import Reacting
from sane_engine.sane.pretraining import fit_prediction
from sane_engine.sane.readout import fit_readout
from sane_engine.workspace import assets_root, atomic_file
from sane_engine.zoo import Zoo, load_zoo

TARGETS = ("test_accuracy", "epoch", "generalisation_gap")
PARTS = ("answers", "agreement", "functions", "together")
SEED = 0


def variants(train: Embeddings, every: Embeddings, features: int) -> Iterator[tuple[str, np.ndarray]]:
    """The whole, and the whole without each part, as features of all rows."""

    def made(fitted: Embeddings, applied: Embeddings, without: tuple[str, ...] = ()) -> np.ndarray:
        readout = fit_readout(fitted, features, SEED, without=without)
        assert readout is not None
        found = readout.apply(applied)
        assert found is not None
        return found

    yield "all parts", made(train, every)
    for part in PARTS:
        yield f"without {part}", made(train, every, (part,))
    bare = [dataclasses.replace(one, reactions=None) for one in (train, every)]
    yield "without reactions: summaries alone", made(bare[0], bare[1], ("spreads",))
    assert every.reactions is not None and every.summaries is not None
    latent = every.layers.shape[2] // 2
    plain = every.summaries[..., latent:].reshape(len(every), -1)
    yield (
        "without random features: the same numbers as they are",
        np.concatenate((every.reactions.reshape(len(every), -1), plain), axis=1),
    )


def measure(zoo: Zoo, config: SaneConfig, split: int) -> Iterator[dict[str, Any]]:
    """One row a variant."""
    fold = grouped_folds(groups_of(zoo.table), 5, SEED)
    test = fold == split
    train = zoo.select(np.flatnonzero(~test)).with_columns(split="train")
    rows = np.arange(len(train), dtype=np.int64)

    def scored(name: str, features: np.ndarray, reactions: str) -> dict[str, Any]:
        r2 = {target: probe(as_features(features), zoo.table, target, test=test).r2 for target in TARGETS}
        return {"variant": name, "reactions": reactions, "split": split, "width": features.shape[1], "r2": r2}

    whole: dict[str, np.ndarray] = {}
    told: tuple[Reacting, ...] = ("architecture", "shapes")
    for reactions in told:
        wanted = dataclasses.replace(config, reactions=reactions, align=False, permute=0.0)
        encoder, _ = untrained(train, wanted)
        fit_prediction(encoder, train, rows)
        fitted, every = (embed(encoder, one, keep_tokens=False) for one in (train, zoo))
        for name, features in variants(fitted, every, config.readout):
            whole.setdefault(reactions, features)
            yield scored(name, features, reactions)
    bare = dataclasses.replace(config, reactions="none", readout=0)
    for name, encoder in (("untrained", untrained(train, bare)[0]), ("trained", None)):
        began = time.process_time()
        encoder = encoder or pretrain(train, bare)
        found = embed(encoder, zoo, keep_tokens=False)
        latents = np.concatenate((found.layerwise, _summary_latents(found)), axis=1)
        yield scored(f"latents alone, {name}", latents, "none")
        for reactions, features in whole.items():
            yield scored(f"all parts and latents, {name}", np.concatenate((features, latents), axis=1), reactions)
        if name == "trained":
            yield _reconstructed(encoder, zoo, test, split) | {"core_seconds": time.process_time() - began}


def _summary_latents(found: Embeddings) -> np.ndarray:
    assert found.summaries is not None
    latent = found.layers.shape[2] // 2
    return found.summaries[..., :latent].reshape(len(found), -1)


def _reconstructed(encoder: Sane, zoo: Zoo, test: np.ndarray, split: int) -> dict[str, Any]:
    both = zoo.with_columns(split=np.where(test, "test", "train"))
    found = reconstruction(encoder, both).query("split == 'test' and layer == 'all'").set_index("method")["r2"]
    return {
        "variant": "reconstruction",
        "split": split,
        "reconstruction": {str(k): float(v) for k, v in found.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoo")
    parser.add_argument("--steps", type=int, default=300, help="of the trained encoder")
    parser.add_argument("--splits", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    zoo = load_zoo(arguments.zoo)
    config = SaneConfig.from_file(assets_root() / "configs" / "representation.json")
    config = dataclasses.replace(config, steps=arguments.steps)
    began, rows = time.process_time(), []
    for split in range(arguments.splits):
        for row in measure(zoo, config, split):
            rows.append(row)
            print(json.dumps(row), flush=True)
    record = {
        "zoo": zoo.name,
        "zoo_digest": zoo.digest,
        "checkpoints": len(zoo),
        "steps": arguments.steps,
        "seed": SEED,
        "splits": arguments.splits,
        "core_seconds": round(time.process_time() - began),
        "commit": commit(),
        "rows": rows,
    }
    with atomic_file(arguments.out) as temporary:
        temporary.write_text(json.dumps(record) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
