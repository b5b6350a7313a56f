"""What a job is on disk, and what state its files say it is in.

A job is a folder. Nobody keeps its state: it follows from which files are there and whether the process named in
them lives, so nothing can be out of date after a crash, a restart or a reload.

======================  ==============================================================================
``job.json``            what was asked: title, command, time; written once, whole, before all others
``runner.json``         the process that runs it: pid and start time (a pid alone may be reused)
``child.json``          the command's own process, likewise
``cancel``              somebody asked to stop
``ended.json``          how it ended; written once, whole
``progress.jsonl``      progress, a JSON object a line
``log.txt``             what the command wrote to standard error
``result.json``         what it wrote to standard output
======================  ==============================================================================
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from sane_engine.progress_log import Report, first, latest
from sane_engine.workspace import atomic_file

State = Literal["queued", "running", "cancelling", "cancelled", "failed", "done"]
ACTIVE: frozenset[State] = frozenset({"queued", "running", "cancelling"})
ENDED: frozenset[State] = frozenset({"cancelled", "failed", "done"})

JOB, RUNNER, CHILD, CANCEL, END = "job.json", "runner.json", "child.json", "cancel", "ended.json"
PROGRESS, LOG, RESULT = "progress.jsonl", "log.txt", "result.json"

# Start times are read from the same clock each time, but it may be set by a second or so in between.
_SAME_START = 2.0
_LOG_TAIL = 64 * 1024
_FEWEST_STEPS = 2  # to say how long the others will take


@dataclass(frozen=True)
class Job:
    """A job as it stands when it is looked at.

    Attributes:
        id: Name of its folder.
        title: What it does, for people.
        arguments: Of ``python -m sane_engine``.
        created: Seconds since 1970.
        state: See :data:`State`.
        started: Seconds since 1970, or None before it starts.
        ended: Likewise.
        report: The last line of progress, or None.
        begun: While it runs, the first line that told of finished steps of the same work, or None.
        outcome: Why it failed, in one line; empty otherwise.
        folder: Where its files lie.
    """

    id: str
    title: str
    arguments: tuple[str, ...]
    created: float
    state: State
    started: float | None
    ended: float | None
    report: Report | None
    outcome: str
    folder: Path
    begun: Report | None = None

    @property
    def kind(self) -> str:
        """The command, such as ``pretrain``."""
        return self.arguments[0]

    @property
    def share(self) -> float:
        """Part of the work that is done, 0 to 1."""
        return 1.0 if self.state == "done" else self.report.share if self.report else 0.0

    def remaining(self, now: float) -> float | None:
        """Seconds until it is done, if it goes on as it did; None where that cannot be said."""
        if self.state != "running" or self.report is None or self.begun is None:
            return None
        steps, seconds = self.report.done - self.begun.done, self.report.time - self.begun.time
        if steps < _FEWEST_STEPS or seconds <= 0.0:
            return None
        # What was done before the first step (imports, reading) is not counted: it does not come again.
        return max(0.0, seconds / steps * (self.report.total - self.report.done) - (now - self.report.time))

    def result(self) -> Any:
        """What the command answered, or None."""
        return _read(self.folder / RESULT)

    def log(self, lines: int = 50) -> str:
        """The last lines of the log."""
        try:
            with (self.folder / LOG).open("rb") as file:
                file.seek(0, 2)
                file.seek(max(0, file.tell() - _LOG_TAIL))
                text = file.read().decode("utf-8", errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object from a file, or None where there is none."""
    content = _read(path)
    return content if isinstance(content, dict) else None


def write_json(path: Path, content: dict[str, Any]) -> None:
    """A JSON object to a file, whole or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")


def identity(pid: int) -> dict[str, Any]:
    """Pid and start time of a process.

    Raises:
        psutil.NoSuchProcess: There is none.
    """
    return {"pid": pid, "started": psutil.Process(pid).create_time()}


def living(path: Path) -> psutil.Process | None:
    """The process that a file names, if it is that process and still runs."""
    content = read_json(path)
    if content is None:
        return None
    try:
        process = psutil.Process(int(content["pid"]))
        same = abs(process.create_time() - float(content["started"])) < _SAME_START
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except (psutil.Error, KeyError, TypeError, ValueError):
        return None


def read_job(folder: Path) -> Job | None:
    """The job in a folder, or None where there is no whole one."""
    asked = read_json(folder / JOB)
    if asked is None:
        return None
    try:
        title, created = str(asked["title"]), float(asked["created"])
        arguments = tuple(str(argument) for argument in asked["arguments"])
    except (KeyError, TypeError, ValueError):
        return None
    if not arguments:
        return None
    # The order matters: a job that ends while it is looked at must not seem to have died.
    alive = living(folder / RUNNER) is not None
    end = read_json(folder / END)
    ran = read_json(folder / RUNNER)
    cancelled = (folder / CANCEL).exists()
    outcome, ended, state = "", None, "queued"
    if end is not None:
        state = end["state"] if end.get("state") in ENDED else "failed"
        outcome, ended = str(end.get("outcome", "")), float(end.get("time", created))
    elif ran is not None and alive:
        state = "cancelling" if cancelled else "running"
    elif ran is not None or (folder / RUNNER).exists():
        state = "cancelled" if cancelled else "failed"
        outcome = "" if cancelled else "Its process ended without a word: killed, or the machine was restarted."
    elif cancelled:
        state = "cancelled"
    report = latest(folder / PROGRESS)
    return Job(
        id=folder.name,
        title=title,
        arguments=arguments,
        created=created,
        state=state,  # type: ignore[arg-type]  # one of State: the branches above know no other
        started=None if ran is None else float(ran.get("started", created)),
        ended=ended,
        report=report,
        outcome=outcome,
        folder=folder,
        begun=first(folder / PROGRESS, report.total) if report is not None and state == "running" else None,
    )
