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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sane_engine.intake import refusals
from sane_engine.intake.limits import Limits
from sane_engine.intake.worker import request
from sane_engine.progress import CancelCheck, Progress, no_progress, stop_if

Answer = dict[str, Any]
_ROOT = Path(__file__).resolve().parent.parent.parent
_POLL_SECONDS = 0.1
_INDEX = ".safetensors.index."


def _environment() -> dict[str, str]:
    """Nothing of the parent's environment but what finds the interpreter's own files; one thread for numpy."""
    kept = {key: os.environ[key] for key in ("PATH", "SYSTEMROOT", "LD_LIBRARY_PATH") if key in os.environ}
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    return {**kept, **threads, "PYTHONPATH": str(_ROOT), "PYTHONUTF8": "1", "PYTHONDONTWRITEBYTECODE": "1"}


@dataclass(frozen=True)
class Request:
    """How to read, whatever the source.

    Attributes:
        limits: Ceilings for each source.
        alone: See :func:`~sane_engine.intake.parse.parse`.
        header: Only names, types and shapes: no digest, no checksums, no data.
        below: Folder that the sources must lie in, or None.
        progress: Called with the bytes read of one source, and how many it has.
        cancelled: Asked ten times a second.
    """

    limits: Limits
    alone: bool = False
    header: bool = False
    below: Path | None = None
    progress: Progress = no_progress
    cancelled: CancelCheck | None = None


def answers(sources: list[Path], folder: Path, how: Request) -> Generator[Answer]:
    """What the child says about each source, in order.

    A source during which the child dies or runs out of time gets a refusal, and a fresh child goes on with the
    rest; so one bad file in a folder of thousands costs one start, and good ones share theirs.

    Args:
        sources: Files or folders.
        folder: Private, existing, empty; the child makes one folder a source in it.
        how: What to read, and under which limits.

    Raises:
        Cancelled: ``how.cancelled`` answered true; the child is gone.
    """
    done = 0
    while done < len(sources):
        home = folder / f"from-{done}"
        home.mkdir(mode=0o700)
        with contextlib.closing(_one_child(sources[done:], home, how)) as child:
            for answer in child:
                yield answer | {"folder": str(home / str(answer["number"]))}
                done += 1


def _one_child(sources: list[Path], folder: Path, how: Request) -> Generator[Answer]:
    limits = how.limits
    folders: dict[Path, int] = {}
    waits = [limits.patience(source_bytes(path, folders)) for path in sources]
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
            # A child that died at once leaves a broken pipe; that it says nothing is noticed below. The pipe stays
            # open: to the child its end is the end of this process.
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(
                    request(
                        sources, folder, limits, sum(waits), alone=how.alone, header=how.header, below=how.below
                    )
                )
                process.stdin.flush()
            lines = _Lines(process.stdout.fileno(), limits.reply_bytes)
            for number, wait in enumerate(waits):
                answer = _answer(lines, wait, how, sources[number].name)
                if answer is None:
                    dead = lines.ended
                    refusal = refusals.reader_died() if dead else refusals.took_too_long(wait)
                    yield {"number": number, "refusal": [refusal.code, str(refusal), refusal.hint]}
                    return
                yield answer | {"number": number}
        finally:
            process.kill()
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()


def _answer(lines: _Lines, wait: float, how: Request, name: str) -> Answer | None:
    """The child's next answer; its reports of progress are passed on on the way."""
    deadline = time.monotonic() + wait
    while (line := lines.next(deadline, how.cancelled)) is not None:
        answer: Answer = json.loads(line)
        if "progress" not in answer:
            return answer
        done, total = answer["progress"]
        how.progress(int(done), int(total), f"reading {name}")
    return None


class _Lines:
    """Lines from a pipe with a clock. The pipe is read without blocking, because the child is not trusted."""

    def __init__(self, descriptor: int, ceiling: int) -> None:
        self._descriptor, self._ceiling = descriptor, ceiling
        self._buffer = bytearray()
        self.ended = False

    def next(self, deadline: float, cancelled: CancelCheck | None) -> bytes | None:
        """The next line, or None when time is up, the child has ended, or the line is beyond the ceiling."""
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


def source_bytes(path: Path, folders: dict[Path, int] | None = None) -> int:
    """Bytes of a file, or of all files beside an index of shards; what cannot be looked at counts nothing.

    Args:
        path: File or folder.
        folders: What is in folders that were looked through already; added to.
    """
    folders = {} if folders is None else folders
    try:
        is_folder = path.is_dir()
        # By its name: a folder of checkpoints may have a JSON file, which is no index, beside each of them.
        if not is_folder and not (path.suffix == ".json" and _INDEX in path.name):
            return path.stat().st_size
        beside = path if is_folder else path.parent
        if beside not in folders:
            folders[beside] = sum(entry.stat().st_size for entry in beside.iterdir() if entry.is_file())
        return folders[beside]
    except (OSError, ValueError):  # ValueError: a null character in the path
        return 0
