"""Samples to take home: deterministic bytes, and files that load where nothing of this project is."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import sane_zoos
import torch
from safetensors.torch import save_file

from sane_engine import Refusal, Zoo, load_tensors, load_zoo
from sane_engine.cli import main
from sane_engine.cli.sample import _anchors
from sane_engine.sampling import evaluate_samples, prepare
from sane_engine.sampling.download import FORMATS, bundle, write_folder, write_zip, zip_bytes
from sane_engine.sampling.evaluation import Evaluation
from sane_engine.sampling.model_code import model_code
from sane_engine.sampling.sampling import Prepared, Sample, draw_samples
from sane_engine.zoo.architecture_spec import ACTIVATIONS
from sane_engine.zoo.architectures import Architecture, ArchitectureSpec, ConvSpec, ResNetSpec, build

# Only torch and safetensors (and what they need themselves) can be imported; everything else is as if not there.
ALONE = """
import sys, importlib.abc
class Nothing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"sane_engine", "pandas", "numpy", "scipy", "sklearn", "streamlit", "umap"}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Nothing())
sys.path.insert(0, ".")
"""


@pytest.fixture(scope="module")
def digits() -> Zoo:
    zoo = load_zoo("digits")
    last = zoo.table["epoch"] == 25
    return zoo.select(np.flatnonzero(last & (zoo.table["split"] == "train"))[:30])


@pytest.fixture(scope="module")
def scored(digits: Zoo) -> tuple[Prepared, list[Sample], Evaluation]:
    prepared = prepare(None, digits, anchors=range(20), method="gaussian", space="weights", seed=3)
    samples = draw_samples(prepared, 3)
    found = evaluate_samples(samples, prepared, digits, twin=False)
    return prepared, found.of_samples(samples), found


@pytest.mark.parametrize("format", FORMATS)
def test_a_zip_loads_alone_and_scores_as_shown(
    scored: tuple[Prepared, list[Sample], Evaluation], format: str, tmp_path: Path
) -> None:
    prepared, samples, _ = scored
    assert prepared.task is not None
    files = bundle(samples, architecture=prepared.task.architecture, format=format)
    write_zip(files, tmp_path / "samples.zip")
    with zipfile.ZipFile(tmp_path / "samples.zip") as archive:
        for name in archive.namelist():
            (tmp_path / name).write_bytes(archive.read(name))
    test = prepared.task.test
    save_file({"images": test.images, "labels": test.labels}, tmp_path / "test.safetensors")
    snippet = re.search(r"```python\n(.*?)\n```", files["README.md"].decode(), re.S)
    assert snippet is not None and len(snippet.group(1).splitlines()) == 5
    code = (
        ALONE
        + snippet.group(1)
        + """
