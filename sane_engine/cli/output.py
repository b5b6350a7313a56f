"""What a command writes: where it may, and the line that makes it again."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from sane_engine.checkpoint import Refusal

# Arguments without a flag; `align` takes its zoo with one.
_POSITIONAL = {"align": {"a", "b"}}
_PATHS = {"encoder", "zoo", "a", "b"}


def replaceable(folder: Path, marker: str) -> Path:
    """A folder that may be written as a whole, checked before hours of work and not after.

    Args:
        folder: The place.
        marker: File that every folder of this kind has; one that has it is replaced.

    Raises:
        Refusal: Something else lies there (``out-occupied``); it is not deleted for a typing error.
    """
    if folder.exists() and not (folder.is_dir() and ((folder / marker).is_file() or not any(folder.iterdir()))):
        raise Refusal(
            "out-occupied", f"{folder} exists and has no {marker}, so it is not replaced.", "Give another folder."
        )
    return folder


def command_line(arguments: argparse.Namespace) -> str:
    """The command as it was given, for the record beside what it made.

    A path below the current folder is kept, one elsewhere is cut to its last part: the record travels with the
    files and must not tell of the machine.
    """
    words = ["python", "-m", "sane_engine", arguments.command]
    positional = _POSITIONAL.get(arguments.command, {"zoo"})
    for name, value in vars(arguments).items():
        if name in {"command", "run", "json", "quiet", "progress", "folder"} or value is None or value is False:
            continue
        if isinstance(value, list) and name in positional:
            words += [_without_machine(one) for one in value]
            continue
        if isinstance(value, list):
            words += [word for one in value for word in (f"--{name.replace('_', '-')}", str(one))]
            continue
        if isinstance(value, Path) or name in _PATHS:
            value = _without_machine(value)
        flag = [] if name in positional else [f"--{name.replace('_', '-')}"]
        words += flag if value is True else [*flag, str(value)]
    return shlex.join(words)


def _without_machine(value: str | Path) -> str:
    path = Path(value)
    return path.name if path.is_absolute() or ".." in path.parts else path.as_posix()
