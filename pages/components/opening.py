"""Zoos that the user opened, remembered in the workspace so that a reload or a link finds them again.

A path that was typed is on everybody's list: it lies on this machine anyway. An upload belongs to the session it
came from: others do not see it until it is kept. Its key is made of its content, so whoever was given a link to it
has it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import streamlit as st

from sane_engine.checkpoint import Refusal
from sane_engine.intake import refuse_links_outside, resolve_below
from sane_engine.workspace import atomic_file, open_root, require_room, visible, workspace_root

_IDENTIFIER = re.compile(r"opened-[0-9a-f]{12}")
_MINE = "opened-here"
_WEEK = 7 * 24 * 3600.0


@dataclass(frozen=True)
class OpenedZoo:
    """A zoo on this machine.

    Attributes:
        key: What links call it: ``opened-`` and twelve hex digits.
        label: What the user calls it.
        path: Where it lies.
        kept: Whether everybody has it on the list, not only this session.
    """

    key: str
    label: str
    path: Path
    kept: bool = True


def _folder() -> Path:
    return workspace_root() / "opened"


def _remember(zoo: OpenedZoo) -> OpenedZoo:
    with atomic_file(_folder() / f"{zoo.key}.json") as temporary:
        content = {"label": zoo.label, "path": str(zoo.path), "kept": zoo.kept}
        temporary.write_text(json.dumps(content), encoding="utf-8")
    return zoo


def _key(digest: str) -> str:
    return f"opened-{digest[:12]}"


def _mine() -> dict[str, str]:
    """Uploads of this session: key → what this user calls it."""
    found: dict[str, str] = st.session_state.setdefault(_MINE, {})
    return found


def open_path(text: str) -> OpenedZoo:
    """Remember the zoo at a path that the user typed.

    Raises:
        Refusal: There is nothing at that path, or it leads out of the folder that may be opened
            (:func:`~sane_engine.workspace.open_root`).
    """
    text = text.strip()
    try:
        if not text:
            raise Refusal("missing", "")
        path = resolve_below(open_root(), Path(text).expanduser())
    except Refusal as refusal:
        if refusal.code != "missing":
            raise
        raise Refusal(
            "zoo-not-found", f"There is nothing at {text or 'an empty path'}.", "Check the path."
        ) from None
    if path.is_dir():
        refuse_links_outside(open_root(), path)
    return _remember(OpenedZoo(_key(hashlib.sha256(str(path).encode()).hexdigest()), path.name, path))


def open_upload(name: str, stream: IO[bytes]) -> OpenedZoo:
    """Put an uploaded zip into the workspace, under a name made of its content, for this session.

    Raises:
        Refusal: There is no room for it (``over-quota``, ``disk-full``).
    """
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    digest = hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]  # any readable will do
    target = workspace_root() / "uploads" / f"{digest[:32]}.zip"
    if not target.exists():
        require_room(size)
        stream.seek(0)
        with atomic_file(target) as temporary, temporary.open("wb") as file:
            shutil.copyfileobj(stream, file, 2**20)
    _mine()[_key(digest)] = name
    # Somebody else may have uploaded the same: what they called it and whether they kept it stays.
    known = _read(_folder() / f"{_key(digest)}.json")
    return known if known is not None else _remember(OpenedZoo(_key(digest), name, target, kept=False))


def keep(zoo: OpenedZoo) -> None:
    """Put an upload of this session on everybody's list, where it stays until it is removed."""
    _remember(replace(zoo, kept=True))


def follow(key: str) -> None:
    """Take the upload that a link names into this session, if it is still there."""
    if _IDENTIFIER.fullmatch(key) and key not in _mine():
        zoo = _read(_folder() / f"{key}.json")
        if zoo is not None and not zoo.kept:
            _mine()[key] = zoo.label
            with suppress(OSError):
                os.utime(_folder() / f"{key}.json")


def _read(record: Path) -> OpenedZoo | None:
    """What a record says; None where there is none, it is damaged, or what it names is gone."""
    if not _IDENTIFIER.fullmatch(record.stem):
        return None
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
        kept = content.get("kept", True) is True
        zoo = OpenedZoo(record.stem, str(content["label"]), Path(content["path"]), kept)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return zoo if zoo.path.exists() else None


def opened_zoos() -> list[OpenedZoo]:
    """Zoos opened on this machine that are still there, by label; of uploads only those kept or of this session."""
    mine = _mine()
    found = [zoo for record in visible(_folder(), "opened-*.json") if (zoo := _read(record)) is not None]
    seen = [replace(zoo, label=mine.get(zoo.key, zoo.label)) for zoo in found if zoo.kept or zoo.key in mine]
    return sorted(seen, key=lambda zoo: (zoo.label.lower(), zoo.key))


def drop_old_uploads(older_than: float = _WEEK) -> None:
    """Remove uploads that nobody kept and no session has opened for a while."""
    for record in visible(_folder(), "opened-*.json"):
        zoo = _read(record)
        if zoo is not None and not zoo.kept and time.time() - record.stat().st_mtime > older_than:
            forget(zoo)


def forget(zoo: OpenedZoo) -> None:
    """Take a zoo off the list; its files stay where they are, unless they were uploaded."""
    (_folder() / f"{zoo.key}.json").unlink(missing_ok=True)
    if zoo.path.parent == workspace_root() / "uploads":
        zoo.path.unlink(missing_ok=True)
