"""Spectral features of each layer by the ``weightwatcher`` package, with a reason for every layer it leaves out.

The eigenvalues are those of WᵀW of the layer's matrix; of a 2-D convolution, of the matrices at each kernel
position together, each multiplied by √½ (the package's normalisation, so eigenvalues are halved). Columns keep the
package's names and are described in :mod:`sane_engine.baselines.catalogue`. Two things differ from its own table:
N ≥ M always, and where the power-law fit failed (alpha −1, or a tail of equal eigenvalues) the fit's columns are
NaN and ``reason`` says why, while the norms stay.

The package itself skips in silence whatever is not a 2-D or 4-D tensor named ``….weight``. Such layers (attention's
``in_proj_weight``, recurrent layers, 1-D and 3-D convolutions, other frameworks' names) are shown to it all the
same, as the matrix [outputs, the rest] where they have three axes or more than four; ``note`` says so each time.

Martin & Mahoney, "Implicit self-regularization in deep neural networks", JMLR 22 (2021).
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sane_engine.baselines.catalogue import FEATURES
from sane_engine.baselines.layer_axis import WeightLayer, shapes_of, weight_layers
from sane_engine.baselines.spectral_pool import Task, run_tasks
from sane_engine.progress import CancelCheck, Progress, no_progress, stop_if

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray
    from torch import Tensor

    from sane_engine.zoo import Zoo

# The package's own limits (its analyze() defaults).
MIN_EIGENVALUES = 8
MAX_EIGENVALUES = 15_000
MAX_SIDE = 50_000

# A task holds layers up to this SVD cost (some tenths of a second) and this number.
_COST_OF_TASK = 2e8
_KEYS_OF_TASK = 160
# Models of a zoo are written to the children's file in chunks of at most this many bytes and models.
_BYTES_OF_CHUNK = 64 * 2**20
_MODELS_OF_CHUNK = 32

_COLUMNS = tuple(feature.name for feature in FEATURES["weightwatcher"])
# The package's verdict on alpha, how the layer was read if not in the package's own way, and what is missing.
_TEXTS = ("warning", "note", "reason")


@dataclass(frozen=True)
class Spectrum:
    """The empirical spectral density of one layer.

    Attributes:
        eigenvalues: All eigenvalues, ascending, float64 [num_evals].
        alpha: Exponent of the fitted power law; NaN where there is no fit.
        xmin: Where the fitted tail begins; NaN where there is no fit.
        xmax: Where it ends.
        D: Kolmogorov–Smirnov distance between tail and fit.
        reason: Empty, or why there is no fit.
    """

    eigenvalues: NDArray[np.float64]
    alpha: float
    xmin: float
    xmax: float
    D: float
    reason: str = ""


def _sides(shape: Sequence[int]) -> tuple[int, int, int]:
    """(shorter side, longer side, kernel positions) of a matrix or a 2-D convolution."""
    positions = shape[2] * shape[3] if len(shape) == 4 else 1
    return min(shape[0], shape[1]), max(shape[0], shape[1]), positions


def svd_cost(shape: Sequence[int]) -> float:
    """How long a decomposition takes, in units of one multiplication: min² · max · kernel positions."""
    short, long, positions = _sides(shape)
    return float(short) ** 2 * long * positions


def as_shown(layer: WeightLayer, tensor: Tensor) -> tuple[Tensor, str]:
    """The tensor as the package is shown it, and a note if that is not how it would have read it."""
    if tensor.ndim < 2:
        return tensor, ""
    if tensor.ndim not in (2, 4):
        matrix = tensor.movedim(layer.axis, 0).flatten(1)
        return matrix, f"Read as the matrix {matrix.shape[0]:,} × {matrix.shape[1]:,}; WeightWatcher would skip it."
    if layer.weight != "weight" and not layer.weight.endswith(".weight"):
        last = layer.weight.rsplit(".", 1)[-1]
        return tensor, f"Read as if “{last}” were named “weight”; WeightWatcher would skip it."
    return tensor, ""


def _unsupported(shape: Sequence[int]) -> str:
    """Why the package has nothing to say about a tensor of this shape, or an empty string."""
    if len(shape) < 2:
        return "One value a channel (norm, bias or scale): there is no matrix."
    if shape[0] < 2:
        return "A single output: WeightWatcher needs two or more."
    short, long, positions = _sides(shape)
    if short * positions > MAX_EIGENVALUES:
        return f"{short * positions:,} eigenvalues: WeightWatcher stops at {MAX_EIGENVALUES:,}."
    if long > MAX_SIDE:
        return f"{long:,} rows or columns: WeightWatcher stops at {MAX_SIDE:,}."
    return ""


def _bad_values(tensor: Tensor) -> str:
    """Why a tensor with these values has no spectrum, or an empty string."""
    n_bad = int((~tensor.isfinite()).sum())
    if n_bad:
        return f"{n_bad:,} of {tensor.numel():,} weights are NaN or infinite."
    if not bool(tensor.count_nonzero()):
        return "All weights are zero."
    return ""


def no_spectrum(tensor: Tensor) -> str:
    """Why a tensor, as :func:`as_shown` gives it, has no spectrum, or an empty string."""
    return _unsupported(tensor.shape) or _bad_values(tensor)


def _skipped(shape: Sequence[int]) -> str:
    """Why the package gave no row for a tensor it was shown."""
    short, _, positions = _sides(shape)
    if short * positions < MIN_EIGENVALUES:
        return f"{short * positions} eigenvalues: WeightWatcher needs {MIN_EIGENVALUES}."
    return "Skipped by WeightWatcher."


def _write(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Write for the children, in the float32 that the package computes from."""
    import torch
    from safetensors.torch import save_file

    save_file({key: tensor.detach().to(torch.float32).contiguous() for key, tensor in tensors.items()}, file)


