"""The command line: JSON out, one-line refusals, exit statuses."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from sane_engine.__main__ import build_parser, main
from sane_engine.cli.console import Console, plain, printable
from sane_engine.progress import Cancelled, stop_if
from sane_engine.zoo import Zoo, load_zoo


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    state = {
        "module.fc1.weight": torch.randn(16, 12, generator=generator),
        "module.fc1.bias": torch.randn(16, generator=generator),
        "module.steps": torch.tensor(7),
    }
    path = tmp_path / "model.th"
    torch.save({"state_dict": state, "best_prec1": 91.5}, path)
    return path


@pytest.fixture
def zoo_folder(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    n = 12
    stacked = {
        "fc.weight": torch.randn(n, 6, 8, generator=generator),
        "fc.bias": torch.randn(n, 6, generator=generator),
    }
    table = pd.DataFrame(
        {"model": [f"m{i}" for i in range(n)], "epoch": 1, "test_accuracy": [i / n for i in range(n)]}
    )
    return Zoo.from_stacked("tiny", table, stacked).save(tmp_path / "zoo")


def test_inspect_says_what_is_in_a_file(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(checkpoint)]) == 0
    (report,) = json.loads(capsys.readouterr().out)
    assert report["container"] == "torch-zip"
    assert report["key_path"] == ["state_dict"]
    assert report["prefixes_stripped"] == ["module."]
    assert report["parameters"] == 16 * 12 + 16
    assert report["tensors"][0] == {"name": "fc1.weight", "shape": [16, 12], "dtype": "float32"}
    assert report["dtypes"] == {"float32": 2, "int64": 1}
    assert len(report["sha256"]) == 64


def test_inspect_header_reads_no_weights(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(checkpoint)]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert main(["inspect", str(checkpoint), "--header"]) == 0
    assert json.loads(capsys.readouterr().out) == [whole[0] | {"sha256": None}]
    assert main(["inspect", str(checkpoint), "--header", "--layers", "statistics"]) == 2


def test_inspect_of_a_large_file_gives_the_same(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["inspect", str(checkpoint), "--layers", "statistics"]
    assert main(command) == 0
    whole = json.loads(capsys.readouterr().out)
    monkeypatch.setattr("sane_engine.intake.load.LARGE_BYTES", 10)
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out) == whole


def test_inspect_takes_limits(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(checkpoint), "--limit", "tensors=1"]) == 2
    assert "beyond the limits" in capsys.readouterr().err
    assert main(["inspect", str(checkpoint), "--limit", "tensors=9", "--limit", "file_bytes=1MiB"]) == 0
    assert main(["inspect", str(checkpoint), "--limit", "tensorz=9"]) == 2
    assert "tensorz" in capsys.readouterr().err


def test_inspect_adds_layer_tables(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(checkpoint), "--layers", "statistics", "--json"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    rows = json.loads(out)[0]["layers"]["statistics"]
    assert [row["layer"] for row in rows] == list(range(len(rows)))
    assert {"name", "reason"} <= set(rows[0])


def test_a_bad_file_is_refused_in_one_line_and_the_others_are_reported(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.pt").write_text("this is no checkpoint")
    assert main(["inspect", str(tmp_path / "bad.pt"), "--quiet"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "bad.pt" in captured.err
    assert main(["inspect", str(tmp_path / "bad.pt"), str(checkpoint), "--out", str(tmp_path / "report.json")]) == 2
    assert [report["file"] for report in json.loads((tmp_path / "report.json").read_text())] == [str(checkpoint)]


@pytest.mark.parametrize(
    "argv",
    [
        ["embed", "no-such-zoo", "--encoder", "no-such-encoder", "--out", "x"],
        ["pretrain", "no-such-zoo", "--out", "x"],
        ["train-zoo", "--spec", "no-such-file.json", "--out", "x"],
        ["inspect", "no-such-file.pt"],
    ],
)
def test_what_is_not_there_is_refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*argv, "--quiet"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("sane_engine: ")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    "argv", [["embed", "--project"], ["pretrain"], ["train-zoo", "--spec", "spec.json"]], ids=lambda argv: argv[0]
)
def test_a_folder_of_other_things_is_not_replaced(
    argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    assert main([*argv, "--out", str(tmp_path)]) == 2
    assert "not replaced" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").exists()


def test_wrong_contents_are_refused(zoo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text('{"latents": 3}')
    assert main(["pretrain", str(zoo_folder), "--config", str(tmp_path / "config.json"), "--out", "x"]) == 2
    assert "latents" in capsys.readouterr().err
    (tmp_path / "spec.json").write_text("{")
    assert main(["train-zoo", "--spec", str(tmp_path / "spec.json"), "--out", "x"]) == 2
    assert "spec.json" in capsys.readouterr().err


def test_pretrain_then_embed(zoo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = {
        "token_size": 9, "latent": 4, "d_model": 8, "layers": 1, "heads": 2, "feedforward": 8, "window": 8,
        "steps": 2, "batch_size": 2,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    encoder, out = tmp_path / "encoder", tmp_path / "embeddings"
    common = ["--quiet", "--seed", "3"]
    assert (
        main(
            ["pretrain", str(zoo_folder), "--config", str(tmp_path / "config.json"), "--out", str(encoder), *common]
        )
        == 0
    )
    trained = json.loads(capsys.readouterr().out)
    assert trained["config"]["seed"] == 3
    assert trained["zoo_digest"] == load_zoo(zoo_folder).digest
    assert main(["embed", str(zoo_folder), "--encoder", str(encoder), "--out", str(out), "--quiet"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["models"] == [12, 8]
    assert json.loads((out / "embeddings.json").read_text())["encoder_digest"] == trained["digest"]
    from sane_engine.sane import Embeddings

    assert Embeddings.load(out / "embeddings.safetensors").zoo_digest == trained["zoo_digest"]
    assert main(["reconstruct", str(zoo_folder), "--encoder", str(encoder), "--quiet"]) == 0
    scores = json.loads(capsys.readouterr().out)
    # Without --out it goes where the app looks, under a name that the other commands know.
    assert main(["pretrain", str(zoo_folder), "--config", str(tmp_path / "config.json"), *common]) == 0
    assert json.loads(capsys.readouterr().out)["digest"] == trained["digest"]
    by_name = ["embed", str(zoo_folder), "--encoder", f"{load_zoo(zoo_folder).name}-sane", "--out", str(out)]
    assert main([*by_name, "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["encoder_digest"] == trained["digest"]
    assert scores["encoder_digest"] == trained["digest"]
    assert scores["splits"] == trained["provenance"]["metrics"]
    assert trained["provenance"]["command"].startswith("python -m sane_engine pretrain")
    assert str(tmp_path) not in trained["provenance"]["command"], "a record must not tell of the machine"


def test_align_undoes_a_permutation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sane_engine import load_tensors, save_checkpoint

    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(12, generator=generator)
    b = {
        "0.weight": torch.randn(12, 5, generator=generator),
        "0.bias": torch.randn(12, generator=generator),
        "2.weight": torch.randn(3, 12, generator=generator),
        "2.bias": torch.randn(3, generator=generator),
    }
    a = {**b, "0.weight": b["0.weight"][order], "0.bias": b["0.bias"][order], "2.weight": b["2.weight"][:, order]}
    paths = [str(tmp_path / name) for name in ("a.safetensors", "b.safetensors", "aligned.pt")]
    save_checkpoint(a, paths[0])
    save_checkpoint(b, paths[1])
    assert main(["align", paths[0], paths[1], "--out", paths[2]]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["permutable_neurons"] == 12
    assert report["distance_before"] > 0.5 and report["distance_after"] == 0.0
    aligned = load_tensors(paths[2])
    assert all(torch.equal(aligned[name], b[name]) for name in b)
    save_checkpoint({"x": torch.randn(3, 3, 3), "y": torch.ones(2)}, paths[0])
    assert main(["align", paths[0], paths[0]]) == 2
    assert "no family" in capsys.readouterr().err


def test_align_walks_between_two_models_of_a_zoo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["align", "m0003@5", "m0007", "--zoo", "digits-independent", "--barrier", "--points", "3", "--quiet"]
    assert main(argv) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["a"], report["b"], report["permutable_neurons"]) == ("m0003@5", "m0007@25", 38)
    assert report["distance_after"] < report["distance_before"]
    assert report["flipped"] > 0, "the zoo knows that tanh is odd"
    walked, table = report["barrier"], load_zoo("digits-independent").table
    ends = [
        table.loc[(table["model"] == name) & (table["epoch"] == epoch), "test_accuracy"].item()
        for name, epoch in (("m0003", 5), ("m0007", 25))
    ]
    for line in (walked["line"]["accuracy_before"], walked["line"]["accuracy_after"]):
        assert [line[0], line[-1]] == pytest.approx(ends, abs=1e-6)
    assert walked["height_before"] > 0
    assert report["command"].startswith("python -m sane_engine align m0003@5 m0007 --zoo digits-independent --barr")

    for refused in (["m0003", "m0007", "--barrier"], ["m0003", "nobody", "--zoo", "digits-independent"]):
        assert main(["align", *refused]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_align_by_activations_of_a_zoo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sane_engine import load_tensors, load_zoo, save_checkpoint, symmetry_of_zoo

    zoo = load_zoo("digits")
    symmetry, b = symmetry_of_zoo(zoo), zoo.tensors(5)
    paths = [str(tmp_path / name) for name in ("a.safetensors", "b.safetensors", "aligned.pt", "images.pt")]
    save_checkpoint(symmetry.permute(b, symmetry.random(torch.Generator().manual_seed(0))), paths[0])
    save_checkpoint(b, paths[1])
    command = ["align", paths[0], paths[1], "--method", "activations", "--out", paths[2]]
    assert main([*command, "--zoo", "digits"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["distance_before"] > 0.5 and report["distance_after"] == 0.0
    assert all(torch.equal(tensor, b[name]) for name, tensor in load_tensors(paths[2]).items())
    save_checkpoint({"images": torch.randn(50, 1, 14, 14)}, paths[3])
    assert main([*command, "--zoo", "digits", "--inputs", paths[3]]) == 0
    assert json.loads(capsys.readouterr().out)["distance_after"] == 0.0
    assert main([*command, "--zoo", "digits", "--inputs", paths[0]]) == 2
    assert "1 × 14 × 14" in capsys.readouterr().err
    assert main(command) == 2
    assert "--zoo" in capsys.readouterr().err


def test_train_zoo_writes_a_zoo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = {
        "name": "two",
        "n_models": 2,
        "epochs": 1,
        "checkpoint_epochs": [0, 1],
        "architecture": {
            "input_shape": [1, 14, 14],
            "convolutions": [{"out": 2, "kernel": 5, "stride": 4}],
            "hidden": [],
        },
    }
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    argv = [
        "train-zoo",
        "--spec",
        str(tmp_path / "spec.json"),
        "--out",
        str(tmp_path / "zoo"),
        "--seed",
        "5",
        "--quiet",
    ]
    assert main(argv) == 0
    report = json.loads(capsys.readouterr().out)
    zoo = load_zoo(tmp_path / "zoo")
    assert (report["checkpoints"], report["models"], report["seed"]) == (4, 2, 5)
    assert report["digest"] == zoo.digest
    assert zoo.table["epoch"].tolist() == [0, 1, 0, 1]


def test_ctrl_c_asks_the_work_to_stop(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def work(arguments: Any, console: Console) -> int:
        os.kill(os.getpid(), signal.SIGINT)
        stop_if(console.cancelled)
        raise AssertionError("the work went on")

    monkeypatch.setattr("sane_engine.cli.inspect.run", work)
    before = signal.getsignal(signal.SIGINT)
    assert main(["inspect", "x"]) == 130
    assert signal.getsignal(signal.SIGINT) is before
    assert "stopped" in capsys.readouterr().err


def test_cancelled_work_is_not_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(arguments: Any, console: Console) -> int:
        raise Cancelled("stopped on request")

    monkeypatch.setattr("sane_engine.cli.inspect.run", work)
    assert main(["inspect", "x"]) == 130


def test_every_command_and_flag_has_help() -> None:
    parser = build_parser()
    commands = next(action for action in parser._actions if action.dest == "command")
    assert isinstance(commands.choices, dict)
    assert {"inspect", "embed", "train-zoo", "pretrain", "probe", "align", "jobs"} <= set(commands.choices)
    for command in commands.choices.values():
        assert command.description
        assert all(action.help for action in command._actions)


def test_wrong_usage_exits_with_two(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["inspect"])
    assert stop.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_json_is_strict() -> None:
    value = {"a": float("nan"), "b": [float("inf"), 1.5], "c": pd.NA, "d": Path("x"), "e": torch.tensor(2)}
    assert json.loads(json.dumps(plain(value), allow_nan=False)) == {
        "a": None,
        "b": [None, 1.5],
        "c": None,
        "d": "x",
        "e": 2,
    }
    assert printable("two\nlines\x1b[31m red") == "two lines [31m red"


def test_progress_is_throttled_but_the_end_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    for done in range(1001):
        console.progress(done, 1000, "step")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) <= 3
    assert lines[-1].startswith("100 %")


def test_a_file_without_layers_does_not_cost_the_report_of_the_others(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"ids": torch.arange(6)}, tmp_path / "whole.pt")
    assert main(["inspect", str(tmp_path / "whole.pt"), str(checkpoint), "--layers", "sane", "--quiet"]) == 2
    captured = capsys.readouterr()
    assert [Path(report["file"]).name for report in json.loads(captured.out)] == ["model.th"]
    assert captured.err.count("\n") == 1


def test_a_zoos_name_does_not_say_where_its_encoder_is_written(
    zoo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SANE_WORKSPACE", str(tmp_path / "workspace"))
    description = json.loads((zoo_folder / "zoo.json").read_text())
    (zoo_folder / "zoo.json").write_text(json.dumps(description | {"name": str(tmp_path / "elsewhere")}))
    (tmp_path / "config.json").write_text(
        json.dumps(
            {"token_size": 9, "d_model": 8, "heads": 2, "layers": 1, "feedforward": 8, "latent": 2, "steps": 1}
        )
    )
    assert main(["pretrain", str(zoo_folder), "--config", str(tmp_path / "config.json"), "--quiet"]) == 0
    written = Path(json.loads(capsys.readouterr().out)["encoder"])
    assert written.parent == tmp_path / "workspace" / "encoders"
    assert not (tmp_path / "elsewhere-sane").exists()


@pytest.mark.parametrize("wrong", [{"gamma": "0.1"}, {"seed": -1}, {"seed": 1.5}, {"learning_rate": None}])
def test_a_config_of_the_wrong_kind_is_refused_in_one_line(
    wrong: dict[str, Any], zoo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(wrong))
    assert main(["pretrain", str(zoo_folder), "--config", str(tmp_path / "config.json"), "--quiet"]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert next(iter(wrong)) in captured.err
