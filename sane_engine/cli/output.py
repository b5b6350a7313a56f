"""Where a command may write."""

from __future__ import annotations

from pathlib import Path

from sane_engine.checkpoint import Refusal


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
