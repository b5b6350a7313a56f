"""Which state of the code made a result: it belongs in the record beside the result."""

from __future__ import annotations

import subprocess
from pathlib import Path


def commit() -> str | None:
    """The commit of the checked-out engine, with ``-dirty`` behind it where tracked files were changed since.

    ``None`` where the engine is not in a checkout, or git is missing.
    """
    package = Path(__file__).resolve().parent
    try:
        answer = subprocess.run(
            ["git", "-C", str(package), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None
