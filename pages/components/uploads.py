"""Uploads go to the disk at once, and out of the server's memory."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from streamlit.runtime.scriptrunner import get_script_run_ctx

from sane_engine.intake.private import Folder
from sane_engine.workspace import workspace_root

_PIECE = 2**20


@dataclass(frozen=True)
class Incoming:
    """A copy of an upload, which goes with the last object that holds it.

    Attributes:
        path: Where it lies, under a name of ours.
        sha256: Digest of its bytes.
        folder: Its folder, private to it.
    """

    path: Path
    sha256: str
    folder: Folder


def receive(stream: IO[bytes]) -> Incoming:
    """Copy an upload into the workspace piece by piece."""
    home = workspace_root() / "incoming"
    home.mkdir(parents=True, exist_ok=True)
    folder = Folder(Path(tempfile.mkdtemp(dir=home)))
    path = folder.path / "upload"
    digest = hashlib.sha256()
    stream.seek(0)
    with path.open("wb") as file:
        while piece := stream.read(_PIECE):
            digest.update(piece)
            file.write(piece)
    return Incoming(path, digest.hexdigest(), folder)


def release(file_id: str) -> None:
    """Let Streamlit forget an upload: it keeps every file in memory for as long as the browser's tab is open."""
    context = get_script_run_ctx()
    # Streamlit's own manager has the method, though the protocol it is declared by has not.
    remove = getattr(context.uploaded_file_mgr, "remove_file", None) if context is not None else None
    if context is not None and remove is not None:
        remove(context.session_id, file_id)
