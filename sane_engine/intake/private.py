"""Folders that nobody else sees and that do not stay."""

from __future__ import annotations

import shutil
import weakref
from pathlib import Path


class Folder:
    """A private folder that goes with the last object that needs it, at the latest with the process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._end = weakref.finalize(self, shutil.rmtree, path, ignore_errors=True)

    def remove(self) -> None:
        """Remove it now."""
        self._end()
