"""Held-out R² of universal neural functionals on zoos, and what their training costs.

Run from the repository's root: ``python benchmarks/functional.py digits-independent --splits 3``. Split 0 is the
zoo's own; the others are drawn anew, by model. The functional is trained on the training models only and scored on
the test models. Times are cpu seconds of this process.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import r2_score

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from sane_engine import load_zoo  # noqa: E402  (needs the path above)
from sane_engine.baselines.functional import FunctionalConfig, FunctionalRepresentation  # noqa: E402  (after the path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("zoos", nargs="*", default=["digits-independent", "digits"], help="names or paths")
    parser.add_argument("--splits", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--targets", nargs="*", help="columns; by default accuracy, epoch and gap together")
    defaults = FunctionalConfig()
    numbers = ("channels", "depth", "hops", "members", "steps", "batch", "features", "rank")
    shares = ("dropout", "noise", "learning_rate", "weight_decay")
    for name in numbers:
        parser.add_argument(f"--{name}", type=int, default=getattr(defaults, name))
    for name in shares:
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=getattr(defaults, name))
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = FunctionalConfig(seed=options.seed, **{name: getattr(options, name) for name in (*numbers, *shares)})
    print(config)
    for name in options.zoos:
        collected = []
        for split in range(options.splits):
            zoo = load_zoo(name) if split == 0 else load_zoo(name).split(seed=split)
            labels = zoo.table["split"].to_numpy()
            train, validation, test = (
                zoo.select(np.flatnonzero(labels == s)) for s in ("train", "validation", "test")
            )
            start = time.process_time()
            functional = FunctionalRepresentation(options.targets, config=config).fit(train)
            seconds = time.process_time() - start
            scores = {}
            for part, rows in (("validation", validation), ("test", test)):
                truth = rows.table[list(functional.targets)].to_numpy(dtype=float)
                scores[part] = r2_score(truth, functional.predict(rows), multioutput="raw_values")
            collected.append(scores["test"])
            print(
                f"{name} split {split}: {train.table['model'].nunique()} models × "
                f"{len(train) // train.table['model'].nunique()}, {seconds:.0f} s, steps "
                f"{[[step for step, _ in member.values()] for member in functional.chosen]}; "
                + "; ".join(f"{part} {_line(functional.targets, values)}" for part, values in scores.items()),
                flush=True,
            )
        spread = [f"{t} {m:.3f} ± {s:.3f}" for t, m, s in zip(
            functional.targets, np.mean(collected, axis=0), np.std(collected, axis=0), strict=True
        )]  # fmt: skip
        print(f"{name}, test, {options.splits} splits (mean ± standard deviation): {', '.join(spread)}", flush=True)


def _line(targets: tuple[str, ...], values: np.ndarray) -> str:
    return " ".join(f"{target} {value:.3f}" for target, value in zip(targets, values, strict=True))


if __name__ == "__main__":
    main()
