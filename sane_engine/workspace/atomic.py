"""Files on disk, written so that a reader sees the old content or the new, never half of either.

What is not finished has a name that begins with a dot, which no reader looks at; a killed process leaves it behind,
and :func:`sane_engine.workspace.sweep` takes it away. Such names say that they are ours: users have files whose
names begin with a dot too.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sane_engine.workspace.exchange import exchange
from sane_engine.workspace.places import workspace_root
from sane_engine.workspace.quota import admit, disk_full, size_of

# Temporary names are made private to their owner; what replaces them gets the usual modes, less the user's umask.
# The umask can only be read by setting it, which is done once, before any thread is started.
_UMASK = os.umask(0o022)
os.umask(_UMASK)
_PUBLIC_FILE = 0o666 & ~_UMASK
_PUBLIC_FOLDER = 0o777 & ~_UMASK

# Between the name it is to have, or had, and what makes it unique.
UNFINISHED, ASIDE, REMOVED = ".sane-tmp.", ".sane-old.", ".sane-removed"

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
_OCCUPIED = {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}
# Others may write to the same name meanwhile; each try meets at most one change of theirs.
_TRIES = 100


def sync(path: Path) -> None:
    """Have the content of a file, or the names in a folder, on the disk before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_file(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a private temporary path beside ``target``; on success it replaces ``target``, on error it is removed.

    The content is flushed to disk before the rename, so a crash leaves the old file or the new one.

    Raises:
        Refusal: The disk is full (``disk-full``), or the workspace would grow beyond its quota (``over-quota``).
    """
    target = Path(target)
    with _room_for(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(
            dir=target.parent, prefix=f".{target.name}{UNFINISHED}", suffix=target.suffix
        )
        os.close(descriptor)
        temporary = Path(name)
        try:
            yield temporary
            _admit(temporary, target)
            sync(temporary)
            temporary.chmod(_PUBLIC_FILE)
            temporary.replace(target)
            sync(target.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextmanager
def atomic_folder(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a private temporary folder beside ``target``; on success it takes the place of ``target``.

    Where the system cannot exchange two folders in one step, the old one is moved aside first, and put back if the
    second rename fails; if the process is killed in between, :func:`sane_engine.workspace.sweep` puts it back.

    Raises:
        Refusal: The disk is full (``disk-full``), or the workspace would grow beyond its quota (``over-quota``).
    """
    target = Path(target)
    with _room_for(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = unfinished_folder(target)
        try:
            yield temporary
            _admit(temporary, target)
            for path in temporary.rglob("*"):
                if not path.is_symlink():
                    sync(path)
            sync(temporary)
            temporary.chmod(_PUBLIC_FOLDER)
            _put(temporary, target)
            sync(target.parent)
        finally:
            discard(temporary)  # after an exchange, this is what was there before


def unfinished_folder(target: Path) -> Path:
    """A new folder beside a place, that no reader looks at and that goes if its process is killed."""
    return Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}{UNFINISHED}"))


def remove(path: Path) -> None:
    """Remove a file or a folder at once for every reader, also if the process ends before all of it is gone.

    Raises:
        OSError: It could not be moved out of the way.
    """
    aside = path.with_name(f".{path.name}{REMOVED}")
    discard(aside)
    path.replace(aside)
    discard(aside)


def discard(path: Path) -> None:
    """Remove a file, a link or a folder, as far as that is possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _put(temporary: Path, target: Path) -> None:
    """Let a folder take the place of another, or of nothing, whoever else does the same."""
    for _ in range(_TRIES):
        try:
            temporary.replace(target)
            return
        except OSError as error:
            if error.errno not in _OCCUPIED:
                raise
        try:
            if exchange(temporary, target):
                return
            _put_in_two_steps(temporary, target)
            return
        except FileNotFoundError:
            if not temporary.exists():
                raise
        except OSError as error:
            if error.errno not in _OCCUPIED:
                raise
    raise OSError(errno.EBUSY, "Other processes write to the same place", str(target))


def _put_in_two_steps(temporary: Path, target: Path) -> None:
    aside = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}{ASIDE}"))
    try:
        target.replace(aside / target.name)
        try:
            temporary.replace(target)
        except BaseException:
            if not target.exists():
                (aside / target.name).replace(target)
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _in_workspace(target: Path) -> bool:
    return target.absolute().is_relative_to(workspace_root().absolute())


def _admit(temporary: Path, target: Path) -> None:
    """Check what was written against the quota; it is known how large it is only now."""
    if not _in_workspace(target):
        return
    admit(size_of(temporary), size_of(target) if target.exists() else 0)


@contextmanager
def _room_for(target: Path) -> Iterator[None]:
    """A full disk in words, whichever library met it."""
    try:
        yield
    except Exception as error:
        if getattr(error, "errno", None) in _NO_SPACE or _says_no_space(error):
            raise disk_full(target.name) from error
        raise


def _says_no_space(error: Exception) -> bool:
    """Libraries in other languages lose the number: safetensors says ``(os error 28)``, others quote the text."""
    text = str(error)
    return any(f"os error {number})" in text or os.strerror(number) in text for number in _NO_SPACE)
