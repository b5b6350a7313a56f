"""Points that a benchmark keeps, so that it goes on where it stopped, and the page that it writes of them."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sane_engine.workspace import atomic_file


def write_page(text: str, out: Path | None) -> None:
    """A page to a file, or where there is none to the screen."""
    if out is None:
        print(text)
        return
    with atomic_file(out) as temporary:
        temporary.write_text(text, encoding="utf-8")


def kept(state: Path, key: dict[str, Any], make: Callable[[], Any] | None) -> Any:
    """What was found for this key before; else it is made and kept, or is None where it may not be made."""
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
    path = state / f"{name}.json"
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))["found"]
    if make is None:
        return None
    found = make()
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps({"key": key, "found": found}) + "\n", encoding="utf-8")
    print(key, found, file=sys.stderr, flush=True)
    return found
