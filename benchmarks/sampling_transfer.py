"""Fine-tuning from samples against training from scratch: the same, a deeper and a wider network.

Run from the root of the repository (what is done is kept in ``--state``)::

    python -m benchmarks.sampling_transfer --state FOLDER --out docs/sampling-transfer.md

Anchors are the top 10 % of the embedded zoo's training rows; samples are drawn with ``kde-token`` in SANE latents
and in weight space. Every start gets the learning rate that does best for it on validation images.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sane_engine.sampling.controls import SCHEMES, random_networks
from sane_engine.sampling.evaluation import stack
from sane_engine.sampling.fine_tuning import best_learning_rate, fine_tune
from sane_engine.sampling.sampling import prepare
from sane_engine.sampling.targets import sample_target
from sane_engine.sampling.task import task_from
from sane_engine.sane import load_encoder
from sane_engine.workspace import atomic_file
from sane_engine.zoo import load_zoo
from sane_engine.zoo.architectures import ArchitectureSpec, ConvSpec
from sane_engine.zoo.datasets import load_dataset
from sane_engine.zoo.training import one_thread

TARGETS = {
    "the anchors' own": ArchitectureSpec(),
    "deeper (one more convolution, one more hidden layer)": ArchitectureSpec(
        convolutions=(ConvSpec(8, 5, 2, 1), ConvSpec(6, 3, 1, 1), ConvSpec(6, 3), ConvSpec(4, 2)), hidden=(20, 20)
    ),
    "wider (half as many channels and units again)": ArchitectureSpec(
        convolutions=(ConvSpec(12, 5, 2, 1), ConvSpec(9, 3), ConvSpec(5, 2)), hidden=(30,)
    ),
}
EPOCHS = (0, 1, 2, 5)
RATES = (1e-3, 3e-3, 1e-2)


def one_seed(target: str, seed: int, n: int, dataset_name: str) -> list[dict[str, Any]]:
    zoo, encoder = load_zoo("digits"), load_encoder("digits-sane")
    dataset = load_dataset(dataset_name, image_size=14)
    prepared = {
        "latents": prepare(encoder, zoo, space="latents", seed=seed),
        "weights": prepare(encoder, zoo, space="weights", seed=seed),
    }
    rows = []
    spec = TARGETS[target]
    task = task_from(spec.to_json(), dataset)
    starts = {
        f"samples, {space}": stack(sample_target(made, spec.to_json(), n)) for space, made in prepared.items()
    }
    like = starts["samples, weights"]
    starts |= {f"scratch, {s.replace('_', ' ')}": random_networks(task, like, s, n, seed=seed) for s in SCHEMES}
    for start, stacked in starts.items():
        rate = best_learning_rate(task, stacked, rates=RATES, seed=seed)
        found = fine_tune(task, stacked, epochs=EPOCHS, learning_rate=rate, seed=seed).mean(dim=0).tolist()
        rows.append({"target": target, "start": start, "seed": seed, "rate": rate, "accuracy": found})
    return rows


def report(rows: list[dict[str, Any]], n: int, dataset: str) -> str:
    table = pd.DataFrame(rows)
    lines = [
        "# Fine-tuning from samples",
        "",
        "Made by `python -m benchmarks.sampling_transfer --state FOLDER --out docs/sampling-transfer.md`; do not "
        "edit by hand.",
        "",
        f"Test accuracy on `{dataset}` after epochs of training, {n} networks a seed, mean ± standard deviation "
        f"over {table['seed'].nunique()} seeds of the seeds' means.",
    ]
    for target, part in table.groupby("target", sort=False):
        lines += ["", f"## Target: {target}", ""]
        lines += [f"| start | {' | '.join(f'epoch {e}' for e in EPOCHS)} | learning rate (median) |"]
        lines += [f"| --- |{' --- |' * (len(EPOCHS) + 1)}"]
        for start, own in part.groupby("start", sort=False):
            found = np.array(own["accuracy"].tolist())
            cells = [f"{m:.3f} ± {s:.3f}" for m, s in zip(found.mean(0), found.std(0), strict=True)]
            lines.append(f"| {start} | {' | '.join(cells)} | {own['rate'].median():g} |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--state", type=Path, required=True, help="folder that keeps what is finished")
    parser.add_argument("--out", type=Path, help="the Markdown file to write")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--n", type=int, default=6, help="networks of each start")
    parser.add_argument("--dataset", default="digits")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with one_thread():
        for seed in range(arguments.seeds):
            for number, target in enumerate(TARGETS):
                path = arguments.state / f"transfer-{arguments.dataset}-n{arguments.n}-seed{seed}-{number}.json"
                if not path.exists():
                    found = one_seed(target, seed, arguments.n, arguments.dataset)
                    with atomic_file(path) as temporary:
                        temporary.write_text(json.dumps(found) + "\n", encoding="utf-8")
                rows += json.loads(path.read_text(encoding="utf-8"))
    text = report(rows, arguments.n, arguments.dataset)
    if arguments.out is None:
        print(text)
        return
    with atomic_file(arguments.out) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
