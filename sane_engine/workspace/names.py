"""Names of things as names of files."""

from __future__ import annotations

import re
from collections.abc import Container
from itertools import count

_LONGEST = 60


def plain_name(text: str, otherwise: str) -> str:
    """A name that no file system minds and that leads to no other folder.

    Args:
        text: Any name, perhaps from a file that somebody else made.
        otherwise: What to call it if nothing of the name is left.
    """
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)[:_LONGEST].strip("-._") or otherwise


def first_free(name: str, taken: Container[str]) -> str:
    """The name, or the first of ``name-2``, ``name-3`` … that is not taken."""
    named = (name if number == 1 else f"{name}-{number}" for number in count(1))
    return next(each for each in named if each not in taken)
