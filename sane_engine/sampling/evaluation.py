"""What samples are worth: scored in the same run beside everything that could make them look good by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sane_engine.checkpoint import Refusal
from sane_engine.progress import CancelCheck, Progress, no_progress, stop_if
from sane_engine.sampling.batch_norm import condition_for, networks
from sane_engine.sampling.controls import SCHEMES, mean_network, random_networks
from sane_engine.sampling.fine_tuning import best_learning_rate, fine_tune
from sane_engine.sampling.frame import finite_stack, training_rows, unstack
from sane_engine.sampling.novelty import Reference, agreement, reference_of
from sane_engine.sampling.sampling import Prepared, Sample, draw_vectors, prepare
from sane_engine.sampling.selection import required
from sane_engine.sampling.spaces import space_of
from sane_engine.ties import once_each

if TYPE_CHECKING:
    from sane_engine.sane import Sane
    from sane_engine.zoo import Zoo

SAMPLES, ANCHORS, DECODED, MEAN = "samples", "anchors", "decoded anchors", "mean of the anchors"
TWIN = "same method in weight space"
MOST_ANCHORS = 50
"""Anchors that are scored, evenly spaced, as a control."""

MOST_HELD_OUT = 200


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Samples and their controls, measured alike.

    Attributes:
        table: One row a network: ``group``, ``name``, ``accuracy``, ``loss`` (nats), ``novelty`` (radians),
            ``nearest``, ``agreement`` and ``error_overlap`` with it (fractions).
        summary: One row a group: ``n``, mean and standard deviation of accuracy and novelty, ``diversity`` (mean
            angle between two of the group, radians), ``disagreement`` (mean share of images two of the group answer
            differently), ``ensemble`` (accuracy of the mean of their probabilities).
        curves: ``group``, ``name``, ``epoch``, ``accuracy``, ``learning_rate``; empty without fine-tuning.
        distances: ``kind`` (``"training"``, ``"held out"``, ``"between"``) and ``angle`` in radians: each training
            model's nearest other, each held-out model's nearest training model, and pairs of training models.
        images: How many test images accuracies are over.
    """

    table: pd.DataFrame
    summary: pd.DataFrame
    curves: pd.DataFrame
    distances: pd.DataFrame
    images: int

    def of_samples(self, samples: Sequence[Sample]) -> list[Sample]:
        """The samples with their scores."""
        columns = ["accuracy", "loss", "novelty", "agreement", "error_overlap"]
        own = self.table[self.table["group"] == SAMPLES].set_index("name")[columns]
        curves = self.curves[self.curves["group"] == SAMPLES]
        scored = []
        for each in samples:
            scores = dict(zip(columns, own.loc[each.name].to_numpy(dtype=float).tolist(), strict=True))
            for row in curves[curves["name"] == each.name].itertuples():
                scores[f"accuracy_after_{row.epoch}_epochs"] = float(str(row.accuracy))
            scored.append(replace(each, scores={**each.scores, **scores}))
        return scored


