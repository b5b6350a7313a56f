"""How much room the workspace may take, and a refusal before it takes more."""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

from sane_engine.checkpoint import Refusal
from sane_engine.workspace.places import workspace_root

QUOTA_VARIABLE = "SANE_QUOTA_GB"
_DEFAULT_GB = 100.0
# Walking a large workspace takes a moment: one walk serves this many seconds, own writes are added to it.
_FRESH_SECONDS = 20.0
# Records of jobs, names of zoos: someone over the quota must still be able to see, to cancel and to remove.
SMALL = 1024 * 1024


class _Measured:
    lock = threading.Lock()
    root: Path | None = None
    used = 0
    at = -1e9


def quota_bytes() -> int:
    """How many bytes the workspace may take: ``$SANE_QUOTA_GB`` gigabytes (10⁹), or 100."""
    try:
        configured = float(os.environ.get(QUOTA_VARIABLE, ""))
    except ValueError:
        configured = _DEFAULT_GB
    return int((configured if configured > 0 else _DEFAULT_GB) * 1e9)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; links count as nothing."""
    total, waiting = 0, [path]
    while waiting:
        current = waiting.pop()
        try:
            if not current.is_dir():
                return current.lstat().st_size
            with os.scandir(current) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(Path(entry.path))
                    elif entry.is_file(follow_symlinks=False):
                        total += entry.stat(follow_symlinks=False).st_size
        except OSError:
            continue  # gone while we looked
    return total


def used_bytes(*, fresh: bool = False) -> int:
    """Bytes that the workspace takes, at most some seconds old unless ``fresh``."""
    root = workspace_root()
    with _Measured.lock:
        known = _Measured.root == root and time.monotonic() - _Measured.at < _FRESH_SECONDS
        if fresh or not known:
            _Measured.used = size_of(root) if root.is_dir() else 0
            _Measured.root, _Measured.at = root, time.monotonic()
        return _Measured.used


def require_room(size: int) -> None:
    """Refuse what would not fit, before it is written.

    Args:
        size: Bytes to be added to the workspace, as far as known.

    Raises:
        Refusal: The workspace would grow beyond its quota (``over-quota``), or the disk has not that much room
            (``disk-full``).
    """
    quota = quota_bytes()
    if used_bytes() + size > quota and used_bytes(fresh=True) + size > quota:
        raise _over_quota(quota, used_bytes(), size)
    place = workspace_root()
    while not place.exists() and place != place.parent:
        place = place.parent
    if shutil.disk_usage(place).free < size:
        raise disk_full("this")


def admit(size: int, replaced: int) -> None:
    """Refuse what was written under a temporary name in the workspace, before it gets its own.

    Args:
        size: Bytes of what was written.
        replaced: Bytes of what goes when it gets its name.

    Raises:
        Refusal: The workspace would grow beyond its quota (``over-quota``).
    """
    quota = quota_bytes()
    if size > SMALL and size > replaced and used_bytes() + size - replaced > quota:
        used = used_bytes(fresh=True) - size  # the walk has seen what was written
        if used + size - replaced > quota:
            raise _over_quota(quota, used, size - replaced)
    with _Measured.lock:
        _Measured.used += size - replaced


def _over_quota(quota: int, used: int, size: int) -> Refusal:
    return Refusal(
        "over-quota",
        f"The workspace may take {quota / 1e9:.3g} GB; {used / 1e9:.3g} GB are used"
        f" and this would add {size / 1e9:.3g} GB.",
        f"Remove something on the page Workspace, or raise {QUOTA_VARIABLE}.",
    )


def disk_full(what: str) -> Refusal:
    """What to say where a write ran out of disk."""
    return Refusal(
        "disk-full",
        f"The disk is full: {what} was not written, and nothing was left behind.",
        "Free some space, for example on the page Workspace, then try again.",
    )
