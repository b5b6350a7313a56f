"""What samples reach on the embedded zoos, goal by goal, over seeds: the tables of ``docs/sampling-scores.md``.

Run from the root of the repository (it resumes where it stopped; what is done is kept in ``--state``, which
``benchmarks.sampling_frontier`` may share)::

    python -m benchmarks.sampling_scores --state FOLDER --out docs/sampling-scores.md

Methods have the settings that the code has by default. The trained sampler's temperature is turned to a novelty,
which looks at weights only; no setting is chosen on the images that score.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.kept import kept, write_page
from benchmarks.sampling_bench import SPACES, Bench, bench_of, measured
from benchmarks.sampling_frontier import LEVELS, at_novelty, key_of, point
from sane_engine.sampling.anchors import choose_anchors
from sane_engine.sampling.controls import SCHEMES, random_networks
from sane_engine.sampling.evaluation import known_distances
from sane_engine.sampling.fine_tuning import best_learning_rate, fine_tune
from sane_engine.sampling.sampling import draw_vectors, prepare
from sane_engine.sampling.spaces import decode_models, encode_models
from sane_engine.zoo.training import one_thread

ZOOS = ("digits", "digits-independent")
METHODS = ("kde-token", "subsampled", "bootstrapped")
TRAINED_IN = ("weights", "latents")
EPOCHS = (0, 1, 5)
TUNED = 12
"""Networks that are fine-tuned a seed."""


def known(bench: Bench) -> dict[str, float]:
    """What follows from the zoo and its encoder alone."""
    table = bench.zoo.table
    held = np.flatnonzero((table["split"] == "test").to_numpy())
    space = bench.spaces["latents"]
    stacked = bench.zoo.stacked(held)
    original = bench.task.score(stacked, bench.task.test)[0]
    decoded = bench.task.score(decode_models(space, encode_models(space, stacked)), bench.task.test)[0]
    anchors = choose_anchors(bench.zoo, bench.anchors)
    angles = known_distances(bench.zoo, bench.reference, bench.row).groupby("kind")["angle"]
    return {
        "held_out": len(held),
        "original": float(original.mean()),
        "decoded": float(decoded.mean()),
        "anchors": float(bench.task.score(anchors.stacked, bench.task.test)[0].mean()),
        "nearest_mean": float(angles.mean()["training"]),
        "nearest_median": float(angles.median()["training"]),
        "between_median": float(angles.median()["between"]),
    }


def by_default(bench: Bench, method: str, space: str, seed: int, n: int) -> dict[str, float]:
    prepared = prepare(
        bench.encoder, bench.zoo, anchors=bench.anchors, method=method, seed=seed, task=bench.task,
        fitted=bench.spaces[space],
    )  # fmt: skip
    return measured(bench, decode_models(prepared.space, draw_vectors(prepared, n)))


def at_random(bench: Bench, scheme: str, seed: int, n: int) -> dict[str, float]:
    anchors = choose_anchors(bench.zoo, bench.anchors)
    random = random_networks(bench.task, anchors.stacked, scheme, n, seed=seed)
    return {"accuracy": float(bench.task.score(random, bench.task.test)[0].mean())}


def tuned(bench: Bench, start: str, seed: int, scale: float | None = None) -> dict[str, Any]:
    """Accuracy after epochs of training, at the learning rate that does best on the validation images.

    Args:
        bench: The zoo.
        start: A scheme of initialisation, or a space to draw in.
        seed: Of the draws and of the training.
        scale: Draw by the trained sampler at this temperature instead of by KDE.
    """
    if start in SCHEMES:
        like = choose_anchors(bench.zoo, bench.anchors).stacked
        stacked = random_networks(bench.task, like, start, TUNED, seed=seed)
    else:
        how: dict[str, Any] = {} if scale is None else {"method": "trained", "parameters": {"base.scale": scale}}
        prepared = prepare(
            bench.encoder, bench.zoo, anchors=bench.anchors, seed=seed, task=bench.task,
            fitted=bench.spaces[start], **how,
        )  # fmt: skip
        stacked = decode_models(prepared.space, draw_vectors(prepared, TUNED))
    rate = best_learning_rate(bench.task, stacked, seed=seed)
    found = fine_tune(bench.task, stacked, epochs=EPOCHS, learning_rate=rate, seed=seed).mean(dim=0)
    return {"rate": rate, "accuracy": found.tolist()}


def collect(bench: Bench, name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    about = {"zoo": bench.zoo.weights_digest, "encoder": bench.encoder.digest, "anchors": bench.anchors}
    about |= {"n": arguments.n, "scores": 1}

    def keep(make: Callable[[], Any], **key: Any) -> Any:
        return kept(arguments.state, {**about, **key}, make)

    seeds = range(arguments.seeds)
    found: dict[str, Any] = {"known": keep(partial(known, bench), what="known")}
    for space in SPACES:
        for method in METHODS:
            found[method, space] = [
                keep(partial(by_default, bench, method, space, s, arguments.n), method=method, space=space, seed=s)
                for s in seeds
            ]
    for scheme in SCHEMES:
        found[scheme] = [
            keep(partial(at_random, bench, scheme, s, arguments.n), scheme=scheme, seed=s) for s in seeds
        ]
    for start in ("latents", "weights", *SCHEMES):
        found["tuned", start] = [keep(partial(tuned, bench, start, s), tuned=start, seed=s) for s in seeds]
    scale = LEVELS[name]["trained"][0]
    found["tuned", "trained"] = [
        keep(partial(tuned, bench, "weights", s, scale), tuned="trained, weights", scale=scale, seed=s)
        for s in seeds
    ]
    rows = []
    for space in TRAINED_IN:
        for seed in seeds:
            for level in LEVELS[name]["trained"]:
                key = key_of(bench, "trained", space, level, seed, arguments.n)
                make = partial(point, bench, "trained", space, level, seed, arguments.n)
                made = kept(arguments.state, key, None if arguments.only_kept else make)
                if made is not None:
                    rows.append({"space": space, "seed": seed, "level": level, **made})
    found["trained"] = pd.DataFrame(rows)
    return found


# ---- the report -------------------------------------------------------------------------------------------------


def _spread(values: Any) -> str:
    values = np.asarray(values, dtype=float)
    return f"{values.mean():.3f} ± {values.std():.3f}"


def _said(reached: bool) -> str:
    return "yes" if reached else "no"


def report(name: str, found: dict[str, Any], arguments: argparse.Namespace) -> list[str]:
    facts = found["known"]
    anchors, shared = facts["anchors"], name == "digits"
    lines = [f"## {name}", ""]
    lines += [
        f"Anchors: top 10 % of the training rows by test accuracy, mean accuracy {anchors:.3f}. "
        f"{arguments.n} samples a seed, {arguments.seeds} seeds; mean ± standard deviation over the seeds of a "
        "seed's mean.",
        "",
        "| what | measured | goal | reached |",
        "| --- | --- | --- | --- |",
    ]
    keeps = facts["decoded"] / facts["original"]
    lines.append(
        f"| decoded held-out models keep of their accuracy ({facts['held_out']} checkpoints: "
        f"{facts['original']:.3f} → {facts['decoded']:.3f}) | {100 * keeps:.1f} % | 98 % | {_said(keeps >= 0.98)} |"
    )
    for method in METHODS:
        goal = {"kde-token": 0.90 if shared else 0.30}.get(method, 0.95 * anchors if shared else None)
        for space in SPACES:
            values = [each["accuracy"] for each in found[method, space]]
            words = "" if goal is None else f"{goal:.3f}"
            reached = "" if goal is None else _said(float(np.mean(values)) >= goal)
            novelty = np.mean([each["novelty"] for each in found[method, space]])
            lines.append(
                f"| {method}, {space}, accuracy at epoch 0 (novelty {novelty:.2f} rad) | {_spread(values)} "
                f"| {words} | {reached} |"
            )
    for scheme in SCHEMES:
        values = [each["accuracy"] for each in found[scheme]]
        lines.append(f"| random, {scheme.replace('_', ' ')} | {_spread(values)} | about 0.100 | |")
    lines += _novel_and_good(found, facts, shared)
    lines += _fine_tuned(found)
    return lines


def _novel_and_good(found: dict[str, Any], facts: dict[str, float], shared: bool) -> list[str]:
    anchors = facts["anchors"]
    goals = (
        [("novelty 0.5", 0.5, 0.95), *((f"twice the training models' own nearest-neighbour distance, {kind}",
          2 * facts[f"nearest_{kind}"], 0.95 * anchors) for kind in ("median", "mean"))]
        if shared
        else [("half the median distance between models", 0.5 * facts["between_median"], 0.80 * anchors)]
    )  # fmt: skip
    lines = []
    for words, novelty, goal in goals:
        for space in TRAINED_IN:
            if found["trained"].empty or space not in set(found["trained"]["space"]):
                continue
            own = found["trained"][found["trained"]["space"] == space]
            reached = np.array([_beyond(group, novelty) for _, group in own.groupby("seed")])
            reached = reached[np.isfinite(reached).all(axis=1)]
            if not len(reached):
                continue
            values, at = reached[:, 0], reached[:, 1].mean()
            beyond = f", {at:.2f} rad and so beyond it" if at > novelty + 0.01 else ""
            lines.append(
                f"| trained sampler, {space}, at {words} ({novelty:.2f} rad{beyond}; {len(values)} seeds) "
                f"| {_spread(values)} | {goal:.3f} "
                f"| {_said(float(np.mean(values)) >= goal)} |"
            )
    return lines


def _beyond(points: pd.DataFrame, novelty: float) -> tuple[float, float]:
    """Accuracy at a novelty, or of the least novel setting where that is already more novel; and that novelty."""
    least = points.sort_values("novelty").iloc[0]
    if float(least["novelty"]) > novelty:
        return float(least["accuracy"]), float(least["novelty"])
    return at_novelty(points, novelty), novelty


def _fine_tuned(found: dict[str, Any]) -> list[str]:
    curves = {
        start: np.array([each["accuracy"] for each in found["tuned", start]])
        for start in ("latents", "weights", "trained", *SCHEMES)
    }
    best = max(SCHEMES, key=lambda scheme: curves[scheme][:, -1].mean())
    lines = [
        f"| from scratch ({scheme.replace('_', ' ')}), 5 epochs, {TUNED} networks a seed "
        f"| {_spread(curves[scheme][:, -1])} | | |"
        for scheme in SCHEMES
    ]
    said = {"latents": "kde-token, latents", "weights": "kde-token, weights", "trained": "trained sampler, weights"}
    for start, words in said.items():
        ahead = curves[start][:, 1] - curves[best][:, -1]
        lines.append(
            f"| from samples ({words}), 1 epoch "
            f"(ahead in {int((ahead > 0).sum())} of {len(ahead)} seeds) "
            f"| {_spread(curves[start][:, 1])} | {curves[best][:, -1].mean():.3f} | {_said(ahead.mean() > 0)} |"
        )
    return [*lines, ""]


_HEAD = """# What samples reach

