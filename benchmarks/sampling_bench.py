"""What the sampling benchmarks share: a zoo ready to be sampled, and how samples are measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sane_engine.sampling.anchors import choose_anchors
from sane_engine.sampling.frame import frame_of
from sane_engine.sampling.novelty import Reference, agreement, reference_of
from sane_engine.sampling.spaces import Space, space_of
from sane_engine.sampling.task import Task, task_of
from sane_engine.sane import Sane, load_encoder
from sane_engine.zoo import Zoo, load_zoo

SPACES = ("latents", "pca", "weights")


@dataclass(frozen=True, eq=False)
class Bench:
    """One zoo, ready to be sampled."""

    zoo: Zoo
    encoder: Sane
    anchors: str
    task: Task
    spaces: dict[str, Space]
    reference: Reference
    row: int


def bench_of(name: str, encoder_name: str, anchors: str) -> Bench:
    zoo, encoder = load_zoo(name), load_encoder(encoder_name)
    chosen = choose_anchors(zoo, anchors)
    assert chosen.rows is not None
    row = int(chosen.rows[0])
    frame = frame_of(zoo, row, encoder=encoder)
    spaces = {space: space_of(space, frame, encoder=encoder, zoo=zoo, row=row) for space in SPACES}
    reference = reference_of(zoo, frame, [spaces["latents"], spaces["pca"]], row=row, anchors=chosen)
    return Bench(zoo, encoder, anchors, task_of(zoo, chosen.rows), spaces, reference, row)


def measured(bench: Bench, stacked: Any) -> dict[str, float]:
    logits = bench.task.logits(stacked, bench.task.test.images)
    predicted, labels = logits.argmax(dim=2), bench.task.test.labels
    accuracy = (predicted == labels).double().mean(dim=1)
    nearest = bench.reference.nearest(stacked)
    near = bench.task.logits(bench.reference.networks(nearest.index), bench.task.test.images).argmax(dim=2)
    same, overlap = agreement(predicted, near, labels)
    pairs = bench.reference.pair_angles(stacked)
    return {
        "accuracy": float(accuracy.mean()),
        "accuracy_std": float(accuracy.std()),
        "novelty": float(nearest.angle.mean()),
        "diversity": float(pairs.mean()) if len(pairs) else 0.0,
        "agreement": float(same.mean()),
        "error_overlap": float(overlap.mean()),
        "ensemble": float((logits.softmax(dim=2).mean(dim=0).argmax(dim=1) == labels).double().mean()),
    }
