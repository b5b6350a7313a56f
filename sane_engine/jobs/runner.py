"""The process around one job, ``python -m sane_engine.jobs.runner FOLDER``: it runs the command at low priority.

It starts the command, hears the wish to cancel, and writes down how it ended. It imports no torch, so it costs
little memory while it waits.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from sane_engine.jobs.job import (
    CANCEL,
    CHILD,
    END,
    LOG,
    PROGRESS,
    RESULT,
    RUNNER,
    identity,
    read_job,
    write_json,
)  # fmt: skip
from sane_engine.jobs.queue import start_queued, stop_tree
from sane_engine.progress import Cancelled
from sane_engine.workspace import sync

NICENESS = 10
_POLL = 0.05
GRACE = 1.0
"""Seconds from the wish to cancel until the command is killed: it may write its state, but the user waits."""


def main(folder: Path) -> int:
    """Run the job in a folder to its end."""
    if not _sign_in(folder):
        return 0
    signal.signal(signal.SIGTERM, _leave)
    job = read_job(folder)
    if job is None:
        return 1
    try:
        end = _run(folder, job.arguments)
    except (OSError, psutil.Error) as error:
        end = {"state": "failed", "outcome": f"The job could not be run ({error})."}
    write_json(folder / END, {**end, "time": time.time()})
    start_queued()
    return 0


def _send_back(child: int) -> None:
    """Let everything else go before the command; the runner, which sleeps, must hear a wish at once.

    Linux may share out the processor by session first and by niceness only within one; the command's session is its
    own, so there the whole session is made nice.
    """
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, child, NICENESS)
    with suppress(OSError):
        Path(f"/proc/{child}/autogroup").write_text(str(NICENESS), encoding="ascii")


def _sign_in(folder: Path) -> bool:
    """Write down who runs this job; false where another runner was first."""
    temporary = folder / f".{RUNNER}.{os.getpid()}"
    try:
        temporary.write_text(json.dumps(identity(os.getpid())), encoding="utf-8")
        os.link(temporary, folder / RUNNER)  # unlike a rename, fails where the name is taken
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _leave(number: int, frame: object) -> None:
    raise Cancelled("the machine is going down")


def _run(folder: Path, arguments: tuple[str, ...]) -> dict[str, Any]:
    partial = folder / f".{RESULT}.part"
    command = [sys.executable, "-m", "sane_engine", *arguments, "--json", "--progress", str(folder / PROGRESS)]
    with partial.open("wb") as out, (folder / LOG).open("ab") as log:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=log, start_new_session=True)
        _send_back(child.pid)
        process = psutil.Process(child.pid)
        asked_at: float | None = None
        try:
            write_json(folder / CHILD, identity(child.pid))
            while child.poll() is None:
                if asked_at is None and (folder / CANCEL).exists():
                    asked_at = time.monotonic()
                    child.send_signal(signal.SIGINT)
                if asked_at is not None and time.monotonic() - asked_at > GRACE:
                    stop_tree(process)
                time.sleep(_POLL)
        finally:
            stop_tree(process)
            child.wait()
    if child.returncode == 0:
        sync(partial)
        partial.replace(folder / RESULT)
        return {"state": "done", "outcome": ""}
    partial.unlink(missing_ok=True)
    if asked_at is not None:
        return {"state": "cancelled", "outcome": ""}
    if child.returncode < 0:
        name = signal.Signals(-child.returncode).name
        return {"state": "failed", "outcome": f"The process was ended from outside ({name}); was memory short?"}
    return {"state": "failed", "outcome": _last_line(folder / LOG)}


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("sane_engine: ")[:300] if lines else "It failed without a word."


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