Made by `python -m benchmarks.sampling_scores --state FOLDER --out docs/sampling-scores.md`; do not edit by hand.

Every row names its goal. Samples are scored on test images that neither the samplers nor any choice of theirs has
seen. Novelty is the angle to the nearest training model (any epoch) or its decoding. The trained sampler is run at
several temperatures; its accuracy at a novelty is read between two neighbouring ones, seed by seed. Methods have
the defaults of the code; those of the trained sampler were compared on validation images of `digits` alone. What is
fine-tuned from it is drawn at the lowest of its temperatures. Anchors
are chosen by the accuracies of the zoo's table, which are of these test images: theirs is no held-out score.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--state", type=Path, required=True, help="folder that keeps what is finished")
    parser.add_argument("--out", type=Path, help="the Markdown file to write")
    parser.add_argument("--zoos", nargs="+", default=list(ZOOS), choices=ZOOS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--only-kept", action="store_true", help="train no sampler anew; report the seeds that are kept"
    )
    parser.add_argument("--n", type=int, default=12, help="samples a seed")
    arguments = parser.parse_args()
    arguments.state.mkdir(parents=True, exist_ok=True)
    lines = [_HEAD]
    with one_thread():
        for name in arguments.zoos:
            bench = bench_of(name, f"{name}-sane", "top 10 %")
            lines += report(name, collect(bench, name, arguments), arguments)
    write_page("\n".join(lines), arguments.out)


if __name__ == "__main__":
    main()
