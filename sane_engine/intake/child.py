"""The parent's side of the child: start it, listen, and end it when it is too slow, too talkative or unwanted."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

from sane_engine.intake import refusals
from sane_engine.intake.limits import Limits
from sane_engine.intake.worker import request
from sane_engine.progress import CancelCheck, stop_if

Answer = dict[str, Any]
_ROOT = Path(__file__).resolve().parent.parent.parent
_POLL_SECONDS = 0.1


def _environment() -> dict[str, str]:
    """Nothing of the parent's environment but what finds the interpreter's own files; one thread for numpy."""
    kept = {key: os.environ[key] for key in ("PATH", "SYSTEMROOT", "LD_LIBRARY_PATH") if key in os.environ}
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return {**kept, **threads, "PYTHONPATH": str(_ROOT), "PYTHONUTF8": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def answers(
    sources: list[Path], folder: Path, limits: Limits, *, alone: bool, cancelled: CancelCheck | None = None
) -> Generator[Answer]:
    """What the child says about each source, in order.

    A source during which the child dies or runs out of time gets a refusal, and a fresh child goes on with the
    rest; so one bad file in a folder of thousands costs one start, and good ones share theirs.

    Args:
        sources: Files or folders.
        folder: Private, existing, empty; the child makes one folder a source in it.
        limits: Ceilings for each source.
        alone: See :func:`~sane_engine.intake.parse.parse`.
        cancelled: Asked ten times a second.

    Raises:
        Cancelled: ``cancelled`` answered true; the child is gone.
    """
    done = 0
    while done < len(sources):
        home = folder / f"from-{done}"
        home.mkdir(mode=0o700)
        with contextlib.closing(
            _one_child(sources[done:], home, limits, alone=alone, cancelled=cancelled)
        ) as child:
            for answer in child:
                yield answer | {"folder": str(home / str(answer["number"]))}
                done += 1


def _one_child(
    sources: list[Path], folder: Path, limits: Limits, *, alone: bool, cancelled: CancelCheck | None
) -> Generator[Answer]:
    waits = [limits.patience(_size(path)) for path in sources]
    command = [sys.executable, "-P", "-s", "-m", "sane_engine.intake"]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env=_environment(),
        start_new_session=True,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            # A child that died at once leaves a broken pipe; that it says nothing is noticed below.
            with contextlib.suppress(BrokenPipeError), process.stdin as stdin:
                stdin.write(request(sources, folder, limits, sum(waits), alone=alone))
            lines = _Lines(process.stdout.fileno(), limits.reply_bytes)
            for number, wait in enumerate(waits):
                line = lines.next(wait, cancelled)
                if line is None:
                    dead = lines.ended
                    refusal = refusals.reader_died() if dead else refusals.took_too_long(wait)
                    yield {"number": number, "refusal": [refusal.code, str(refusal), refusal.hint]}
                    return
                yield json.loads(line) | {"number": number}
        finally:
            process.kill()


class _Lines:
    """Lines from a pipe with a clock. The pipe is read without blocking, because the child is not trusted."""

    def __init__(self, descriptor: int, ceiling: int) -> None:
        self._descriptor, self._ceiling = descriptor, ceiling
        self._buffer = bytearray()
        self.ended = False

    def next(self, seconds: float, cancelled: CancelCheck | None) -> bytes | None:
        """The next line, or None when time is up, the child has ended, or the line is beyond the ceiling."""
        deadline = time.monotonic() + seconds
        scanned = 0
        with selectors.DefaultSelector() as selector:
            selector.register(self._descriptor, selectors.EVENT_READ)
            while True:
                end = self._buffer.find(b"\n", scanned)
                if end >= 0:
                    line = bytes(self._buffer[:end])
                    del self._buffer[: end + 1]
                    return line
                scanned = len(self._buffer)
                stop_if(cancelled)
                left = deadline - time.monotonic()
                if left <= 0 or self.ended or scanned > self._ceiling:
                    self.ended = self.ended or scanned > self._ceiling
                    return None
                if selector.select(min(left, _POLL_SECONDS)):
                    data = os.read(self._descriptor, 2**20)
                    self.ended = not data
                    self._buffer += data


def _size(path: Path) -> int:
    """Bytes of a file, or of all files beside an index of shards; what cannot be looked at counts nothing."""
    try:
        if path.is_dir() or path.suffix == ".json":
            beside = path if path.is_dir() else path.parent
            return sum(entry.stat().st_size for entry in beside.iterdir() if entry.is_file())
        return path.stat().st_size
    except (OSError, ValueError):  # ValueError: a null character in the path
        return 0
