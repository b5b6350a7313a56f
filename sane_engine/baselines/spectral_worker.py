"""The child process that runs WeightWatcher: ``python -m sane_engine.baselines.spectral_worker``.

Importing weightwatcher sets the root logger to INFO, adds a global warnings filter and picks matplotlib's Agg
back end, and its fits print to stdout. All of that stays in here.

It reads one task a line from stdin and answers one JSON line a task on stdout:

- in: ``{"file": path of a safetensors file, "keys": [tensor names], "esd": false}``
- out: ``{"rows": {key: {"values": {...}, "warning": str} | {"error": str}}}``; with ``esd`` the values have a list
  ``eigenvalues`` as well. A key without a row is one the package skipped.

The end of stdin ends the process, so it does not outlive its parent.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Row = dict[str, Any]
Analyse = Callable[[Mapping[str, "Tensor"], bool], dict[str, Row]]

DID_NOT_RUN = "WeightWatcher did not run: "
"""How reasons begin that say nothing of the layer, only of this attempt: it may succeed the next time."""

# What belongs to the power-law fit, and is worth nothing where the fit is.
FIT_COLUMNS = ("alpha", "alpha_weighted", "log_alpha_norm", "D", "sigma", "num_pl_spikes", "xmin", "xmax")
PLAIN_COLUMNS = (
    "log_norm",
    "log_spectral_norm",
    "norm",
    "spectral_norm",
    "stable_rank",
    "matrix_rank",
    "entropy",
    "num_evals",
    "rf",
)
# Eigenvalues at or below this do not enter the fit: the package's EVALS_THRESH.
FIT_THRESHOLD = 1e-5
# A tail narrower than this is one value repeated: its alpha is rounding error turned upside down.
NARROWEST_TAIL = 1e-6


def fit_failure(record: Mapping[str, Any], n_in_fit: int) -> str:
    """Why the alpha of one row of the package's details means nothing, or an empty string."""
    alpha, xmin, xmax = (float(record.get(name) or math.nan) for name in ("alpha", "xmin", "xmax"))
    if record.get("status") == "failed" or not math.isfinite(alpha) or alpha <= 1:
        if n_in_fit < 2:
            n_all = int(record["num_evals"])
            return f"No power-law fit: {n_in_fit} of {n_all} eigenvalues are above {FIT_THRESHOLD:g}."
        return "No power-law fit: the package's fit failed."
    if not xmax > xmin * (1 + NARROWEST_TAIL):
        return "No power-law fit: all eigenvalues in the tail are equal."
    return ""


def read_row(record: Mapping[str, Any], n_in_fit: int) -> Row:
    """One row of the package's details as plain numbers, with spurious fits taken out."""
    values = {name: float(record[name]) for name in PLAIN_COLUMNS}
    # The package swaps N and M where a convolution has more inputs than outputs; N ≥ M here, as in its papers.
    values["N"] = float(max(record["N"], record["M"]))
    values["M"] = float(min(record["N"], record["M"]))
    failure = fit_failure(record, n_in_fit)
    if failure:
        return {"values": values, "warning": "", "reason": failure}
    values |= {name: float(record[name]) for name in FIT_COLUMNS}
    return {"values": values, "warning": str(record.get("warning") or ""), "reason": ""}


def _make_analyse() -> Analyse:
    """Import the package and return a function from named matrices to rows."""
    import logging

    import weightwatcher

    logging.disable(logging.CRITICAL)
    eigenvalues: dict[str, Any] = {}

    class Watcher(weightwatcher.WeightWatcher):  # type: ignore[misc]  # the package ships no types
        """Keeps the eigenvalues of each layer, which the package's table leaves out."""

        def apply_esd(self, ww_layer: Any, params: Any = None) -> Any:
            result = super().apply_esd(ww_layer, params)
            eigenvalues[ww_layer.name] = ww_layer.evals
            return result

    def analyse(matrices: Mapping[str, Tensor], esd: bool) -> dict[str, Row]:
        eigenvalues.clear()
        # A state dict object, not a path; its keys must end in ".weight".
        details = Watcher().analyze(
            model={f"{key}.weight": tensor for key, tensor in matrices.items()}, savefig=False
        )
        rows: dict[str, Row] = {}
        for record in details.to_dict("records"):
            key = record["name"]
            row = read_row(record, int((eigenvalues[key] > FIT_THRESHOLD).sum()))
            if esd:
                row["values"]["eigenvalues"] = eigenvalues[key].tolist()
            rows[key] = row
        return rows

    return analyse


def _failure(error: Exception) -> Row:
    words = f"{type(error).__name__}: {error}"[:200]
    return {"error": f"{DID_NOT_RUN}{words}" if isinstance(error, MemoryError) else words}


def _answer(analyse: Analyse, file: str, keys: Sequence[str], esd: bool) -> dict[str, Row]:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as source:
        matrices = {key: source.get_tensor(key) for key in keys}
    try:
        return analyse(matrices, esd)
    except Exception as error:
        # One bad layer aborts a whole run of the package: try each by itself, and name the guilty.
        if len(keys) == 1:
            return {keys[0]: _failure(error)}
    rows: dict[str, Row] = {}
    for key in keys:
        try:
            rows |= analyse({key: matrices[key]}, esd)
        except Exception as error:
            rows[key] = _failure(error)
    return rows


def main() -> None:
    """Answer tasks until stdin ends."""
    # Answers go to the real stdout; whatever libraries print goes to stderr.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    os.nice(5)
    import torch

    torch.set_num_threads(1)
    try:
        analyse = _make_analyse()
    except ImportError as error:
        message = f"{DID_NOT_RUN}it cannot be imported ({error})."

        def analyse(matrices: Mapping[str, Tensor], esd: bool) -> dict[str, Row]:
            return {key: {"error": message} for key in matrices}

    for line in sys.stdin:
        task = json.loads(line)
        rows = _answer(analyse, task["file"], task["keys"], bool(task.get("esd")))
        answers.write(json.dumps({"rows": rows}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
