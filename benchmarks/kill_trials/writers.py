"""Every write path of the workspace: what the child writes for ever, and what must be read after it was killed.

A path has ``write(version, say)``, which calls ``say(name, version)`` once a write is acknowledged, and
``read(said)``, which raises where something acknowledged is missing or something visible is not whole.
"""
# ruff: noqa: D102 - every path has these two methods, described above

from __future__ import annotations

import hashlib
import io
import json
import os
import sqlite3
import time
import zipfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from pages.components import opening
from sane_engine import baselines, demo, jobs
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
from sane_engine.probing import scores
from sane_engine.representations import spectra
from sane_engine.sampling.download import write_folder
from sane_engine.sane import Sane, SaneConfig, encoder_folders, load_encoder, pretrain
from sane_engine.workspace import assets_root, visible, workspace_root
from sane_engine.zoo import Zoo, load_zoo, zoo_folders

Say = Callable[[str, int], None]
Said = dict[str, int]
NAMES = ("first", "second")


def zoo_of(version: int, name: str = "trial") -> Zoo:
    """A zoo in which every number is the version."""
    table = pd.DataFrame({"model": ["a", "b"], "epoch": [0, 0], "accuracy": [float(version)] * 2})
    return Zoo.from_models(name, table, [{"0.weight": torch.full((64, 64), float(version))}] * 2)


def version_of(zoo: Zoo) -> int:
    """The version; fails unless every number agrees."""
    found = {float(value) for row in range(len(zoo)) for value in zoo.tensors(row)["0.weight"].unique()}
    found |= set(zoo.table["accuracy"])
    assert len(found) == 1, found
    return int(found.pop())


def own(folder: Path) -> bool:
    """Whether something lies in the workspace, and does not ship with the code."""
    return folder.is_relative_to(workspace_root())


class Zoos:
    """Zoos, saved over each other."""

    def write(self, version: int, say: Say) -> None:
        name = NAMES[version % 2]
        zoo_of(version).save(workspace_root() / "zoos" / name)
        say(name, version)

    def read(self, said: Said) -> None:
        seen = {name: version_of(load_zoo(folder)) for name, folder in zoo_folders().items() if own(folder)}
        assert all(seen[name] >= version for name, version in said.items()), (seen, said)