def _tasks(matrices: Mapping[str, Tensor], file: Path, *, esd: bool = False) -> list[Task]:
    """Group the matrices of a file into tasks, the most expensive first: none is left for last."""
    costs = {key: svd_cost(tensor.shape) for key, tensor in matrices.items()}
    groups: list[tuple[list[str], float]] = []
    for key in sorted(costs, key=lambda key: -costs[key]):
        if not groups or groups[-1][1] + costs[key] > _COST_OF_TASK or len(groups[-1][0]) >= _KEYS_OF_TASK:
            groups.append(([], 0.0))
        keys, cost = groups[-1]
        keys.append(key)
        groups[-1] = (keys, cost + costs[key])
    return [Task(file, tuple(keys), cost, len(groups), esd) for keys, cost in groups]


def _workers() -> int:
    return max(1, os.cpu_count() or 1)


def _entry(row: Mapping[str, Any] | None, shape: Sequence[int]) -> dict[str, Any]:
    """A child's answer for one layer as cells of the table."""
    if row is None:
        return {"warning": "", "reason": _skipped(shape)}
    if "error" in row:
        return {"warning": "", "reason": str(row["error"])}
    return {**row["values"], "warning": row["warning"], "reason": row["reason"]}


def _table(entries: Sequence[Mapping[str, Any]], identity: Sequence[str]) -> pd.DataFrame:
    import pandas as pd

    frame = pd.DataFrame.from_records(list(entries), columns=[*identity, *_COLUMNS, *_TEXTS])
    frame[list(_COLUMNS)] = frame[list(_COLUMNS)].astype("float64")
    frame[list(_TEXTS)] = frame[list(_TEXTS)].astype(str)
    return frame


def spectral_features(
    tensors: Mapping[str, Tensor], *, progress: Progress = no_progress, cancelled: CancelCheck | None = None
) -> pd.DataFrame:
    """WeightWatcher's features of every layer; see :func:`sane_engine.baselines.layer_features`."""
    layers = weight_layers(tensors)
    entries: list[dict[str, Any]] = [{"layer": layer.index, "name": layer.name, "warning": ""} for layer in layers]
    by_index = {str(layer.index): entry for layer, entry in zip(layers, entries, strict=True)}
    shapes: dict[str, Sequence[int]] = {}
    done = 0

    def report(count: int, name: str) -> None:
        nonlocal done
        done += count
        progress(done, len(entries), f"WeightWatcher: {name}" if name else "WeightWatcher")

    def on_rows(task: Task, rows: dict[str, dict[str, Any]]) -> None:
        for key in task.keys:
            by_index[key].update(_entry(rows.get(key), shapes[key]))
        report(len(task.keys), by_index[task.keys[0]]["name"])

    def tasks(folder: Path) -> Iterator[Task]:
        for number, part in enumerate(_parts(layers, tensors)):
            matrices: dict[str, Tensor] = {}
            for layer in part:
                stop_if(cancelled)
                entry = by_index[str(layer.index)]
                tensor, entry["note"] = as_shown(layer, tensors[layer.weight])
                entry["reason"] = no_spectrum(tensor)
                if not entry["reason"]:
                    matrices[str(layer.index)] = tensor
                    shapes[str(layer.index)] = tuple(tensor.shape)
            report(len(part) - len(matrices), "")
            if matrices:
                file = folder / f"layers-{number}.safetensors"
                _write(matrices, file)
                made = _tasks(matrices, file)
                matrices.clear()
                yield from made

    progress(0, len(entries), "WeightWatcher")
    with tempfile.TemporaryDirectory(prefix="sane-spectral-") as name:
        folder = Path(name)
        run_tasks(tasks(folder), folder, on_rows, workers=_workers(), cancelled=cancelled)
    return _table(entries, ("layer", "name"))


def _parts(layers: Sequence[WeightLayer], tensors: Mapping[str, Tensor]) -> Iterator[Sequence[WeightLayer]]:
    """Layers that are read together: all, or of a network that lies in a file some megabytes at a time."""
    shapes = shapes_of(tensors)
    if shapes is tensors:
        yield layers
        return
    part: list[WeightLayer] = []
    n_bytes = 0
    for layer in layers:
        size = 4 * shapes[layer.weight].numel()
        if part and n_bytes + size > _BYTES_OF_CHUNK:
            yield part
            part, n_bytes = [], 0
        part.append(layer)
        n_bytes += size
    yield part


