"""Names of things as names of files."""

from __future__ import annotations

import re

_LONGEST = 60


def plain_name(text: str, otherwise: str) -> str:
    """A name that no file system minds and that leads to no other folder.

    Args:
        text: Any name, perhaps from a file that somebody else made.
        otherwise: What to call it if nothing of the name is left.
    """
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)[:_LONGEST].strip("-._") or otherwise
