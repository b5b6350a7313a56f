"""Layer tables: known answers, a row for every layer, and a parent process that stays as it was."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
import warnings
from collections import OrderedDict
from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from sane_engine.baselines import FEATURES, feature, layer_features, spectrum, zoo_layer_features
from sane_engine.baselines import spectral_pool as pool
from sane_engine.baselines.spectral_worker import DID_NOT_RUN
from sane_engine.progress import Cancelled
from sane_engine.zoo import Zoo


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def network(seed: int = 0) -> dict[str, Tensor]:
    return OrderedDict(
        {
            "conv1.weight": normal(8, 1, 5, 5, seed=seed),
            "conv1.bias": normal(8, seed=seed + 1),
            "conv2.weight": normal(6, 8, 2, 2, seed=seed + 2),
            "fc.weight": normal(20, 36, seed=seed + 3),
            "fc.bias": normal(20, seed=seed + 4),
        }
    )


def troubled() -> dict[str, Tensor]:
    tensors = network()
    tensors["bad.weight"] = normal(9, 9)
    tensors["bad.weight"][2, 3] = float("nan")
    tensors["zero.weight"] = torch.zeros(9, 9)
    tensors["constant.weight"] = torch.ones(9, 9)
    tensors["few.weight"] = normal(3, 9)
    tensors["single.weight"] = normal(1, 9)
    tensors["line.weight"] = normal(9, 9, 3)
    tensors["attention.in_proj_weight"] = normal(27, 9)
    tensors["norm.weight"] = normal(9)
    tensors["norm.bias"] = normal(9)
    tensors["half.weight"] = normal(16, 12).to(torch.bfloat16)
    return tensors


@pytest.fixture(scope="module")
def spectral() -> pd.DataFrame:
    """One run over a network with every kind of layer, checked to leave this process alone."""
    before = (list(warnings.filters), logging.getLogger().level, list(logging.getLogger().handlers))
    reports: list[tuple[int, int]] = []
    table = layer_features(troubled(), progress=lambda done, total, message: reports.append((done, total)))
    assert (list(warnings.filters), logging.getLogger().level, list(logging.getLogger().handlers)) == before
    assert "weightwatcher" not in sys.modules
    assert [done for done, _ in reports] == sorted(done for done, _ in reports)
    assert reports[-1] == (len(table), len(table))
    return table.set_index("name")


def test_every_layer_has_a_row_in_file_order(spectral: pd.DataFrame) -> None:
    assert list(spectral["layer"]) == list(range(len(spectral)))
    assert list(spectral.index) == list(layer_features(troubled(), "statistics")["name"])
    assert set(spectral.columns) == {"layer", "warning", "note", "reason"} | {
        f.name for f in FEATURES["weightwatcher"]
    }


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("bad", "1 of 81 weights are NaN"),
        ("zero", "All weights are zero"),
        ("few", "3 eigenvalues"),
        ("single", "A single output"),
        ("norm", "One value a channel"),
    ],
)
def test_a_layer_without_spectrum_says_why(spectral: pd.DataFrame, name: str, words: str) -> None:
    row = spectral.loc[next(label for label in spectral.index if label.startswith(name))]
    assert words in row["reason"]
    assert row[[f.name for f in FEATURES["weightwatcher"]]].isna().all()


def test_a_constant_layer_keeps_its_norms_and_loses_its_alpha(spectral: pd.DataFrame) -> None:
    row = spectral.loc["constant"]
    assert np.isnan(row["alpha"]) and np.isnan(row["alpha_weighted"])
    assert "No power-law fit" in row["reason"]
    assert row["log_norm"] == pytest.approx(np.log10(81))
    assert row["stable_rank"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("name", "tensor", "words"),
    [
        ("line", "line.weight", "the matrix 9 × 27"),
        ("attention.in_proj_weight", "attention.in_proj_weight", "as if"),
    ],
)
def test_what_the_package_skips_is_read_as_a_matrix_and_noted(
    spectral: pd.DataFrame, name: str, tensor: str, words: str
) -> None:
    row = spectral.loc[name]
    matrix = troubled()[tensor].double().numpy().reshape(len(troubled()[tensor]), -1)
    assert words in row["note"] and row["reason"] == ""
    assert row["log_spectral_norm"] == pytest.approx(2 * np.log10(np.linalg.norm(matrix, 2)), abs=1e-6)
    assert (spectral.loc[["conv1", "conv2", "fc"], "note"] == "").all()


@pytest.mark.parametrize("name", ["conv1", "conv2", "fc", "half"])
def test_norms_are_those_of_the_singular_values(spectral: pd.DataFrame, name: str) -> None:
    weight = troubled()[f"{name}.weight"].double().numpy()
    # Of a convolution WeightWatcher takes the matrix at each kernel position, times √½.
    matrices = weight.reshape(*weight.shape[:2], -1).transpose(2, 0, 1) * (0.5**0.5 if weight.ndim == 4 else 1)
    eigenvalues = np.linalg.svd(matrices, compute_uv=False).ravel() ** 2
    row = spectral.loc[name]
    assert row["reason"] == ""
    assert row["log_norm"] == pytest.approx(np.log10(eigenvalues.sum()), abs=1e-6)
    assert row["log_spectral_norm"] == pytest.approx(np.log10(eigenvalues.max()), abs=1e-6)
    assert row["stable_rank"] == pytest.approx(eigenvalues.sum() / eigenvalues.max(), rel=1e-6)
    assert row["num_evals"] == len(eigenvalues)
    assert (row["N"], row["M"]) == (max(weight.shape[:2]), min(weight.shape[:2]))
    assert row["alpha"] > 1
    assert row["alpha_weighted"] == pytest.approx(row["alpha"] * row["log_spectral_norm"])


def test_alpha_is_the_maximum_likelihood_exponent_of_its_tail(spectral: pd.DataFrame) -> None:
    found = spectrum(network(), "fc")
    tail = found.eigenvalues[found.eigenvalues >= found.xmin]
    assert found.alpha == pytest.approx(spectral.loc["fc", "alpha"])
    assert len(tail) == spectral.loc["fc", "num_pl_spikes"]
    # 20 eigenvalues: the package's estimate for large samples (it corrects a bias below 20).
    assert found.alpha == pytest.approx(1 + len(tail) / np.log(tail / found.xmin).sum())


def test_a_spectrum_of_no_spectrum_is_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match="All weights are zero"):
        spectrum(troubled(), "zero")
    with pytest.raises(KeyError):
        spectrum(troubled(), "nowhere")


def test_a_crashing_child_loses_only_its_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    # A stand-in for the worker: dies of the layer "1", answers the others.
    worker = (
        "import json, os, sys\n"
        "for line in sys.stdin:\n"
        "    keys = json.loads(line)['keys']\n"
        "    if '1' in keys: os.kill(os.getpid(), 9)\n"
        "    print(json.dumps({'rows': {key: {'error': 'seen'} for key in keys}}), flush=True)\n"
    )
    real = subprocess.Popen
    started: list[subprocess.Popen[str]] = []

    def start(command: list[str], **options: object) -> subprocess.Popen[str]:
        started.append(real([sys.executable, "-c", worker], **options))  # type: ignore[call-overload]  # passed on
        return started[-1]

    monkeypatch.setattr(pool.subprocess, "Popen", start)
    table = layer_features(network())
    assert list(table["reason"]) == [
        "seen",
        f"{DID_NOT_RUN}the analysis process was killed by signal 9 (out of memory?).",
        "seen",
    ]
    assert all(process.poll() is not None for process in started)


@pytest.mark.parametrize("ending", ["sys.exit(3)", "time.sleep(1000)"])
def test_a_child_that_ends_in_the_middle_of_an_answer_is_a_child_that_ended(
    monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    worker = f"import sys, time\nfor line in sys.stdin:\n    print('{{\"rows\": ', flush=True)\n    {ending}\n"
    real = subprocess.Popen
    monkeypatch.setattr(
        pool.subprocess, "Popen", lambda command, **options: real([sys.executable, "-c", worker], **options)
    )
    began = time.monotonic()
    table = layer_features(network(), cancelled=lambda: time.monotonic() > began + 30)
    assert len(table) == 3
    assert table["reason"].str.startswith(DID_NOT_RUN).all()


def test_cancelling_kills_the_children_within_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    real = subprocess.Popen
    started: list[subprocess.Popen[str]] = []

    def start(command: list[str], **options: object) -> subprocess.Popen[str]:
        started.append(real(command, **options))  # type: ignore[call-overload]  # passed on as they came
        return started[-1]

    monkeypatch.setattr(pool.subprocess, "Popen", start)
    asked: list[float] = []

    def cancelled() -> bool:
        if started:
            asked.append(time.monotonic())
        return bool(asked)

    with pytest.raises(Cancelled):
        layer_features({"fc.weight": normal(1500, 1500)}, cancelled=cancelled)
    assert time.monotonic() - asked[0] < 1
    assert [process.poll() for process in started] == [-9]


def test_statistics_are_those_of_numpy() -> None:
    tensors = network()
    table = layer_features(tensors, "statistics").set_index("name")
    for what, values in (("weight", tensors["fc.weight"]), ("bias", tensors["fc.bias"])):
        numbers = values.double().numpy()
        row = table.loc["fc"]
        assert row[f"{what}_mean"] == pytest.approx(numbers.mean())
        assert row[f"{what}_var"] == pytest.approx(numbers.var())
        expected = np.quantile(numbers, [0, 0.25, 0.5, 0.75, 1])
        assert row[[f"{what}_q{q}" for q in (0, 25, 50, 75, 100)]].to_numpy(dtype=float) == pytest.approx(expected)
    assert np.isnan(table.loc["conv2", "bias_mean"]) and table.loc["conv2", "reason"] == ""


def test_statistics_of_a_layer_with_nan_say_so() -> None:
    table = layer_features(troubled(), "statistics").set_index("name")
    assert "1 of 81 weights are NaN or infinite" in table.loc["bad", "reason"]
    assert np.isnan(table.loc["bad", "weight_mean"])
    assert (table.drop("bad")["reason"] == "").all()


def zoo_of(models: list[Mapping[str, Tensor]]) -> Zoo:
    table = pd.DataFrame(
        {
            "model": [f"m{number // 2}" for number in range(len(models))],
            "epoch": [number % 2 for number in range(len(models))],
            "split": "train",
        }
    )
    return Zoo.from_models("little", table, models)


@pytest.mark.parametrize("kind", ["weightwatcher", "statistics"])
def test_a_zoo_gets_the_rows_of_its_models(kind: str) -> None:
    other = {"fc.weight": normal(12, 10)}
    models: list[Mapping[str, Tensor]] = [network(0), other, network(10), network(20)]
    reports: list[int] = []
    table = zoo_layer_features(
        zoo_of(models), [3, 0, 1], kind, progress=lambda done, total, message: reports.append(done)
    )
    assert list(table.columns[:5]) == ["row", "model", "epoch", "layer", "name"]
    assert list(table["row"]) == [3, 3, 3, 0, 0, 0, 1]
    assert list(table["model"]) == ["m1", "m1", "m1", "m0", "m0", "m0", "m0"]
    assert reports == sorted(reports) and reports[-1] == 3
    single = layer_features(models[3], kind)
    columns = [f.name for f in FEATURES[kind]]
    pd.testing.assert_frame_equal(table.loc[:2, columns], single[columns])


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="Unknown kind"):
        layer_features(network(), "horoscope")  # type: ignore[arg-type]  # that is the point
    with pytest.raises(ValueError, match="needs an encoder"):
        layer_features(network(), "sane")
    with pytest.raises(KeyError):
        feature("sane", "horoscope")
