"""Training a population gives what training its models one by one gives, and survives being stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.testing import assert_close

from sane_engine.progress import Cancelled
from sane_engine.zoo import chunk_files, population
from sane_engine.zoo.architectures import build, evaluate
from sane_engine.zoo.datasets import Dataset, load_dataset
from sane_engine.zoo.hyperparameters import plan_models
from sane_engine.zoo.population import train_zoo
from sane_engine.zoo.single import score, train_single
from sane_engine.zoo.spec import ArchitectureSpec, ConvSpec, Range, SpecError, ZooSpec
from sane_engine.zoo.workers import WorkerFailed
from sane_engine.zoo.zoo import Zoo


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


@pytest.fixture(scope="module")
def varied() -> ZooSpec:
    return ZooSpec(
        "varied",
        n_models=10,
        epochs=2,
        checkpoint_epochs=(0, 1, 2),
        activation=("tanh", "relu"),
        initialisation=("uniform", "kaiming_normal"),
        optimiser=("momentum", "adamw"),
        dropout=Range(0.05, 0.3, zero=0.5),
        pruning=(0.5,),
        seed=3,
    )


@pytest.fixture(scope="module")
def zoo(varied: ZooSpec) -> Zoo:
    return train_zoo(varied, workers=0)


def assert_same_weights(first: Zoo, second: Zoo, **tolerance: float) -> None:
    left, right = first.stacked(), second.stacked()
    assert list(left) == list(right)
    for name, tensor in left.items():
        assert_close(
            tensor, right[name], **(tolerance or {"rtol": 0.0, "atol": 0.0}), msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("optimiser", ["sgd", "momentum", "adam", "adamw"])
def test_agrees_with_the_plain_loop(digits: Dataset, optimiser: str) -> None:
    spec = ZooSpec(
        "plain",
        n_models=3,
        epochs=2,
        checkpoint_epochs=(0, 1, 2),
        optimiser=(optimiser,),
        learning_rate={"sgd": 0.1, "momentum": 0.02, "adam": 0.003, "adamw": 0.003},
        weight_decay=(0.01,),
    )
    together = train_zoo(spec, workers=0)
    for number, plan in enumerate(plan_models(spec)):
        alone = train_single(spec, plan, digits)
        for position, (epoch, state) in enumerate(alone.items()):
            row = 3 * number + position
            assert together.table.loc[row, ["model", "epoch"]].tolist() == [plan.model, epoch]
            for name, tensor in together.tensors(row).items():
                assert_close(tensor, state[name], rtol=1e-4, atol=2e-5)
    assert not torch.equal(together.tensors(2)["fc2.bias"], together.tensors(0)["fc2.bias"])


def test_a_model_does_not_depend_on_its_neighbours(varied: ZooSpec, zoo: Zoo) -> None:
    fewer = train_zoo(replace(varied, n_models=4), workers=0)
    assert_same_weights(fewer, zoo.select(np.arange(len(fewer))), rtol=1e-4, atol=1e-5)


def test_training_is_repeatable_and_the_seed_matters(varied: ZooSpec, zoo: Zoo) -> None:
    small = replace(varied, n_models=2, epochs=1, checkpoint_epochs=(1,))
    torch.manual_seed(123)
    before = torch.get_rng_state()
    first = train_zoo(small, workers=0)
    assert torch.equal(before, torch.get_rng_state()), "training disturbed the global generator"
    torch.manual_seed(456)
    assert_same_weights(first, train_zoo(small, workers=0))
    other = train_zoo(replace(small, seed=4), workers=0)
    assert not torch.equal(first.stacked()["fc1.weight"], other.stacked()["fc1.weight"])


def test_child_processes_give_the_same_zoo(varied: ZooSpec, zoo: Zoo) -> None:
    seen: list[tuple[int, int]] = []
    through_children = train_zoo(varied, workers=2, progress=lambda done, total, _: seen.append((done, total)))
    assert_same_weights(zoo, through_children)
    pd.testing.assert_frame_equal(zoo.table, through_children.table)
    assert seen[0] == (0, 20)
    assert seen[-1] == (20, 20)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_the_number_of_threads_changes_nothing(varied: ZooSpec, zoo: Zoo) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert_same_weights(zoo, train_zoo(varied, workers=0))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_table_says_what_each_model_is(varied: ZooSpec, zoo: Zoo, digits: Dataset) -> None:
    table = zoo.table
    assert len(table) == 10 * 4
    assert table.groupby("model").size().eq(4).all()
    assert table.groupby("model")["split"].nunique().eq(1).all()
    assert {"epoch", "sparsity", "activation", "initialisation", "optimiser", "learning_rate", "seed"} <= set(table)
    assert {"weight_decay", "dropout", "batch_size", "train_loss", "test_loss"} <= set(table)
    for column in ("activation", "initialisation", "optimiser", "dropout"):
        assert table.groupby("model")[column].nunique().eq(1).all()
        assert table[column].nunique() > 1
    assert table["seed"].nunique() == 10
    np.testing.assert_allclose(
        table["generalisation_gap"], table["train_accuracy"] - table["test_accuracy"], atol=1e-12
    )
    for row in (2, 7, 39):
        architecture = {**zoo.architecture, "activation": table.loc[row, "activation"]}  # type: ignore[dict-item] # known here
        network = build(architecture)
        network.load_state_dict(zoo.tensors(row))
        accuracy, loss = score(network, digits.test_images, digits.test_labels)
        assert table.loc[row, "test_accuracy"] == pytest.approx(accuracy, abs=1e-6)
        assert table.loc[row, "test_loss"] == pytest.approx(loss, rel=1e-4)


def test_models_learn(zoo: Zoo) -> None:
    by_epoch = zoo.table[zoo.table["sparsity"] == 0].groupby("epoch")["test_accuracy"].median()
    assert by_epoch[0] < 0.2 < by_epoch[2]
    assert zoo.table["test_accuracy"].max() > 0.6


def test_pruned_copies_are_the_last_checkpoint_with_half_its_weights(zoo: Zoo) -> None:
    pruned = zoo.table.index[zoo.table["sparsity"] > 0]
    assert (zoo.table.loc[pruned, "epoch"] == 2).all()
    for row in pruned:
        whole, half = zoo.tensors(row - 1), zoo.tensors(row)
        weights = [name for name in whole if name.endswith("weight")]
        zeros = sum(int((half[name] == 0).sum()) for name in weights)
        assert zeros == round(0.5 * sum(whole[name].numel() for name in weights))
        kept = torch.cat([half[name].abs().flatten() for name in weights])
        gone = torch.cat([whole[name][half[name] == 0].abs().flatten() for name in weights])
        assert gone.max() <= kept[kept > 0].min()
        for name in whole:
            assert torch.equal(half[name][half[name] != 0], whole[name][half[name] != 0])
            if name.endswith("bias"):
                assert torch.equal(half[name], whole[name])


def test_a_shared_initialisation_is_shared(varied: ZooSpec) -> None:
    spec = replace(varied, n_models=5, epochs=1, checkpoint_epochs=(0,), initialisation=("uniform",), pruning=())
    own = train_zoo(spec, workers=0).stacked()["conv1.weight"]
    shared = train_zoo(replace(spec, shared_initialisation=True), workers=0).stacked()["conv1.weight"]
    assert len(torch.unique(own.flatten(1), dim=0)) == 5
    assert len(torch.unique(shared.flatten(1), dim=0)) == 1


def test_an_interrupted_run_continues_to_the_same_zoo(
    varied: ZooSpec, zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0

    def cancelled() -> bool:
        nonlocal asked
        asked += 1
        return asked > 8

    with pytest.raises(Cancelled):
        train_zoo(varied, folder=tmp_path, workers=0, cancelled=cancelled)
    finished = sorted(tmp_path.glob("chunk-*"))
    assert finished
    assert len(finished) < len(chunk_files.TrainingFolder(tmp_path, varied).chunks)
    # One file cut short, as by a full disk: it must be trained again, not believed.
    finished[0].write_bytes(finished[0].read_bytes()[:100])
    trained: list[int] = []
    train_chunk = population.train_chunk

    def counting(*arguments: Any, **keywords: Any) -> Any:
        trained.append(1)
        return train_chunk(*arguments, **keywords)

    monkeypatch.setattr(population, "train_chunk", counting)
    continued = train_zoo(varied, folder=tmp_path, workers=0)
    assert len(trained) == len(list(tmp_path.glob("chunk-*"))) - len(finished) + 1
    assert_same_weights(zoo, continued)
    pd.testing.assert_frame_equal(zoo.table, continued.table)


def test_a_folder_of_another_zoo_is_refused(varied: ZooSpec, tmp_path: Path) -> None:
    small = replace(varied, n_models=1, epochs=1, checkpoint_epochs=(1,))
    train_zoo(small, folder=tmp_path, workers=0)
    with pytest.raises(SpecError, match="another specification"):
        train_zoo(replace(small, seed=99), folder=tmp_path, workers=0)


def test_cancelling_ends_the_children_at_once(tmp_path: Path) -> None:
    spec = ZooSpec("long", n_models=64, epochs=1000, checkpoint_epochs=(1000,))
    stop_at: list[float] = []

    def progress(done: int, total: int, message: str) -> None:
        if done and not stop_at:
            stop_at.append(time.monotonic())

    with pytest.raises(Cancelled):
        train_zoo(spec, folder=tmp_path, workers=2, progress=progress, cancelled=lambda: bool(stop_at))
    assert time.monotonic() - stop_at[0] < 3
    assert not _children_working_on(tmp_path)


def _children_working_on(folder: Path) -> list[str]:
    commands: list[str] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            commands.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue  # ended while we looked
    return [command for command in commands if "sane_engine.zoo.worker" in command and str(folder) in command]


def test_a_child_that_dies_is_reported_with_its_reason(
    varied: ZooSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = chunk_files.TrainingFolder.prepare.__func__  # type: ignore[attr-defined] # a class method's function

    def without_data(kind: Any, path: Path, *rest: Any) -> Any:
        state = prepare(kind, path, *rest)
        (path / "dataset.safetensors").unlink()
        return state

    monkeypatch.setattr(chunk_files.TrainingFolder, "prepare", classmethod(without_data))
    with pytest.raises(WorkerFailed, match=r"dataset\.safetensors"):
        train_zoo(varied, folder=tmp_path, workers=1)


def test_diverged_models_are_listed_not_kept(digits: Dataset) -> None:
    spec = ZooSpec(
        "hot",
        n_models=6,
        epochs=1,
        checkpoint_epochs=(0, 1),
        activation=("relu",),
        optimiser=("sgd",),
        learning_rate=(0.05, 1e30),
    )
    hot = {plan.model for plan in plan_models(spec) if plan.learning_rate > 1}
    assert 0 < len(hot) < 6
    zoo = train_zoo(spec, workers=0)
    assert set(zoo.dropped["model"]) == hot
    assert zoo.dropped["reason"].str.contains("epoch 1").all()
    assert set(zoo.table["model"]) == {plan.model for plan in plan_models(spec)} - hot
    assert all(bool(torch.isfinite(tensor).all()) for tensor in zoo.stacked().values())
    cold = train_single(spec, next(p for p in plan_models(spec) if p.model not in hot), digits)
    assert_close(zoo.tensors(1)["conv2.weight"], cold[1]["conv2.weight"], rtol=1e-4, atol=1e-5)
    with pytest.raises(SpecError, match="finite"):
        train_zoo(replace(spec, learning_rate=(1e30,)), workers=0)


def test_provenance_repeats_the_zoo(varied: ZooSpec, zoo: Zoo, digits: Dataset) -> None:
    provenance = json.loads(json.dumps(zoo.provenance))
    assert ZooSpec.from_json(provenance["spec"]) == varied
    assert provenance["seed"] == varied.seed
    used = {"train_images": len(digits.train_labels), "test_images": len(digits.test_labels)}
    assert provenance["data"] == {"name": "digits", "sha256": digits.digest, **used}
    assert provenance["torch"] == torch.__version__
    assert provenance["seconds"] > 0
    assert "train_zoo" in provenance["command"]
    assert provenance["commit"] is None or len(provenance["commit"]) >= 40


def test_evaluate_matches_the_table_and_can_be_cancelled(zoo: Zoo, digits: Dataset) -> None:
    rows = zoo.table.index[zoo.table["activation"] == "relu"].to_numpy()
    stacked = zoo.stacked(rows)
    evaluate_all: Callable[..., Any] = evaluate
    accuracy, loss = evaluate_all(
        zoo.architecture, stacked, digits.test_images, digits.test_labels, activation="relu"
    )
    np.testing.assert_allclose(accuracy, zoo.table.loc[rows, "test_accuracy"], atol=1e-6)
    np.testing.assert_allclose(loss, zoo.table.loc[rows, "test_loss"], rtol=1e-4)
    with pytest.raises(Cancelled):
        evaluate_all(zoo.architecture, stacked, digits.test_images, digits.test_labels, cancelled=lambda: True)


@pytest.fixture(scope="module")
def pooled() -> ZooSpec:
    return ZooSpec(
        "pooled",
        train_images=200,
        scored_images=100,
        architecture=ArchitectureSpec(
            convolutions=(ConvSpec(4, 3, pool=2), ConvSpec(6, 3, pool=2)),
            hidden=(10,),
            activation="relu",
            flat_dropout="channels",
        ),
        n_models=6,
        epochs=3,
        checkpoint_epochs=(1, 2, 3),
        stop_epoch=(1, 3),
        activation=("relu",),
        optimiser=("momentum",),
        momentum=(0.5, 0.9),
        learning_rate=(0.05,),
        seed=5,
    )


def test_pooled_models_that_stop_early_agree_with_the_plain_loop(pooled: ZooSpec, digits: Dataset) -> None:
    few = digits.capped(pooled.train_images, pooled.seed)
    zoo = train_zoo(pooled, workers=0)
    plans = plan_models(pooled)
    assert {plan.momentum for plan in plans} == {0.5, 0.9}
    assert {plan.stop_epoch for plan in plans} == {1, 3}
    assert len(zoo) == sum(plan.stop_epoch for plan in plans)
    row = 0
    for plan in plans:
        for epoch, state in train_single(pooled, plan, few).items():
            assert zoo.table.loc[row, ["model", "epoch", "momentum"]].tolist() == [plan.model, epoch, plan.momentum]
            for name, tensor in zoo.tensors(row).items():
                assert_close(tensor, state[name], rtol=1e-3, atol=1e-4)
            row += 1
    (_, _), (images, labels) = few.scored(pooled.scored_images, pooled.seed)
    network = build(zoo.architecture or {})
    network.load_state_dict(zoo.tensors(0))
    assert zoo.table.loc[0, "test_accuracy"] == pytest.approx(score(network, images, labels)[0], abs=1e-6)
    assert len(images) == 100
    assert zoo.provenance["data"]["train_images"] == 200


def test_finished_models_are_collected_while_the_rest_is_missing(pooled: ZooSpec, tmp_path: Path) -> None:
    varied = replace(pooled, dropout=(0.0, 0.5))
    with pytest.raises(SpecError, match="nothing is finished"):
        train_zoo(varied, folder=tmp_path, collect=True)
    whole = train_zoo(varied, folder=tmp_path, workers=0)
    chunks = sorted(tmp_path.glob("chunk-*"))
    assert len(chunks) > 1
    chunks[0].unlink()
    part = train_zoo(varied, folder=tmp_path, collect=True)
    assert 0 < len(part) < len(whole)
    assert not chunks[0].exists()
    assert_same_weights(part, whole.select(np.flatnonzero(whole.table["model"].isin(part.table["model"]))))
