"""Pretraining learns, repeats itself, and survives interruption."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sane_zoos import SMALL, WIDE, stacked, zoo

from sane_engine import tokenize_batch
from sane_engine.checkpoint import Refusal
from sane_engine.progress import Cancelled
from sane_engine.sane import Sane, SaneConfig, load_encoder, pretrain, reconstruction
from sane_engine.sane.fidelity import reconstruct_tokens
from sane_engine.sane.linear_start import start_from_principal_components
from sane_engine.sane.pretraining import STATE_FILE, learning_rate
from sane_engine.sane.training_set import TrainingSet, rows_of_split
from sane_engine.zoo import Zoo

CONFIG = SaneConfig(
    token_size=10, latent=4, d_model=32, layers=1, heads=2, feedforward=48, window=16, steps=40, batch_size=8,
    gamma=0.1, noise=0.1, mixing=0.2, jitter=0.1, erase_probability=0.2, learning_rate=3e-3,
)  # fmt: skip


@pytest.fixture(scope="module")
def small_zoo() -> Zoo:
    return zoo()


@pytest.fixture(scope="module")
def trained(small_zoo: Zoo) -> Sane:
    return pretrain(small_zoo, CONFIG)


def test_same_seed_same_weights_whatever_the_global_generator_holds(small_zoo: Zoo, trained: Sane) -> None:
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002 - the legacy global state is what must not matter
    state = torch.get_rng_state()
    again = pretrain(small_zoo, CONFIG)
    assert again.digest == trained.digest
    assert torch.equal(state, torch.get_rng_state())
    assert pretrain(small_zoo, replace(CONFIG, seed=1)).digest != trained.digest


def test_dropout_is_seeded_too_and_leaves_the_global_generator_alone(small_zoo: Zoo) -> None:
    config = replace(CONFIG, dropout=0.2, steps=4)
    first = pretrain(small_zoo, config)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    assert pretrain(small_zoo, config).digest == first.digest
    assert torch.equal(state, torch.get_rng_state())


def run_until(stop: int, zoo_: Zoo, config: SaneConfig, folder: Path) -> None:
    """Train and cancel as soon as ``stop`` steps are reported."""
    done = 0

    def watch(step: int, total: int, message: str, /) -> None:
        nonlocal done
        done = step

    pretrain(zoo_, config, folder=folder, progress=watch, cancelled=lambda: done >= stop)


@pytest.mark.parametrize("stops", [[3], [9, 10, 33]])
def test_interrupted_run_ends_in_the_same_weights(
    small_zoo: Zoo, trained: Sane, tmp_path: Path, stops: list[int]
) -> None:
    for stop in stops:
        seen = [0]

        def watch(done: int, total: int, message: str, /, seen: list[int] = seen) -> None:
            seen[0] = done

        with pytest.raises(Cancelled):
            pretrain(
                small_zoo,
                CONFIG,
                folder=tmp_path / "run",
                progress=watch,
                cancelled=lambda s=stop, n=seen: n[0] >= s,
            )
        assert (tmp_path / "run" / STATE_FILE).exists()
    steps: list[int] = []
    finished = pretrain(small_zoo, CONFIG, folder=tmp_path / "run", progress=lambda done, *_: steps.append(done))
    assert finished.digest == trained.digest
    assert finished.provenance["history"] == trained.provenance["history"]
    assert [step for step in steps if step] == list(range(stops[-1] + 1, 41)), "it did not go on where it stopped"


def test_a_crash_between_saves_costs_only_the_steps_since(small_zoo: Zoo, trained: Sane, tmp_path: Path) -> None:
    def crash(done: int, total: int, message: str, /) -> None:
        if done == 22:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(small_zoo, CONFIG, folder=tmp_path / "run", progress=crash)
    steps: list[int] = []
    finished = pretrain(small_zoo, CONFIG, folder=tmp_path / "run", progress=lambda done, *_: steps.append(done))
    assert finished.digest == trained.digest
    assert steps[1] == 21


def test_finished_folder_gives_its_encoder_and_refuses_another_run(
    small_zoo: Zoo, trained: Sane, tmp_path: Path
) -> None:
    config = replace(CONFIG, steps=2)
    first = pretrain(small_zoo, config, folder=tmp_path / "run")
    assert load_encoder(tmp_path / "run").digest == first.digest
    steps: list[int] = []
    again = pretrain(small_zoo, config, folder=tmp_path / "run", progress=lambda done, *_: steps.append(done))
    assert again.digest == first.digest
    assert not steps
    for other_zoo, other_config in ((small_zoo, CONFIG), (zoo(seed=4), config)):
        with pytest.raises(Refusal) as refusal:
            pretrain(other_zoo, other_config, folder=tmp_path / "run")
        assert refusal.value.code == "another-run"


def test_interrupted_folder_refuses_another_run(small_zoo: Zoo, tmp_path: Path) -> None:
    with pytest.raises(Cancelled):
        run_until(1, small_zoo, CONFIG, tmp_path / "run")
    with pytest.raises(Refusal) as refusal:
        pretrain(small_zoo, replace(CONFIG, seed=3), folder=tmp_path / "run")
    assert refusal.value.code == "another-run"


def test_training_reconstructs_unseen_models_and_says_how_well(small_zoo: Zoo, trained: Sane) -> None:
    untrained = Sane(CONFIG, normalizer=trained.normalizer, position_range=trained.position_range)

    def score(encoder: Sane) -> float:
        table = reconstruction(encoder, small_zoo)
        return float(table.query("method == 'sane' and split == 'test' and layer == 'all'")["r2"].iloc[0])

    assert score(trained) > max(0.6, score(untrained) + 0.5)
    history = trained.provenance["history"]
    assert history[-1]["step"] == CONFIG.steps
    assert history[-1]["validation_r2"] > history[0]["validation_r2"]
    assert trained.provenance["zoo_digest"] == small_zoo.digest
    assert not trained.training


def test_only_training_rows_are_learnt_from(small_zoo: Zoo, trained: Sane) -> None:
    tensors = {name: tensor.clone() for name, tensor in small_zoo.stacked().items()}
    held_out = torch.tensor((small_zoo.table["split"] != "train").tolist())
    for tensor in tensors.values():
        tensor[held_out] *= 3.0
    other = Zoo.from_stacked("other", small_zoo.table, tensors)
    assert pretrain(other, CONFIG).digest == trained.digest


def test_starts_where_principal_components_are(small_zoo: Zoo) -> None:
    training = TrainingSet(small_zoo, rows_of_split(small_zoo, "train"), CONFIG)
    moment = training.second_moment()
    model = Sane(CONFIG, normalizer=training.normalizer)
    start_from_principal_components(model, moment)
    tokens = training.view(0, np.arange(5)).tokens
    models = tokenize_batch(small_zoo.stacked(training.groups[0].rows[:5]), CONFIG.token_size)
    basis = torch.linalg.eigh(moment).eigenvectors[:, -CONFIG.latent :].float()
    assert torch.allclose(reconstruct_tokens(model, tokens, models), tokens @ basis @ basis.T, atol=1e-4)


def test_zoo_of_two_layouts_is_trained_on_both() -> None:
    small, wide = stacked(12), stacked(12, WIDE)
    models = [{name: t[i] for name, t in (small if i % 2 else wide).items()} for i in range(12)]
    table = zoo(12).table.assign(split=["train"] * 8 + ["validation"] * 2 + ["test"] * 2)
    mixed = Zoo.from_models("mixed", table, models)
    encoder = pretrain(mixed, replace(CONFIG, steps=3, batch_size=2))
    for shapes in (SMALL, WIDE):
        assert encoder.normalizer.knows(tokenize_batch(stacked(1, shapes), 10).layout)
    assert encoder.position_range[2] >= 39
    assert set(reconstruction(encoder, mixed)["split"]) == {"train", "validation", "test"}


def test_minibatches_cover_an_epoch_without_repetition(small_zoo: Zoo) -> None:
    training = TrainingSet(small_zoo, rows_of_split(small_zoo, "train"), CONFIG)
    assert training.batches_per_epoch == 5
    first = [training.minibatch(step).tokens for step in range(5)]
    seen = torch.cat(first).flatten(1)
    assert len(torch.unique(seen, dim=0)) == 40
    assert not torch.equal(training.minibatch(5).tokens, first[0])
    assert torch.equal(training.minibatch(3).tokens, first[3]), "a minibatch depends on the ones before"


def test_learning_rate_is_one_cycle() -> None:
    config = replace(CONFIG, steps=100, warm_up=0.2)
    rates = [learning_rate(step, config) for step in range(101)]
    assert max(rates) == rates[20] == config.learning_rate
    assert rates[:21] == sorted(rates[:21])
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert rates[100] < 1e-3 * config.learning_rate


@pytest.mark.parametrize(
    ("change", "code"),
    [("nan", "non-finite-weights"), ("no-train", "no-models"), ("huge-rate", "training-diverged")],
)
def test_what_cannot_be_trained_on_is_refused(change: str, code: str) -> None:
    tensors = stacked(20)
    table = zoo(20).table
    config = replace(CONFIG, steps=6)
    if change == "nan":
        tensors["fc.bias"][3, 1] = float("nan")
    elif change == "no-train":
        table = table.assign(split="test")
    else:
        config = replace(config, learning_rate=1e30, clip_norm=1e30)
    with pytest.raises(Refusal) as refusal:
        pretrain(Zoo.from_stacked("bad", table, tensors), config)
    assert refusal.value.code == code


@pytest.fixture(scope="module")
def runs() -> Zoo:
    """Twenty runs of three checkpoints, and one of a single checkpoint."""
    table = pd.DataFrame({"model": [f"m{i // 3}" for i in range(60)] + ["alone"], "epoch": [*range(3)] * 20 + [0]})
    return Zoo.from_stacked("runs", table.assign(split="train"), stacked(61))


def test_siblings_are_other_checkpoints_of_the_same_run(runs: Zoo) -> None:
    training = TrainingSet(runs, rows_of_split(runs, "train"), replace(CONFIG, batch_size=61, align=False))
    every = training.view(0, np.arange(61)).tokens

    def rows(tokens: torch.Tensor) -> list[int]:
        return [int((every == model).flatten(1).all(dim=1).nonzero()) for model in tokens]

    asked = rows(training.minibatch(4).tokens)
    found = rows(training.siblings(4).tokens)
    assert found == rows(training.siblings(4).tokens)
    assert sorted(asked) == list(range(61))
    for one, other in zip(asked, found, strict=True):
        assert one // 3 == other // 3
        assert (one == other) == (one == 60), "the one that is alone is its own sibling"
    assert any(
        other != rows(training.siblings(5).tokens)[asked.index(one)]
        for one, other in zip(asked, found, strict=True)
    )


def test_contrast_across_checkpoints_brings_those_of_a_run_together(runs: Zoo) -> None:
    def nearness(positives: str) -> float:
        """Of projections: mean cosine within runs, less that over all pairs."""
        config = replace(CONFIG, gamma=1.0, positives=positives, steps=120, mixing=0.0, align=False)
        encoder = pretrain(runs, config)
        assert encoder.digest == pretrain(runs, replace(config, steps=120)).digest
        view = TrainingSet(runs, rows_of_split(runs, "train"), config).view(0, np.arange(60))
        with torch.no_grad():
            found = torch.nn.functional.normalize(encoder(view.tokens, view.positions)[2], dim=1)
        cosine = found @ found.T
        same = torch.kron(torch.eye(20), torch.ones(3, 3)) - torch.eye(60)
        return float((cosine * same).sum() / same.sum() - cosine.mean())

    assert nearness("checkpoints") > nearness("views") + 0.1
