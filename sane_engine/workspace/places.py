"""The two folders there are: what the user makes, and what ships with the code."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from platformdirs import user_data_path

ENVIRONMENT_VARIABLE = "SANE_WORKSPACE"
ASSETS_VARIABLE = "SANE_ASSETS"


def workspace_root() -> Path:
    """The folder for everything the user makes: ``$SANE_WORKSPACE``, or the platform's data folder."""
    configured = os.environ.get(ENVIRONMENT_VARIABLE)
    return Path(configured).expanduser() if configured else user_data_path("sane-explorer", appauthor=False)


def open_root() -> Path:
    """The folder that paths typed into the app must lie below: ``$SANE_OPEN_ROOT``, or the user's home."""
    configured = os.environ.get("SANE_OPEN_ROOT")
    return Path(configured).expanduser() if configured else Path.home()


def assets_root() -> Path:
    """The folder with the embedded zoos, encoders and embeddings: ``$SANE_ASSETS``, or what ships with the code."""
    configured = os.environ.get(ASSETS_VARIABLE)
    return Path(configured).expanduser() if configured else Path(__file__).resolve().parents[2] / "assets"


def visible(root: Path, pattern: str) -> list[Path]:
    """What ``root.glob(pattern)`` finds, in order, without what lies at or below a name that begins with a dot.

    Such names are half-written or half-removed: ``glob`` shows them, unlike a shell.
    """
    return sorted(path for path in root.glob(pattern) if not _hidden(path.relative_to(root).parts))


def _hidden(parts: Iterable[str]) -> bool:
    return any(part.startswith(".") for part in parts)
