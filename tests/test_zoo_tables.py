"""What CSV files and file names say of checkpoints, and which files it is said of."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from test_zoo_readers import weights, write

from sane_engine.checkpoint import Refusal
from sane_engine.zoo import load_zoo


def folder_with(root: Path, csv: str) -> Path:
    for name in ("a.pt", "b.pt", "c.pt"):
        write(root / name, weights(1.0))
    (root / "runs.csv").write_text(csv)
    return root


def test_one_run_without_epochs_is_never_in_two_splits(tmp_path: Path) -> None:
    for number in range(8):
        for step in (100, 200, 300):
            write(tmp_path / f"run{number}-epoch1-step{step}.pt", weights(float(step)))
    zoo = load_zoo(tmp_path)
    assert len(zoo) == zoo.table["model"].nunique() == 24
    assert zoo.table["split"].nunique() == 3
    assert (zoo.table.groupby(zoo.table["file"].str[:4])["split"].nunique() == 1).all()
    assert (zoo.split(seed=5).table.groupby(zoo.table["file"].str[:4])["split"].nunique() == 1).all()


def test_a_csv_with_wider_rows_than_its_header_shifts_no_column(tmp_path: Path) -> None:
    zoo = load_zoo(folder_with(tmp_path, "file,acc\na.pt,0.5,\nb.pt,0.7,\n"))
    assert "acc" not in zoo.table
    assert "more values than its header" in zoo.dropped["reason"].iloc[0]


def test_a_csv_of_too_many_cells_is_not_parsed(tmp_path: Path) -> None:
    zoo = load_zoo(folder_with(tmp_path, "file,acc\n" + "," * 20_000_000))
    assert "cells" in zoo.dropped["reason"].iloc[0]


def test_columns_with_a_meaning_have_it_however_they_are_capitalised(tmp_path: Path) -> None:
    zoo = load_zoo(folder_with(tmp_path, "File,Epoch,Model\na.pt,3,m\nb.pt,4,m\nc.pt,3,n\n"))
    assert zoo.table[["model", "epoch"]].to_numpy().tolist() == [["m", 3], ["m", 4], ["n", 3]]


def test_an_epoch_that_no_run_reaches_is_refused_or_left_out(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="whole-numbered"):
        load_zoo(folder_with(tmp_path / "csv", "file,epoch\na.pt,1e30\nb.pt,2\nc.pt,3\n"))
    write(tmp_path / "own" / "a.pt", {"state_dict": weights(1.0), "epoch": 1e300})
    assert load_zoo(tmp_path / "own").table["epoch"].tolist() == [0]


def test_columns_of_a_csv_do_not_change_what_is_read_back(tmp_path: Path) -> None:
    zoo = load_zoo(folder_with(tmp_path / "zoo", "file,_layout,_row\na.pt,7,8\nb.pt,1,2\nc.pt,1,1\n"))
    again = load_zoo(zoo.save(tmp_path / "native"))
    pd.testing.assert_frame_equal(again.table, zoo.table)
    write(tmp_path / "zoo" / "d.pt", weights(1.0, width=5))
    with pytest.raises(Refusal, match="reserved"):
        load_zoo(tmp_path / "zoo").save(tmp_path / "mixed")


def test_a_row_for_a_name_that_two_files_bear_is_given_to_neither(tmp_path: Path) -> None:
    for run in ("run1", "run2"):
        write(tmp_path / run / "best.pt", weights(1.0))
    write(tmp_path / "run3" / "alone.pt", weights(1.0))
    (tmp_path / "metrics.csv").write_text("file,test_accuracy\nbest.pt,0.9\nalone.pt,0.5\n")
    zoo = load_zoo(tmp_path)
    known = zoo.table.set_index("file")["test_accuracy"]
    assert known["run3/alone.pt"] == 0.5
    assert known.drop("run3/alone.pt").isna().all()
    assert zoo.dropped.set_index("model")["reason"]["best.pt"].startswith("several files")


@pytest.mark.parametrize("values", ["91.5,55", "91.5%,55 %", "0.915,0.55"])
def test_accuracies_are_fractions_however_they_are_given(tmp_path: Path, values: str) -> None:
    train, test = values.split(",")
    for name in ("a.pt", "b.pt"):
        write(tmp_path / name, weights(1.0))
    (tmp_path / "metrics.csv").write_text(
        f"file,train_accuracy,test_accuracy\na.pt,{train},{test}\nb.pt,{train},{test}\n"
    )
    table = load_zoo(tmp_path).table
    assert table["train_accuracy"].tolist() == pytest.approx([0.915, 0.915])
    assert table["generalisation_gap"].tolist() == pytest.approx([0.365, 0.365])
