"""Train a population: many small networks, each with its own hyper-parameters, into one zoo."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sane_engine.progress import CancelCheck, Progress, no_progress, stop_if
from sane_engine.revision import commit
from sane_engine.zoo.chunk_files import TrainingFolder
from sane_engine.zoo.datasets import Dataset, load_dataset
from sane_engine.zoo.hyperparameters import ModelPlan
from sane_engine.zoo.spec import SpecError, ZooSpec
from sane_engine.zoo.stacked import unflatten
from sane_engine.zoo.training import METRICS, train_chunk
from sane_engine.zoo.workers import available_cores, run_workers
from sane_engine.zoo.zoo import Zoo

_HYPER_PARAMETERS = (
    "activation",
    "initialisation",
    "optimiser",
    "learning_rate",
    "weight_decay",
    "dropout",
    "batch_size",
    "momentum",
    "seed",
)
# A column says something only where it varies; torch's own optimisers are usually given this one.
_USUAL_MOMENTUM = 0.9


class _Count:
    """Progress in models·epochs over all chunks, whichever process reports them."""

    def __init__(self, folder: TrainingFolder, missing: Sequence[int], progress: Progress) -> None:
        self.progress = progress
        self.sizes = [len(chunk) for chunk in folder.chunks]
        self.epochs = folder.spec.epochs
        self.finished = set(range(len(self.sizes))) - set(missing)
        self.seen = dict.fromkeys(missing, 0)
        self.report()

    def on_epoch(self, chunk: int, epoch: int) -> None:
        self.seen[chunk] = epoch
        self.report()

    def on_chunk(self, chunk: int) -> None:
        self.finished.add(chunk)
        self.report()

    def report(self) -> None:
        already = sum(self.sizes[chunk] for chunk in self.finished if chunk not in self.seen)
        done = already * self.epochs + sum(self.sizes[chunk] * epoch for chunk, epoch in self.seen.items())
        models = sum(self.sizes[chunk] for chunk in self.finished)
        self.progress(done, sum(self.sizes) * self.epochs, f"{models} of {sum(self.sizes)} models trained")


def train_zoo(
    spec: ZooSpec,
    *,
    data: str | Path | None = None,
    folder: str | Path | None = None,
    workers: int | None = None,
    collect: bool = False,
    progress: Progress | None = None,
    cancelled: CancelCheck | None = None,
) -> Zoo:
    """Train a population of small networks.

    Models with the same activation, optimiser and batch size are trained side by side, in child processes of one
    thread each. A model's result does not depend on which others train beside it, beyond float rounding.

    Args:
        spec: What to train.
        data: The files of the data set, as :func:`sane_engine.images.load_images` reads them; by default the
            specification's name says what to train on.
        folder: Where finished chunks of models are kept. A run that was killed or cancelled continues from there.
            The folder stays when the zoo is done, and is not the zoo: save that with ``Zoo.save``.
        workers: Child processes; by default one a core. 0 trains in this process, with its threads.
        collect: Train nothing, and return the models that are finished in ``folder``; another process may still be
            training there.
        progress: Told the models·epochs that are done.
        cancelled: Asked several times a second.

    Returns:
        One row a model and checkpoint, models in order. Models whose weights or losses stopped being finite at any
        checkpoint are left out and listed in ``dropped``.

    Raises:
        SpecError: The specification does not fit the data, ``folder`` belongs to another specification, or not one
            model trained to finite weights.
        Cancelled: The caller asked to stop.
        WorkerFailed: A child process died.
    """
    if workers is not None and workers < 0:
        raise SpecError(f"workers must be at least 0, not {workers}.")
    start = time.perf_counter()
    dataset = load_dataset(spec.dataset, source=data, image_size=spec.architecture.input_shape[1])
    _check_fit(spec, dataset)
    dataset = dataset.capped(spec.train_images, spec.seed)
    with tempfile.TemporaryDirectory(prefix="sane-zoo-") if folder is None else nullcontext(str(folder)) as path:
        state = TrainingFolder.prepare(Path(path), spec, dataset)
        missing = [] if collect else _shuffled(state.missing(), spec.seed)
        count = _Count(state, missing, progress or no_progress)
        if workers == 0:
            _train_here(state, missing, dataset, count, cancelled)
        elif missing:
            run_workers(
                state.path,
                missing,
                workers or available_cores(),
                on_epoch=count.on_epoch,
                on_chunk=count.on_chunk,
                cancelled=cancelled,
            )
        trained = [state.load(number) for number in range(len(state.chunks))]
    seconds = time.perf_counter() - start
    models = [
        (plan, chunk.parameters[row], chunk.metrics[row])
        for plans, chunk in zip(state.chunks, trained, strict=True)
        if chunk is not None
        for row, plan in enumerate(plans)
    ]
    if not models:
        raise SpecError("In this folder nothing is finished yet; collect again later.")
    models.sort(key=lambda model: model[0].model)
    provenance = _provenance(spec, dataset, seconds)
    # Counted with the chunks: what an earlier, interrupted run trained has its cost, too.
    provenance["core_seconds"] = round(sum(chunk.core_seconds for chunk in trained if chunk is not None), 1)
    return _assemble(spec, models, provenance)


def _shuffled(chunks: Sequence[int], seed: int) -> list[int]:
    """In random order, so that what is finished early is a fair sample of the zoo, not one optimiser's."""
    return [chunks[index] for index in np.random.default_rng(seed).permutation(len(chunks))]


