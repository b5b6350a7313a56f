"""How much does one user's job slow another's clicks? ``python -m benchmarks.clicks_beside_a_job [--clicks 60]``.

A session searches the map for one model after the other (each search draws another picture) while a pretraining
on the embedded zoo runs as a job. Every few clicks the job is suspended or goes on, so that both kinds of click
meet the same machine, whatever else it does. The clicks speak Streamlit's protocol (:mod:`benchmarks.app_client`),
so they are the server and no browser. At the end the job is cancelled, and the time that takes is told. The answer
is a line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from streamlit.proto.WidgetStates_pb2 import WidgetState

from benchmarks.app_client import Session
from sane_engine import jobs
from sane_engine.jobs import OWN_FOLDER, Job
from sane_engine.jobs.job import CHILD, living
from sane_engine.zoo import load_zoo
from tests.browser.running_app import server

_WARM_S = 20.0
_TURN = 5
_PATIENCE = 600.0


async def clicks(session: Session, box: str, names: list[str]) -> list[float]:
    """Seconds from each click to the end of its run."""
    found = []
    for name in names:
        run = await session.run(WidgetState(id=box, string_value=name))
        assert not run.problem and run.picture_s, run.problem
        found.append(run.seconds)
        await asyncio.sleep(0.1)
    return found


def start_job() -> Job:
    """A pretraining that takes minutes, once it is past its start."""
    out = f"{OWN_FOLDER}/encoder"
    arguments = ["pretrain", "digits", "--config", f"{OWN_FOLDER}/config.json", "--out", out]
    job = jobs.submit(arguments, "Pretraining", files={"config.json": json.dumps({"steps": 100_000})})
    patience = time.monotonic() + _PATIENCE
    while job.report is None or job.report.done < 2:
        assert job.state in jobs.ACTIVE and time.monotonic() < patience, job.log()
        time.sleep(0.2)
        job = jobs.find_job(job.id)
    return job


def stop_job(job: Job) -> float:
    """Cancel it; the seconds from the wish to the end that it wrote down."""
    asked = time.time()
    jobs.cancel(job.id)
    while (found := jobs.find_job(job.id)).state not in jobs.ENDED:
        time.sleep(0.02)
    return (found.ended or time.time()) - asked


def suspend(job: Job, *, stop: bool) -> None:
    """Let the command of a job, and what it started, stand still or go on."""
    command = living(job.folder / CHILD)
    assert command is not None, job.log()
    for process in [command, *command.children(recursive=True)]:
        (process.suspend if stop else process.resume)()


async def measure(address: str, count: int) -> dict[str, Any]:
    """Clicks beside the job, and while it stands still."""
    session = await Session(address).open()
    run = await session.run()
    await asyncio.sleep(_WARM_S)
    box = next(each.id for each in run.elements["text_input"] if each.label == "Search")
    names = load_zoo("digits").table["model"].unique().tolist()
    job = await asyncio.to_thread(start_job)
    steps = job.report.done if job.report is not None else 0
    found: dict[bool, list[float]] = {True: [], False: []}
    await clicks(session, box, names[-_TURN:])
    for turn in range(2 * count // _TURN):
        still = turn % 2 == 0
        suspend(job, stop=still)
        found[still] += await clicks(session, box, names[turn * _TURN % 300 :][:_TURN])
    job = jobs.find_job(job.id)
    seconds = await asyncio.to_thread(stop_job, job)
    await session.close()
    alone, beside = found[True], found[False]
    return {
        "clicks": len(alone),
        "alone_s": round(median(alone), 3),
        "beside_s": round(median(beside), 3),
        "ratio": round(median(beside) / median(alone), 2),
        "ratio_of_means": round(sum(beside) / sum(alone), 2),
        "steps_of_the_job_meanwhile": (job.report.done if job.report is not None else 0) - steps,
        "cancelled_after_s": round(seconds, 2),
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.clicks_beside_a_job", description=__doc__)
    parser.add_argument("--clicks", type=int, default=60)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        os.environ["SANE_WORKSPACE"] = place
        with server(Path(place)) as running:
            print(json.dumps(asyncio.run(measure(running, chosen.clicks))))
