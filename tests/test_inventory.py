"""What is in the workspace is what lies there; an item goes out and comes in whole, and nothing else comes in."""

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
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from sane_engine.checkpoint import Refusal
from sane_engine.cli import main
from sane_engine.inventory import (
    export_item,
    find_item,
    import_item,
    index,
    items,
    mark_used,
    rebuild,
    remove_item,
    taking_in,
)
from sane_engine.inventory.checking import _samples
from sane_engine.inventory.taking_out import FORMAT
from sane_engine.sampling.model_code import model_code
from sane_engine.zoo import Zoo, load_zoo
from sane_engine.zoo.architecture_spec import ArchitectureSpec


def small_zoo(name: str = "mine", seed: int = 0) -> Zoo:
    generator = torch.Generator().manual_seed(seed)
    table = pd.DataFrame({"model": ["a", "b"], "epoch": [1, 1], "accuracy": [0.5, 0.75]})
    models = [{"0.weight": torch.randn(3, 2, generator=generator)} for _ in range(2)]
    return Zoo.from_models(name, table, models)


@pytest.fixture
def filled(workspace: Path) -> Path:
    small_zoo().save(workspace / "zoos" / "mine")
    (workspace / "encoders" / "fine").mkdir(parents=True)
    (workspace / "encoders" / "fine" / "encoder.json").write_text(json.dumps({"digest": "ab" * 32}))
    (workspace / "encoders" / ".half.0a1b2c3d").mkdir()
    (workspace / "encoders" / ".half.0a1b2c3d" / "encoder.json").write_text("{}")
    (workspace / "encoders" / "empty").mkdir()
    (workspace / "samples" / "drawn").mkdir(parents=True)
    (workspace / "samples" / "drawn" / "provenance.json").write_text("{}")
    (workspace / "samples" / "drawn" / "sample-0.safetensors").write_bytes(bytes(1000))
    (workspace / "samples" / "drawn" / "model.py").write_text("print('code')")
    return workspace


def keys() -> list[str]:
    return sorted(item.key for item in items())


def test_whole_items_are_listed_with_their_size_and_digest(filled: Path) -> None:
    assert keys() == ["encoder/fine", "samples/drawn", "zoo/mine"]
    zoo = find_item("zoo/mine")
    assert zoo.bytes == sum(path.stat().st_size for path in zoo.path.iterdir())
    assert zoo.digest == load_zoo(zoo.path).digest and find_item("encoder/fine").digest == "ab" * 32
    small_zoo(seed=1).save(filled / "zoos" / "mine")
    assert find_item("zoo/mine").digest == small_zoo(seed=1).digest != zoo.digest


def test_the_index_is_never_the_truth(filled: Path) -> None:
    before = items()
    mark_used(filled / "zoos" / "mine")
    used = find_item("zoo/mine").used
    assert used >= find_item("zoo/mine").created
    file = filled / "index.sqlite3"
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    for content in (b"", b"no database at all" * 100, file.read_bytes()[:3000]):
        for suffix in ("-wal", "-shm"):
            file.with_name(file.name + suffix).unlink(missing_ok=True)
        file.write_bytes(content)
        assert [(item.key, item.bytes, item.digest) for item in items()] == [
            (item.key, item.bytes, item.digest) for item in before
        ]
    file.unlink()
    file.mkdir()  # cannot even be opened
    assert keys() == ["encoder/fine", "samples/drawn", "zoo/mine"]


def test_rebuilding_forgets_what_is_gone_and_keeps_when_things_were_used(filled: Path) -> None:
    items()
    index.write({("zoo", "ghost"): index.Row("", 5, 1.0, 1.0, "")})
    index.mark(("zoo", "mine"), time.time() + 1000)
    old = filled / "zoos" / ".old.sane-removed"
    old.mkdir()
    os.utime(old, (1.0, 1.0))
    assert [item.key for item in rebuild() if item.kind.name == "zoo"] == ["zoo/mine"]
    assert ("zoo", "ghost") not in index.read() and not old.exists()
    assert find_item("zoo/mine").used > time.time() + 900


def test_a_removed_item_is_gone_with_its_files(filled: Path) -> None:
    remove_item("zoo/mine")
    assert keys() == ["encoder/fine", "samples/drawn"] and not list((filled / "zoos").iterdir())
    for name in ("zoo/mine", "zoo/../encoders/fine", "", "encoder/.half.0a1b2c3d", "data/x"):
        with pytest.raises(Refusal) as caught:
            remove_item(name)
        assert caught.value.code == "no-item"


