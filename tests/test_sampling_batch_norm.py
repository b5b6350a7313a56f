"""Networks with batch norm: running statistics are measured again after sampling."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from sane_engine import Refusal, Zoo
from sane_engine.progress import Cancelled
from sane_engine.sampling import batch_norm, evaluation, prepare, sample, task_of
from sane_engine.sampling.batch_norm import (
    condition,
    condition_for,
    conditioning,
    has_batch_norm,
    noise_like_images,
)  # fmt: skip
from sane_engine.sampling.evaluation import evaluate_samples
from sane_engine.sampling.fine_tuning import fine_tune
from sane_engine.sampling.novelty import Reference
from sane_engine.sampling.sampling import draw_samples, draw_vectors
from sane_engine.sampling.spaces import decode_models
from sane_engine.sampling.targets import sample_target
from sane_engine.sampling.task import Images, Task, evenly_spaced, task_from
from sane_engine.zoo.architectures import ResNetSpec, build
from sane_engine.zoo.datasets import load_dataset
from sane_engine.zoo.initialisation import initialise

SPEC = ResNetSpec(widths=(4, 6), blocks=(1, 1))


@pytest.fixture(scope="module")
def task() -> Task:
    return task_from(SPEC.to_json(), load_dataset("digits", image_size=14))


@pytest.fixture(scope="module")
def zoo(task: Task) -> Zoo:
    """Eight small ResNets of one initialisation, trained for two epochs on the way to eight ends."""
    start = initialise(SPEC, "kaiming_normal", 0)
    stacked = {name: torch.stack([tensor] * 8) for name, tensor in start.items()}
    stacked = condition(build(SPEC), stacked, task.fit.images[:256])
    models = []
    for row in range(8):
        network = build(SPEC)
        network.load_state_dict({name: tensor[row] for name, tensor in stacked.items()})
        optimiser = torch.optim.Adam(network.parameters(), lr=3e-2)
        network.train()
        order = torch.randperm(len(task.fit), generator=torch.Generator().manual_seed(row))
        for index in (*torch.split(order, 32), *torch.split(order.flip(0), 64)):
            loss = torch.nn.functional.cross_entropy(network(task.fit.images[index]), task.fit.labels[index])
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
        models.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
    table = pd.DataFrame({"model": [f"m{i}" for i in range(8)], "epoch": 1, "split": "train"})
    spec = {"dataset": "digits", "shared_initialisation": True}
    return Zoo.from_models("resnets", table, models, architecture=SPEC.to_json(), provenance={"spec": spec})


def test_statistics_are_those_of_the_images(task: Task, zoo: Zoo) -> None:
    stacked = zoo.stacked()
    images = task.fit.images[:128]
    found = condition(build(SPEC), stacked, images)
    changed = {name for name in stacked if not torch.equal(found[name], stacked[name])}
    assert changed and all(name.endswith(("running_mean", "running_var")) for name in changed)
    # The first norm by hand.
    first = torch.nn.functional.conv2d(images, stacked["conv1.weight"][3], padding=1)
    torch.testing.assert_close(found["bn1.running_mean"][3], first.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["bn1.running_var"][3], first.var((0, 2, 3)), rtol=1e-4, atol=1e-5)
    again = condition(build(SPEC), {name: tensor[3:4] for name, tensor in stacked.items()}, images)
    assert all(torch.equal(again[name][0], found[name][3]) for name in found)


def test_conditioned_samples_are_far_above_unconditioned(task: Task, zoo: Zoo) -> None:
    scores = {}
    for how in ("none", "images", "noise"):
        samples = sample(
            None, zoo, anchors=range(8), n=6, method="kde-sequence", space="weights", condition=how,
            parameters={"bandwidth": 1.0},
        )  # fmt: skip
        stacked = {name: torch.stack([s.tensors[name] for s in samples]) for name in samples[0].tensors}
        assert has_batch_norm(stacked)
        scores[how] = float(task.score(stacked, task.test)[0].mean())
        assert all(s.tensors["bn1.num_batches_tracked"].dtype == torch.int64 for s in samples)
        assert all(float(s.tensors["bn1.running_var"].min()) > 0 for s in samples)
    assert scores["images"] > scores["none"] + 0.1
    assert "128 images" not in str(samples[0].provenance["batch_norm"])


def test_record_says_what_statistics_come_from(zoo: Zoo) -> None:
    notes = {}
    for how in ("auto", "noise", "none"):
        prepared = prepare(None, zoo, anchors=range(8), method="gaussian", space="weights", condition=how)
        notes[how] = draw_samples(prepared, 1)[0].provenance["batch_norm"]
    assert "images of digits" in notes["auto"] and "noise" in notes["noise"] and notes["none"] == "as sampled"
    with pytest.raises(Refusal):
        prepare(None, zoo, anchors=range(8), space="weights", condition="magic")  # type: ignore[arg-type]


def test_noise_looks_a_little_like_images() -> None:
    images = noise_like_images((1, 14, 14), 64)
    assert images.shape == (64, 1, 14, 14)
    assert float(images.mean()) == pytest.approx(0, abs=1e-4) and float(images.std()) == pytest.approx(1, abs=1e-3)
    neighbours = (images[..., 1:] * images[..., :-1]).mean()
    assert float(neighbours) > 0.4


def test_statistics_come_from_images_of_every_class(task: Task, zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []

    def look(module: torch.nn.Module, stacked: dict[str, Tensor], images: Tensor, **rest: Any) -> dict[str, Tensor]:
        seen.append(images)
        return stacked

    order = task.fit.labels.argsort()
    in_order = replace(task, fit=Images(task.fit.images[order], task.fit.labels[order]))
    monkeypatch.setattr(batch_norm, "condition", look)
    condition_for(in_order, zoo.stacked([0]), "images")
    assert len(seen[0]) == 512 and torch.equal(seen[0][-1], in_order.fit.images[-1])
    monkeypatch.undo()
    with pytest.raises(Cancelled):
        condition_for(task, zoo.stacked([0]), "images", cancelled=lambda: True)
    measure = conditioning(zoo)
    assert measure is not None
    dataset = load_dataset("digits", image_size=14)
    assert torch.equal(measure.keywords["images"][-1], dataset.train_images[-1])  # type: ignore[attr-defined]


def test_noise_is_that_of_the_seed(task: Task, zoo: Zoo) -> None:
    prepared = prepare(None, zoo, anchors=range(8), method="gaussian", space="weights", condition="noise", seed=3)
    made = decode_models(prepared.space, draw_vectors(prepared, 1))
    own = condition_for(task, made, "noise", seed=3)[0]
    assert torch.equal(draw_samples(prepared, 1)[0].tensors["bn1.running_mean"], own["bn1.running_mean"][0])
    assert not torch.equal(
        own["bn1.running_mean"], condition_for(task, made, "noise", seed=0)[0]["bn1.running_mean"]
    )


def test_a_target_is_conditioned_like_the_anchors_own(task: Task, zoo: Zoo) -> None:
    prepared = prepare(None, zoo, anchors=range(8), method="gaussian", space="weights", seed=1)
    for one, other in zip(sample_target(prepared, SPEC.to_json(), 2), draw_samples(prepared, 2), strict=True):
        assert one.provenance["batch_norm"] == other.provenance["batch_norm"]
        for name in (name for name, tensor in one.tensors.items() if tensor.is_floating_point()):
            torch.testing.assert_close(one.tensors[name], other.tensors[name], rtol=1e-3, atol=1e-4)
    deeper = ResNetSpec(widths=(4, 6), blocks=(2, 1))
    made = sample_target(prepared, deeper.to_json(), 1)[0].tensors
    first = torch.nn.functional.conv2d(
        task.fit.images[evenly_spaced(len(task.fit), 512)], made["conv1.weight"], padding=1
    )
    torch.testing.assert_close(made["bn1.running_mean"], first.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)
    foreign = ResNetSpec(input_shape=(1, 12, 12), widths=(4, 6), blocks=(1, 1))
    assert sample_target(prepared, foreign.to_json(), 1)[0].provenance["batch_norm"] == "as sampled"


def test_controls_and_references_are_conditioned_too(task: Task, zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = prepare(None, zoo, anchors=range(8), method="gaussian", space="pca", seed=1)
    samples = draw_samples(prepared, 2)
    known: list[Reference] = []
    scored: list[tuple[str, dict[str, Tensor]]] = []
    measure = evaluation._measure

    def keep(group: str, names: list[str], stacked: dict[str, Tensor], *rest: Any) -> Any:
        known.append(rest[2])
        scored.append((group, stacked))
        return measure(group, names, stacked, *rest)

    monkeypatch.setattr(evaluation, "_measure", keep)
    evaluate_samples(samples, prepared, zoo, twin=False)
    images = task.fit.images[evenly_spaced(len(task.fit), 512)]
    decoded = {name: tensor[8:] for name, tensor in known[0].stacked.items()}
    assert len(decoded["bn1.running_mean"]) == 8
    assert sum(group.startswith("random") for group, _ in scored) == 2
    for what in (decoded, *(stacked for group, stacked in scored if group != "anchors")):
        mean = torch.nn.functional.conv2d(images, what["conv1.weight"][0], padding=1).mean((0, 2, 3))
        torch.testing.assert_close(what["bn1.running_mean"][0], mean, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", ["trained", "refined"])
def test_networks_are_not_tuned_with_statistics_that_change_afterwards(zoo: Zoo, method: str) -> None:
    for how in ("auto", "none"):
        with pytest.raises(Refusal) as refusal:
            prepare(None, zoo, anchors=range(8), method=method, space="weights", condition=how)
        assert refusal.value.code == "batch-norm"


def test_residual_networks_are_fine_tuned(task: Task, zoo: Zoo) -> None:
    stacked = zoo.stacked([0, 1])
    curve = fine_tune(task, stacked, epochs=(0, 1), learning_rate=1e-3)
    assert (curve[:, 1] > curve[:, 0] - 0.02).all()
    assert task_of(zoo).architecture == SPEC.to_json()
