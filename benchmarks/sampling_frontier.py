"""Accuracy against novelty, for every method in every space: the table and the notes of ``docs/sampling.md``.

Run from the root of the repository (it resumes where it stopped; every point is kept in ``--state``)::

    python -m benchmarks.sampling_frontier --state FOLDER --out docs/sampling.md --curves assets/frontiers

For each zoo, seed, method and space the method's knob is turned through its levels; each setting gives a point
(novelty, accuracy at epoch 0), both means over the samples of one run. A method's accuracy *at* a novelty is read
off between two neighbouring points, never beyond them.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.kept import kept
from benchmarks.sampling_bench import SPACES, Bench, bench_of, measured
from sane_engine.sampling.anchors import choose_anchors
from sane_engine.sampling.controls import SCHEMES, mean_network, random_networks
from sane_engine.sampling.evaluation import known_distances
from sane_engine.sampling.frontier import accuracy_at
from sane_engine.sampling.methods import METHODS, described, method_of
from sane_engine.sampling.sampling import draw_vectors, prepare
from sane_engine.sampling.spaces import decode_models, encode_models
from sane_engine.workspace import atomic_file
from sane_engine.zoo.training import one_thread

SLOW = {"trained", "refined", "bootstrapped", "subsampled"}
PARAMETERS: dict[str, dict[str, Any]] = {
    "subsampled": {"candidates": 16},
    "bootstrapped": {"rounds": 3, "population": 96, "keep": 24, "candidates": 4},
    "refined": {"steps": 10, "learning_rate": 0.08},
    "conditional": {"value": 0.97},
}
LEVELS: dict[str, dict[str, tuple[float, ...]]] = {
    "digits": {
        "kde-token": (0.2, 0.5, 0.75, 1.05),
        "kde-layer": (0.2, 0.6, 1.0, 1.6),
        "kde-sequence": (0.55, 0.8, 1.05, 1.4),
        "gaussian": (0.2, 0.5, 0.75, 1.05),
        "low-rank": (0.3, 0.65, 1.0, 1.35),
        "difference": (0.5, 0.65, 1.0, 1.4, 1.9),
        "interpolation": (0.05, 0.6, 1.3, 2.3, 4.0, 6.0),
        "conditional": (0.55, 0.8, 1.05, 1.4),
        # What costs seconds a point gets fewer of them.
        "subsampled": (0.25, 0.7, 1.15),
        "refined": (0.0, 0.15, 0.55, 1.05),
        "bootstrapped": (0.6, 0.8, 1.05),
        "trained": (0.9, 1.6),
    },
    "digits-independent": {
        "kde-token": (0.2, 0.5, 0.75, 1.05),
        "kde-layer": (0.2, 0.5, 0.75, 1.05),
        "kde-sequence": (0.3, 0.5, 0.8, 1.2),
        "gaussian": (0.2, 0.5, 0.75, 1.05),
        "low-rank": (0.3, 0.5, 0.75, 1.05),
        "difference": (0.3, 0.5, 0.8, 1.2),
        "interpolation": (0.05, 0.6, 1.3, 2.3, 4.0, 6.0),
        "conditional": (0.3, 0.5, 0.8, 1.2),
        "subsampled": (0.25, 0.7, 1.15),
        "refined": (0.15, 0.55, 1.05),
        "bootstrapped": (0.6, 0.8, 1.05),
        "trained": (0.5, 0.8, 1.0),
    },
}
"""Settings of each method's knob, from near copies to beyond the last novelty of the table."""

NOVELTIES = {"digits": (0.3, 0.4, 0.45, 0.5, 0.6), "digits-independent": (0.6, 0.75, 0.9, 1.0, 1.1)}


def point(bench: Bench, method: str, space: str, level: float, seed: int, n: int) -> dict[str, Any]:
    parameters = {**PARAMETERS.get(method, {}), METHODS[method].knob: level}
    started = time.perf_counter()
    prepared = prepare(
        bench.encoder, bench.zoo, anchors=bench.anchors, method=method, seed=seed, parameters=parameters,
        task=bench.task, fitted=bench.spaces[space],
    )  # fmt: skip
    stacked = decode_models(prepared.space, draw_vectors(prepared, n))
    seconds = time.perf_counter() - started
    return {**measured(bench, stacked), "seconds": round(seconds, 2)}


