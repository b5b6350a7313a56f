"""The items of a workspace, found by looking at its folders."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sane_engine.checkpoint import Refusal
from sane_engine.inventory import index
from sane_engine.workspace import remove, size_of, strays, sweep, visible, workspace_root

_LARGEST_RECORD = 64 * 1024 * 1024
_USED_EVERY = 60.0
_SAID_USED: dict[index.Key, float] = {}


@dataclass(frozen=True)
class Kind:
    """A kind of item.

    Attributes:
        name: What it is called, such as ``zoo``.
        pattern: Where its items lie, as a pattern below the workspace.
        marker: File that every whole item of this kind has; empty where an item may be any file or folder.
        fixed: Items are written once, whole: nothing has to be measured twice.
    """

    name: str
    pattern: str
    marker: str
    fixed: bool


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("zoo", "zoos/*", "zoo.json", True),
        Kind("encoder", "encoders/*", "encoder.json", True),
        Kind("embeddings", "embeddings/*", "embeddings.json", True),
        Kind("samples", "samples/*", "provenance.json", True),
        Kind("upload", "uploads/*.zip", "", True),
        Kind("job", "jobs/*", "job.json", False),
        Kind("images", "data/*", "", False),
        Kind("probes", "probes/*", "", False),
        Kind("spectra", "spectra", "", False),
    )
}


@dataclass(frozen=True)
class Item:
    """Something in the workspace.

    Attributes:
        kind: Its kind.
        name: Name of its file or folder.
        label: What people call it; the name where nothing better is known.
        digest: Digest of the content, as its own record says; empty where there is none.
        bytes: Size of all its files.
        created: Seconds since 1970: when its files were written.
        used: When it was last used, as far as known; at least ``created``.
        path: Where it lies.
    """

    kind: Kind
    name: str
    label: str
    digest: str
    bytes: int
    created: float
    used: float
    path: Path

    @property
    def key(self) -> str:
        """What the command line calls it: ``zoo/mine``."""
        return f"{self.kind.name}/{self.name}"


def _paths() -> Iterator[tuple[Kind, Path]]:
    root = workspace_root()
    for kind in KINDS.values():
        for path in visible(root, kind.pattern):
            if kind.marker == "" or (path / kind.marker).is_file():
                yield kind, path


def items() -> list[Item]:
    """Everything in the workspace, the largest first; what is half written or half removed is not there."""
    remembered = index.read()
    found: list[Item] = []
    changed: dict[index.Key, index.Row] = {}
    for kind, path in _paths():
        key = (kind.name, path.name)
        with suppress(OSError):  # removed while we look
            stamp, created = _stamp(kind, path)
            row = remembered.get(key)
            if row is None or row.stamp != stamp or not kind.fixed:
                fresh = index.Row(_digest(kind, path), size_of(path), created, created, stamp)
                if row is None or (fresh.bytes, fresh.stamp) != (row.bytes, row.stamp):
                    changed[key] = fresh
                row = index.Row(fresh.digest, fresh.bytes, created, max(created, row.used if row else 0), stamp)
            found.append(
                Item(kind, path.name, _label(kind, path), row.digest, row.bytes, row.created, row.used, path)
            )
    here = {(item.kind.name, item.name) for item in found}
    index.write(changed, [key for key in remembered if key not in here])
    return sorted(found, key=lambda item: (-item.bytes, item.key))


def rebuild() -> list[Item]:
    """Make the index again from the files, and take away what interrupted writes left a day ago or earlier.

    When things were last used is kept as far as the old index can be read.
    """
    sweep()
    before = index.read()
    index.forget()
    items()
    index.write({key: row for key, row in before.items() if key in index.read()})
    return items()


def find_item(key: str) -> Item:
    """The item that is called ``kind/name``.

    Raises:
        Refusal: There is none (``no-item``).
    """
    for item in items():
        if item.key == key:
            return item
    raise Refusal("no-item", f"There is no {key[:80]!r} in the workspace.", "See the list that `workspace` shows.")


def remove_item(key: str) -> None:
    """Remove an item; it is gone for every reader at once, or not at all.

    Raises:
        Refusal: There is none (``no-item``), or a job is at work on it (``item-in-use``) or is it (``job-active``).
    """
    from sane_engine import jobs

    item = find_item(key)
    if item.kind.name == "job":
        jobs.remove(item.name)
        return
    for job in jobs.jobs():
        if job.state in jobs.ACTIVE and any(word in (str(item.path), item.name) for word in job.arguments):
            raise Refusal(
                "item-in-use", f"The job “{job.title}” uses {item.label}.", "Cancel it, or wait for its end."
            )
    remove(item.path)


def mark_used(path: Path) -> None:
    """Remember that the item at a path was used now; anything else is passed over.

    Cheap enough to be called at every click: it writes once a minute an item.
    """
    with suppress(ValueError):
        parts = path.absolute().relative_to(workspace_root().absolute()).parts
        folders = {kind.pattern.split("/")[0]: kind for kind in KINDS.values() if kind.fixed}
        if len(parts) == 2 and parts[0] in folders:
            key, now = (folders[parts[0]].name, parts[1]), time.time()
            if now - _SAID_USED.get(key, 0.0) >= _USED_EVERY:
                _SAID_USED[key] = now
                index.mark(key, now)


def unfinished_bytes() -> int:
    """Bytes of what is being written now, or was left by writes that were interrupted."""
    return sum(size_of(path) for path in strays(workspace_root()))


def _stamp(kind: Kind, path: Path) -> tuple[str, float]:
    """What tells one state of an item from the next, and when it was made."""
    state = (path / kind.marker if kind.marker else path).stat()
    return f"{state.st_ino} {state.st_mtime_ns} {state.st_size}", state.st_mtime


def _record(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError, RecursionError):
        if path.stat().st_size <= _LARGEST_RECORD:
            content = json.loads(path.read_text(encoding="utf-8"))
            return content if isinstance(content, dict) else {}
    return {}


def _digest(kind: Kind, path: Path) -> str:
    if kind.name == "upload":
        return path.stem  # its name is made of its content
    if kind.name == "embeddings":
        return path.name
    found = _record(path / kind.marker).get("digest", "") if kind.name in ("zoo", "encoder") else ""
    return found if isinstance(found, str) and re.fullmatch(r"[0-9a-f]{8,128}", found) else ""


def _label(kind: Kind, path: Path) -> str:
    if kind.name == "job":
        return str(_record(path / kind.marker).get("title", path.name))
    if kind.name == "embeddings":
        return f"{_record(path / kind.marker).get('zoo', 'a zoo')} ({path.name})"
    return path.name
