"""The queue: what is to be done, how much of it at a time, and how it is stopped.

No process keeps the queue. Whoever submits, looks at or ends a job starts the next that may run, under a lock.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from sane_engine.checkpoint import Refusal
from sane_engine.jobs.job import (
    ACTIVE,
    CANCEL,
    CHILD,
    END,
    ENDED,
    JOB,
    LOG,
    PROGRESS,
    RESULT,
    RUNNER,
    Job,
    living,
    read_job,
    write_json,
)  # fmt: skip
from sane_engine.workspace import atomic_folder, workspace_root
from sane_engine.workspace import remove as remove_folder

OWN_FOLDER = "{job}"
"""In the arguments of a job: its own folder, for its state, so that a second try goes on where the first ended."""

PARALLEL_VARIABLE = "SANE_PARALLEL_JOBS"
LONGEST_QUEUE = 100
"""More waiting jobs than this are a script gone wild, not a wish."""

_CODE = Path(__file__).resolve().parents[2]
_LOCK_SECONDS = 10.0
_START_SECONDS = 10.0
_CHILDREN: list[subprocess.Popen[bytes]] = []  # kept so that ended ones are reaped, not left as zombies


def jobs_root() -> Path:
    """The folder of all jobs."""
    return workspace_root() / "jobs"


def parallel_limit() -> int:
    """How many jobs run at once: ``$SANE_PARALLEL_JOBS``, or all cores but one, which is for the app."""
    configured = os.environ.get(PARALLEL_VARIABLE, "")
    if configured.isdecimal() and int(configured) > 0:
        return int(configured)
    return max(1, (os.cpu_count() or 2) - 1)


@contextmanager
def _locked() -> Iterator[None]:
    root = jobs_root()
    root.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(root / ".lock", timeout=_LOCK_SECONDS):
            yield
    except Timeout as error:
        raise Refusal("jobs-busy", "The queue of jobs is busy.", "Try again in a moment.") from error


def submit(arguments: Sequence[str], title: str, *, files: Mapping[str, str] | None = None) -> Job:
    """Put a command into the queue and start it if there is room.

    Args:
        arguments: Of ``python -m sane_engine``; paths absolute. ``{job}`` at the beginning of one stands for the
            job's own folder.
        title: What it does, for people.
        files: Name → text, written into the job's folder: specifications, configurations.

    Raises:
        Refusal: The queue is full (``queue-full``) or busy.
        OSError: The workspace cannot be written.
    """
    if sum(job.state == "queued" for job in jobs()) >= LONGEST_QUEUE:
        raise Refusal("queue-full", f"{LONGEST_QUEUE} jobs are waiting already.", "Cancel some, or wait.")
    now = time.time()
    name = f"{datetime.fromtimestamp(now, UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(4)}"
    folder = jobs_root() / name
    own = [
        f"{folder}{argument.removeprefix(OWN_FOLDER)}" if argument.startswith(OWN_FOLDER) else argument
        for argument in arguments
    ]
    with atomic_folder(folder) as temporary:
        for file, text in (files or {}).items():
            (temporary / file).write_text(text, encoding="utf-8")
        write_json(temporary / JOB, {"title": title, "arguments": own, "created": now})
    start_queued()
    return find_job(name)


def jobs() -> list[Job]:
    """All jobs, the newest first. Starts what waits, if there is room."""
    found = _read_all()
    if any(job.state == "queued" for job in found) and _running(found) < parallel_limit():
        start_queued()
        found = _read_all()
    return found


def _read_all() -> list[Job]:
    for child in list(_CHILDREN):
        if child.poll() is not None:
            _CHILDREN.remove(child)
    try:
        folders = [entry for entry in jobs_root().iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    except OSError:
        return []
    found = [job for folder in folders if (job := read_job(folder)) is not None]
    return sorted(found, key=lambda job: (job.created, job.id), reverse=True)


def _running(found: Sequence[Job]) -> int:
    return sum(job.state in {"running", "cancelling"} for job in found)


def find_job(name: str) -> Job:
    """The job of that id.

    Raises:
        Refusal: There is none (``no-job``).
    """
    folder = jobs_root() / name
    job = read_job(folder) if folder.parent == jobs_root() and name and not name.startswith(".") else None
    if job is None:
        raise Refusal("no-job", f"There is no job {name[:60]!r}.", "See the list of jobs.")
    return job


def start_queued() -> None:
    """Start waiting jobs, the oldest first, as long as there is room."""
    with _locked():
        found = _read_all()
        room = parallel_limit() - _running(found)
        for job in reversed(found):
            if room <= 0:
                break
            if job.state == "queued":
                _start(job)
                room -= 1


def _start(job: Job) -> None:
    """Start the runner and wait until it has signed in, so that nobody counts this job as waiting any more."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    with (job.folder / LOG).open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "sane_engine.jobs.runner", str(job.folder)],
            cwd=_CODE,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    _CHILDREN.append(child)
    patience = time.monotonic() + _START_SECONDS
    while not (job.folder / RUNNER).exists() and child.poll() is None and time.monotonic() < patience:
        time.sleep(0.02)
    if not (job.folder / RUNNER).exists():
        with suppress(psutil.Error):
            psutil.Process(child.pid).kill()
        outcome = "Its process could not be started; the log says more."
        write_json(job.folder / END, {"state": "failed", "outcome": outcome, "time": time.time()})


def cancel(name: str) -> None:
    """Ask a job to stop: one that waits never starts, one that runs has ended within two seconds.

    Raises:
        Refusal: There is no such job.
    """
    job = find_job(name)
    if job.state in ACTIVE:
        with _locked():
            (job.folder / CANCEL).touch()


def again(name: str) -> None:
    """Put a job that ended back into the queue; with state of its own it goes on where it was.

    Raises:
        Refusal: There is no such job, or it has not ended (``job-active``).
    """
    with _locked():
        job = _ended(name)
        _stop_orphan(job)
        for file in (RESULT, PROGRESS, CHILD, CANCEL, END, RUNNER):  # the last removal makes it queued
            (job.folder / file).unlink(missing_ok=True)
    start_queued()


def remove(name: str) -> None:
    """Forget a job that ended, its log and its state; what it made elsewhere stays.

    Raises:
        Refusal: There is no such job, or it has not ended (``job-active``).
    """
    with _locked():
        job = _ended(name)
        _stop_orphan(job)
        remove_folder(job.folder)


def _ended(name: str) -> Job:
    job = find_job(name)
    if job.state not in ENDED:
        raise Refusal("job-active", f"{job.title} has not ended.", "Cancel it first.")
    return job


def _stop_orphan(job: Job) -> None:
    """A command whose runner was killed may still be at work on the same files."""
    if (process := living(job.folder / CHILD)) is not None:
        stop_tree(process)


def stop_tree(process: psutil.Process) -> None:
    """Kill a process and all its descendants."""
    with suppress(psutil.Error):
        for each in [*process.children(recursive=True), process]:
            with suppress(psutil.Error):
                each.kill()