def zoo_spectral_features(
    zoo: Zoo, rows: Sequence[int], *, progress: Progress = no_progress, cancelled: CancelCheck | None = None
) -> pd.DataFrame:
    """WeightWatcher's features of many checkpoints; see :func:`sane_engine.baselines.zoo_layer_features`.

    Children are started once and stay busy over all models.
    """
    entries: dict[str, dict[str, Any]] = {}
    shapes: dict[str, Sequence[int]] = {}
    open_layers: Counter[int] = Counter()
    done = 0

    def row_finished() -> None:
        nonlocal done
        done += 1
        progress(done, len(rows), "WeightWatcher")

    def on_rows(task: Task, answers: dict[str, dict[str, Any]]) -> None:
        for key in task.keys:
            entries[key].update(_entry(answers.get(key), shapes.pop(key)))
            row = int(entries[key]["row"])
            open_layers[row] -= 1
            if not open_layers[row]:
                row_finished()

    def tasks(folder: Path) -> Iterator[Task]:
        for number, (chunk, stacked) in enumerate(_chunks(zoo, rows)):
            matrices = _prepare_chunk(chunk, stacked, entries, row_finished, open_layers)
            shapes.update({key: tuple(tensor.shape) for key, tensor in matrices.items()})
            if matrices:
                file = folder / f"models-{number}.safetensors"
                _write(matrices, file)
                yield from _tasks(matrices, file)

    progress(0, len(rows), "WeightWatcher")
    with tempfile.TemporaryDirectory(prefix="sane-spectral-") as name:
        folder = Path(name)
        run_tasks(tasks(folder), folder, on_rows, workers=_workers(), cancelled=cancelled)
    return _table(list(entries.values()), ("row", "layer", "name"))


def _chunks(zoo: Zoo, rows: Sequence[int]) -> Iterator[tuple[list[int], Mapping[str, Tensor]]]:
    """Rows that share a layout, some at a time, with their stacked tensors ``[len(chunk), …]``."""
    wanted = set(rows)
    for group in zoo.layout_groups():
        members = [int(row) for row in group if int(row) in wanted]
        if not members:
            continue
        n_bytes = sum(tensor.numel() * 4 for tensor in zoo.tensors(members[0]).values())
        size = max(1, min(_MODELS_OF_CHUNK, _BYTES_OF_CHUNK // max(1, n_bytes)))
        for start in range(0, len(members), size):
            chunk = members[start : start + size]
            yield chunk, zoo.stacked(chunk)


def _prepare_chunk(
    chunk: Sequence[int],
    stacked: Mapping[str, Tensor],
    entries: dict[str, dict[str, Any]],
    row_finished: Callable[[], None],
    open_layers: Counter[int],
) -> dict[str, Tensor]:
    """Enter all layers of a chunk of models in the table; return those that go to a child, by key."""
    layers = weight_layers({name: tensor[0] for name, tensor in stacked.items()})
    matrices: dict[str, Tensor] = {}
    for position, row in enumerate(chunk):
        for layer in layers:
            tensor, note = as_shown(layer, stacked[layer.weight][position])
            reason = no_spectrum(tensor)
            key = f"{row}_{layer.index}"
            texts = {"name": layer.name, "warning": "", "note": note, "reason": reason}
            entries[key] = {"row": row, "layer": layer.index, **texts}
            if not reason:
                matrices[key] = tensor
                open_layers[row] += 1
        if not open_layers[row]:
            row_finished()
    return matrices


def spectrum(tensors: Mapping[str, Tensor], layer_name: str, *, cancelled: CancelCheck | None = None) -> Spectrum:
    """The eigenvalues of one layer and their power-law fit; see :func:`sane_engine.baselines.spectrum`."""
    import numpy as np

    layer = {layer.name: layer for layer in weight_layers(tensors)}[layer_name]
    tensor, _ = as_shown(layer, tensors[layer.weight])
    reason = no_spectrum(tensor)
    if reason:
        raise ValueError(reason)
    answer: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="sane-spectral-") as name:
        folder = Path(name)
        _write({"layer": tensor}, folder / "layer.safetensors")
        tasks = _tasks({"layer": tensor}, folder / "layer.safetensors", esd=True)
        run_tasks(iter(tasks), folder, lambda _, rows: answer.update(rows), workers=1, cancelled=cancelled)
    cells = _entry(answer.get("layer"), tensor.shape)
    if "eigenvalues" not in cells:
        raise ValueError(cells["reason"])
    fit = {name: float(cells.get(name, np.nan)) for name in ("alpha", "xmin", "xmax", "D")}
    return Spectrum(np.asarray(cells["eigenvalues"], dtype=np.float64), **fit, reason=cells["reason"])
