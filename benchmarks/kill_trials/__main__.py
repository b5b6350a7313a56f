"""Run the trials; see :mod:`benchmarks.kill_trials`."""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from benchmarks.kill_trials import __doc__ as description
from benchmarks.kill_trials import forks, server
from benchmarks.kill_trials.jobs import KilledJobs
from benchmarks.kill_trials.writers import all_paths
from sane_engine.checkpoint import Refusal
from sane_engine.workspace import strays, sweep, workspace_root

_WRONG = (AssertionError, Refusal, OSError, ValueError, KeyError)


class Tally:
    """What has been found."""

    def __init__(self) -> None:
        self.trials, self.acknowledged, self.unfinished = Counter[str](), Counter[str](), Counter[str]()
        self.failures: list[str] = []

    def count(self, path: str, acknowledged: int, *, unfinished: bool) -> None:
        """One more trial of a path."""
        self.trials[path] += 1
        self.acknowledged[path] += acknowledged
        self.unfinished[path] += unfinished


def main(count: int, seed: int, only: list[str]) -> int:
    """All trials; the exit status is 1 where anything was lost or half-written."""
    chance, started = random.Random(seed), time.monotonic()
    paths: dict[str, Any] = all_paths()
    names = [*list(paths)[:6], "server", *list(paths)[6:], "job"]
    names = [name for name in names if not only or name in only]
    usual = {name: forks.usual(path, 2) for name, path in paths.items() if name in names}
    killed_jobs: KilledJobs | None = None
    tally, version = Tally(), 100
    for number in range(count):
        before = len(strays(workspace_root()))
        path = names[number % len(names)]
        acknowledged = 0
        try:
            if path == "server":
                acknowledged = server.trial(number, chance)
            elif path == "job":
                killed_jobs = killed_jobs or KilledJobs(paths["encoder"])
                acknowledged = killed_jobs.trial(number, chance)
            else:
                outcome = forks.kill_while_writing(paths[path], version, chance, *usual[path])
                acknowledged, version = outcome.acknowledged, outcome.last
                paths[path].read(outcome.said)
        except _WRONG as error:
            tally.failures.append(f"{path} {number}: {type(error).__name__} {error}"[:1000])
            print(tally.failures[-1], file=sys.stderr, flush=True)
            version += 100
        tally.count(path, acknowledged, unfinished=len(strays(workspace_root())) > before)
        if sys.stderr.isatty() or number % 20 == 19:
            print(f"{number + 1}/{count}, {len(tally.failures)} failures", file=sys.stderr, flush=True)
    left = len(strays(workspace_root()))
    sweep(older_than=-1.0)
    answer = {
        "trials": dict(tally.trials),
        "acknowledged": dict(tally.acknowledged),
        "killed_while_writing": dict(tally.unfinished),
        "failures": tally.failures,
        "strays_before_sweep": left,
        "strays_after_sweep": len(strays(workspace_root())),
        "seed": seed,
        "seconds": round(time.monotonic() - started, 1),
    }
    print(json.dumps(answer))
    return 1 if tally.failures or answer["strays_after_sweep"] else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kill_trials",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="PATH",
        help="only this write path, or only 'job' or 'server'",
    )
    chosen = parser.parse_args()
    torch.set_num_threads(1)  # the child of a fork has one thread only
    with tempfile.TemporaryDirectory() as place:
        workspace = Path(place, "workspace")
        workspace.mkdir()
        os.environ["SANE_WORKSPACE"] = str(workspace)
        sys.exit(main(chosen.trials, chosen.seed, chosen.only))
