"""How much does one user's job slow another's clicks? ``python -m benchmarks.clicks_beside_a_job [--clicks 30]``.

A session searches the map for one model after the other (each search draws another picture), in turns while nothing
else of ours runs and while a pretraining on the embedded zoo runs as a job. The clicks speak Streamlit's protocol
(:mod:`benchmarks.app_client`), so they are the server and no browser. The answer is a line of JSON.
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
from sane_engine.zoo import load_zoo
from tests.browser.running_app import server

_WARM_S = 20.0
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


def stop_job(job: Job) -> tuple[int, float]:
    """Cancel it; the steps it had done, and the seconds until it had ended."""
    done = (jobs.find_job(job.id).report or job.report).done  # type: ignore[union-attr]
    asked = time.monotonic()
    jobs.cancel(job.id)
    while jobs.find_job(job.id).state not in jobs.ENDED:
        time.sleep(0.02)
    return done, time.monotonic() - asked


async def measure(address: str, count: int, rounds: int) -> dict[str, Any]:
    """Clicks alone and beside the job, in turns, so that both meet the same machine."""
    session = await Session(address).open()
    run = await session.run()
    await asyncio.sleep(_WARM_S)
    box = next(each.id for each in run.elements["text_input"] if each.label == "Search")
    names = load_zoo("digits").table["model"].unique().tolist()
    alone: list[float] = []
    beside: list[float] = []
    stops: list[float] = []
    await clicks(session, box, names[-5:])
    for turn in range(rounds):
        first = 2 * turn * count
        alone += await clicks(session, box, names[first : first + count])
        job = await asyncio.to_thread(start_job)
        beside += await clicks(session, box, names[first + count : first + 2 * count])
        _, seconds = await asyncio.to_thread(stop_job, job)
        stops.append(seconds)
    await session.close()
    return {
        "clicks": len(alone),
        "alone_s": round(median(alone), 3),
        "beside_s": round(median(beside), 3),
        "ratio": round(median(beside) / median(alone), 2),
        "ratio_of_p90": round(sorted(beside)[int(0.9 * len(beside))] / sorted(alone)[int(0.9 * len(alone))], 2),
        "cancel_s": [round(seconds, 2) for seconds in stops],
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.clicks_beside_a_job", description=__doc__)
    parser.add_argument("--clicks", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        os.environ["SANE_WORKSPACE"] = place
        with server(Path(place)) as running:
            print(json.dumps(asyncio.run(measure(running, chosen.clicks, chosen.rounds))))
