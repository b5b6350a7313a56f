"""Readers of other people's zoos: modelzoos in both dialects, folders and zips of checkpoints."""

from __future__ import annotations

import json
import math
import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sane_engine.checkpoint import Refusal
from sane_engine.progress import Cancelled
from sane_engine.zoo import load_zoo
from sane_engine.zoo.metadata import model_and_epoch
from sane_engine.zoo.modelzoos import load_modelzoos


def weights(mark: float, width: int = 4) -> dict[str, Tensor]:
    """A state dict that says which model and epoch it is of."""
    return {
        "fc.weight": torch.full((width, 3), mark),
        "fc.bias": torch.arange(float(width)),
        "n": torch.tensor(int(mark)),
    }


def write(path: Path, state: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
    return path


def ray_model(root: Path, name: str, epochs: list[int], *, first_row: int, **extra: Any) -> None:
    """The older dialect: rows numbered by ``training_iteration``, ``checkpoint_{e:06d}/checkpoints``."""
    config = {
        "model::type": "CNN",
        "model::nlin": "tanh",
        "optim::lr": 0.001,
        "seed": len(name),
        "model::layers": [8, 6],
    }
    lines = [
        json.dumps(
            {
                "train_acc": -999 if epoch == 0 else 0.5 + epoch / 100,
                "test_acc": 0.4 + epoch / 100,
                "test_loss": 2.0 - epoch / 100,
                "training_iteration": epoch,
                "config": config,
            }
            | extra
        )
        for epoch in range(first_row, max(epochs) + 1)
    ]
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "result.json").write_text("\n".join(lines) + '\n{"train_acc": 0.5, "trunc')
    (folder / "params.json").write_text(json.dumps(config))
    for epoch in epochs:
        write(folder / f"checkpoint_{epoch:06d}" / "checkpoints", weights(float(epoch)))
        write(folder / f"checkpoint_{epoch:06d}" / "optimizer", {"state": {}, "param_groups": []})


def epoch_model(root: Path, name: str, epochs: list[int], **extra: Any) -> None:
    """The newer dialect: rows with ``epoch``, ``checkpoint_{e}`` files."""
    folder = root / name
    folder.mkdir(parents=True)
    rows = [
        {"epoch": e, "training_iteration": e + 1, "train_acc": 0.9, "test_acc": e / 100} | extra for e in epochs
    ]
    (folder / "result.json").write_text("\n".join(map(json.dumps, rows)) + "\n")
    (folder / "params.json").write_text(json.dumps({"model::nlin": "relu", "optim::wd": 0.01, "seed": 1}))
    for epoch in epochs:
        write(folder / f"checkpoint_{epoch}", weights(float(epoch)))


@pytest.mark.parametrize("first_row", [0, 1])
def test_ray_dialect_joins_on_the_iteration(tmp_path: Path, first_row: int) -> None:
    for name in ("NN_a", "NN_b", "NN_c"):
        ray_model(tmp_path / "zoo", name, [0, 2, 10], first_row=first_row)
    zoo = load_zoo(tmp_path / "zoo")
    assert zoo.table["model"].tolist() == ["NN_a"] * 3 + ["NN_b"] * 3 + ["NN_c"] * 3
    assert zoo.table["epoch"].tolist() == [0, 2, 10] * 3
    for row, epoch in enumerate(zoo.table["epoch"]):
        accuracy = zoo.table["test_accuracy"][row]
        assert math.isnan(accuracy) if epoch < first_row else accuracy == pytest.approx(0.4 + epoch / 100)
        assert zoo.tensors(row)["n"].item() == epoch
    measured = zoo.table[zoo.table["epoch"] > 0]
    assert measured["generalisation_gap"].to_numpy() == pytest.approx(0.1)
    # What Ray's trainable writes before the first epoch is no accuracy.
    assert zoo.table.loc[zoo.table["epoch"] == 0, "train_accuracy"].isna().all()
    assert zoo.table["learning_rate"].unique().tolist() == [0.001]
    assert zoo.table["activation"].unique().tolist() == ["tanh"]
    assert "model::layers" not in zoo.table
    assert zoo.provenance["unreadable_result_lines"] == 3
    assert len(zoo.dropped) == 0


def test_newer_dialect_joins_on_the_epoch(tmp_path: Path) -> None:
    epoch_model(tmp_path / "zoo" / "train", "m1", [0, 5, 50])
    epoch_model(tmp_path / "zoo" / "test", "m2", [5, 50])
    zoo = load_zoo(tmp_path / "zoo")
    assert zoo.table["model"].tolist() == ["test/m2"] * 2 + ["train/m1"] * 3
    assert zoo.table["test_accuracy"].tolist() == [0.05, 0.5, 0.0, 0.05, 0.5]
    assert zoo.stacked()["n"].tolist() == [5, 50, 0, 5, 50]
    assert zoo.table["weight_decay"].unique().tolist() == [0.01]


