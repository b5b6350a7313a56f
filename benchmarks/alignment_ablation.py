"""Pretraining with and without alignment and permutation: what is reconstructed, predicted and decoded.

Run from the repository's root: ``python -m benchmarks.alignment_ablation``. Writes ``docs/alignment.md``. Finished
trainings are kept in ``--runs`` and not repeated. Budget, split and everything else are those of the configurations
that the embedded encoders were trained with; only the fields named in the table differ.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ridge_probe import held_out_r2
from sane_engine.revision import commit
from sane_engine.sane import SaneConfig, decoded_accuracy, embed, pretrain, reconstruction
from sane_engine.workspace import workspace_root
from sane_engine.zoo import Zoo, load_zoo
from sane_engine.zoo.datasets import load_dataset

ROOT = Path(__file__).resolve().parent.parent
ZOOS = {"digits-independent": "independent initialisations", "digits": "one shared initialisation"}
VARIANTS: dict[str, dict[str, Any]] = {
    "not aligned": {"align": False},
    "aligned": {"align": True},
    "not aligned, all permuted": {"align": False, "permute": 1.0},
    "aligned, half permuted": {"align": True, "permute": 0.5},
}
COLUMNS = {
    "r2": "reconstruction R²",
    "pca_r2": "PCA by token, same size",
    "accuracy": "probe R², test accuracy",
    "epoch": "probe R², epoch",
    "decoded": "decoded accuracy",
}


def measure(zoo: Zoo, config: SaneConfig, folder: Path) -> dict[str, float]:
    """Train once, and score the held-out models."""
    start = time.process_time()
    encoder = pretrain(zoo, config, folder=folder)
    seconds = time.process_time() - start
    found = reconstruction(encoder, zoo).query("split == 'test' and layer == 'all'").set_index("method")["r2"]
    spec = zoo.provenance["spec"]
    data = load_dataset(spec["dataset"], image_size=spec["architecture"]["input_shape"][1])
    accuracy = decoded_accuracy(encoder, zoo, data.test_images, data.test_labels)
    features = embed(encoder, zoo).layerwise
    return {
        "r2": float(found["sane"]),
        "pca_r2": float(found["pca"]),
        "accuracy": held_out_r2(zoo, features, "test_accuracy"),
        "epoch": held_out_r2(zoo, features, "epoch"),
        "decoded": float(accuracy["decoded"].mean()),
        "original": float(accuracy["original"].mean()),
        "seconds": seconds,
    }


def rows_of(zoo_name: str, seeds: int, steps: int, runs: Path) -> dict[str, list[dict[str, float]]]:
    """All trainings of one zoo, by variant."""
    zoo = load_zoo(zoo_name)
    base = replace(SaneConfig.from_file(ROOT / "assets" / "configs" / f"{zoo_name}-sane.json"), steps=steps)
    found: dict[str, list[dict[str, float]]] = {}
    for number, (variant, change) in enumerate(VARIANTS.items()):
        for seed in range(seeds):
            folder = runs / f"{zoo_name}-{number}-{steps}-{seed}"
            result = folder.with_suffix(".json")
            if not result.exists():
                scores = measure(zoo, replace(base, seed=seed, **change), folder)
                result.write_text(json.dumps(scores), encoding="utf-8")
                print(
                    zoo_name,
                    variant,
                    seed,
                    {k: round(v, 3) for k, v in scores.items()},
                    file=sys.stderr,
                    flush=True,
                )
            found.setdefault(variant, []).append(json.loads(result.read_text(encoding="utf-8")))
    return found


def section(zoo_name: str, steps: int, found: dict[str, list[dict[str, float]]]) -> list[str]:
    """The table of one zoo, as Markdown."""
    zoo = load_zoo(zoo_name)
    held_out = zoo.table[zoo.table["split"] == "test"]
    original = next(iter(found.values()))[0]["original"]
    lines = [
        f"## `{zoo_name}`: {ZOOS[zoo_name]}",
        "",
        f"| | {' | '.join(COLUMNS.values())} |",
        f"| --- |{' --- |' * len(COLUMNS)}",
    ]
    for variant, scores in found.items():
        cells = []
        for column in COLUMNS:
            values = np.array([each[column] for each in scores])
            cells.append(f"{values.mean():.3f} ± {values.std(ddof=1) if len(values) > 1 else 0.0:.3f}")
        lines.append(f"| {variant} | {' | '.join(cells)} |")
    return [
        *lines,
        "",
        f"n = {held_out['model'].nunique()} held-out models, {len(held_out)} checkpoints; {steps} steps; "
        f"{len(next(iter(found.values())))} seeds, mean ± standard deviation; split of the zoo. Accuracy of the "
        f"held-out checkpoints as they are: {original:.3f}.",
        "",
    ]


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--zoo", choices=tuple(ZOOS), action="append", help="only this one; may be repeated")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--runs", type=Path, default=workspace_root() / "alignment-ablation")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "alignment.md")
    arguments = parser.parse_args()
    arguments.runs.mkdir(parents=True, exist_ok=True)
    lines = [
        "# Alignment and permutation in pretraining",
        "",
        f"Made at {commit()} by",
        "",
        f"    python -m benchmarks.alignment_ablation --seeds {arguments.seeds} --steps {arguments.steps}"
        + "".join(f" --zoo {name}" for name in arguments.zoo or ()),
        "",
        "*Aligned*: hidden units are brought into the order (and signs) of a reference, the mean of the aligned",
        "training models, before tokens are made. *Permuted*: hidden units of some models of each minibatch change",
        "places and signs at random, in what is shown and in what is to be reconstructed. Reconstruction R² is",
        "that of the tokens each encoder works on, beside PCA of the same tokens. Probes are ridge regressions on",
        "per-layer vectors, fitted on training models, the penalty chosen by cross-validation grouped by model.",
        "",
    ]
    for zoo_name in arguments.zoo or ZOOS:
        lines += section(
            zoo_name, arguments.steps, rows_of(zoo_name, arguments.seeds, arguments.steps, arguments.runs)
        )
    arguments.out.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