def test_a_zoo_goes_out_and_comes_in_exactly(filled: Path, tmp_path: Path) -> None:
    export_item("zoo/mine", tmp_path / "first.zip")
    export_item("zoo/mine", tmp_path / "second.zip")
    assert (tmp_path / "first.zip").read_bytes() == (tmp_path / "second.zip").read_bytes()
    with pytest.raises(Refusal) as caught:
        import_item(tmp_path / "first.zip")
    assert caught.value.code == "item-known"
    original = small_zoo()
    remove_item("zoo/mine")
    small_zoo(seed=5).save(filled / "zoos" / "mine")  # the name is taken by another zoo
    came = import_item(io.BytesIO((tmp_path / "first.zip").read_bytes()))
    assert came.key == "zoo/mine-2" and came.digest == original.digest
    back = load_zoo(came.path)
    pd.testing.assert_frame_equal(back.table, original.table)
    assert all(torch.equal(back.tensors(row)["0.weight"], original.tensors(row)["0.weight"]) for row in range(2))
    assert load_zoo(filled / "zoos" / "mine").digest == small_zoo(seed=5).digest


def test_a_digest_that_was_made_up_is_not_believed(filled: Path, tmp_path: Path) -> None:
    record = filled / "zoos" / "mine" / "zoo.json"
    forged = {**json.loads(record.read_text()), "weights_digest": "0" * 64, "digest": "1" * 64}
    record.write_text(json.dumps(forged))
    export_item("zoo/mine", tmp_path / "forged.zip")
    remove_item("zoo/mine")
    assert load_zoo(import_item(tmp_path / "forged.zip").path).digest == small_zoo().digest


