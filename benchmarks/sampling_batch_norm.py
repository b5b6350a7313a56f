"""Samples of networks with batch norm, by what their running statistics are: ``docs/sampling-batch-norm.md``.

Run from the root of the repository, after the zoo was trained (what is done is kept in ``--state``)::

    python -m sane_engine train-zoo --spec assets/specs/digits-resnet.json --out digits-resnet
    python -m benchmarks.sampling_batch_norm --zoo digits-resnet --state FOLDER --out docs/sampling-batch-norm.md

Each draw is scored three times, with the running statistics that were drawn, with statistics measured on noise, and
with statistics measured on training images without their labels. All of it once more with the anchors as they are:
what the measurement does to networks that work.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.kept import kept, write_page
from sane_engine.sampling.anchors import choose_anchors
from sane_engine.sampling.batch_norm import Condition, condition_for
from sane_engine.sampling.frame import frame_of
from sane_engine.sampling.novelty import Reference, reference_of
from sane_engine.sampling.sampling import draw_vectors, prepare
from sane_engine.sampling.spaces import Space, SpaceName, decode_models, encode_models, space_of
from sane_engine.sampling.task import Task, task_of
from sane_engine.sane import Sane, load_encoder
from sane_engine.zoo import Zoo, load_zoo
from sane_engine.zoo.training import one_thread

ANCHORS = "top 10 %"
ABOVE_CHANCE = 0.15
CONDITIONS: tuple[Condition, ...] = ("none", "noise", "images")
METHODS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("interpolation", {}),
    ("kde-sequence", {"bandwidth": 0.2}),
    ("kde-sequence", {"bandwidth": 0.5}),
    ("difference", {"step": 0.3}),
    ("kde-layer", {"bandwidth": 0.0, "temperature": 1.0}),
)


def by_condition(task: Task, stacked: Any, seed: int) -> dict[str, float]:
    """Mean accuracy of the networks under each kind of statistics."""
    found = {}
    for how in CONDITIONS:
        networks = condition_for(task, stacked, how, seed=seed)[0]
        found[how] = float(task.score(networks, task.test)[0].mean())
    return found


def of_decoded(task: Task, space: Space, stacked: Any) -> dict[str, float]:
    """The same of what comes back from a space."""
    return by_condition(task, decode_models(space, encode_models(space, stacked)), 0)


def one(
    zoo: Zoo, encoder: Sane | None, task: Task, space: Space, reference: Reference, method: str,
    parameters: dict[str, Any], seed: int, n: int,
) -> dict[str, float]:  # fmt: skip
    prepared = prepare(
        encoder, zoo, anchors=ANCHORS, method=method, parameters=parameters, seed=seed, task=task, fitted=space,
        condition="none",
    )  # fmt: skip
    stacked = decode_models(space, draw_vectors(prepared, n))
    novelty = float(reference.nearest(condition_for(task, stacked, "images")[0]).angle.mean())
    return {**by_condition(task, stacked, seed), "novelty": novelty}


def report(zoo: Zoo, facts: dict[str, Any], rows: list[tuple[str, str, list[dict[str, float]]]], n: int) -> str:
    seeds = max(len(found) for _, _, found in rows)
    drawn = [
        [np.mean([each[how] for each in found]) for how in CONDITIONS] for _, _, found in rows if len(found) > 1
    ]
    drawn = [each for each in drawn if max(each) > ABOVE_CHANCE]
    noise = sum(by_noise > as_drawn for as_drawn, by_noise, _ in drawn)
    images = sum(by_images > by_noise for _, by_noise, by_images in drawn)
    lines = [
        "# Samples of networks with batch norm",
        "",
        "Made by `python -m benchmarks.sampling_batch_norm --zoo ZOO --state FOLDER --out "
        "docs/sampling-batch-norm.md`; do not",
        "edit by hand.",
        "",
        f"Zoo {zoo.name}: {zoo.table['model'].nunique()} residual networks, {len(zoo)} checkpoints. Anchors: "
        f"{ANCHORS} of the training rows ({facts['count']}), mean accuracy {facts['anchors']:.3f}. {n} samples a "
        f"seed, {seeds} seeds; test accuracy at epoch 0, mean ± standard deviation over seeds of a seed's "
        "mean; chance is 0.1.",
        "",
        "| what | space | novelty (rad) | as drawn | measured on noise | measured on images without labels |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for what, space, found in rows:
        cells = []
        for how in CONDITIONS:
            values = np.array([each[how] for each in found])
            cells.append(f"{values.mean():.3f}" + (f" ± {values.std():.3f}" if len(values) > 1 else ""))
        novelty = [each["novelty"] for each in found if "novelty" in each]
        words = f"{np.mean(novelty):.2f}" if novelty else "—"
        lines.append(f"| {what} | {space} | {words} | {' | '.join(cells)} |")
    lines += [
        "",
        f"Of {len(drawn)} kinds of samples above chance, statistics measured on images do better than on noise in",
        f"{images}, and measured on noise better than drawn ones in {noise}. Networks whose statistics fit already",
        "(the anchors and their decodings) lose by noise: it is for samples, when there are no images.",
    ]
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", required=True, help="a zoo of networks with batch norm")
    parser.add_argument("--encoder", help="an encoder pretrained on it; without one, weights and PCA are sampled")
    parser.add_argument("--state", type=Path, required=True, help="folder that keeps what is finished")
    parser.add_argument("--out", type=Path, help="the Markdown file to write")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--n", type=int, default=8, help="samples a seed")
    arguments = parser.parse_args()
    arguments.state.mkdir(parents=True, exist_ok=True)
    with one_thread():
        zoo = load_zoo(arguments.zoo)
        encoder = load_encoder(arguments.encoder) if arguments.encoder else None
        anchors = choose_anchors(zoo, ANCHORS)
        assert anchors.rows is not None
        row, task = int(anchors.rows[0]), task_of(zoo, anchors.rows)
        frame = frame_of(zoo, row, encoder=encoder)
        names: tuple[SpaceName, ...] = ("weights", "pca") if encoder is None else ("latents", "pca", "weights")
        spaces = {name: space_of(name, frame, encoder=encoder, zoo=zoo, row=row) for name in names}
        reference = reference_of(zoo, frame, list(spaces.values()), row=row, anchors=anchors)
        about = {"zoo": zoo.weights_digest, "encoder": encoder.digest if encoder else None, "anchors": ANCHORS}
        about |= {"n": arguments.n, "batch norm": 1}
        own = kept(arguments.state, {**about, "what": "anchors"}, partial(by_condition, task, anchors.stacked, 0))
        rows: list[tuple[str, str, list[dict[str, float]]]] = [("anchors", "", [own])]
        for name, space in spaces.items():
            if name != "weights":
                make = partial(of_decoded, task, space, anchors.stacked)
                rows.append(("decoded anchors", name, [kept(arguments.state, {**about, "decoded": name}, make)]))
        for method, parameters in METHODS:
            for name, space in spaces.items():
                found = [
                    kept(
                        arguments.state,
                        {**about, "method": method, "parameters": parameters, "space": name, "seed": seed},
                        partial(one, zoo, encoder, task, space, reference, method, parameters, seed, arguments.n),
                    )
                    for seed in range(arguments.seeds)
                ]
                said = ", ".join(f"{key} {value}" for key, value in parameters.items())
                rows.append((f"{method}{f' ({said})' if said else ''}", name, found))
        facts = {"anchors": own["none"], "count": len(anchors)}
        text = report(zoo, facts, rows, arguments.n)
    write_page(text, arguments.out)


if __name__ == "__main__":
    main()
