"""Files on disk, written so that a reader sees the old content or the new, never half of either."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from platformdirs import user_data_path

ENVIRONMENT_VARIABLE = "SANE_WORKSPACE"
ASSETS_VARIABLE = "SANE_ASSETS"

# Temporary names are made private to their owner; what replaces them gets the usual modes, less the user's umask.
# The umask can only be read by setting it, which is done once, before any thread is started.
_UMASK = os.umask(0o022)
os.umask(_UMASK)
_PUBLIC_FILE = 0o666 & ~_UMASK
_PUBLIC_FOLDER = 0o777 & ~_UMASK


def workspace_root() -> Path:
    """The folder for everything the user makes: ``$SANE_WORKSPACE``, or the platform's data folder."""
    configured = os.environ.get(ENVIRONMENT_VARIABLE)
    return Path(configured).expanduser() if configured else user_data_path("sane-explorer", appauthor=False)


def assets_root() -> Path:
    """The folder with the embedded zoos, encoders and embeddings: ``$SANE_ASSETS``, or what ships with the code."""
    configured = os.environ.get(ASSETS_VARIABLE)
    return Path(configured).expanduser() if configured else Path(__file__).resolve().parent.parent / "assets"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_file(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a private temporary path beside ``target``; on success it replaces ``target``, on error it is removed.

    The content is flushed to disk before the rename, so a crash leaves the old file or the new one.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=target.suffix)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        _sync(temporary)
        temporary.chmod(_PUBLIC_FILE)
        temporary.replace(target)
        _sync(target.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_folder(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a private temporary folder beside ``target``; on success it takes the place of ``target``.

    A folder cannot be swapped in one step on every system: the old one is moved aside first and put back if the
    second rename fails.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    aside: Path | None = None
    try:
        yield temporary
        for path in temporary.rglob("*"):
            if path.is_file():
                _sync(path)
        if target.exists():
            aside = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.old."))
            target.replace(aside / target.name)
        temporary.chmod(_PUBLIC_FOLDER)
        temporary.replace(target)
        _sync(target.parent)
    except BaseException:
        if aside is not None and not target.exists():
            (aside / target.name).replace(target)
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)