def controls(bench: Bench, seed: int, n: int) -> dict[str, dict[str, float]]:
    anchors = choose_anchors(bench.zoo, bench.anchors)
    table = bench.zoo.table
    last = table["epoch"] == table["epoch"].max()
    good = table["test_accuracy"] >= table["test_accuracy"].iloc[anchors.rows].min()
    held = np.flatnonzero((table["split"] == "test") & last & good)
    found = {
        "anchors": measured(bench, anchors.stacked),
        "mean of the anchors": measured(bench, mean_network(bench.spaces["weights"], anchors.stacked)),
        "held-out models as good as the anchors": measured(bench, bench.zoo.stacked(held)),
    }
    for name in ("latents", "pca"):
        space = bench.spaces[name]
        found[f"decoded anchors, {name}"] = measured(
            bench, decode_models(space, encode_models(space, anchors.stacked))
        )
        found[f"decoded held-out, {name}"] = measured(
            bench, decode_models(space, encode_models(space, bench.zoo.stacked(held)))
        )
    for scheme in SCHEMES:
        random = random_networks(bench.task, anchors.stacked, scheme, n, seed=seed)
        found[f"random, {scheme.replace('_', ' ')}"] = measured(bench, random)
    own = [name.split(" epoch ")[0] for name in anchors.names]
    nearest = bench.reference.nearest(anchors.stacked, own=own)
    found["anchors"]["novelty"] = float(nearest.angle.mean())
    distances = known_distances(bench.zoo, bench.reference, bench.row)
    for kind, group in distances.groupby("kind"):
        found[f"distance: {kind}"] = {
            "novelty": float(group["angle"].mean()), "median": float(group["angle"].median()), "n": len(group)
        }  # fmt: skip
    return found


def key_of(bench: Bench, method: str, space: str, level: float, seed: int, n: int) -> dict[str, Any]:
    """Everything that a point follows from."""
    return {
        "zoo": bench.zoo.weights_digest, "encoder": bench.encoder.digest, "anchors": bench.anchors, "n": n,
        "version": 2, "method": method, "space": space, "level": level, "seed": seed,
        "parameters": described(method_of(method, PARAMETERS.get(method))),
    }  # fmt: skip


def collect(bench: Bench, name: str, arguments: argparse.Namespace) -> tuple[pd.DataFrame, Any]:
    about = {"zoo": bench.zoo.weights_digest, "encoder": bench.encoder.digest, "anchors": bench.anchors}
    about |= {"n": arguments.n, "version": 2, "what": "controls"}
    table = kept(arguments.state, about, partial(controls, bench, 0, arguments.n))
    rows = []
    # Seed by seed, so that a run that is stopped has whole seeds; what is quick comes first.
    order = [(seed, method in SLOW, method) for method in arguments.methods for seed in range(arguments.seeds)]
    for seed, _, method in sorted(order):
        for space in SPACES:
            for level in LEVELS[name][method]:
                key = key_of(bench, method, space, level, seed, arguments.n)
                make = partial(point, bench, method, space, level, seed, arguments.n)
                found = kept(arguments.state, key, None if arguments.only_kept else make)
                if found is None:
                    continue
                rows.append({"method": method, "space": space, "level": level, "seed": seed, **found})
    return pd.DataFrame(rows), table


def at_novelty(points: pd.DataFrame, novelty: float) -> float:
    """Accuracy of one run at a novelty; NaN where no settings reach it."""
    ordered = points.sort_values("level")
    return accuracy_at(ordered["novelty"].to_numpy(), ordered["accuracy"].to_numpy(), novelty)


def frontier(points: pd.DataFrame, novelties: tuple[float, ...]) -> pd.DataFrame:
    rows = [
        {"method": method, "space": space, "seed": seed, "novelty": novelty, "accuracy": at_novelty(group, novelty)}
        for (method, space, seed), group in points.groupby(["method", "space", "seed"])
        for novelty in novelties
    ]
    return pd.DataFrame(rows)


