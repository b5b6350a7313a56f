"""``jobs``: see and steer what runs beside the app."""

from __future__ import annotations

import argparse
import shlex
import time
from typing import Any

from sane_engine.checkpoint import Refusal
from sane_engine.cli.console import Console
from sane_engine.jobs import Job, again, cancel, find_job, jobs, remove, submit


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Describe the command."""
    parser = commands.add_parser(
        "jobs",
        help="see and steer the jobs that run beside the app",
        description="List the jobs of the workspace, newest first; or submit, cancel, repeat or remove one.",
    )
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--submit", metavar="COMMAND", help="put a command into the queue, in quotation marks")
    action.add_argument("--cancel", metavar="ID", help="stop a job, or take it out of the queue")
    action.add_argument("--again", metavar="ID", help="queue a job that ended once more")
    action.add_argument("--remove", metavar="ID", help="forget a job that ended")
    action.add_argument("--log", metavar="ID", help="one job with the end of its log")
    return parser


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Do what was asked, then say how the jobs stand."""
    if arguments.submit is not None:
        words = shlex.split(arguments.submit)
        if not words or words[0] == "jobs":
            raise Refusal("no-command", "There is no command to run.", 'Give one, such as "pretrain digits".')
        console.emit(_row(submit(words, arguments.submit)))
        return 0
    for name, act in (("cancel", cancel), ("again", again), ("remove", remove)):
        if (chosen := getattr(arguments, name)) is not None:
            act(chosen)
    if arguments.log is not None:
        job = find_job(arguments.log)
        console.emit({**_row(job), "log": job.log().splitlines(), "result": job.result()})
    else:
        console.emit([_row(job) for job in jobs()])
    return 0


def _row(job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "title": job.title,
        "state": job.state,
        "share": round(job.share, 4),
        "message": job.report.message if job.report else "",
        "outcome": job.outcome,
        "created": job.created,
        "started": job.started,
        "ended": job.ended,
        "remaining_seconds": job.remaining(time.time()),
        "command": shlex.join(("python", "-m", "sane_engine", *job.arguments)),
    }
