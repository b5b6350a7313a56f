"""Child processes that share a queue of spectral tasks: parallel, cancellable, and no crash takes all."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sane_engine.baselines.spectral_worker import DID_NOT_RUN
from sane_engine.progress import CancelCheck, stop_if

# A layer may take this long whatever its size (the child imports its libraries within the first task) …
_TIMEOUT_SECONDS = 180.0
# … and one second more for this much SVD cost, a tenth of what one slow core manages.
_COST_PER_SECOND = 2e8
_POLL_SECONDS = 0.1
_SINGLE_THREADED = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


@dataclass(frozen=True)
class Task:
    """Layers that one child analyses in one go.

    Attributes:
        file: safetensors file that holds them; it is deleted when its ``tasks_of_file`` tasks are done.
        keys: Tensor names in the file.
        cost: SVD cost, min(N, M)² · max(N, M) · kernel positions, summed over the keys.
        tasks_of_file: How many tasks read this file.
        esd: Whether the eigenvalues are wanted, too.
    """

    file: Path
    keys: tuple[str, ...]
    cost: float
    tasks_of_file: int
    esd: bool = False


class _Child:
    """One worker process and the thread that listens to it."""

    def __init__(self, events: queue.Queue[tuple[_Child, dict[str, Any] | None]], folder: Path) -> None:
        package_root = Path(__file__).resolve().parents[2]
        search_path = os.pathsep.join(filter(None, [str(package_root), os.environ.get("PYTHONPATH")]))
        environment = os.environ | dict.fromkeys(_SINGLE_THREADED, "1")
        # On a GPU the package works in half precision and drops ten times more eigenvalues.
        environment |= {"PYTHONPATH": search_path, "CUDA_VISIBLE_DEVICES": "", "MPLBACKEND": "Agg"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sane_engine.baselines.spectral_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            cwd=folder,
            text=True,
            encoding="utf-8",
        )
        self.task: Task | None = None
        self.deadline = 0.0
        self._events = events
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        try:
            for line in self.process.stdout:
                self._events.put((self, json.loads(line)))
        except ValueError:
            # Half a line of a child that died while it wrote; one that lives and writes nonsense is of no use.
            self.process.kill()
        finally:
            self._events.put((self, None))

    def start(self, task: Task) -> None:
        self.task = task
        self.deadline = time.monotonic() + _TIMEOUT_SECONDS + task.cost / _COST_PER_SECOND
        assert self.process.stdin is not None
        message = {"file": str(task.file), "keys": task.keys, "esd": task.esd}
        # A child that has just died is noticed by its listener; the task is then given to another.
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self._listener.join()
        for stream in (self.process.stdin, self.process.stdout):
            # Closing stdin flushes it, and there is nobody left to read.
            with contextlib.suppress(BrokenPipeError):
                if stream is not None:
                    stream.close()


def _why_it_ended(child: _Child, timed_out: bool) -> str:
    if timed_out:
        return f"{DID_NOT_RUN}the analysis took too long and was stopped."
    code = child.process.wait()
    ending = f"was killed by signal {-code} (out of memory?)" if code < 0 else f"ended with status {code}"
    return f"{DID_NOT_RUN}the analysis process {ending}."


def run_tasks(
    tasks: Iterator[Task],
    folder: Path,
    on_rows: Callable[[Task, dict[str, dict[str, Any]]], None],
    *,
    workers: int,
    cancelled: CancelCheck | None = None,
) -> None:
    """Run every task in one of up to ``workers`` children and hand its rows to ``on_rows``.

    A child that dies takes only its layer with it: a task of several layers is tried again one layer at a time, and
    the layer that kills a child again gets a row ``{"error": reason}``.

    Args:
        tasks: Produced one by one as children become free, so files may be written just in time.
        folder: Where the children run; private to this call.
        on_rows: Called in this thread with the task and the rows by key.
        workers: Most children at a time; as many are started as there are tasks.
        cancelled: Asked every tenth of a second.

    Raises:
        Cancelled: ``cancelled`` answered true; all children are dead by then.
    """
    events: queue.Queue[tuple[_Child, dict[str, Any] | None]] = queue.Queue()
    children: list[_Child] = []
    idle: list[_Child] = []
    again: deque[Task] = deque()
    finished_of_file: Counter[Path] = Counter()
    timed_out: set[_Child] = set()

    def finish(task: Task, rows: dict[str, dict[str, Any]]) -> None:
        on_rows(task, rows)
        finished_of_file[task.file] += 1
        if finished_of_file[task.file] == task.tasks_of_file:
            task.file.unlink(missing_ok=True)

    def hand_out() -> None:
        while idle or len(children) < workers:
            task = again.popleft() if again else next(tasks, None)
            if task is None:
                return
            if not idle:
                idle.append(_Child(events, folder))
                children.append(idle[0])
            idle.pop().start(task)

    try:
        hand_out()
        while any(child.task for child in children):
            stop_if(cancelled)
            for late in [child for child in children if child.task and time.monotonic() > child.deadline]:
                timed_out.add(late)
                late.process.kill()
            try:
                child, answer = events.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                continue
            task, child.task = child.task, None
            if answer is not None:
                idle.append(child)
                if task is not None:
                    finish(task, answer["rows"])
            else:
                reason = _why_it_ended(child, child in timed_out)
                child.stop()
                children.remove(child)
                if child in idle:
                    idle.remove(child)
                if task is not None and len(task.keys) == 1:
                    finish(task, {task.keys[0]: {"error": reason}})
                elif task is not None:
                    # One finished part keeps the file's count: the parts together replace one task.
                    finished_of_file[task.file] -= len(task.keys) - 1
                    cost = task.cost / len(task.keys)
                    again.extend(replace(task, keys=(key,), cost=cost) for key in task.keys)
            hand_out()
    finally:
        for child in children:
            child.stop()
