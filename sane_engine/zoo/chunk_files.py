"""A training run on disk: what it trains, its data, and one file for every finished chunk of models.

A killed run leaves whole chunk files only; the next one trains what is missing and gets the same zoo.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from sane_engine.workspace import atomic_file
from sane_engine.zoo.datasets import Dataset
from sane_engine.zoo.hyperparameters import ModelPlan, plan_models
from sane_engine.zoo.spec import SpecError, ZooSpec
from sane_engine.zoo.training import TrainedChunk, chunked, models_a_chunk

_SPEC, _DATA = "spec.json", "dataset.safetensors"


class TrainingFolder:
    """The folder of one training run.

    Attributes:
        spec: What is trained.
        chunks: The models, put together as they are trained.
    """

    def __init__(self, path: Path, spec: ZooSpec) -> None:
        self.path = path
        self.spec = spec
        size = models_a_chunk(spec.architecture, max(spec.batch_size))
        self.chunks: list[list[ModelPlan]] = chunked(plan_models(spec), size)

    @classmethod
    def prepare(cls, path: Path, spec: ZooSpec, dataset: Dataset) -> TrainingFolder:
        """Open a folder for a run, new or interrupted.

        Raises:
            SpecError: The folder holds a run of another specification or on other data.
        """
        path.mkdir(parents=True, exist_ok=True)
        record = {"spec": spec.to_json(), "data": dataset.digest}
        if (path / _SPEC).exists():
            found = json.loads((path / _SPEC).read_text(encoding="utf-8"))
            if found != record:
                raise SpecError(
                    f"{path.name} holds an unfinished zoo of another specification; use another folder."
                )
        tensors = {
            "train_images": dataset.train_images,
            "train_labels": dataset.train_labels,
            "test_images": dataset.test_images,
            "test_labels": dataset.test_labels,
        }
        with atomic_file(path / _DATA) as temporary:
            save_file(tensors, temporary, {"name": dataset.name, "digest": dataset.digest})
        with atomic_file(path / _SPEC) as temporary:
            temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")
        return cls(path, spec)

    @classmethod
    def open(cls, path: Path) -> tuple[TrainingFolder, Dataset]:
        """Open a prepared folder and its data, as a child process does."""
        record = json.loads((path / _SPEC).read_text(encoding="utf-8"))
        folder = cls(path, ZooSpec.from_json(record["spec"]))
        tensors = load_file(path / _DATA)
        return folder, Dataset(name=folder.spec.dataset, digest=record["data"], **tensors)

    def _file(self, number: int) -> Path:
        # What the models drew is part of the name: a change of the drawing rules never mixes with old files.
        content = json.dumps([asdict(plan) for plan in self.chunks[number]])
        return self.path / f"chunk-{number:04d}-{hashlib.sha256(content.encode()).hexdigest()[:12]}.safetensors"

    def save(self, number: int, trained: TrainedChunk) -> None:
        """Write a finished chunk, all or nothing."""
        with atomic_file(self._file(number)) as temporary:
            cost = torch.tensor(trained.core_seconds, dtype=torch.float64)
            tensors = {"parameters": trained.parameters, "metrics": trained.metrics, "core_seconds": cost}
            save_file(tensors, temporary)

    def load(self, number: int) -> TrainedChunk | None:
        """A finished chunk; ``None`` where it is missing or damaged and has to be trained."""
        try:
            tensors = load_file(self._file(number))
        except (FileNotFoundError, SafetensorError):
            return None
        cost = tensors.get("core_seconds", torch.zeros(()))
        return TrainedChunk(tensors["parameters"], tensors["metrics"], float(cost))

    def missing(self) -> list[int]:
        """Numbers of the chunks still to be trained."""
        return [number for number in range(len(self.chunks)) if self.load(number) is None]
