"""Is anything lost when a process is killed? ``python -m benchmarks.kill_trials [--trials 200] [--seed 0]``.

A child writes one item after another and says so when each call has returned; it gets kill −9 at a random moment.
Then everything in the workspace is read the way the app reads it: what was acknowledged must be there (or something
newer), and whatever is visible must be whole. Seven write paths take turns. The answer is a line of JSON.

Two things are left out, both to spare the start of an interpreter a trial: jobs are written but not started, and an
import is checked in the child itself.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import signal
import sqlite3
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from sane_engine import demo, jobs
from sane_engine.checkpoint import Refusal
from sane_engine.inventory import (
    checking,
    export_item,
    find_item,
    import_item,
    index,
    items,
    remove_item,
    taking_in,
)
from sane_engine.jobs import queue
from sane_engine.jobs.job import END, write_json
from sane_engine.sane import Sane, SaneConfig, encoder_folders, load_encoder, pretrain
from sane_engine.workspace import strays, sweep, workspace_root
from sane_engine.zoo import Zoo, load_zoo, zoo_folders

Say = Callable[[str, int], None]
NAMES = ("first", "second")


def zoo_of(version: int) -> Zoo:
    """A zoo in which every number is the version."""
    table = pd.DataFrame({"model": ["a", "b"], "epoch": [0, 0], "accuracy": [float(version)] * 2})
    return Zoo.from_models("trial", table, [{"0.weight": torch.full((64, 64), float(version))}] * 2)


def version_of(zoo: Zoo) -> int:
    """The version; fails unless every number agrees."""
    found = {float(value) for row in range(2) for value in zoo.tensors(row)["0.weight"].unique()}
    found |= set(zoo.table["accuracy"])
    assert len(found) == 1, found
    return int(found.pop())


class Trials:
    """What is written, and what is read back."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        table = pd.DataFrame({"model": [f"m{i}" for i in range(12)], "epoch": 0, "split": "train"})
        models = [{"a.weight": torch.randn(8, 6, generator=generator)} for _ in range(12)]
        zoo = Zoo.from_models("small", table, models)
        shape = SaneConfig(steps=2, batch_size=4, latent=4, d_model=8, heads=2, feedforward=16, layers=1)
        self.encoder: Sane = pretrain(zoo, shape)
        self.kept = demo.precompute(zoo, self.encoder)
        zoo_of(0).save(workspace_root() / "zoos" / "exported")
        self.zip = workspace_root().parent / "export.zip"
        export_item("zoo/exported", self.zip)

    # Writers: for ever, in the child.

    def write_zoo(self, version: int, say: Say) -> None:
        """One write."""
        name = NAMES[version % 2]
        zoo_of(version).save(workspace_root() / "zoos" / name)
        say(name, version)

    def write_encoder(self, version: int, say: Say) -> None:
        """One write."""
        name = NAMES[version % 2]
        self.encoder.provenance["version"] = version
        with torch.no_grad():
            next(self.encoder.parameters()).fill_(version / 7)
        self.encoder.save(workspace_root() / "encoders" / name)
        say(name, version)

    def write_embeddings(self, version: int, say: Say) -> None:
        """One write."""
        embeddings = replace(self.kept.embeddings, models=self.kept.embeddings.models * 0 + version % 2000)
        record = {**self.kept.record, "version": version}
        demo.write_precomputed(replace(self.kept, embeddings=embeddings, record=record))
        say("kept", version)

    def write_jobs(self, version: int, say: Say) -> None:
        """One write."""
        queue.start_queued = lambda: None  # what is written counts, not what runs
        job = jobs.submit(["workspace"], str(version), files={"spec.json": json.dumps([version] * 1000)})
        say(f"{job.id} queued", version)
        write_json(job.folder / END, {"state": "done", "outcome": "", "time": time.time()})
        say(f"{job.id} done", version)

    def write_index(self, version: int, say: Say) -> None:
        """One write."""
        items()
        index.write({("zoo", f"ghost-{version}"): index.Row("", version, 0.0, 0.0, "")})
        index.mark(("zoo", "exported"), time.time())
        say("index", version)

    def write_export(self, version: int, say: Say) -> None:
        """One write."""
        export_item("zoo/exported", self.zip)
        say("zip", version)

    def write_import(self, version: int, say: Say) -> None:
        """One write."""
        taking_in._check = lambda kind, folder: checking._zoo(folder)
        zoo_of(1_000_000 + version).save(workspace_root() / "zoos" / "made")
        export_item("zoo/made", made := self.zip.with_name(f"import-{os.getpid()}.zip"))
        remove_item("zoo/made")
        say(import_item(made).name, 1_000_000 + version)

    # Readers: in the parent, after the kill. Each answers with what it saw; what is not whole raises.

    def read_zoo(self, said: dict[str, int]) -> None:
        """All zoos."""
        seen = {name: version_of(load_zoo(folder)) for name, folder in zoo_folders().items() if _ours(folder)}
        assert all(seen[name] >= version for name, version in said.items()), (seen, said)

    def read_encoder(self, said: dict[str, int]) -> None:
        """All encoders."""
        for name, folder in encoder_folders().items():
            if _ours(folder):
                encoder = load_encoder(folder)  # compares the digest
                assert encoder.provenance["version"] >= said.get(name, 0)

    def read_embeddings(self, said: dict[str, int]) -> None:
        """The embeddings."""
        found = demo.read_precomputed(self.kept.folder)
        version = found.record.get("version")
        assert version is None or (found.embeddings.models == version % 2000).all()
        assert (version or 0) >= said.get("kept", 0)

    def read_jobs(self, said: dict[str, int]) -> None:
        """All jobs, which are then removed."""
        queue.start_queued = lambda: None  # what is written counts, not what runs
        found = {job.id: job for job in jobs.jobs()}
        for words, version in said.items():
            name, state = words.split()
            assert found[name].title == str(version)
            assert found[name].state == "done" or state == "queued"
        for job in found.values():
            assert json.loads((job.folder / "spec.json").read_text()) == [int(job.title)] * 1000
            if job.state != "done":
                jobs.cancel(job.id)
            jobs.remove(job.id)

    def read_index(self, said: dict[str, int]) -> None:
        """The index, and the list that is made with it."""
        with closing(sqlite3.connect(workspace_root() / index.FILE)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        listed = {item.key for item in items()}
        assert "zoo/exported" in listed and not [key for key in listed if "ghost" in key]

    def read_export(self, said: dict[str, int]) -> None:
        """The zip."""
        with zipfile.ZipFile(self.zip) as archive:
            assert archive.testzip() is None and "item.json" in archive.namelist()

    def read_import(self, said: dict[str, int]) -> None:
        """Everything that came in, which then goes."""
        for name, version in said.items():
            assert version_of(load_zoo(find_item(f"zoo/{name}").path)) == version
        for item in items():
            if item.kind.name == "zoo":
                version_of(load_zoo(item.path))
                if item.name.startswith("made"):
                    remove_item(item.key)


PATHS = ("zoo", "encoder", "embeddings", "jobs", "index", "export", "import")


def _ours(folder: Path) -> bool:
    return folder.is_relative_to(workspace_root())


def one_trial(trials: Trials, path: str, version: int, chance: random.Random, usual: float) -> tuple[int, int]:
    """Write until killed, then read; how often was written, and the next version."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            write = getattr(trials, f"write_{path}")
            while True:
                write(version, lambda name, v: os.write(writing, f"{name}\t{v}\n".encode()))
                version += 1
        except BaseException as error:
            os.write(writing, f"!{type(error).__name__}: {error}\t0\n".encode())
        os._exit(1)
    os.close(writing)
    # The first write has begun when the child runs; the kill hits any of the first few.
    select.select([reading], [], [], chance.uniform(0.0, 3.0) * usual)
    time.sleep(chance.uniform(0.0, 1.5) * usual)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    said: dict[str, int] = {}
    with os.fdopen(reading, "rb") as stream:
        for line in stream.read().decode().splitlines():
            name, _, number = line.partition("\t")
            assert not name.startswith("!"), line
            said[name] = int(number)
    getattr(trials, f"read_{path}")(said)
    return len(said), max([version, *said.values()]) % 1_000_000 + 2


def main(count: int, seed: int) -> int:
    """All trials; the exit status is 1 where anything was lost or half-written."""
    chance, started = random.Random(seed), time.monotonic()
    trials = Trials()
    usual: dict[str, float] = {}
    for path in PATHS:
        begun = time.monotonic()
        if path not in ("jobs", "import"):
            getattr(trials, f"write_{path}")(1, lambda name, version: None)
        usual[path] = max(0.02, time.monotonic() - begun) if path not in ("jobs", "import") else 0.1
    done, acknowledged, unfinished = Counter[str](), Counter[str](), Counter[str]()
    failures: list[str] = []
    version = 2
    for number in range(count):
        path = PATHS[number % len(PATHS)]
        before = len(strays(workspace_root()))
        try:
            said, version = one_trial(trials, path, version, chance, usual[path])
            acknowledged[path] += said
        except (AssertionError, Refusal, OSError, ValueError, KeyError) as error:
            failures.append(f"{path} {number}: {type(error).__name__} {error}")
            version += 100
        done[path] += 1
        unfinished[path] += len(strays(workspace_root())) > before
        if sys.stderr.isatty() or number % 20 == 19:
            print(f"{number + 1}/{count} {len(failures)} failures", file=sys.stderr, flush=True)
    left = len(strays(workspace_root()))
    sweep(older_than=-1.0)
    answer = {
        "trials": dict(done),
        "acknowledged": dict(acknowledged),
        "killed_while_writing": dict(unfinished),
        "failures": failures,
        "strays_before_sweep": left,
        "strays_after_sweep": len(strays(workspace_root())),
        "seed": seed,
        "seconds": round(time.monotonic() - started, 1),
    }
    print(json.dumps(answer))
    return 1 if failures or answer["strays_after_sweep"] else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    torch.set_num_threads(1)  # the child of a fork has one thread only
    with tempfile.TemporaryDirectory() as place:
        os.environ["SANE_WORKSPACE"] = str(Path(place) / "workspace")
        sys.exit(main(chosen.trials, chosen.seed))
