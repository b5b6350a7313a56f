"""Progress as JSON lines in a file: written by a command, read by whoever watches it."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from pathlib import Path

INTERVAL = 0.5
"""Seconds between two lines; a run of a day stays below 20 MB."""

_TAIL = 4096
_HEAD = 64 * 1024
_MEASURE = re.compile(r"^(?P<name>[^\d\W].*?) (?P<value>-?\d+(?:\.\d+)?(?:e-?\d+)?)$")


@dataclass(frozen=True)
class Report:
    """One line of progress.

    Attributes:
        time: Seconds since 1970.
        done: Steps finished.
        total: Steps in all; 0 where that is not known.
        message: What is being done, in the engine's words.
    """

    time: float
    done: int
    total: int
    message: str

    @property
    def share(self) -> float:
        """Part of the work that is done, 0 to 1."""
        return min(1.0, self.done / self.total) if self.total > 0 else 0.0


def append(path: Path, done: int, total: int, message: str) -> None:
    """Add one line. A line is shorter than a block of the file system, so a reader sees it whole or not at all."""
    line = json.dumps({"time": time.time(), "done": done, "total": total, "message": message[:200]})
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def _read(line: str) -> Report | None:
    try:
        content = json.loads(line)
        return Report(float(content["time"]), int(content["done"]), int(content["total"]), str(content["message"]))
    except (ValueError, KeyError, TypeError):
        return None  # a line that was being written when the process was killed


def latest(path: Path) -> Report | None:
    """The last whole line, or None; reads the end of the file only."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _TAIL))
            lines = file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return None
    return next((report for line in reversed(lines) if (report := _read(line)) is not None), None)


def first(path: Path, total: int) -> Report | None:
    """The first line that tells of finished steps out of ``total``, or None; reads only where the file begins."""
    try:
        with path.open("rb") as file:
            lines = file.read(_HEAD).decode("utf-8", errors="replace").splitlines()
    except OSError:
        return None
    found = (_read(line) for line in lines)
    return next((each for each in found if each is not None and each.done > 0 and each.total == total), None)


def reports(path: Path, most: int = 500) -> list[Report]:
    """Up to ``most`` lines, evenly spread over the file, the last one among them."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    lines = [line for line in text.splitlines() if line.endswith("}")]
    step = max(1, -(-len(lines) // most))
    chosen = lines[::-1][::step][::-1]
    return [report for line in chosen if (report := _read(line)) is not None]


def measures(message: str) -> dict[str, float]:
    """The numbers that a message names: ``"loss 0.04 · validation R² 0.91"`` → ``{"loss": 0.04, …}``."""
    found = (_MEASURE.match(part.strip()) for part in message.split(" · "))
    return {match["name"]: float(match["value"]) for match in found if match}