def test_dropped_models_are_listed_with_the_reason(tmp_path: Path) -> None:
    epoch_model(tmp_path / "zoo", "good", [1, 90])
    epoch_model(tmp_path / "zoo", "diverged", [1, 90], test_loss=math.nan)
    epoch_model(tmp_path / "zoo", "poor", [1, 5])
    epoch_model(tmp_path / "zoo", "died", [1])
    (tmp_path / "zoo" / "died" / "checkpoint_1").unlink()
    zoo = load_modelzoos(tmp_path / "zoo", minimum_accuracy=0.5)
    assert zoo.table["model"].unique().tolist() == ["good"]
    reasons = dict(zip(zoo.dropped["model"], zoo.dropped["reason"], strict=True))
    assert set(reasons) == {"diverged", "poor", "died"}
    assert "nan" in reasons["diverged"]
    assert "0.05" in reasons["poor"]
    assert zoo.provenance["dropped"] == 3
    shutil.rmtree(tmp_path / "zoo" / "good")
    with pytest.raises(Refusal, match="none of them usable"):
        load_modelzoos(tmp_path / "zoo", minimum_accuracy=0.5)


def test_modelzoos_reads_no_checkpoint_before_it_is_asked(tmp_path: Path) -> None:
    epoch_model(tmp_path / "zoo", "m1", [1, 2])
    (tmp_path / "zoo" / "m1" / "checkpoint_2").write_bytes(b"broken")
    zoo = load_zoo(tmp_path / "zoo")
    assert zoo.tensors(0)["n"].item() == 1
    with pytest.raises(Refusal, match="checkpoint_2"):
        zoo.tensors(1)


def test_architectures_of_one_modelzoo_are_groups(tmp_path: Path) -> None:
    for name, kind in (("m1", "small"), ("m2", "large"), ("m3", "small")):
        epoch_model(tmp_path / "zoo", name, [1])
        (tmp_path / "zoo" / name / "params.json").write_text(json.dumps({"model::type": kind}))
        write(tmp_path / "zoo" / name / "checkpoint_1", weights(1.0, 4 if kind == "small" else 6))
    zoo = load_zoo(tmp_path / "zoo")
    assert [g.tolist() for g in zoo.layout_groups()] == [[0, 2], [1]]
    write(tmp_path / "zoo" / "m3" / "checkpoint_1", weights(1.0, 9))
    with pytest.raises(Refusal, match="differs"):
        zoo.stacked([0, 2])


def test_modelzoos_become_native(tmp_path: Path) -> None:
    ray_model(tmp_path / "zoo", "NN_a", [1, 2], first_row=1)
    zoo = load_zoo(tmp_path / "zoo")
    again = load_zoo(zoo.save(tmp_path / "native"))
    pd.testing.assert_frame_equal(again.table, zoo.table)
    assert again.stacked()["n"].tolist() == [1, 2]


@pytest.fixture
def wild(tmp_path: Path) -> Path:
    """Files of several groups, a CSV, a text that is no checkpoint, and a row about a file that is missing."""
    root = tmp_path / "wild"
    rows = ["file, group, test_acc, note"]
    for group in range(6):
        for member in range(3):
            name = f"g{group}_{member}.pth"
            write(root / name, {"state_dict": weights(float(10 * group + member)), "epoch": 7})
            rows.append(f"{name}, g{group}, {90 + group}.5, =1+1")
    rows.append("missing.pth, g9, 10.0, x")
    (root / "metrics.csv").write_text("\n".join(rows))
    (root / "notes.txt").write_text("not a checkpoint")
    return root


def test_csv_gives_properties_and_groups_stay_together(wild: Path) -> None:
    reports: list[tuple[int, int]] = []
    zoo = load_zoo(wild, progress=lambda done, total, message: reports.append((done, total)))
    assert len(zoo) == 18
    assert reports[-1] == (19, 19)
    assert zoo.table["model"].tolist()[:4] == ["g0_0", "g0_1", "g0_2", "g1_0"]
    assert zoo.table["test_acc"].tolist()[:4] == [90.5, 90.5, 90.5, 91.5]
    assert zoo.table["test_accuracy"].tolist()[:4] == pytest.approx([0.905, 0.905, 0.905, 0.915])
    assert zoo.table["epoch"].unique().tolist() == [7]
    for seed in range(5):
        again = zoo.split(seed=seed).table
        assert (again.groupby("group")["split"].nunique() == 1).all()
        assert set(again["split"]) == {"train", "validation", "test"}
    reasons = dict(zip(zoo.dropped["model"], zoo.dropped["reason"], strict=True))
    assert set(reasons) == {"notes.txt", "missing.pth"}
    assert zoo.stacked()["n"].tolist() == [10 * g + m for g in range(6) for m in range(3)]