from safetensors.torch import load_file
test = load_file("test.safetensors")
print(float((model(test["images"]).argmax(1) == test["labels"]).float().mean()))
"""
    )
    outcome = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert outcome.returncode == 0, outcome.stderr
    record = json.loads(files["provenance.json"])
    assert float(outcome.stdout) == pytest.approx(record["samples"][0]["scores"]["accuracy"], abs=1e-6)
    assert record["seed"] == 3 and record["anchors"]["count"] == 20 and record["method"] == "gaussian"
    assert "numpy" not in files["model.py"].decode()


@pytest.mark.parametrize("format", FORMATS)
def test_same_seed_same_bytes(digits: Zoo, format: str) -> None:
    made = []
    for seed in (4, 4, 5):
        prepared = prepare(None, digits, anchors=range(20), method="kde-token", space="weights", seed=seed)
        made.append(zip_bytes(bundle(draw_samples(prepared, 2), architecture=digits.architecture, format=format)))
    assert made[0] == made[1] != made[2]
    with zipfile.ZipFile(io.BytesIO(made[0])) as archive:
        assert archive.namelist() == sorted(archive.namelist()) and archive.testzip() is None
        weights = [name for name in archive.namelist() if name.endswith(format)]
    assert weights == [f"kde-token-weights-seed4-{i:04d}.{format}" for i in range(2)]


@pytest.mark.parametrize("format", FORMATS)
def test_written_weights_are_the_samples(
    scored: tuple[Prepared, list[Sample], Evaluation], format: str, tmp_path: Path
) -> None:
    _, samples, _ = scored
    folder = write_folder(bundle(samples, format=format), tmp_path / "out")
    for each in samples:
        back = load_tensors(folder / f"{each.name}.{format}")
        assert list(back) == list(each.tensors)
        assert all(torch.equal(back[name], tensor) for name, tensor in each.tensors.items())


CNNS = [
    ArchitectureSpec(
        input_shape=(2, 9, 9), convolutions=(ConvSpec(3, 3, 2, 1), ConvSpec(4, 2, pool=2)), hidden=(7,), classes=5,
        activation=activation,
    )
    for activation in ACTIVATIONS
]  # fmt: skip


@pytest.mark.parametrize(
    "spec",
    [
        *CNNS,
        ArchitectureSpec(input_shape=(2, 9, 9), convolutions=(), hidden=()),
        ResNetSpec(input_shape=(2, 9, 9), widths=(4, 6), blocks=(2, 1), activation="gelu"),
    ],
)
def test_the_written_definition_computes_what_the_zoo_does(spec: Architecture) -> None:
    own = build(spec)
    scope: dict[str, type[torch.nn.Module]] = {}
    exec(model_code(spec), scope)
    written = scope["Model"]().eval()
    written.load_state_dict(own.state_dict())
    images = torch.randn(6, 2, 9, 9, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(written(images), own(images))


def test_a_zoo_without_architecture_says_so() -> None:
    zoo = sane_zoos.zoo(12)
    prepared = prepare(None, zoo, anchors=range(6), method="gaussian", space="weights")
    files = bundle(draw_samples(prepared, 1))
    assert "model.py" not in files and b"your own definition" in files["README.md"]


def test_command_line_writes_and_repeats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["sample", "digits", "--space", "weights", "--method", "gaussian", "--n", "2", "--seed", "7"]
    arguments += ["--anchors", "top 20 by test_accuracy", "--set", "scale=0.4", "--json", "--quiet"]
    reports = []
    for name in ("a.zip", "b.zip", "folder"):
        assert main([*arguments, "--out", str(tmp_path / name)]) == 0
        reports.append(json.loads(capsys.readouterr().out))
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    assert (tmp_path / "folder" / "model.py").exists()
    assert reports[0]["parameters"] == {"scale": 0.4} and reports[0]["anchors"]["count"] == 20
    # A folder of samples is replaced; one of anything else is not.
    assert main([*arguments, "--out", str(tmp_path / "folder")]) == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    assert main([*arguments, "--out", str(tmp_path / "mine")]) == 2
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_command_line_draws_for_another_architecture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = ArchitectureSpec(hidden=(30, 12))
    (tmp_path / "target.json").write_text(json.dumps(spec.to_json()))
    arguments = ["sample", "digits", "--space", "weights", "--n", "2", "--quiet", "--json"]
    arguments += ["--target", str(tmp_path / "target.json"), "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    name = json.loads(capsys.readouterr().out)["samples"][0]["name"]
    build(spec).load_state_dict(load_tensors(tmp_path / "out" / f"{name}.safetensors"))
    assert "nn.Linear(30, 12)" in (tmp_path / "out" / "model.py").read_text()
    (tmp_path / "target.json").write_text("[1]")
    assert main(arguments) == 2
    assert main([*arguments, "--score"]) == 2


@pytest.mark.parametrize(
    "extra",
    [
        ["--anchors", "__import__('os')"],
        ["--method", "nothing"],
        ["--space", "nowhere"],
        ["--set", "scale"],
        ["--new-head"],
        ["--set", "scale=wide"],
        ["--fine-tune", "soon"],
        ["--n", "0"],
        ["--seed", "-3"],
        ["--format", "onnx", "--out", "x.zip"],
    ],
)
def test_command_line_refuses_in_one_line(
    extra: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["sample", "digits", "--space", "weights", "--method", "gaussian", "--quiet", *extra]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and len(captured.err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_the_written_definition_has_the_activation_of_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    zoo = sane_zoos.symmetric_zoo()
    relu = zoo.with_columns(activation="relu")
    mixed = zoo.with_columns(activation=["tanh", "relu"] * (len(zoo) // 2))
    for one, says in ((relu, "F.relu"), (mixed, None), (zoo, "torch.tanh")):
        one.save(tmp_path / "zoo")
        arguments = ["sample", str(tmp_path / "zoo"), "--space", "weights", "--anchors", 'split == "train"']
        assert main([*arguments, "--n", "1", "--quiet", "--out", str(tmp_path / "out")]) == 0
        capsys.readouterr()
        written = tmp_path / "out" / "model.py"
        assert (says in written.read_text()) if says else not written.exists()


def test_a_query_may_be_longer_than_a_file_name() -> None:
    query = "test_accuracy > 0." + "9" * 300
    assert _anchors(query) == query


def test_nothing_to_write_is_refused() -> None:
    with pytest.raises(Refusal) as refusal:
        bundle([])
    assert refusal.value.code == "no-samples"
