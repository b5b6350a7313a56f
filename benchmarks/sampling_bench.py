"""What the sampling benchmarks share: a zoo ready to be sampled, how samples are measured, points that are kept."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sane_engine.sampling.anchors import choose_anchors
from sane_engine.sampling.frame import frame_of
from sane_engine.sampling.novelty import Reference, agreement, reference_of
from sane_engine.sampling.spaces import Space, space_of
from sane_engine.sampling.task import Task, task_of
from sane_engine.sane import Sane, load_encoder
from sane_engine.workspace import atomic_file
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


def write_page(text: str, out: Path | None) -> None:
    """A page to a file, or where there is none to the screen."""
    if out is None:
        print(text)
        return
    with atomic_file(out) as temporary:
        temporary.write_text(text, encoding="utf-8")


def kept(state: Path, key: dict[str, Any], make: Any) -> Any:
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
    path = state / f"{name}.json"
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))["found"]
    if make is None:
        return None
    found = make()
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps({"key": key, "found": found}) + "\n", encoding="utf-8")
    print(key, found, file=sys.stderr, flush=True)
    return found
