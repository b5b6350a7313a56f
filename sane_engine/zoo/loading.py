"""Open a zoo, whatever it is: an embedded name, a native folder, modelzoos, a folder or zip of checkpoints."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from sane_engine.checkpoint import Refusal
from sane_engine.progress import CancelCheck, Progress, no_progress
from sane_engine.workspace import assets_root, visible, workspace_root

if TYPE_CHECKING:
    from sane_engine.zoo.zoo import Zoo


def embedded_zoos() -> list[str]:
    """Names of the zoos that ship with the code, in alphabetical order."""
    return sorted(path.parent.name for path in (assets_root() / "zoos").glob("*/zoo.json"))


def zoo_folders() -> dict[str, Path]:
    """Zoos that have a name: those trained into the workspace, and those that ship with the code, which win."""
    roots = (workspace_root() / "zoos", assets_root() / "zoos")
    return {record.parent.name: record.parent for root in roots for record in visible(root, "*/zoo.json")}


def load_zoo(
    path_or_name: str | os.PathLike[str],
    *,
    name: str | None = None,
    progress: Progress = no_progress,
    cancelled: CancelCheck | None = None,
) -> Zoo:
    """Open a zoo.

    Args:
        path_or_name: The name of a zoo that is embedded or was trained into the workspace (it wins over a folder
            of the same name; write ``./name`` for that), a native folder, a folder in one of the modelzoos
            dialects, or a folder or zip of checkpoints, with or without a CSV of properties.
        name: What to call a zoo of other people's files, in place of its folder or zip; native zoos have a name.
        progress: Called while many files are read.
        cancelled: Asked between files.

    Raises:
        Refusal: There is no such zoo, or nothing in it can be read.
        Cancelled: ``cancelled`` answered true.
    """
    from sane_engine.zoo.native import is_native, load_native

    if isinstance(path_or_name, str) and (named := zoo_folders().get(path_or_name)) is not None:
        return load_native(named)
    path = Path(path_or_name).expanduser()
    if not path.exists():
        known = ", ".join(sorted(zoo_folders())) or "none"
        raise Refusal(
            "zoo-not-found",
            f"There is no zoo at {path_or_name}.",
            f"Give the path of a folder or zip, or a name ({known}).",
        )
    from sane_engine.zoo.folder import load_folder
    from sane_engine.zoo.modelzoos import is_modelzoos, load_modelzoos
    from sane_engine.zoo.native import read_symmetry

    try:
        if path.is_dir() and is_native(path):
            return load_native(path)
        if path.is_dir() and is_modelzoos(path):
            zoo = load_modelzoos(path, progress=progress, cancelled=cancelled)
            zoo.name = name or zoo.name
        else:
            zoo = load_folder(path, name=name, progress=progress, cancelled=cancelled)
        zoo.symmetry = read_symmetry(path)
        return zoo
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise Refusal("unreadable", f"{path.name} cannot be read ({reason}).", "Check its permissions.") from error
