"""What killed processes leave behind, and how it goes."""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from pathlib import Path

from sane_engine.workspace.atomic import discard
from sane_engine.workspace.places import workspace_root
from sane_engine.workspace.quota import size_of

_DAY = 24 * 3600.0
# Uploads that are open on a page lie here for as long as the page does; a killed server leaves them.
_INCOMING, _INCOMING_DAYS = "incoming", 7
# A dot, the name it was to have, and what `tempfile` puts behind it; or a folder that was being removed.
_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}(\.[A-Za-z0-9]+)?")
_REMOVED = re.compile(r"\..+\.removed")
_ASIDE = re.compile(r"\.(.+)\.old\.[a-z0-9_]{8}")


def sweep(root: Path | None = None, *, older_than: float = _DAY) -> int:
    """Remove what interrupted writes and removals left, once it is old enough that nobody can be at work on it.

    Args:
        root: Folder to look through; the workspace by default.
        older_than: Seconds since anything in it was last changed.

    Returns:
        Bytes that were freed.
    """
    freed = 0
    root = workspace_root() if root is None else root
    incoming = sorted((root / _INCOMING).iterdir()) if (root / _INCOMING).is_dir() else []
    for path in [*incoming, *strays(root)]:
        patience = _INCOMING_DAYS * older_than if path.parent.name == _INCOMING else older_than
        if time.time() - _last_change(path) < patience:
            continue
        if (match := _ASIDE.fullmatch(path.name)) is not None:
            kept, target = path / match.group(1), path.with_name(match.group(1))
            if kept.exists() and not target.exists():
                with suppress(OSError):
                    kept.replace(target)  # killed between two renames: the old content is the last whole one
        freed += size_of(path)
        discard(path)
    return freed


def strays(root: Path) -> list[Path]:
    """Everything below a folder that has the name of something unfinished, also what is being written right now."""
    found = []
    for folder, folders, files in os.walk(root):
        for name in [*folders, *files]:
            if _TEMPORARY.fullmatch(name) or _REMOVED.fullmatch(name) or _ASIDE.fullmatch(name):
                found.append(Path(folder) / name)
        folders[:] = [name for name in folders if not name.startswith(".")]
    return found


def _last_change(path: Path) -> float:
    times = [path.lstat().st_mtime] if path.exists() or path.is_symlink() else [0.0]
    if path.is_dir() and not path.is_symlink():
        for folder, _, files in os.walk(path):
            for name in files:
                with suppress(OSError):
                    times.append((Path(folder) / name).lstat().st_mtime)
    return max(times)