def evaluate_samples(
    samples: Sequence[Sample],
    prepared: Prepared,
    zoo: Zoo,
    *,
    encoder: Sane | None = None,
    epochs: Sequence[int] = (),
    twin: bool = True,
    reference: Reference | None = None,
    progress: Progress = no_progress,
    cancelled: CancelCheck | None = None,
) -> Evaluation:
    """Score samples beside their controls.

    Args:
        samples: What :func:`~sane_engine.sampling.sampling.draw_samples` gave for ``prepared``.
        prepared: Their request.
        zoo: Where training and held-out models are.
        encoder: The one of the request.
        epochs: Of fine-tuning after which to score; none leaves it out. Every group gets the learning rate that
            does best for it on the validation images.
        twin: Whether to draw the same method with the same parameters in weight space.
        reference: What novelty is measured against, if it was made before.
        progress: Called with the groups done.
        cancelled: Asked between steps.

    Raises:
        Refusal: The zoo does not say how to run its models (``no-task``).
        Cancelled: The caller asked to stop.
    """
    task = required(prepared.task)
    seed = int(prepared.record["seed"])
    row = prepared.row
    reference = reference or reference_of(
        zoo, prepared.space.frame, [prepared.space], row=row, anchors=prepared.anchors,
        decode=lambda space, vectors: networks(
            space, vectors, task, prepared.condition, seed=seed, cancelled=cancelled
        )[0],
        cancelled=cancelled,
    )  # fmt: skip
    groups = _groups(samples, prepared, zoo, encoder, seed, twin, cancelled)
    models = _models_of(prepared, zoo)
    tables, summaries, curves = [], [], []
    for number, (group, (names, stacked)) in enumerate(groups.items()):
        progress(number, len(groups), f"scoring {group}")
        # Anchors are training models themselves: what counts is how far they are from *other* models.
        own = [models[name] for name in names] if group in (ANCHORS, DECODED) else None
        table, summary = _measure(group, names, stacked, own, prepared, reference, cancelled)
        tables.append(table)
        summaries.append(summary)
        if epochs and group not in (DECODED, MEAN):
            rate = best_learning_rate(task, stacked, seed=seed, cancelled=cancelled)
            found = fine_tune(task, stacked, epochs=epochs, learning_rate=rate, seed=seed, cancelled=cancelled)
            for name, scores in zip(names, found.tolist(), strict=True):
                curves += [
                    {"group": group, "name": name, "epoch": e, "accuracy": s, "learning_rate": rate}
                    for e, s in zip(sorted(set(epochs)), scores, strict=True)
                ]
    progress(len(groups), len(groups), "scored")
    columns = ["group", "name", "epoch", "accuracy", "learning_rate"]
    return Evaluation(
        pd.concat(tables, ignore_index=True),
        pd.DataFrame(summaries),
        pd.DataFrame(curves, columns=columns),
        known_distances(zoo, reference, row, cancelled=cancelled),
        len(task.test),
    )


def _models_of(prepared: Prepared, zoo: Zoo) -> dict[str, str]:
    """Which model (or group of models) each anchor belongs to."""
    anchors = prepared.anchors
    if anchors.rows is None:
        return {name: name for name in anchors.names}
    groups = zoo.table[zoo.group_column].iloc[anchors.rows]
    return {name: str(group) for name, group in zip(anchors.names, groups, strict=True)}


def stack(samples: Sequence[Sample]) -> dict[str, Tensor]:
    """Samples as one stack ``[m, …]`` a tensor; tied tensors stay one object."""
    return once_each(samples[0].tensors, lambda name, _: torch.stack([s.tensors[name] for s in samples]))


def _groups(
    samples: Sequence[Sample],
    prepared: Prepared,
    zoo: Zoo,
    encoder: Sane | None,
    seed: int,
    twin: bool,
    cancelled: CancelCheck | None,
) -> dict[str, tuple[list[str], dict[str, Tensor]]]:
    n, space, anchors = len(samples), prepared.space, prepared.anchors
    task = required(prepared.task)
    groups = {SAMPLES: ([each.name for each in samples], stack(samples))}
    some = np.linspace(0, len(anchors) - 1, min(len(anchors), MOST_ANCHORS)).astype(np.int64)
    where = torch.from_numpy(some)
    names = [anchors.names[i] for i in some.tolist()]
    groups[ANCHORS] = (names, once_each(anchors.stacked, lambda _, tensor: tensor[where]))
    groups[DECODED] = (names, networks(space, prepared.vectors[where], task, prepared.condition, seed=seed)[0])
    mean = condition_for(task, mean_network(space, anchors.stacked), prepared.condition, seed=seed)[0]
    groups[MEAN] = (["mean"], mean)
    if twin and space.name != "weights":
        stop_if(cancelled)
        other = prepare(
            encoder, zoo, anchors=_again(prepared), method=prepared.method, seed=seed, task=task, space="weights",
            condition=prepared.condition, fitted=space_of("weights", space.frame), cancelled=cancelled,
        )  # fmt: skip
        vectors = draw_vectors(other, n, cancelled=cancelled)
        drawn = networks(other.space, vectors, task, prepared.condition, seed=seed)[0]
        groups[TWIN] = ([f"twin {number}" for number in range(n)], drawn)
    for scheme in SCHEMES:
        random = random_networks(task, anchors.stacked, scheme, n, seed=seed)
        # Statistics measured as the samples' are, or norms would tell the two apart.
        random = condition_for(task, random, prepared.condition, seed=seed)[0]
        groups[f"random ({scheme.replace('_', ' ')})"] = ([f"{scheme} {number}" for number in range(n)], random)
    return groups


