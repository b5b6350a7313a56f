"""Reader of the published model zoos.

Format of "Model Zoos: A Dataset of Diverse Populations of Neural Network Models" (NeurIPS 2022 datasets track): a
folder a model with ``params.json`` (hyper-parameters), ``result.json`` (one JSON object a line and epoch), and
checkpoints in one of two dialects: ``checkpoint_{e}``, a state dict file, or ``checkpoint_{e:06d}/checkpoints``.
Ray wrote rows with ``training_iteration`` and the hyper-parameters in a nested ``config``; newer zoos write
``epoch``.

A checkpoint and its row are joined on that number, never on the line: the first line is epoch 1 in Ray's zoos,
epoch 0 in others, and a run that was resumed repeats lines.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sane_engine.checkpoint import Refusal
from sane_engine.progress import CancelCheck, Progress, no_progress, stop_if
from sane_engine.zoo.files import CheckpointFiles
from sane_engine.zoo.zoo import Zoo

PARAMS, RESULT, STATE_DICT = "params.json", "result.json", "checkpoints"
_CHECKPOINT = re.compile(r"checkpoint_(\d{1,9})$")
# Model folders lie directly below the zoo, or below one folder an experiment or split.
_DEPTH = 3
_MAX_JSON_BYTES = 256 * 1024 * 1024
# What Ray's trainable writes for the training metrics before the first epoch.
_NOT_MEASURED = -999

METRICS = {
    "train_acc": "train_accuracy",
    "test_acc": "test_accuracy",
    "train_accuracy": "train_accuracy",
    "test_accuracy": "test_accuracy",
    "train_loss": "train_loss",
    "test_loss": "test_loss",
    "validation_acc": "validation_accuracy",
    "val_acc": "validation_accuracy",
    "validation_loss": "validation_loss",
    "val_loss": "validation_loss",
}
HYPER_PARAMETERS = {
    "model::nlin": "activation",
    "model::init_type": "initialisation",
    "model::dropout": "dropout",
    "optim::optimizer": "optimiser",
    "optim::lr": "learning_rate",
    "optim::wd": "weight_decay",
    "optim::momentum": "momentum",
    "training::batchsize": "batch_size",
}
# Settings that change how a model trains or behaves, but no tensor's shape.
_SHAPELESS = frozenset({"model::nlin", "model::init_type", "model::dropout"})


@dataclass(frozen=True)
class _Model:
    name: str
    checkpoints: dict[int, Path]
    params: dict[str, Any]
    rows: dict[int, dict[str, Any]]
    unreadable_lines: int


def _model_folders(root: Path, depth: int = _DEPTH) -> Iterator[Path]:
    """Model folders below ``root`` in name order; it does not look inside them, nor through links."""
    entries = sorted(os.scandir(root), key=lambda e: e.name)
    names = {e.name for e in entries}
    if (RESULT in names or PARAMS in names) and any(_CHECKPOINT.match(n) for n in names):
        yield root
        return
    if RESULT in names and PARAMS in names:
        yield root  # a run that died before its first checkpoint: listed as dropped
        return
    if depth:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False) and not _CHECKPOINT.match(entry.name):
                yield from _model_folders(Path(entry.path), depth - 1)


def is_modelzoos(root: Path) -> bool:
    """Whether there is at least one model folder of either dialect."""
    return any(True for _ in _model_folders(root))


def _checkpoint_files(folder: Path) -> dict[int, Path]:
    """Epoch → state dict file, in epoch order."""
    found = {}
    for entry in folder.iterdir():
        match = _CHECKPOINT.match(entry.name)
        if match is None:
            continue
        file = entry / STATE_DICT if entry.is_dir() else entry
        if file.is_file():
            found[int(match.group(1))] = file
    return dict(sorted(found.items()))


def _text(file: Path) -> str:
    if file.stat().st_size > _MAX_JSON_BYTES:
        raise Refusal("zoo-json-too-large", f"{file.parent.name}/{file.name} is larger than 256 MB.")
    return file.read_text(encoding="utf-8", errors="replace")


def _flat(settings: Mapping[str, Any], prefix: str = "", depth: int = 4) -> dict[str, Any]:
    """Nested settings with ``::`` between the levels, as the flat ones are written; deeper ones are left out."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}::", depth - 1) if depth else {}
        else:
            flat[prefix + str(key)] = value
    return flat


def _result_rows(file: Path) -> tuple[dict[int, dict[str, Any]], int]:
    """Epoch → row of ``result.json``, and the number of lines that are no JSON object with an epoch.

    ``epoch`` is the folder number where a row has it, else ``training_iteration`` is. Of repeated rows (a resumed
    run) the last one holds. Python's JSON reads ``NaN`` and ``Infinity``.
    """
    rows: dict[int, dict[str, Any]] = {}
    unreadable = 0
    for line in _text(file).splitlines():
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        key = row.get("epoch", row.get("training_iteration")) if isinstance(row, dict) else None
        if isinstance(key, bool) or not isinstance(key, int | float) or not math.isfinite(key) or key != int(key):
            unreadable += 1
            continue
        rows[int(key)] = row
    return rows, unreadable