class Encoders:
    """Encoders, saved over each other; what is read is compared with its digest."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        table = pd.DataFrame({"model": [f"m{i}" for i in range(12)], "epoch": 0, "split": "train"})
        models = [{"a.weight": torch.randn(8, 6, generator=generator)} for _ in range(12)]
        self.zoo = Zoo.from_models("small", table, models)
        shape = SaneConfig(steps=2, batch_size=4, latent=4, d_model=8, heads=2, feedforward=16, layers=1)
        self.encoder: Sane = pretrain(self.zoo, shape)

    def write(self, version: int, say: Say) -> None:
        name = NAMES[version % 2]
        self.encoder.provenance["version"] = version
        with torch.no_grad():
            next(self.encoder.parameters()).fill_(version / 7)
        self.encoder.save(workspace_root() / "encoders" / name)
        say(name, version)

    def read(self, said: Said) -> None:
        seen = {n: load_encoder(f).provenance["version"] for n, f in encoder_folders().items() if own(f)}
        assert all(seen[name] >= version for name, version in said.items()), (seen, said)


class Embeddings:
    """Embeddings, maps and spectra of a zoo as an encoder sees it: one cache key, written again and again."""

    def __init__(self) -> None:
        shipped = demo.read_precomputed(assets_root() / "embeddings" / "digits--digits-sane")
        self.kept = replace(shipped, folder=workspace_root() / "embeddings" / shipped.folder.name)
        demo.write_precomputed(self.kept)

    def write(self, version: int, say: Say) -> None:
        embeddings = replace(self.kept.embeddings, models=self.kept.embeddings.models * 0 + version % 2000)
        record = {**self.kept.record, "version": version}
        demo.write_precomputed(replace(self.kept, embeddings=embeddings, record=record))
        say("kept", version)

    def read(self, said: Said) -> None:
        found = demo.read_precomputed(self.kept.folder)
        version = found.record.get("version", 0)
        assert version == 0 or (found.embeddings.models == version % 2000).all()
        assert version >= said.get("kept", 0)


class Samples:
    """A set of samples, written over each other."""

    def write(self, version: int, say: Say) -> None:
        content = f"{version:08d}".encode() * 20_000
        record = json.dumps({"version": version}).encode()
        files = {"sample-00.safetensors": content, "sample-01.safetensors": content, "provenance.json": record}
        write_folder(files, workspace_root() / "samples" / NAMES[version % 2])
        say(NAMES[version % 2], version)

    def read(self, said: Said) -> None:
        seen: Said = {}
        for marker in visible(workspace_root(), "samples/*/provenance.json"):
            version = seen[marker.parent.name] = json.loads(marker.read_text())["version"]
            for file in marker.parent.glob("*.safetensors"):
                assert file.read_bytes() == f"{version:08d}".encode() * 20_000
        assert all(seen[name] >= version for name, version in said.items()), (seen, said)


class Jobs:
    """The record of a job, from the queue to its end. Here none is started: that is ``kill_trials.jobs``."""

    def write(self, version: int, say: Say) -> None:
        queue.start_queued = lambda: None  # what is written counts, not what runs
        job = jobs.submit(["workspace"], str(version), files={"spec.json": json.dumps([version] * 1000)})
        say(f"{job.id} queued", version)
        write_json(job.folder / END, {"state": "done", "outcome": "", "time": time.time()})
        say(f"{job.id} done", version)

    def read(self, said: Said) -> None:
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


class Index:
    """The SQLite index, and the list that is made with it."""

    def write(self, version: int, say: Say) -> None:
        items()
        index.write({("zoo", f"ghost-{version}"): index.Row("", version, 0.0, 0.0, "")})
        index.mark(("zoo", "exported"), time.time())
        say("index", version)

    def read(self, said: Said) -> None:
        with closing(sqlite3.connect(workspace_root() / index.FILE)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        listed = {item.key for item in items()}
        assert "zoo/exported" in listed and not [key for key in listed if "ghost" in key]


class Export:
    """An item as one zip, written over the last one."""

    def __init__(self) -> None:
        zoo_of(0).save(workspace_root() / "zoos" / "exported")
        self.zip = workspace_root().parent / "export.zip"
        export_item("zoo/exported", self.zip)

    def write(self, version: int, say: Say) -> None:
        export_item("zoo/exported", self.zip)
        say("zip", version)

    def read(self, said: Said) -> None:
        with zipfile.ZipFile(self.zip) as archive:
            assert archive.testzip() is None and "item.json" in archive.namelist()


class Import:
    """A zip that comes in. It is checked in the child itself, which spares the start of an interpreter a trial."""

    def write(self, version: int, say: Say) -> None:
        taking_in._check = lambda kind, folder: checking._zoo(folder)
        name = f"made-{version}"
        zoo_of(version).save(workspace_root() / "zoos" / name)
        export_item(f"zoo/{name}", made := workspace_root().parent / f"import-{os.getpid()}.zip")
        remove_item(f"zoo/{name}")
        say(import_item(made).name, version)

    def read(self, said: Said) -> None:
        for name, version in said.items():
            assert version_of(load_zoo(find_item(f"zoo/{name}").path)) == version
        for item in items():
            if item.kind.name == "zoo":
                version_of(load_zoo(item.path))
                if item.name.startswith("made"):
                    remove_item(item.key)


class Removal:
    """An item that is removed: it is gone for every reader at once, or not at all."""

    def write(self, version: int, say: Say) -> None:
        zoo_of(version).save(workspace_root() / "zoos" / "removed")
        say("made", version)
        remove_item("zoo/removed")
        say("gone", version)

    def read(self, said: Said) -> None:
        seen = {item.name: item for item in items() if item.kind.name == "zoo"}
        if "removed" in seen:
            # Whole, and not one whose removal was acknowledged.
            assert version_of(load_zoo(seen["removed"].path)) > said.get("gone", 0)
            remove_item("zoo/removed")


class Uploads:
    """A zip that somebody uploads and keeps, as the page does it."""

    def __init__(self) -> None:
        opening._mine = dict  # no session here: nothing but what is kept is on anybody's list

    def write(self, version: int, say: Say) -> None:
        zoo = opening.open_upload("mine.zip", io.BytesIO(f"{version:08d}".encode() * 30_000))
        opening.keep(zoo)
        say(zoo.key, version)

    def read(self, said: Said) -> None:
        seen = {zoo.key: zoo for zoo in opening.opened_zoos()}
        assert set(said) <= set(seen), (said, seen)
        for path in visible(workspace_root(), "uploads/*.zip"):
            assert hashlib.sha256(path.read_bytes()).hexdigest()[:32] == path.stem
        for zoo in seen.values():
            opening.forget(zoo)


class Spectra:
    """The cache of WeightWatcher's answers, here with made-up ones."""

    def write(self, version: int, say: Say) -> None:
        baselines.zoo_layer_features = self._made_up  # the cache is on trial, not WeightWatcher
        zoo = zoo_of(version)
        spectra.cached_spectra(zoo)
        say(str(version), version)

    def _made_up(self, zoo: Zoo, rows: list[int], *_: object, **__: object) -> pd.DataFrame:
        found = pd.DataFrame({"row": rows, "layer": 0, "name": "0", "reason": "", "alpha": 1.0})
        return pd.concat([found.assign(layer=layer) for layer in range(500)], ignore_index=True)

    def read(self, said: Said) -> None:
        known: set[Any] = set()
        for path in visible(workspace_root() / "spectra", "*.parquet"):
            frame = pd.read_parquet(path)
            assert (frame.groupby("checkpoint").size() == 500).all()
            known |= set(frame["checkpoint"])
        for version in said.values():
            assert set(spectra.checkpoint_keys(zoo_of(version))) <= known
        for path in visible(workspace_root() / "spectra", "*.parquet"):
            path.unlink()


class Probes:
    """The table of a probe, one file that grows."""

    _PATH = Path("probes", "0123456789abcdef", "table.json")

    def write(self, version: int, say: Say) -> None:
        cell = {"representation": "raw", "target": "a", "kind": "numeric", "scale": "linear", "n_features": 1}
        numbers = dict.fromkeys((*scores.METRICS, *scores._COUNTS), float(version))
        cells = pd.DataFrame([{**cell, **numbers, "split": number, "seed": 0} for number in range(500)])
        scores.ProbeTable({"zoo": "x"}, cells, {}).save(workspace_root() / self._PATH)
        say("table", version)

    def read(self, said: Said) -> None:
        if "table" in said or (workspace_root() / self._PATH).exists():
            cells = json.loads((workspace_root() / self._PATH).read_text(encoding="utf-8"))["cells"]
            (version,) = {cell["r2"] for cell in cells}
            assert len(cells) == 500 and version >= said.get("table", 0)


def all_paths() -> dict[str, Any]:
    """Name → path; makes what they need."""
    encoders = Encoders()
    return {
        "zoo": Zoos(),
        "encoder": encoders,
        "embeddings": Embeddings(),
        "samples": Samples(),
        "jobs": Jobs(),
        "index": Index(),
        "export": Export(),
        "import": Import(),
        "removal": Removal(),
        "upload kept": Uploads(),
        "spectra": Spectra(),
        "probe table": Probes(),
    }
