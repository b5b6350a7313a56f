"""Kill a job: its runner, its command, or both at once, in the middle of a pretraining."""

from __future__ import annotations

import json
import random
import time
from contextlib import suppress

import psutil

from benchmarks.kill_trials.writers import Encoders, own
from sane_engine import jobs
from sane_engine.jobs import OWN_FOLDER, Job
from sane_engine.jobs.job import CHILD, RUNNER, living
from sane_engine.sane import SaneConfig, encoder_folders, load_encoder
from sane_engine.workspace import workspace_root

_PATIENCE = 300.0
_STEPS = 60


class KilledJobs:
    """The same small pretraining again and again; only the seconds until the kill differ."""

    def __init__(self, encoders: Encoders) -> None:
        self.zoo = workspace_root() / "zoos" / "small"
        encoders.zoo.save(self.zoo)
        shape = SaneConfig(steps=_STEPS, batch_size=4, latent=4, d_model=8, heads=2, feedforward=16, layers=1)
        self.config = json.dumps(shape.to_json())
        started = time.monotonic()
        self.expected = load_encoder(self._done(self._submit("undisturbed"))).digest
        self.seconds = time.monotonic() - started

    def _submit(self, name: str) -> Job:
        out = workspace_root() / "encoders" / name
        arguments = ["pretrain", str(self.zoo), "--config", f"{OWN_FOLDER}/config.json", "--out", str(out)]
        arguments += ["--folder", f"{OWN_FOLDER}/state"]
        return jobs.submit(arguments, name, files={"config.json": self.config})

    def _wait(self, name: str) -> Job:
        patience = time.monotonic() + _PATIENCE
        while (job := jobs.find_job(name)).state not in jobs.ENDED:
            assert time.monotonic() < patience, f"{job.state} for {_PATIENCE:.0f} s: {job.log()}"
            time.sleep(0.05)
        return job

    def _done(self, job: Job) -> str:
        job = self._wait(job.id)
        assert job.state == "done", f"{job.state} {job.outcome} {job.log()}"
        return str((job.result() or {})["encoder"])

    def trial(self, number: int, chance: random.Random) -> int:
        """Start, kill, look, run again, compare; 1 where the kill came before the end."""
        job = self._submit(f"killed-{number}")
        time.sleep(chance.uniform(0.0, 1.05) * self.seconds)
        family = [living(job.folder / name) for name in chance.choice(((RUNNER,), (CHILD,), (RUNNER, CHILD)))]
        for process in family:
            if process is not None:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        job = self._wait(job.id)
        hit = job.state == "failed"
        assert job.id in {each.id for each in jobs.jobs()}
        for folder in encoder_folders().values():
            if own(folder):
                load_encoder(folder)  # whole, or it raises
        if hit:
            jobs.again(job.id)
        assert load_encoder(self._done(job)).digest == self.expected
        orphan = living(job.folder / CHILD)
        assert orphan is None, "the command outlived its job"
        jobs.remove(job.id)
        return int(hit)
