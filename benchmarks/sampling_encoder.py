"""An encoder trained for sampling against its twin in weight space: the table of ``docs/sampling-encoder.md``.

Run from the root of the repository (what is done is kept in ``--state``)::

    python -m sane_engine pretrain digits --config assets/configs/sampling.json --out sampling-encoder
    python -m benchmarks.sampling_encoder --encoder sampling-encoder --state FOLDER --out docs/sampling-encoder.md

Every method is turned through its settings in the latents of both encoders and, against the same reference models
and their decodings, in the weights; accuracy at a novelty is read between two neighbouring settings, seed by seed.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.kept import kept, write_page
from benchmarks.sampling_bench import Bench, bench_of
from benchmarks.sampling_frontier import at_novelty, key_of, point
from sane_engine.zoo.training import one_thread

ANCHORS = "top 10 %"
LEVELS = {
    "difference": (0.6, 0.9, 1.2, 1.6, 2.2),
    "kde-token": (0.3, 0.6, 0.9, 1.3),
    "gaussian": (0.3, 0.6, 0.9, 1.3),
}
NOVELTIES = (0.35, 0.4, 0.45, 0.5, 0.55)


def runs(bench: Bench, space: str, method: str, arguments: argparse.Namespace) -> list[pd.DataFrame]:
    """The points of each seed."""
    found = []
    for seed in range(arguments.seeds):
        rows = []
        for level in LEVELS[method]:
            key = key_of(bench, method, space, level, seed, arguments.n)
            make = partial(point, bench, method, space, level, seed, arguments.n)
            rows.append({"level": level, **kept(arguments.state, key, make)})
        found.append(pd.DataFrame(rows))
    return found


def at_all(points: list[pd.DataFrame]) -> np.ndarray:
    """Accuracy ``[seeds, novelties]``."""
    return np.array([[at_novelty(each, novelty) for novelty in NOVELTIES] for each in points])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", default="digits")
    parser.add_argument("--encoder", required=True, help="name or folder of an encoder trained for sampling")
    parser.add_argument("--beside", default="digits-sane", help="an encoder that was not")
    parser.add_argument("--state", type=Path, required=True, help="folder that keeps every finished point")
    parser.add_argument("--out", type=Path, help="the Markdown file to write")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--n", type=int, default=12, help="samples a point")
    arguments = parser.parse_args()
    arguments.state.mkdir(parents=True, exist_ok=True)
    rows: list[tuple[str, str, np.ndarray]] = []
    with one_thread():
        own, beside = (bench_of(arguments.zoo, name, ANCHORS) for name in (arguments.encoder, arguments.beside))
        for method in LEVELS:
            rows.append((method, "latents, trained for sampling", at_all(runs(own, "latents", method, arguments))))
            rows.append((method, "weights, its twin", at_all(runs(own, "weights", method, arguments))))
            rows.append((method, "latents, as published", at_all(runs(beside, "latents", method, arguments))))
    lines = [
        "# An encoder trained for sampling",
        "",
        "Made by `python -m benchmarks.sampling_encoder`; do not edit by hand.",
        "",
        f"Zoo `{arguments.zoo}`, anchors: {ANCHORS} of the training rows by test accuracy, {arguments.n} samples a",
        f"point. Accuracy at epoch 0 at a novelty, mean ± standard deviation over {arguments.seeds} seeds; the "
        "last column is how far the seeds' accuracies at 0.45 rad are above the twin's, and the least of them. "
        f"Encoder: `{own.encoder.digest[:12]}`.",
        "",
        f"| method | space | {' | '.join(f'{v:.2f} rad' for v in NOVELTIES)} | above its twin at 0.45 |",
        f"| --- | --- |{' --- |' * (len(NOVELTIES) + 1)}",
    ]
    twins = {method: found for method, space, found in rows if space.startswith("weights")}
    middle = NOVELTIES.index(0.45)
    for method, space, found in rows:
        cells = [
            f"{np.mean(column):.3f} ± {np.std(column):.3f}" if np.isfinite(column).all() else "—"
            for column in found.T
        ]
        ahead = found[:, middle] - twins[method][:, middle]
        said = "" if space.startswith("weights") else f"{ahead.mean():+.3f} (least {ahead.min():+.3f})"
        lines.append(f"| {method} | {space} | {' | '.join(cells)} | {said} |")
    text = "\n".join([*lines, ""])
    write_page(text, arguments.out)


if __name__ == "__main__":
    main()