def test_a_zip_is_the_same_zoo(wild: Path, tmp_path: Path) -> None:
    folder = load_zoo(wild)
    with zipfile.ZipFile(tmp_path / "wild.zip", "w") as archive:
        for file in sorted(wild.iterdir()):
            archive.write(file, f"wild/{file.name}")
    zoo = load_zoo(tmp_path / "wild.zip")
    assert zoo.table["test_accuracy"].tolist() == folder.table["test_accuracy"].tolist()
    assert zoo.table["group"].tolist() == folder.table["group"].tolist()
    assert zoo.stacked()["n"].tolist() == folder.stacked()["n"].tolist()
    assert len(zoo.dropped) == 2


def test_a_zip_of_one_checkpoint_and_a_checkpoint_that_is_a_zip(tmp_path: Path) -> None:
    file = write(tmp_path / "only.pth", weights(3.0))
    with zipfile.ZipFile(tmp_path / "one.zip", "w") as archive:
        archive.write(file, "only.pth")
        archive.writestr("metrics.csv", "file,test_acc\nonly.pth,0.5\n")
    zoo = load_zoo(tmp_path / "one.zip")
    assert zoo.table[["model", "test_accuracy"]].to_numpy().tolist() == [["only", 0.5]]
    with pytest.raises(Refusal, match="not a zoo"):
        load_zoo(file)


def test_a_csv_that_unpacks_to_more_than_the_limit_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sane_engine.zoo.folder.MAX_CSV_BYTES", 1000)
    monkeypatch.setattr("sane_engine.zoo.metadata.MAX_CSV_BYTES", 1000)
    file = write(tmp_path / "only.pth", weights(3.0))
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(file, "only.pth")
        for number in range(3):
            archive.writestr(f"{number}.csv", "file,a\n" + "only.pth,1\n" * 1000)
    zoo = load_zoo(tmp_path / "bomb.zip")
    assert len(zoo) == 1
    assert {"0.csv", "1.csv", "2.csv"} <= set(zoo.dropped["model"])


def test_a_trajectory_is_one_model(tmp_path: Path) -> None:
    for run in ("a", "b"):
        for epoch in (0, 20, 100):
            write(tmp_path / "runs" / run / f"epoch_{epoch:03d}.pth", weights(float(epoch)))
    zoo = load_zoo(tmp_path / "runs")
    assert zoo.table[["model", "epoch"]].to_numpy().tolist() == [[r, e] for r in "ab" for e in (0, 20, 100)]
    alone = load_zoo(tmp_path / "runs" / "a")
    assert alone.table["model"].unique().tolist() == ["a"]
    assert alone.table["split"].unique().tolist() == ["train"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("epoch_020.pth", ("root", 20)),
        ("checkpoint_000012", ("root", 12)),
        ("checkpoint_000012/weights", ("root", 12)),
        ("model-e3.safetensors", ("model", 3)),
        ("runs/a/epoch=4-step=1200.ckpt", ("runs/a", 4)),
        ("net_ep7_final.pt", ("net_final", 7)),
        ("resnet20.th", ("resnet20", None)),
        ("vgg16-a1e5.pt", ("vgg16-a1e5", None)),
        ("mobile3/model.pt", ("mobile3/model", None)),
        ("v1.5", ("v1.5", None)),
    ],
)
def test_names_that_speak_of_epochs(name: str, expected: tuple[str, int | None]) -> None:
    model, epoch = model_and_epoch(name, "root")
    assert (model.replace("__", "_"), epoch) == expected


def test_files_of_several_architectures(tmp_path: Path) -> None:
    write(tmp_path / "zoo" / "small.pt", weights(1.0, 4))
    write(tmp_path / "zoo" / "large.pt", weights(1.0, 6))
    zoo = load_zoo(tmp_path / "zoo")
    assert [g.tolist() for g in zoo.layout_groups()] == [[0], [1]]
    again = load_zoo(zoo.save(tmp_path / "native"))
    assert [again.tensors(i)["fc.bias"].numel() for i in (0, 1)] == [6, 4]


def test_a_split_that_straddles_is_not_believed(tmp_path: Path) -> None:
    for name in ("a_epoch_1.pt", "a_epoch_2.pt", "b_epoch_1.pt"):
        write(tmp_path / "zoo" / name, weights(1.0))
    (tmp_path / "zoo" / "metrics.csv").write_text(
        "file,split\na_epoch_1.pt,train\na_epoch_2.pt,val\nb_epoch_1.pt,test\n"
    )
    zoo = load_zoo(tmp_path / "zoo")
    assert zoo.table["given_split"].tolist() == ["train", "validation", "test"]
    assert zoo.table.groupby("model")["split"].nunique().max() == 1
    assert "note" in zoo.provenance