def test_samples_go_out_without_code(filled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = ArchitectureSpec(hidden=(7,))
    (filled / "samples" / "drawn" / "provenance.json").write_text(json.dumps({"architecture": spec.to_json()}))
    assert main(["workspace", "--export", "samples/drawn", "--out", str(tmp_path / "s.zip"), "--quiet"]) == 0
    assert main(["workspace", "--remove", "samples/drawn", "--quiet"]) == 0
    capsys.readouterr()
    assert main(["workspace", "--import", str(tmp_path / "s.zip"), "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["item"] == "samples/drawn"
    came = filled / "samples" / "drawn"
    assert sorted(path.name for path in came.iterdir()) == ["model.py", "provenance.json", "sample-0.safetensors"]
    assert (came / "model.py").read_text() == model_code(spec)
    with pytest.raises(Refusal) as caught:
        import_item(tmp_path / "s.zip")
    assert caught.value.code == "item-known"
    (came / "sample-0.safetensors").write_bytes(b"others")
    assert import_item(tmp_path / "s.zip").key == "samples/drawn-2"
    remove_item("samples/drawn-2")
    assert main(["workspace", "--rebuild", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {row["item"] for row in listed["items"]} == {"encoder/fine", "samples/drawn", "zoo/mine"}
    assert listed["bytes"] >= sum(row["bytes"] for row in listed["items"])
    assert main(["workspace", "--export", "encoder/none"]) == 2


def zipped(change: Callable[[dict[str, Any], dict[str, bytes]], None]) -> io.BytesIO:
    """A zip of samples after ``change(manifest, entries)``."""
    files = {"provenance.json": b"{}", "a.safetensors": bytes(100)}
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "kind": "samples",
        "name": "drawn",
        "files": {n: {"bytes": len(c), "sha256": hashlib.sha256(c).hexdigest()} for n, c in files.items()},
    }
    entries = {f"files/{name}": content for name, content in files.items()}
    change(manifest, entries)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
        if manifest:
            archive.writestr("item.json", json.dumps(manifest))
    packed.seek(0)
    return packed


def put(name: str, content: bytes = b"x") -> Callable[[dict[str, Any], dict[str, bytes]], None]:
    def change(manifest: dict[str, Any], entries: dict[str, bytes]) -> None:
        entries[f"files/{name}"] = content
        manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    return change


HOSTILE: dict[str, tuple[str, Callable[[dict[str, Any], dict[str, bytes]], Any]]] = {
    "traversal": ("broken-item", put("../../evil.json")),
    "absolute": ("broken-item", put("/tmp/evil.json")),
    "backslashes": ("broken-item", put("..\\evil.json")),
    "folder": ("broken-item", put("inner/evil.json")),
    "hidden": ("broken-item", put(".hidden.json")),
    "code": ("broken-item", put("model.py")),
    "not declared": ("broken-item", lambda m, e: e.update({"files/extra.json": b"{}"})),
    "beside": ("broken-item", lambda m, e: e.update({"elsewhere.json": b"{}"})),
    "missing": ("broken-item", lambda m, e: e.pop("files/a.safetensors")),
    "no record": ("broken-item", lambda m, e: (e.pop("files/provenance.json"), m["files"].pop("provenance.json"))),
    "other bytes": ("broken-item", lambda m, e: e.update({"files/a.safetensors": b"y" * 100})),
    "other size": ("broken-item", lambda m, e: m["files"]["a.safetensors"].update(bytes=99)),
    "negative size": ("broken-item", lambda m, e: m["files"]["a.safetensors"].update(bytes=-1)),
    "odd digest": ("broken-item", lambda m, e: m["files"]["a.safetensors"].update(sha256="z" * 64)),
    "bomb": ("broken-item", put("b.safetensors", bytes(8_000_000))),
    "no manifest": ("not-an-item", lambda m, e: m.clear()),
    "other format": ("not-an-item", lambda m, e: m.update(format="sane-explorer/item/9")),
    "job": ("not-an-item", lambda m, e: m.update(kind="job")),
    "name no text": ("not-an-item", lambda m, e: m.update(name=["x"])),
    "kind no text": ("not-an-item", lambda m, e: m.update(kind=[])),
    "size a text": ("broken-item", lambda m, e: m["files"]["a.safetensors"].update(bytes="100")),
    "size a fraction": ("broken-item", lambda m, e: m["files"]["a.safetensors"].update(bytes=100.0)),
    "size without end": ("broken-item", lambda m, e: m["files"]["a.safetensors"].update(bytes=float("inf"))),
    "digest a number": ("broken-item", lambda m, e: m["files"]["a.safetensors"].update(sha256=1)),
    "files no object": ("broken-item", lambda m, e: m.update(files=[1])),
    "record no object": ("broken-item", put("provenance.json", b"[]")),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_zip_that_is_not_what_it_says_leaves_nothing(
    case: str, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(kind: str, folder: Path) -> str:  # in this process: starting one takes longer than the rest
        try:
            return _samples(folder)
        except Refusal as refusal:
            raise taking_in._broken(str(refusal)) from refusal

    monkeypatch.setattr(taking_in, "_check", check)
    code, change = HOSTILE[case]
    with pytest.raises(Refusal) as caught:
        import_item(zipped(change))
    assert caught.value.code == code and "\n" not in caught.value.line()
    left = [path for path in workspace.rglob("*") if path.is_file() and not path.name.startswith("index.sqlite3")]
    assert left == [] or {path.name for path in left} == {".import.lock"}
    assert not (workspace.parent / "evil.json").exists()


@pytest.mark.parametrize(
    "architecture",
    [
        {"family": "resnet", "blocks": [10**9, 1, 1]},
        {"hidden": ["1); import os; (1"]},
        {"hidden": 5},
        {"classes": "__import__('os')"},
        {"activation": ["tanh"]},
        [],
    ],
)
def test_no_code_is_made_of_what_is_no_architecture(architecture: object, tmp_path: Path) -> None:
    (tmp_path / "provenance.json").write_text(json.dumps({"architecture": architecture}))
    assert _samples(tmp_path) == _samples(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["provenance.json"]


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("drawn", "drawn"),
        ("../../x", "x"),
        (".hidden", "hidden"),
        ("", "samples"),
        ("A b\n\0c", "a-b-c"),
        ("…", "samples"),
    ],
)
def test_the_name_of_an_imported_item_leads_nowhere(
    name: str, kept: str, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taking_in, "_check", lambda kind, folder: "")
    assert import_item(zipped(lambda m, e: m.update(name=name))).name == kept
    assert import_item(zipped(lambda m, e: m.update(name=name))).name == f"{kept}-2"


def test_damaged_zips_are_refused_byte_by_byte(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taking_in, "_check", lambda kind, folder: "")
    whole = zipped(lambda m, e: None).getvalue()
    generator = np.random.default_rng(0)
    for length in [0, 1, 21, *generator.integers(22, len(whole), 30).tolist()]:
        with pytest.raises(Refusal):
            import_item(io.BytesIO(whole[:length]))
    for place in generator.integers(0, len(whole), 150).tolist():
        changed = bytearray(whole)
        changed[place] ^= 1 << int(generator.integers(8))
        try:
            item = import_item(io.BytesIO(bytes(changed)))
        except Refusal:
            continue
        # A flipped bit in a date or an attribute changes nothing that is kept.
        assert (item.path / "a.safetensors").read_bytes() == bytes(100)
        assert (item.path / "provenance.json").read_bytes() == b"{}"
        remove_item(item.key)
    many = io.BytesIO(b"PK\x05\x06" + bytes(8) + (2**31).to_bytes(4, "little") + bytes(6))
    with pytest.raises(Refusal, match="too many entries"):
        import_item(many)


def test_an_import_beyond_the_quota_is_refused_before_it_is_written(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SANE_QUOTA_GB", "0.0000001")
    with pytest.raises(Refusal) as caught:
        import_item(zipped(lambda m, e: None))
    assert caught.value.code == "over-quota" and keys() == []