def _read_model(folder: Path, root: Path) -> _Model:
    params: dict[str, Any] = {}
    if (folder / PARAMS).is_file():
        try:
            content = json.loads(_text(folder / PARAMS))
            params = _flat(content) if isinstance(content, dict) else {}
        except (ValueError, RecursionError):
            params = {}
    rows, unreadable = _result_rows(folder / RESULT) if (folder / RESULT).is_file() else ({}, 0)
    for row in rows.values():
        config = row.get("config")
        if isinstance(config, Mapping):
            params = {**_flat(config), **params}
            break
    name = folder.relative_to(root).as_posix() if folder != root else folder.name
    return _Model(name, _checkpoint_files(folder), params, rows, unreadable)


def _metrics(row: Mapping[str, Any]) -> dict[str, float]:
    found = {}
    for key, name in METRICS.items():
        value = row.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            found[name] = math.nan if value == _NOT_MEASURED else float(value)
    return found


def _settings(params: Mapping[str, Any]) -> dict[str, Any]:
    """Scalar settings under the names this house uses; lists (layer sizes …) stay out."""
    return {
        f"params::{key}"
        if key in ("model", "epoch", "split", *METRICS.values())
        else HYPER_PARAMETERS.get(key, key): value
        for key, value in params.items()
        if value is None or isinstance(value, str | int | float | bool)
    }


def _diverged(model: _Model) -> str | None:
    """Why a model is dropped for its metrics: a loss or accuracy of a kept checkpoint is not a number."""
    for epoch in model.checkpoints:
        for key in METRICS:
            value = model.rows.get(epoch, {}).get(key)
            if isinstance(value, float) and not math.isfinite(value):
                return f"{key} is {value} at epoch {epoch}"
    return None


def load_modelzoos(
    root: Path,
    *,
    minimum_accuracy: float | None = None,
    progress: Progress = no_progress,
    cancelled: CancelCheck | None = None,
) -> Zoo:
    """Open a zoo of either dialect; the JSON files are read now, the checkpoints when they are asked for.

    Args:
        root: Folder of the zoo.
        minimum_accuracy: Drop models whose last known test accuracy is below this fraction.
        progress: Called as model folders are read.
        cancelled: Asked between model folders.

    Returns:
        A zoo whose :attr:`Zoo.dropped` lists models without checkpoints, with a metric that is not a number, or
        below the threshold. A checkpoint without a row in ``result.json`` stays, its metrics missing.

    Raises:
        Refusal: No model is left (``zoo-empty``).
        Cancelled: ``cancelled`` answered true.
    """
    folders = list(_model_folders(root))
    records: list[dict[str, Any]] = []
    paths: list[Path] = []
    keys: list[str] = []
    dropped: list[tuple[str, str]] = []
    unreadable = without_row = 0
    for done, folder in enumerate(folders):
        stop_if(cancelled)
        progress(done, len(folders), f"reading {folder.name}")
        model = _read_model(folder, root)
        unreadable += model.unreadable_lines
        reason = "no checkpoints" if not model.checkpoints else _diverged(model)
        metrics = {epoch: _metrics(model.rows.get(epoch, {})) for epoch in model.checkpoints}
        if reason is None and minimum_accuracy is not None:
            known = [
                m["test_accuracy"] for m in metrics.values() if not math.isnan(m.get("test_accuracy", math.nan))
            ]
            if known and known[-1] < minimum_accuracy:
                reason = f"test accuracy {known[-1]:.3g} is below {minimum_accuracy:.3g}"
        if reason is not None:
            dropped.append((model.name, reason))
            continue
        settings = _settings(model.params)
        shape_settings = {k: v for k, v in model.params.items() if k.startswith("model::") and k not in _SHAPELESS}
        for epoch, file in model.checkpoints.items():
            without_row += epoch not in model.rows
            records.append({**settings, **metrics[epoch], "model": model.name, "epoch": epoch})
            paths.append(file.resolve())
            keys.append(json.dumps(shape_settings, sort_keys=True, default=str))
    progress(len(folders), len(folders), "model folders read")
    if not records:
        why = f" ({dropped[0][1]})" if dropped else ""
        raise Refusal("zoo-empty", f"{root.name} has {len(folders)} model folders, none of them usable{why}.")
    numbers: dict[str, int] = {}
    family = np.asarray([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)
    return Zoo(
        root.resolve().name,
        pd.DataFrame.from_records(records),
        CheckpointFiles(tuple(paths), family),
        provenance={
            "reader": "modelzoos",
            "models": len(folders) - len(dropped),
            "dropped": len(dropped),
            "minimum_accuracy": minimum_accuracy,
            "unreadable_result_lines": unreadable,
            "checkpoints_without_result": without_row,
        },
        dropped=pd.DataFrame(dropped, columns=["model", "reason"], dtype="str"),
    )