@pytest.mark.parametrize("content", [b"", b"file\n\xff\xfe\x00", b'file,a\n"x.pt,1\n', b"a,b\n1,2\n"])
def test_a_bad_csv_is_listed_and_the_rest_is_read(tmp_path: Path, content: bytes) -> None:
    write(tmp_path / "zoo" / "x.pt", weights(1.0))
    (tmp_path / "zoo" / "metrics.csv").write_bytes(content)
    zoo = load_zoo(tmp_path / "zoo")
    assert len(zoo) == 1
    assert "metrics.csv" in zoo.dropped["model"].tolist()


def test_a_diverged_network_is_left_out_and_listed(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    for name in ("good", "also-good", "diverged"):
        state = weights(1.0)
        if name == "diverged":
            next(iter(state.values())).view(-1)[0] = math.nan
        write(folder / f"{name}.pt", state)
    (folder / "metrics.csv").write_text("file,test_accuracy\ngood.pt,0.9\nalso-good.pt,0.8\ndiverged.pt,0.1\n")
    archive = tmp_path / "runs.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for path in sorted(folder.iterdir()):
            packed.write(path, path.name)
    for zoo in (load_zoo(folder), load_zoo(archive)):
        assert sorted(zoo.table["test_accuracy"]) == [0.8, 0.9]
        assert len(zoo.dropped) == 1
        assert zoo.dropped.loc[0, "model"] == "diverged.pt"
        assert "not a number" in zoo.dropped.loc[0, "reason"]
    for name in ("good", "also-good"):
        (folder / f"{name}.pt").unlink()
    with pytest.raises(Refusal, match="not a number") as refusal:
        load_zoo(folder)
    assert refusal.value.code == "zoo-empty"


def test_nothing_to_read_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.pt").write_text("no checkpoint")
    (tmp_path / "file.pt").write_text("no checkpoint")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    for name in ("empty", "texts", "file.pt", "empty.zip"):
        with pytest.raises(Refusal) as refusal:
            load_zoo(tmp_path / name)
        assert "\n" not in refusal.value.line()


def test_reading_can_be_cancelled(wild: Path) -> None:
    asked: list[bool] = []
    with pytest.raises(Cancelled):
        load_zoo(wild, cancelled=lambda: asked.append(True) or len(asked) > 3)
    assert asked


def test_a_file_that_went_away_is_said(wild: Path) -> None:
    zoo = load_zoo(wild)
    zoo._source.cache.__init__(0)
    (wild / "g0_0.pth").unlink()
    with pytest.raises(Refusal, match=r"g0_0\.pth"):
        zoo.tensors(0)


def test_a_file_name_that_is_no_unicode_can_be_saved(tmp_path: Path) -> None:
    source = write(tmp_path / "zoo" / "a.pt", weights(1.0))
    try:
        source.rename(os.fsdecode(os.fsencode(source.parent) + b"/\xff.pt"))
    except OSError:
        pytest.skip("this file system takes Unicode names only")
    zoo = load_zoo(tmp_path / "zoo")
    assert zoo.table["model"].tolist() == ["?"]
    assert load_zoo(zoo.save(tmp_path / "native")).digest == zoo.digest


def sharded(root: Path, mark: float) -> None:
    """A checkpoint in two files and the index that names them."""
    root.mkdir(parents=True, exist_ok=True)
    save_file({"a": torch.full((3, 2), mark)}, root / "model-1.safetensors")
    save_file({"b": torch.full((4, 2), mark)}, root / "model-2.safetensors")
    index = {"metadata": {}, "weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (root / "model.safetensors.index.json").write_text(json.dumps(index))


def test_the_digest_of_a_sharded_checkpoint_is_of_its_shards(tmp_path: Path) -> None:
    for mark in (1.0, 2.0):
        sharded(tmp_path / "one", mark)
        sharded(tmp_path / "two", mark + 4)
        zoo = load_zoo(tmp_path)
        if mark == 1.0:
            first = zoo.digest
    assert float(zoo.tensors(0)["a"][0, 0]) == 2.0
    assert zoo.digest != first


def test_a_file_written_anew_is_not_taken_for_the_one_that_was_opened(wild: Path) -> None:
    zoo = load_zoo(wild)
    row = 0
    tensors = zoo.tensors(row)
    zoo.digest  # noqa: B018  (what is computed now is named by it)
    torch.save({name: tensor + 1 for name, tensor in tensors.items()}, wild / zoo.table["file"][row])
    fresh = pickle.loads(pickle.dumps(zoo))  # a process that has read nothing yet
    with pytest.raises(Refusal, match="written anew"):
        fresh.tensors(row)