def _again(prepared: Prepared) -> Any:
    """The anchors in a form that can be chosen once more."""
    anchors = prepared.anchors
    if anchors.rows is not None:
        return anchors.rows
    return [unstack(anchors.stacked, i) for i in range(len(anchors))]


def _measure(
    group: str,
    names: list[str],
    stacked: Mapping[str, Tensor],
    own: list[str] | None,
    prepared: Prepared,
    reference: Reference,
    cancelled: CancelCheck | None,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    task = required(prepared.task)
    logits = task.logits(stacked, task.test.images, cancelled=cancelled)
    predicted = logits.argmax(dim=2)
    accuracy = (predicted == task.test.labels).double().mean(dim=1).numpy()
    nearest = reference.nearest(stacked, own=own, cancelled=cancelled)
    theirs = task.logits(reference.networks(nearest.index), task.test.images).argmax(dim=2)
    same, overlap = agreement(predicted, theirs, task.test.labels)
    table = pd.DataFrame(
        {
            "group": group,
            "name": names,
            "accuracy": accuracy,
            "loss": task.losses(logits, task.test.labels).double().numpy(),
            "novelty": nearest.angle,
            "nearest": [reference.names[i] for i in nearest.index.tolist()],
            "agreement": same,
            "error_overlap": overlap,
        }
    )
    several = len(names) > 1
    pairs = reference.pair_angles(stacked) if several else np.array([np.nan])
    ensemble = (logits.softmax(dim=2).mean(dim=0).argmax(dim=1) == task.test.labels).double().mean()
    summary = {
        "group": group,
        "n": len(names),
        "accuracy": accuracy.mean(),
        "accuracy_std": accuracy.std(),
        "novelty": nearest.angle.mean(),
        "novelty_std": nearest.angle.std(),
        "agreement": same.mean(),
        "error_overlap": overlap.mean(),
        "diversity": float(pairs.mean()),
        "disagreement": _disagreement(predicted) if several else np.nan,
        "ensemble": float(ensemble),
    }
    return table, summary


def _disagreement(predicted: Tensor) -> float:
    m = len(predicted)
    different = torch.stack([(predicted != each).double().mean(dim=1) for each in predicted])
    return float(different.sum() / (m * (m - 1)))


def known_distances(
    zoo: Zoo, reference: Reference, row: int, *, cancelled: CancelCheck | None = None
) -> pd.DataFrame:
    """How far models of the zoo are from each other, at their last epoch; columns ``kind`` and ``angle``.

    ``"training"`` is a training model's nearest other training model, ``"held out"`` a test model's nearest
    training model: what a sample that is no copy looks like. ``"between"`` is any two training models.
    """
    table = zoo.table
    last = table.groupby("model")["epoch"].transform("max").to_numpy() == table["epoch"].to_numpy()
    members = next(group for group in zoo.layout_groups() if row in group)
    splits = table["split"].to_numpy()
    train = np.intersect1d(training_rows(zoo, row), np.flatnonzero(last))
    held = members[(splits[members] == "test") & last[members]]
    parts = []
    for kind, rows in (("training", train), ("held out", held)):
        stop_if(cancelled)
        rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), MOST_HELD_OUT)).astype(np.int64)]
        if not len(rows):
            continue
        try:
            rows, stacked = finite_stack(zoo, rows)
        except Refusal:
            continue
        own = [str(g) for g in table[zoo.group_column].iloc[rows]]
        found = reference.nearest(stacked, own=own, cancelled=cancelled)
        parts.append(pd.DataFrame({"kind": kind, "angle": found.angle}))
        if kind == "training" and len(rows) > 1:
            parts.append(pd.DataFrame({"kind": "between", "angle": reference.pair_angles(stacked)}))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({"kind": [], "angle": []})
