"""What killed processes leave behind, and how it goes."""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from pathlib import Path

from sane_engine.workspace.atomic import ASIDE, REMOVED, UNFINISHED, discard
from sane_engine.workspace.places import workspace_root
from sane_engine.workspace.quota import size_of

_DAY = 24 * 3600.0
# Uploads that are open on a page lie here for as long as the page does; a killed server leaves them.
_INCOMING, _INCOMING_DAYS = "incoming", 7
# A dot, the name it was to have, that it is ours, and what `tempfile` puts behind it; or what was being removed.
_UNIQUE = "[a-z0-9_]{8}"
_ASIDE = re.compile(rf"\.(.+){re.escape(ASIDE)}{_UNIQUE}")
_OURS = re.compile(
    rf"\..+({re.escape(UNFINISHED)}{_UNIQUE}(\..*)?|{re.escape(ASIDE)}{_UNIQUE}|{re.escape(REMOVED)})"
)
# Of versions that did not say so: taken away only where nobody but the app writes.
_EARLIER = re.compile(rf"\..+(\.{_UNIQUE}(\.[A-Za-z0-9]+)?|\.removed)")
_OF_THE_APP = ("embeddings", "jobs", "probes", "spectra", "uploads")
# Data sets of the user's own: whatever is inside them stays.
_OF_THE_USER = "data"


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
    """Everything below a workspace that is named as something unfinished, also what is being written right now."""
    found = []
    for folder, folders, files in os.walk(root):
        top = Path(folder).relative_to(root).parts[:1]
        for name in [*folders, *files]:
            if _OURS.fullmatch(name) or (top and top[0] in _OF_THE_APP and _EARLIER.fullmatch(name)):
                found.append(Path(folder) / name)
        folders[:] = [name for name in folders if not name.startswith(".") and top != (_OF_THE_USER,)]
    return found


def _last_change(path: Path) -> float:
    times = [path.lstat().st_mtime] if path.exists() or path.is_symlink() else [0.0]
    if path.is_dir() and not path.is_symlink():
        for folder, _, files in os.walk(path):
            for name in files:
                with suppress(OSError):
                    times.append((Path(folder) / name).lstat().st_mtime)
    return max(times)
