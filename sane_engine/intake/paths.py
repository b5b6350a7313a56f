"""Paths that come from a user of a server: opened below one folder, or not at all.

A path is followed twice. First by name: links are resolved, and what does not end below the root is refused. Then
by hand, one component after the other from the root's own descriptor, without following links: what was swapped for
a link between the two is refused as well, however the race goes.
"""

from __future__ import annotations

import os
from pathlib import Path

from sane_engine.intake import refusals

_BY_HAND = os.open in os.supports_dir_fd and hasattr(os, "O_NOFOLLOW")
"""Where the system has no descriptors of folders (Windows), the first check is all there is."""


def _below(root: Path, user_path: str | os.PathLike[str]) -> tuple[Path, Path]:
    """The real root, and the real path relative to it."""
    text = os.fspath(user_path)
    if "\0" in text:
        raise refusals.missing()
    try:
        real_root = root.resolve(strict=True)
        # An absolute path replaces the root here, and is then held against it like any other.
        real = (real_root / text).resolve(strict=False)
    except (OSError, RuntimeError, ValueError):  # RuntimeError: links in a circle, in older Pythons
        raise refusals.missing() from None
    if not real.is_relative_to(real_root):
        raise refusals.outside()
    return real_root, real.relative_to(real_root)


def open_below(root: str | os.PathLike[str], user_path: str | os.PathLike[str]) -> int:
    """Open a file or folder below ``root`` for reading and return its descriptor.

    Args:
        root: A folder that the server's owner chose; links in it and above it are trusted.
        user_path: Relative to the root, or absolute. Links are followed as long as they stay below the root.

    Raises:
        Refusal: ``outside-root``, ``missing`` or ``unreadable``; which one says nothing of what lies outside.
    """
    real_root, relative = _below(Path(root), user_path)
    if not _BY_HAND:
        return _opened(str(real_root / relative), os.O_RDONLY | getattr(os, "O_BINARY", 0), None)
    descriptor = _opened(str(real_root), os.O_RDONLY | os.O_DIRECTORY, None)
    try:
        for number, part in enumerate(relative.parts, 1):
            # A pipe would block the open itself.
            kind = os.O_NONBLOCK if number == len(relative.parts) else os.O_DIRECTORY
            following = _opened(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | kind, descriptor)
            os.close(descriptor)
            descriptor = following
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _opened(name: str, flags: int, folder: int | None) -> int:
    try:
        return os.open(name, flags, dir_fd=folder)
    except FileNotFoundError:
        raise refusals.missing() from None
    except (OSError, ValueError):  # a link where there was none before is ELOOP or ENOTDIR
        raise refusals.unreadable() from None


def resolve_below(root: str | os.PathLike[str], user_path: str | os.PathLike[str]) -> Path:
    """The real path of something that exists below ``root`` and can be read.

    The path can be changed by others once it is returned; whoever opens it for a user of a server does so with
    :func:`open_below`, as :func:`~sane_engine.intake.load_checkpoint` does when it is given ``below``.

    Raises:
        Refusal: As :func:`open_below`.
    """
    os.close(open_below(root, user_path))
    real_root, relative = _below(Path(root), user_path)
    return real_root / relative


def refuse_links_outside(root: str | os.PathLike[str], folder: Path) -> None:
    """Look through a folder for links that lead out of ``root``.

    Raises:
        Refusal: ``outside-root``.
    """
    real_root = Path(root).resolve()
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place, name)
            if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(real_root):
                raise refusals.outside()
