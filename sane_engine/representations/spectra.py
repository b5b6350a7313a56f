"""WeightWatcher's tables kept on disk: a large zoo takes many minutes, and an interrupted run goes on."""

from __future__ import annotations

import hashlib
import importlib.metadata
from pathlib import Path
from typing import TYPE_CHECKING

from sane_engine.baselines.spectral_worker import DID_NOT_RUN
from sane_engine.checkpoint import Refusal
from sane_engine.progress import CancelCheck, Progress, no_progress, stop_if
from sane_engine.workspace import atomic_file, visible, workspace_root

if TYPE_CHECKING:
    import pandas as pd

    from sane_engine.zoo import Zoo

CHECKPOINTS_A_FILE = 128
"""Checkpoints whose spectra are computed, and then kept, at a time."""


def _package() -> str:
    try:
        return importlib.metadata.version("weightwatcher")
    except importlib.metadata.PackageNotFoundError:
        return ""


def checkpoint_keys(zoo: Zoo) -> list[str]:
    """What each row is kept under, as hex: the same for the same weights, in whatever zoo.

    Another version of the package may say something else of them, and so has other keys.
    """
    package = _package().encode()
    keys = [""] * len(zoo)
    for group in zoo.layout_groups():
        for start in range(0, len(group), CHECKPOINTS_A_FILE):
            rows = group[start : start + CHECKPOINTS_A_FILE]
            stacked = zoo.stacked(rows)
            for place, row in enumerate(rows.tolist()):
                state = hashlib.sha256(package)
                for name, tensor in stacked.items():
                    state.update(f"{name} {tensor.dtype} {list(tensor.shape[1:])}".encode())
                    state.update(tensor[place].detach().double().contiguous().numpy().tobytes())
                keys[row] = state.hexdigest()[:24]
    return keys


def cached_spectra(
    zoo: Zoo, *, progress: Progress = no_progress, cancelled: CancelCheck | None = None
) -> pd.DataFrame:
    """WeightWatcher's layer table of all rows of a zoo, from the workspace where it is known already.

    Args:
        zoo: Any zoo, or some rows of it.
        progress: Called with checkpoints done.
        cancelled: Asked at least ten times a second. What is finished stays.

    Returns:
        The table of :func:`sane_engine.baselines.zoo_layer_features`, sorted by row and layer.

    Raises:
        Cancelled: The caller asked to stop.
        Refusal: The package did not run on some of them (``spectra-unfinished``); the others are kept.
    """
    import pandas as pd

    from sane_engine.baselines import zoo_layer_features

    keys = checkpoint_keys(zoo)
    folder = workspace_root() / "spectra"
    kept = [_read(path) for path in visible(folder, "*.parquet")]
    parts = [frame[frame["checkpoint"].isin(set(keys))] for frame in kept if frame is not None]
    known = {key for part in parts for key in part["checkpoint"].unique().tolist()}
    missing = list({key: row for row, key in enumerate(keys) if key not in known}.values())
    failures: dict[str, str] = {}
    for start in range(0, len(missing), CHECKPOINTS_A_FILE):
        stop_if(cancelled)
        rows = missing[start : start + CHECKPOINTS_A_FILE]

        def report(done: int, total: int, message: str, /, before: int = start) -> None:
            progress(before + done, len(missing), message)

        made = zoo_layer_features(zoo, rows, "weightwatcher", progress=report, cancelled=cancelled)
        made.insert(0, "checkpoint", [keys[row] for row in made["row"]])
        made = made.drop(columns=["row", "model", "epoch"], errors="ignore")
        failed = made[made["reason"].str.startswith(DID_NOT_RUN)]
        failures |= dict(zip(failed["checkpoint"], failed["reason"], strict=True))
        made = made[~made["checkpoint"].isin(failures)]
        name = hashlib.sha256("".join(keys[row] for row in rows).encode()).hexdigest()[:24]
        if len(made):
            with atomic_file(folder / f"{name}.parquet") as temporary:
                made.to_parquet(temporary, index=False)
        parts.append(made)
    if failures:
        # Features without them would be kept, too, and taken for what the weights are.
        raise Refusal(
            "spectra-unfinished",
            f"{len(failures):,} of {len(set(keys)):,} checkpoints have no spectra. {next(iter(failures.values()))}",
            "Try again: those that are finished are kept.",
        )
    table = pd.concat(parts, ignore_index=True).drop_duplicates(["checkpoint", "layer"])
    rows_of = pd.DataFrame({"checkpoint": keys, "row": range(len(keys))})
    joined = rows_of.merge(table, on="checkpoint", how="left").drop(columns="checkpoint")
    return joined.sort_values(["row", "layer"], ignore_index=True)


def _read(path: Path) -> pd.DataFrame | None:
    """One file of the cache; None where it is damaged, and so computed again."""
    import pandas as pd

    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError):  # pyarrow's own errors are among these
        return None
    return frame if {"checkpoint", "layer", "name", "reason"} <= set(frame.columns) else None
