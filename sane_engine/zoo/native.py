"""The native zoo format: a folder with a Parquet table, stacked safetensors and a JSON file.

``properties.parquet`` is the table, ``weights.safetensors`` has one tensor ``[n, …]`` a parameter, and ``zoo.json``
says the rest. A zoo of several layouts has ``weights-0.safetensors`` …; the table then has two columns, ``_layout``
and ``_row``, which are not part of :attr:`Zoo.table`. A ``symmetry.json`` beside any zoo says
which neurons of its networks are exchangeable; it is written where it is known, and is no part of the digest.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sane_engine.checkpoint import Refusal
from sane_engine.workspace import atomic_folder
from sane_engine.zoo.signature import Signature, signature_from_json
from sane_engine.zoo.sources import StackedFiles, stamp_of
from sane_engine.zoo.zoo import Zoo

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
DESCRIPTION = "zoo.json"
TABLE = "properties.parquet"
SYMMETRY = "symmetry.json"
_HIDDEN = ["_layout", "_row"]
_MAX_DESCRIPTION_BYTES = 64 * 1024 * 1024


def is_native(path: Path) -> bool:
    """Whether the folder is a native zoo."""
    return (path / DESCRIPTION).is_file() and (path / TABLE).is_file()


def save_native(zoo: Zoo, path: Path) -> Path:
    """See :meth:`Zoo.save`."""
    from safetensors.torch import save_file

    if path.exists() and not (path.is_dir() and (is_native(path) or not any(path.iterdir()))):
        raise Refusal(
            "not-a-zoo", f"{path.name} exists and is not a zoo, so it is not replaced.", "Choose another folder."
        )
    groups = zoo.layout_groups()
    taken = [column for column in _HIDDEN if column in zoo.table and len(groups) > 1]
    if taken:
        raise Refusal("zoo-table-columns", f"The column name {taken[0]!r} is reserved.", "Rename the column.")
    layout = np.zeros(len(zoo), dtype=np.int32)
    row = np.zeros(len(zoo), dtype=np.int64)
    layouts, files = [], []
    with atomic_folder(path) as folder:
        for index, members in enumerate(groups):
            file = "weights.safetensors" if len(groups) == 1 else f"weights-{index}.safetensors"
            signature = zoo.signature(int(members[0]))
            stack = zoo.stacked(members)
            own: dict[str, Tensor] = {p.name: stack[p.name].contiguous() for p in signature if p.tied_to is None}
            save_file(own, folder / file)
            # safetensors writes for the owner alone; a zoo is as readable as the other files beside it.
            (folder / file).chmod(0o644)
            layout[members], row[members] = index, np.arange(len(members))
            layouts.append({"file": file, "n": len(members), "parameters": [p.to_json() for p in signature]})
            files.append(file)
        table = zoo.table if len(groups) == 1 else zoo.table.assign(_layout=layout, _row=row)
        table.to_parquet(folder / TABLE, engine="pyarrow", index=False)
        description = {
            "format": FORMAT,
            "name": zoo.name,
            "checkpoints": len(zoo),
            "models": int(zoo.table["model"].nunique()),
            "architecture": zoo.architecture,
            "provenance": zoo.provenance,
            "dropped": zoo.dropped.to_dict(orient="records"),
            "layouts": layouts,
            "files": {name: (folder / name).stat().st_size for name in [*files, TABLE]},
            "digest": zoo.digest,
            "weights_digest": zoo.weights_digest,
        }
        (folder / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
        if zoo.symmetry is not None:
            (folder / SYMMETRY).write_text(zoo.symmetry, encoding="utf-8")
    return path


def read_symmetry(path: Path) -> str | None:
    """The text of the ``symmetry.json`` in a folder; ``None`` where there is none that can be read."""
    file = path / SYMMETRY
    try:
        return file.read_text(encoding="utf-8") if file.stat().st_size <= _MAX_DESCRIPTION_BYTES else None
    except (OSError, ValueError):
        return None


def load_native(path: Path) -> Zoo:
    """Open a native zoo; reads the table and the JSON file, not the weights.

    The digest is checked cheaply: the files must have the sizes that were written with it.

    Raises:
        Refusal: The format is newer (``zoo-format``), a file is missing or changed (``zoo-changed``), the JSON or
            the table cannot be read (``zoo-damaged``).
    """
    description = _description(path)
    if description.get("format") != FORMAT:
        raise Refusal(
            "zoo-format",
            f"This zoo has format {description.get('format')!r}; this version reads format {FORMAT}.",
            "Update SANE Explorer, or save the zoo again with this version.",
        )
    try:
        for name, size in description["files"].items():
            file = path / Path(name).name
            if not file.is_file() or file.stat().st_size != size:
                raise Refusal(
                    "zoo-changed",
                    f"{name} of the zoo {path.name} is missing or is not the file that was saved.",
                    "Copy the whole folder again.",
                )
        table = pd.read_parquet(path / TABLE, engine="pyarrow")
        layouts = description["layouts"]
        signatures: tuple[Signature, ...] = tuple(signature_from_json(entry["parameters"]) for entry in layouts)
        paths = tuple(path.resolve() / Path(str(entry["file"])).name for entry in layouts)
        if len(layouts) > 1:
            layout, row = (table[c].to_numpy(dtype=np.int64) for c in _HIDDEN)
            table = table.drop(columns=_HIDDEN)
        else:
            layout, row = np.zeros(len(table), dtype=np.int64), np.arange(len(table), dtype=np.int64)
        counts = np.asarray([int(entry["n"]) for entry in layouts])
        if len(table) and not ((layout >= 0) & (layout < len(counts)) & (row >= 0)).all():
            raise ValueError("a row points outside the weights")
        if (row >= counts[layout]).any():
            raise ValueError("a row points outside the weights")
        return Zoo(
            str(description["name"]),
            table,
            StackedFiles(paths, signatures, layout, row, tuple(stamp_of(file) for file in paths)),
            architecture=description["architecture"],
            provenance=description["provenance"],
            dropped=pd.DataFrame(description["dropped"], columns=["model", "reason"], dtype="str"),
            weights_digest=str(description["weights_digest"]),
            symmetry=read_symmetry(path),
        )
    except (OSError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise _damaged(path, error) from error
    except ValueError as error:
        if isinstance(error, Refusal):
            raise
        raise _damaged(path, error) from error


def _description(path: Path) -> dict[str, Any]:
    file = path / DESCRIPTION
    try:
        if file.stat().st_size > _MAX_DESCRIPTION_BYTES:
            raise ValueError("it is too large")
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it is no JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, error) from error
    return content


def _damaged(path: Path, error: Exception) -> Refusal:
    reason = " ".join(str(error).split())[:200]
    return Refusal("zoo-damaged", f"The zoo {path.name} cannot be read ({reason}).", "Copy the whole folder again.")
