"""Child processes that share out the chunks of a training run, and are gone when it ends or is cancelled."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from sane_engine.progress import CancelCheck, stop_if

_POLL_SECONDS = 0.2
_LINES_OF_ERROR = 3


class WorkerFailed(RuntimeError):
    """A child process ended before its work was done."""


def available_cores() -> int:
    """How many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1


def _environment() -> dict[str, str]:
    root = str(Path(__file__).resolve().parents[2])
    others = os.environ.get("PYTHONPATH")
    path = f"{root}{os.pathsep}{others}" if others else root
    # One thread a process: two processes of two threads on two cores were nine times slower than of one.
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@contextmanager
def _child(folder: Path, errors: IO[str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "sane_engine.zoo.worker", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        encoding="utf-8",
        env=_environment(),
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                # A number that the child never read may still wait to be written.
                with suppress(BrokenPipeError):
                    stream.close()


def _relay(process: subprocess.Popen[str], number: int, messages: queue.SimpleQueue[tuple[int, str]]) -> None:
    """Pass on what one child says, line by line; an empty line says that it has ended."""
    assert process.stdout is not None
    for line in process.stdout:
        messages.put((number, line))
    messages.put((number, ""))


def run_workers(
    folder: Path,
    chunks: list[int],
    count: int,
    *,
    on_epoch: Callable[[int, int], None],
    on_chunk: Callable[[int], None],
    cancelled: CancelCheck | None,
) -> None:
    """Have ``count`` children train the chunks of a prepared folder.

    Args:
        folder: See :class:`sane_engine.zoo.chunk_files.TrainingFolder`.
        chunks: Numbers of the chunks to train.
        count: Number of child processes.
        on_epoch: Called with a chunk's number and its finished epoch.
        on_chunk: Called with a chunk's number when it lies on disk.
        cancelled: Asked several times a second; the children are killed at once when it answers true.

    Raises:
        Cancelled: The caller asked to stop.
        WorkerFailed: A child ended early; the message is the end of its error output.
    """
    waiting = list(reversed(chunks))
    left = len(chunks)
    messages: queue.SimpleQueue[tuple[int, str]] = queue.SimpleQueue()
    with ExitStack() as stack:
        errors = stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8"))
        children = [stack.enter_context(_child(folder, errors)) for _ in range(min(count, left))]
        for number, child in enumerate(children):
            threading.Thread(target=_relay, args=(child, number, messages), daemon=True).start()
        while left:
            stop_if(cancelled)
            try:
                number, line = messages.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                continue
            if not line:
                # Children are ended only by us, so this one failed.
                code = children[number].wait()
                errors.seek(0)
                tail = " ".join(errors.read().strip().splitlines()[-_LINES_OF_ERROR:])
                raise WorkerFailed(f"a training process ended with code {code}: {tail or 'no message'}")
            said = json.loads(line)
            if "epoch" in said:
                on_epoch(said["chunk"], said["epoch"])
                continue
            if "done" in said:
                left -= 1
                on_chunk(said["chunk"])
            if waiting:
                stream = children[number].stdin
                assert stream is not None
                stream.write(f"{waiting.pop()}\n")
                stream.flush()