def _check_fit(spec: ZooSpec, dataset: Dataset) -> None:
    if spec.architecture.input_shape != dataset.input_shape:
        wanted, found = list(spec.architecture.input_shape), list(dataset.input_shape)
        raise SpecError(f"The architecture takes images of shape {wanted}, but {dataset.name} has {found}.")
    if spec.architecture.classes < dataset.classes:
        raise SpecError(
            f"{dataset.name} has {dataset.classes} classes, the network only {spec.architecture.classes}."
        )


def _train_here(
    state: TrainingFolder, missing: Sequence[int], dataset: Dataset, count: _Count, cancelled: CancelCheck | None
) -> None:
    for number in missing:

        def after_epoch(epoch: int, number: int = number) -> None:
            stop_if(cancelled)
            count.on_epoch(number, epoch)

        stop_if(cancelled)
        state.save(number, train_chunk(state.spec, state.chunks[number], dataset, after_epoch=after_epoch))
        count.on_chunk(number)


def _assemble(spec: ZooSpec, models: Sequence[tuple[ModelPlan, Tensor, Tensor]], provenance: dict[str, Any]) -> Zoo:
    """Leave out the diverged models, and build the table."""
    rows: list[dict[str, Any]] = []
    kept: list[Tensor] = []
    dropped: list[dict[str, str]] = []
    names = [name for name in _HYPER_PARAMETERS if name != "momentum" or spec.momentum != (_USUAL_MOMENTUM,)]
    for plan, parameters, metrics in models:
        checkpoints = [(epoch, 0.0) for epoch in spec.checkpoint_epochs if epoch <= plan.stop_epoch]
        checkpoints += [(plan.stop_epoch, sparsity) for sparsity in spec.pruning]
        reason = _reason_to_drop(parameters, metrics, checkpoints)
        if reason:
            dropped.append({"model": plan.model, "reason": reason})
            continue
        kept.append(parameters)
        drawn = {name: getattr(plan, name) for name in names}
        for (epoch, sparsity), values in zip(checkpoints, metrics.tolist(), strict=True):
            row: dict[str, Any] = {"model": plan.model, "epoch": epoch}
            if spec.pruning:
                row["sparsity"] = sparsity
            row |= dict(zip(METRICS, values, strict=True))
            row["generalisation_gap"] = row["train_accuracy"] - row["test_accuracy"]
            rows.append(row | drawn)
    if not rows:
        raise SpecError(f"Not one of {len(models)} models trained to finite weights; lower the learning rate.")
    stacked = unflatten(torch.cat(kept), spec.architecture)
    stacked |= {name: stacked[name].round().long() for name in spec.architecture.counters}
    return Zoo.from_stacked(
        spec.name,
        pd.DataFrame(rows),
        {name: tensor.contiguous() for name, tensor in stacked.items()},
        architecture=spec.architecture.to_json(),
        provenance=provenance,
        dropped=pd.DataFrame(dropped, columns=["model", "reason"]),
    )


def _reason_to_drop(parameters: Tensor, metrics: Tensor, checkpoints: Sequence[tuple[int, float]]) -> str | None:
    for (epoch, _), weights, values in zip(checkpoints, parameters, metrics.tolist(), strict=True):
        if not bool(torch.isfinite(weights).all()):
            return f"diverged: weights are not finite at epoch {epoch}"
        if not all(map(math.isfinite, values)):
            return f"diverged: the loss is not finite at epoch {epoch}"
    return None


def _provenance(spec: ZooSpec, dataset: Dataset, seconds: float) -> dict[str, Any]:
    return {
        "command": "sane_engine.train_zoo(ZooSpec.from_json(provenance['spec']))",
        "spec": spec.to_json(),
        "seed": spec.seed,
        "data": {
            "name": dataset.name,
            "sha256": dataset.digest,
            "train_images": len(dataset.train_labels),
            "test_images": len(dataset.test_labels),
        },
        "torch": torch.__version__,
        "commit": commit(),
        "seconds": round(seconds, 1),
    }