def report(name: str, points: pd.DataFrame, table: dict[str, dict[str, float]], n: int) -> list[str]:
    """The section of one zoo."""
    novelties = NOVELTIES[name]
    at = frontier(points, novelties)
    lines = [f"## {name}", ""]
    lines += [
        f"Anchors: top 10 % of the training rows by test accuracy. {n} samples a point. Novelty in radians to the "
        "nearest training model (any epoch) or its decoding; chance is 0.1. The anchors' own novelty is to the "
        "nearest other model. A dash: none of the settings reaches that novelty.",
        "",
        "| control | accuracy | novelty | agreement with the nearest | shared errors |",
        "| --- | --- | --- | --- | --- |",
    ]
    for control, found in table.items():
        if "accuracy" in found:
            lines.append(
                f"| {control} | {found['accuracy']:.3f} | {found['novelty']:.3f} | {found['agreement']:.3f} "
                f"| {found['error_overlap']:.3f} |"
            )
    lines += ["", "The zoo's own distances, last epochs:", ""]
    for kind, words in (
        ("training", "a training model to the nearest other training model"),
        ("held out", "a held-out model to the nearest training model"),
        ("between", "any two training models"),
    ):
        found = table.get(f"distance: {kind}")
        if found:
            lines.append(f"- {words}: mean {found['novelty']:.3f}, median {found['median']:.3f} rad")
    lines += ["", "Accuracy at epoch 0, mean ± standard deviation over seeds, at five novelties (in brackets: how"]
    lines += ["many seeds reach it, where not all do):", ""]
    lines += [f"| method | space | {' | '.join(f'{v:.2f} rad' for v in novelties)} | seeds |"]
    lines += [f"| --- | --- |{' --- |' * (len(novelties) + 1)}"]
    # What few seeds reach is no mean to boast of.
    reached = at.groupby(["space", "novelty", "method"])["accuracy"]
    best = reached.mean().where(2 * reached.count() > reached.size())
    for method in METHODS:
        for space in SPACES:
            own = at[(at["method"] == method) & (at["space"] == space)]
            if own.empty:
                continue
            cells = []
            for novelty in novelties:
                values = own[own["novelty"] == novelty]["accuracy"].dropna()
                spread = f" ± {values.std(ddof=0):.3f}" if len(values) > 1 else ""
                few = f" ({len(values)})" if len(values) < own["seed"].nunique() else ""
                cells.append(f"{values.mean():.3f}{spread}{few}" if len(values) else "—")
            lines.append(f"| {method} | {space} | {' | '.join(cells)} | {own['seed'].nunique()} |")
    if missing := [method for method in METHODS if method not in set(points["method"])]:
        lines += ["", f"Not run yet: {', '.join(missing)}."]
    lines += ["", "The best of each space, of what more than half of the seeds reach:", ""]
    lines += [f"| space | {' | '.join(f'{v:.2f} rad' for v in novelties)} |"]
    lines += [f"| --- |{' --- |' * len(novelties)}"]
    for space in SPACES:
        cells = []
        for novelty in novelties:
            known = best[space, novelty].dropna() if (space, novelty) in best.index else pd.Series(dtype=float)
            cells.append(f"{known.max():.3f} ({known.idxmax()})" if len(known) else "—")
        lines.append(f"| {space} | {' | '.join(cells)} |")
    lines += ["", "Turned to its least, its middle and its most novel setting (first seed):", ""]
    lines += [
        "| method | space | setting | accuracy | novelty | diversity | agreement | shared errors | ensemble |"
    ]
    lines += ["| --- | --- | --- | --- | --- | --- | --- | --- | --- |"]
    first = points[points["seed"] == points["seed"].min()]
    for method in METHODS:
        for space in SPACES:
            own = first[(first["method"] == method) & (first["space"] == space)].sort_values("level")
            for place in sorted({0, len(own) // 2, len(own) - 1}) if len(own) else []:
                row = own.iloc[place]
                lines.append(
                    f"| {method} | {space} | {METHODS[method].knob} {row['level']:g} | {row['accuracy']:.3f} "
                    f"| {row['novelty']:.3f} | {row['diversity']:.3f} | {row['agreement']:.3f} "
                    f"| {row['error_overlap']:.3f} | {row['ensemble']:.3f} |"
                )
    return [*lines, ""]


def curves(bench: Bench, points: pd.DataFrame, n: int) -> dict[str, Any]:
    """What the page *Sample* draws behind its own samples: each setting's mean over the seeds."""
    found = points.groupby(["method", "space", "level"], sort=False)[["novelty", "accuracy"]]
    rows = pd.concat([found.mean(), found.std(ddof=0).add_suffix("_std")], axis=1).reset_index()
    return {
        "zoo_digest": bench.zoo.digest, "encoder_digest": bench.encoder.digest, "anchors": bench.anchors,
        "n": n, "seeds": int(points["seed"].nunique()), "points": rows.round(4).to_dict(orient="list"),
    }  # fmt: skip


_HEAD = """# Accuracy against novelty

Made by `python -m benchmarks.sampling_frontier --state FOLDER --out docs/sampling.md --curves assets/frontiers`;
do not edit by hand.

A sample is worth something if it works *and* is no copy. Every method is turned from near copies to far from all
anchors in three spaces: SANE latents, per-token PCA with as many components, and the weights themselves. An
autoencoder earns its place where its row is above that of the same method in weight space by more than the spread.

*Is it only copying?* A copy has novelty 0, agrees with its nearest training model on every image and shares all its
errors. Compare with held-out models that were trained like the anchors: what a new, good model looks like.

Methods that run their samples (`subsampled`, `bootstrapped`, `refined`, `trained`) choose on images that are
neither those the samplers train on nor those that score.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--state", type=Path, required=True, help="folder that keeps every finished point")
    parser.add_argument("--out", type=Path, help="the Markdown file to write; without it, points are only computed")
    parser.add_argument("--curves", type=Path, help="folder for what the page draws, one JSON file a zoo")
    parser.add_argument("--zoos", nargs="+", default=list(NOVELTIES), choices=list(NOVELTIES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--n", type=int, default=12, help="samples a point")
    parser.add_argument("--only-kept", action="store_true", help="write what is kept; compute nothing new")
    arguments = parser.parse_args()
    arguments.state.mkdir(parents=True, exist_ok=True)
    lines = [_HEAD]
    with one_thread():
        for name in arguments.zoos:
            bench = bench_of(name, f"{name}-sane", "top 10 %")
            points, table = collect(bench, name, arguments)
            if len(points):
                lines += report(name, points, table, arguments.n)
                if arguments.curves is not None:
                    with atomic_file(arguments.curves / f"{name}.json") as temporary:
                        text = json.dumps(curves(bench, points, arguments.n), separators=(",", ":"))
                        temporary.write_text(text + "\n", encoding="utf-8")
    if arguments.out is not None:
        with atomic_file(arguments.out) as temporary:
            temporary.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
