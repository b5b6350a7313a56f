"""Fine-tuning from samples against training from scratch: the same, a deeper and a wider network.

Run from the root of the repository (what is done is kept in ``--state``)::

    python -m benchmarks.sampling_transfer --state FOLDER --out docs/sampling-transfer.md

and for another data set than the zoo's, of which some images are trained on::

    python -m benchmarks.sampling_transfer --dataset mnist --data PATH --train 1000 --state FOLDER --out docs/…

Anchors are the top 10 % of the embedded zoo's training rows; samples are drawn with ``kde-token`` in SANE latents
and in weight space, and anchors stand beside them. Every start gets the learning rate that does best for it on
validation images.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.kept import write_page
from sane_engine.sampling.anchors import choose_anchors
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
from sane_engine.zoo.datasets import Dataset, load_dataset
from sane_engine.zoo.training import one_thread

OWN = "the anchors' own"
TARGETS = {
    OWN: ArchitectureSpec(),
    "deeper (one more convolution, one more hidden layer)": ArchitectureSpec(
        convolutions=(ConvSpec(8, 5, 2, 1), ConvSpec(6, 3, 1, 1), ConvSpec(6, 3), ConvSpec(4, 2)), hidden=(20, 20)
    ),
    "wider (half as many channels and units again)": ArchitectureSpec(
        convolutions=(ConvSpec(12, 5, 2, 1), ConvSpec(9, 3), ConvSpec(5, 2)), hidden=(30,)
    ),
}
EPOCHS = (0, 1, 2, 5)
RATES = (1e-3, 3e-3, 1e-2, 3e-2)
_SCORED = 2000


def images_of(arguments: argparse.Namespace) -> Dataset:
    """The data set, at most as many images as were asked for; those that score are the same for all."""
    dataset = load_dataset(arguments.dataset, source=arguments.data, image_size=14)
    _, (images, labels) = dataset.scored(_SCORED, 0)
    return replace(dataset.capped(arguments.train, 0), test_images=images, test_labels=labels)


def one_seed(target: str, seed: int, n: int, dataset: Dataset) -> list[dict[str, Any]]:
    zoo, encoder = load_zoo("digits"), load_encoder("digits-sane")
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
    if target == OWN:
        anchors = choose_anchors(zoo, "top 10 %").stacked
        some = torch.randperm(len(next(iter(anchors.values()))), generator=torch.Generator().manual_seed(seed))[:n]
        starts["anchors"] = {name: tensor[some] for name, tensor in anchors.items()}
    starts |= {f"scratch, {s.replace('_', ' ')}": random_networks(task, like, s, n, seed=seed) for s in SCHEMES}
    for start, stacked in starts.items():
        rate = best_learning_rate(task, stacked, rates=RATES, seed=seed)
        found = fine_tune(task, stacked, epochs=EPOCHS, learning_rate=rate, seed=seed).mean(dim=0).tolist()
        rows.append({"target": target, "start": start, "seed": seed, "rate": rate, "accuracy": found})
    return rows


def report(rows: list[dict[str, Any]], n: int, dataset: str, train: int | None) -> str:
    table = pd.DataFrame(rows)
    lines = [
        "# Fine-tuning from samples",
        "",
        "Made by `python -m benchmarks.sampling_transfer`; do not edit by hand.",
        "",
        f"Samples of the zoo `digits`, test accuracy on `{dataset}` after epochs of training"
        + (f" on {train} images" if train else "")
        + f", {n} networks a seed, mean ± standard deviation "
        f"over {table['seed'].nunique()} seeds of the seeds' means. Every start has the learning rate of Adam that "
        f"does best for it on validation images, of {', '.join(f'{rate:g}' for rate in RATES)}.",
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
    parser.add_argument("--data", type=Path, help="where its images lie")
    parser.add_argument("--train", type=int, help="images to train on, a fifth of them to choose on")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    arguments.state.mkdir(parents=True, exist_ok=True)
    with one_thread():
        dataset = images_of(arguments)
        for seed in range(arguments.seeds):
            for number, target in enumerate(TARGETS):
                about = f"{arguments.dataset}-{arguments.train}-n{arguments.n}-seed{seed}-{number}"
                path = arguments.state / f"transfer2-{about}.json"
                if not path.exists():
                    found = one_seed(target, seed, arguments.n, dataset)
                    with atomic_file(path) as temporary:
                        temporary.write_text(json.dumps(found) + "\n", encoding="utf-8")
                rows += json.loads(path.read_text(encoding="utf-8"))
    text = report(rows, arguments.n, arguments.dataset, arguments.train)
    write_page(text, arguments.out)


if __name__ == "__main__":
    main()
