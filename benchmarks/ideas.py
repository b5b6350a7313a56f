"""What each part of pretraining is good for, and what else was tried: the table of ``docs/ideas.md``.

Run from the root of the repository (it resumes where it stopped; every training is kept in ``--state``)::

    python -m benchmarks.ideas zoos/digits-400 zoos/mnist --state FOLDER --out docs/ideas.md

On the first outer splits that ``python -m sane_engine probe`` makes too: trained on their training models without
labels, scored by a ridge regression on the others. Every row differs from the recipe in what it is called by.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from benchmarks.kept import kept, write_page
from sane_engine.probing import probe
from sane_engine.probing.folds import grouped_folds, groups_of
from sane_engine.representations.protocol import as_features
from sane_engine.representations.sane_encodings import untrained
from sane_engine.revision import commit
from sane_engine.sane import Embeddings, Sane, SaneConfig, embed, pretrain, reconstruction
from sane_engine.tokens import layout_of
from sane_engine.workspace import assets_root
from sane_engine.zoo import Zoo, combine_zoos, load_zoo

TARGETS = {"test_accuracy": "accuracy", "epoch": "epoch", "generalisation_gap": "gap"}
OUTER_SPLITS = 5
SEED = 0
QUANTILES = (0.1, 0.5, 0.9)

RECIPE = "the recipe"
UNTRAINED = "untrained"
TOGETHER = "all zoos together"
TRAININGS: dict[str, dict[str, Any]] = {
    RECIPE: {},
    "without scale features": {"scale_features": False},
    "without summary tokens": {"summary_weight": 0.0},
    "without auxiliary head": {"auxiliary_weight": 0.0},
    "without alignment": {"align": False},
    "without permutation": {"permute": 0.0},
    "without noise on what is shown": {"noise": 0.0},
    "masked: half of the tokens and entries erased": {"erase_probability": 1.0, "erase_fraction": 0.5},
    "contrast between two views": {"gamma": 0.1},
    "contrast across checkpoints of a run": {"gamma": 0.1, "positives": "checkpoints"},
    "larger latents (36 of 37)": {"latent": 36},
    "every weight counts the same": {"loss_normalisation": "entry"},
    "every layer counts the same": {"loss_normalisation": "layer"},
    "every network by its own statistics": {"universal": True, "align": False},
}
"""What each training changes of the recipe: first its parts, one off at a time, then what was tried beside them."""

Features = np.ndarray


def recipe(steps: int) -> SaneConfig:
    """The configuration for prediction, as far as it is trained."""
    config = SaneConfig.from_file(assets_root() / "configs" / "representation.json")
    return dataclasses.replace(config, steps=steps, seed=SEED, reactions="none", readout=0)


def split_of(zoo: Zoo, number: int) -> np.ndarray:
    """Which rows the split holds out, ``[n]``."""
    return grouped_folds(groups_of(zoo.table), OUTER_SPLITS, SEED) == number


def training_models(zoo: Zoo, test: np.ndarray) -> Zoo:
    """The others, all to be trained on."""
    return zoo.select(np.flatnonzero(~test)).with_columns(split="train")


def latents(found: Embeddings) -> Features:
    """Means and spreads of each layer's latents, and the latents of the summary tokens where there are any."""
    parts = [found.layerwise]
    if found.summaries is not None:
        parts.append(found.summaries[..., : found.layers.shape[2] // 2].reshape(len(found), -1))
    return np.concatenate(parts, axis=1)


def injected(found: Embeddings) -> Features:
    """The summaries themselves: what the encoder is told of every layer, and anybody may read without it."""
    assert found.summaries is not None
    return found.summaries[..., found.layers.shape[2] // 2 :].reshape(len(found), -1)


def poolings(encoder: Sane, zoo: Zoo) -> Iterator[tuple[str, Features]]:
    """Other ways to make one vector of a network's latents."""
    found = embed(encoder, zoo, keep_tokens=True)
    assert found.tokens is not None
    width = found.layers.shape[2] // 2
    yield "mean of all tokens, as published", found.models[:, :width]
    yield "means of each layer", found.layers[..., :width].reshape(len(zoo), -1)
    yield "means and spreads of each layer", found.layerwise
    layer = layout_of(zoo.tensors(0), encoder.config.token_size).layer_of_token().numpy()
    tokens = [found.tokens[:, layer == place] for place in range(found.layers.shape[1])]
    quantiles = [np.quantile(part, QUANTILES, axis=1).transpose(1, 0, 2).reshape(len(zoo), -1) for part in tokens]
    yield "means, spreads and three quantiles of each layer", np.concatenate((found.layerwise, *quantiles), axis=1)
    depths = [found.layerwise]
    for depth in range(encoder.config.layers):
        shallow = copy.deepcopy(encoder)
        shallow.encoder.blocks = nn.ModuleList(list(shallow.encoder.blocks)[:depth])
        depths.append(embed(shallow, zoo, keep_tokens=False).layerwise)
    yield "means and spreads of each layer, after each block", np.concatenate(depths, axis=1)


def scores(features: Features, zoo: Zoo, test: np.ndarray) -> dict[str, float]:
    """Held-out R² of each property."""
    return {t: float(probe(as_features(features), zoo.table, t, test=test).r2) for t in TARGETS}


def measured(encoder: Sane, zoo: Zoo, test: np.ndarray, beside: Features) -> dict[str, Any]:
    """What latents tell alone, and beside the summaries; and how well weights are reconstructed."""
    own = latents(embed(encoder, zoo, keep_tokens=False))
    split = zoo.with_columns(split=np.where(test, "test", "train"))
    found = reconstruction(encoder, split).query("split == 'test' and layer == 'all'").set_index("method")["r2"]
    return {
        "alone": scores(own, zoo, test),
        "beside": scores(np.concatenate((own, beside), axis=1), zoo, test),
        "reconstruction": {str(method): float(value) for method, value in found.items()},
    }


def rows(zoo: Zoo, number: int, steps: int, state: Path, *, make: bool) -> Iterator[dict[str, Any]]:
    """Every variant on one zoo and split."""
    config, test = recipe(steps), split_of(zoo, number)
    train = training_models(zoo, test)
    told: list[Features] = []

    def beside() -> Features:
        if not told:
            told.append(injected(embed(untrained(train, config)[0], zoo, keep_tokens=False)))
        return told[0]

    def keep(name: str, found: Callable[[], Any]) -> Any:
        key = {"zoo": zoo.digest, "split": number, "steps": steps, "variant": name}

        def timed() -> Any:
            began = time.process_time()
            return {"found": found(), "commit": commit(), "core_seconds": round(time.process_time() - began)}

        return kept(state, key, timed if make else None)

    def trained(changes: dict[str, Any]) -> Sane:
        return pretrain(train, dataclasses.replace(config, **changes))

    def with_poolings() -> dict[str, Any]:
        encoder = trained({})
        pooled = {name: {"alone": scores(one, zoo, test)} for name, one in poolings(encoder, zoo)}
        return {**measured(encoder, zoo, test, beside()), "poolings": pooled}

    found: dict[str, Any] = {
        "the summaries alone": keep("summaries", lambda: {"beside": scores(beside(), zoo, test)}),
        UNTRAINED: keep(UNTRAINED, lambda: measured(untrained(train, config)[0], zoo, test, beside())),
        RECIPE: keep(RECIPE, with_poolings),
    }
    for name, changes in TRAININGS.items():
        if changes:
            found[name] = keep(name, lambda changes=changes: measured(trained(changes), zoo, test, beside()))
    for name, one in found.items():
        if one is not None:
            pooled = one["found"].pop("poolings", {})
            yield {"zoo": zoo.name, "split": number, "variant": name, **one, "kind": "training"}
            for way, values in pooled.items():
                yield {"zoo": zoo.name, "split": number, "variant": way, "found": values, "kind": "pooling"}


def together(zoos: list[Zoo], number: int, steps: int, state: Path, *, make: bool) -> Iterator[dict[str, Any]]:
    """One encoder for all of them, trained on the training models of each: every network by its own statistics."""
    config = dataclasses.replace(recipe(steps), universal=True, align=False)
    tests = [split_of(zoo, number) for zoo in zoos]
    encoders: list[Sane] = []

    def score(zoo: Zoo, test: np.ndarray) -> dict[str, Any]:
        if not encoders:
            parts = [training_models(*each) for each in zip(zoos, tests, strict=True)]
            encoders.append(pretrain(combine_zoos(parts).with_columns(split="train"), config))
        began = time.process_time()
        summaries = injected(embed(untrained(training_models(zoo, test), recipe(steps))[0], zoo, keep_tokens=False))
        found = measured(encoders[0], zoo, test, summaries)
        return {"found": found, "commit": commit(), "core_seconds": round(time.process_time() - began)}

    names = [zoo.digest for zoo in zoos]
    for zoo, test in zip(zoos, tests, strict=True):
        key = {"zoo": zoo.digest, "split": number, "steps": steps, "variant": TOGETHER, "of": names}
        found = kept(state, key, (lambda zoo=zoo, test=test: score(zoo, test)) if make else None)
        if found is not None:
            yield {"zoo": zoo.name, "split": number, "variant": TOGETHER, **found, "kind": "training"}


def number_of(value: float | None) -> str:
    """As the tables write it."""
    return "" if value is None or not np.isfinite(value) else f"{value:.3f}".replace("0.", ".", 1)


def page(found: list[dict[str, Any]], text: str, steps: int) -> str:
    """The page of all that was found."""
    sections = []
    for name in dict.fromkeys(row["zoo"] for row in found):
        own = [row for row in found if row["zoo"] == name]
        splits = len({row["split"] for row in own})
        sections += [f"## `{name}`\n", f"{splits} of the outer splits, {steps} steps, seed {SEED}.\n"]
        for kind, title in (("training", ""), ("pooling", "latents of the recipe, pooled otherwise")):
            chosen = [row for row in own if row["kind"] == kind]
            if chosen:
                sections += [_table(chosen, title, beside=kind == "training"), ""]
    return text.rstrip() + "\n\n" + "\n".join(sections).rstrip() + "\n"


def _table(found: list[dict[str, Any]], title: str, *, beside: bool) -> str:
    values = pd.DataFrame(
        [
            {"variant": row["variant"]}
            | {f"alone {t}": row["found"].get("alone", {}).get(t, np.nan) for t in TARGETS}
            | {f"beside {t}": row["found"].get("beside", {}).get(t, np.nan) for t in TARGETS}
            | {m: row["found"].get("reconstruction", {}).get(m, np.nan) for m in ("sane", "pca")}
            for row in found
        ]
    )
    mean = values.groupby("variant", sort=False).mean()
    columns = [
        (f"alone {t}", f"latents: {label}" if t == "test_accuracy" else label) for t, label in TARGETS.items()
    ]
    if beside:
        columns += [
            (f"beside {t}", f"with the summaries: {label}" if t == "test_accuracy" else label)
            for t, label in TARGETS.items()
        ]
        columns += [("sane", "reconstruction"), ("pca", "per-token PCA")]
    lines = [
        f"| {title} | " + " | ".join(label for _, label in columns) + " |",
        "| --- " * (1 + len(columns)) + "|",
    ]
    for variant, row in mean.iterrows():
        lines.append(f"| {variant} | " + " | ".join(number_of(row[column]) for column, _ in columns) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoos", nargs="+", help="paths or embedded names")
    parser.add_argument("--state", type=Path, required=True, help="folder that keeps every finished training")
    parser.add_argument("--steps", type=int, default=300, help="of every training")
    parser.add_argument("--splits", type=int, default=1)
    parser.add_argument("--no-together", action="store_true", help="leave out the one encoder for all zoos")
    parser.add_argument("--only-kept", action="store_true", help="write what is kept; train nothing")
    parser.add_argument("--out", type=Path, help="the Markdown file to write; without it, it is printed")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    zoos = [load_zoo(name) for name in arguments.zoos]
    made = not arguments.only_kept
    found: list[dict[str, Any]] = []
    for number in range(arguments.splits):
        for zoo in zoos:
            found += rows(zoo, number, arguments.steps, arguments.state, make=made)
        if len(zoos) > 1 and not arguments.no_together:
            found += together(zoos, number, arguments.steps, arguments.state, make=made)
    text = Path(__file__).with_name("ideas_text.md").read_text(encoding="utf-8")
    write_page(page(found, text, arguments.steps), arguments.out)


if __name__ == "__main__":
    main()
