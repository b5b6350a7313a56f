"""Zoos that the user opened, remembered in the workspace so that a reload or a link finds them again."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from sane_engine.checkpoint import Refusal
from sane_engine.intake import refuse_links_outside, resolve_below
from sane_engine.workspace import atomic_file, open_root, workspace_root

_IDENTIFIER = re.compile(r"opened-[0-9a-f]{12}")


@dataclass(frozen=True)
class OpenedZoo:
    """A zoo on this machine.

    Attributes:
        key: What links call it: ``opened-`` and twelve hex digits.
        label: What the user calls it.
        path: Where it lies.
    """

    key: str
    label: str
    path: Path


def _folder() -> Path:
    return workspace_root() / "opened"


def _remember(digest: str, label: str, path: Path) -> OpenedZoo:
    key = f"opened-{digest[:12]}"
    with atomic_file(_folder() / f"{key}.json") as temporary:
        temporary.write_text(json.dumps({"label": label, "path": str(path)}), encoding="utf-8")
    return OpenedZoo(key, label, path)


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
    return _remember(hashlib.sha256(str(path).encode()).hexdigest(), path.name, path)


def open_upload(name: str, stream: IO[bytes]) -> OpenedZoo:
    """Keep an uploaded zip in the workspace, under a name made of its content, and remember it."""
    stream.seek(0)
    digest = hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]  # any readable will do
    target = workspace_root() / "uploads" / f"{digest[:32]}.zip"
    if not target.exists():
        stream.seek(0)
        with atomic_file(target) as temporary, temporary.open("wb") as file:
            shutil.copyfileobj(stream, file, 2**20)
    return _remember(digest, name, target)


def opened_zoos() -> list[OpenedZoo]:
    """Zoos that were opened on this machine and are still there, in alphabetical order."""
    found = []
    for record in _folder().glob("opened-*.json"):
        if not _IDENTIFIER.fullmatch(record.stem):
            continue
        try:
            content = json.loads(record.read_text(encoding="utf-8"))
            zoo = OpenedZoo(record.stem, str(content["label"]), Path(content["path"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if zoo.path.exists():
            found.append(zoo)
    return sorted(found, key=lambda zoo: zoo.label.lower())


def forget(zoo: OpenedZoo) -> None:
    """Take a zoo off the list; its files stay where they are, unless they were uploaded."""
    (_folder() / f"{zoo.key}.json").unlink(missing_ok=True)
    if zoo.path.parent == workspace_root() / "uploads":
        zoo.path.unlink(missing_ok=True)
