"""What samples are worth: novelty, controls, fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from sane_engine import Refusal, Zoo, load_zoo
from sane_engine.progress import Cancelled
from sane_engine.sampling import method_of, prepare, task_of
from sane_engine.sampling.conditional import _folds
from sane_engine.sampling.draws import generator_of
from sane_engine.sampling.evaluation import ANCHORS, MEAN, SAMPLES, TWIN, evaluate_samples
from sane_engine.sampling.fine_tuning import _Traced, fine_tune
from sane_engine.sampling.frame import frame_of, unstack
from sane_engine.sampling.novelty import agreement, reference_of
from sane_engine.sampling.sampling import draw_samples
from sane_engine.sampling.spaces import space_of
from sane_engine.sampling.task import Images, evenly_spaced, task_from_module
from sane_engine.zoo.architectures import build
from sane_engine.zoo.datasets import load_dataset


@pytest.fixture(scope="module")
def digits() -> Zoo:
    zoo = load_zoo("digits")
    last = zoo.table["epoch"] == 25
    train = np.flatnonzero(last & (zoo.table["split"] == "train"))[:30]
    test = np.flatnonzero(last & (zoo.table["split"] == "test"))[:5]
    return zoo.select(np.concatenate((train, test)))


def test_novelty_is_an_angle_after_alignment(digits: Zoo) -> None:
    frame = frame_of(digits, 0)
    reference = reference_of(digits, frame, [space_of("weights", frame)], row=0)
    assert reference.symmetry is not None
    stacked = digits.stacked([4, 7])
    known = reference.nearest(stacked)
    assert known.angle == pytest.approx(0, abs=2e-3) and known.index.tolist() == [4, 7]
    # Larger weights are no new model.
    assert reference.nearest({n: 1.5 * t for n, t in stacked.items()}).angle == pytest.approx(0, abs=2e-3)
    # Nor is another order of the hidden units, where alignment to the frame or one by one finds it.
    aligned = frame_of(digits, 0, align="always")
    elsewhere = reference_of(digits, aligned, [], row=0)
    tensors = digits.tensors(4)
    shuffled = reference.symmetry.permute(tensors, reference.symmetry.random(generator_of(0, "test")))
    assert elsewhere.nearest({n: t[None] for n, t in shuffled.items()}).angle == pytest.approx(0, abs=2e-3)
    # A model of the zoo is compared with the others.
    names = digits.table["model"].iloc[[4, 7]].tolist()
    others = reference.nearest(stacked, own=names)
    assert (others.angle > 0.01).all() and others.index[0] != 4 and others.index[1] != 7


def test_what_a_space_loses_is_no_novelty(digits: Zoo) -> None:
    frame = frame_of(digits, 0)
    narrow = space_of("pca", frame, zoo=digits, components=4)
    stacked = digits.stacked([4, 7])
    decoded = narrow.frame.models(narrow.decode(narrow.encode(frame.tokens(stacked))))
    plain = reference_of(digits, frame, [], row=0).nearest(decoded).angle
    fair = reference_of(digits, frame, [narrow], row=0).nearest(decoded).angle
    assert (plain > 0.05).all() and fair == pytest.approx(0, abs=2e-3)


def test_agreement_and_shared_errors() -> None:
    labels = torch.tensor([0, 1, 2, 3])
    one = torch.tensor([[0, 1, 2, 0], [0, 1, 2, 3], [1, 1, 2, 0]])
    other = torch.tensor([[0, 1, 0, 0], [0, 1, 2, 3], [0, 1, 2, 0]])
    same, overlap = agreement(one, other, labels)
    assert same.tolist() == [0.75, 1.0, 0.75]
    assert overlap.tolist() == [0.5, 1.0, 0.5]


def test_samples_stand_beside_their_controls(digits: Zoo) -> None:
    prepared = prepare(None, digits, anchors=range(30), method="gaussian", space="pca", seed=3)
    samples = draw_samples(prepared, 6)
    found = evaluate_samples(samples, prepared, digits, epochs=(0, 1))
    summary = found.summary.set_index("group")
    assert set(summary.index) == {
        SAMPLES, ANCHORS, "decoded anchors", MEAN, TWIN, "random (kaiming uniform)", "random (xavier uniform)",
    }  # fmt: skip
    assert summary.loc[[SAMPLES, ANCHORS, TWIN], "accuracy"].min() > 0.7
    assert summary.filter(like="random", axis=0)["accuracy"].max() < 0.25
    assert summary.filter(like="random", axis=0)["novelty"].min() > summary.loc[SAMPLES, "novelty"]
    assert set(found.distances["kind"]) == {"training", "held out", "between"}
    curves = found.curves.groupby(["group", "epoch"])["accuracy"].mean()
    assert curves["random (kaiming uniform)", 1] > curves["random (kaiming uniform)", 0] + 0.3
    assert curves[SAMPLES, 1] > curves["random (kaiming uniform)", 1]
    at_start = found.curves[(found.curves["group"] == SAMPLES) & (found.curves["epoch"] == 0)]
    own = found.table[found.table["group"] == SAMPLES]
    assert at_start["accuracy"].to_numpy() == pytest.approx(own["accuracy"].to_numpy(), abs=1e-6)
    scored = found.of_samples(samples)
    assert [s.scores["accuracy"] for s in scored] == own["accuracy"].tolist()
    assert all("accuracy_after_1_epochs" in s.scores for s in scored)


def test_scores_are_those_of_the_module(digits: Zoo) -> None:
    task = task_of(digits)
    accuracy, loss = task.score(digits.stacked([2]), task.test)
    module = build(digits.architecture or {})
    module.load_state_dict(digits.tensors(2))
    with torch.no_grad():
        logits = module(task.test.images)
    assert float(accuracy[0]) == float((logits.argmax(1) == task.test.labels).float().mean())
    assert float(loss[0]) == pytest.approx(float(torch.nn.functional.cross_entropy(logits, task.test.labels)))


def test_both_trainers_take_the_same_steps(digits: Zoo) -> None:
    task = task_of(digits)
    stacked = digits.stacked([30, 31, 32])
    fast = fine_tune(task, stacked, epochs=(0, 1, 2), learning_rate=1e-3)
    slow = fine_tune(replace(task, architecture=None), stacked, epochs=(0, 1, 2), learning_rate=1e-3)
    assert torch.equal(fast[:, 0], slow[:, 0])
    torch.testing.assert_close(fast, slow, atol=0.01, rtol=0)
    assert all(
        torch.equal(a, b) for a, b in zip(stacked.values(), digits.stacked([30, 31, 32]).values(), strict=True)
    )


def test_training_models_that_are_not_finite_are_left_out_and_counted(digits: Zoo) -> None:
    stacked = digits.stacked()
    stacked["fc1.weight"][[20, 25]] = torch.nan
    stacked["conv1.bias"][31] = torch.inf
    more = {"architecture": digits.architecture, "provenance": digits.provenance}
    broken = Zoo.from_stacked("broken", digits.table, stacked, **more)
    whole = np.setdiff1d(np.arange(len(digits)), [20, 25, 31])
    whole_zoo = digits.select(whole)
    for align in ("never", "always"):
        arguments = {"anchors": range(20), "space": "pca", "method": "conditional", "align": align, "seed": 3}
        prepared, wanted = prepare(None, broken, **arguments), prepare(None, whole_zoo, **arguments)
        assert str(prepared.record["alignment"]).count("2 training checkpoints left out") == 1
        assert "left out" not in str(wanted.record["alignment"])
        for one, other in zip(draw_samples(prepared, 2), draw_samples(wanted, 2), strict=True):
            assert all(torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors)
    found = evaluate_samples(draw_samples(prepared, 2), prepared, broken, twin=False)
    assert np.isfinite(found.table["novelty"]).all() and np.isfinite(found.distances["angle"]).all()


def test_anchors_of_several_activations_are_refused(digits: Zoo) -> None:
    mixed = digits.with_columns(activation=["tanh"] * 20 + ["relu"] * 15)
    for anchors in (range(30), "top 100 %"):
        with pytest.raises(Refusal) as refusal:
            prepare(None, mixed, anchors=anchors, space="weights")
        assert refusal.value.code == "mixed-activations"
    own = prepare(None, mixed, anchors=range(20, 30), space="weights").task
    assert own is not None and own.activation == "relu"
    # Of files nobody knows it: they are drawn from, and not scored.
    assert prepare(None, mixed, anchors=[digits.tensors(0), digits.tensors(1)], space="weights").task is None


def test_the_record_says_whether_anchors_were_chosen_on_the_test_images(digits: Zoo) -> None:
    for anchors, by_test in (
        ("top 50 %", True),
        ("test_loss < 9", True),
        ("bottom 5 by generalisation_gap", True),
        ("top 5 by train_accuracy", False),
        ("epoch == 25", False),
        (range(5), False),
    ):
        record = prepare(None, digits, anchors=anchors, space="weights").record
        assert record["anchors"]["chosen_on_test_images"] is by_test


def test_some_images_of_a_set_in_order_are_of_every_class(digits: Zoo) -> None:
    task = task_of(digits)
    order = task.validation.labels.argsort()
    task = replace(task, validation=Images(task.validation.images[order], task.validation.labels[order]))
    seen: list[Tensor] = []
    own = task.run

    def run(stacked: Mapping[str, Tensor], images: Tensor) -> Tensor:
        seen.append(images)
        return own(stacked, images)

    subsampled = method_of("subsampled", {"candidates": 2})
    prepared = prepare(
        None, digits, anchors=range(9), space="weights", method=subsampled, task=replace(task, run=run)
    )
    draw_samples(prepared, 1)
    assert len(torch.cat(seen)) == 256
    last = task.validation.images[-1]
    assert any(torch.equal(image, last) for image in torch.cat(seen))
    assert evenly_spaced(5, 9).tolist() == [0, 1, 2, 3, 4] and evenly_spaced(60_000, 3).tolist() == [
        0,
        30_000,
        59_999,
    ]


def test_a_probe_is_chosen_on_models_it_has_not_seen() -> None:
    groups = np.repeat([f"m{i}" for i in range(7)], 4)
    folds = _folds(groups)
    assert folds is not None and len(folds) == 5
    assert all(not set(groups[fit]) & set(groups[held]) for fit, held in folds)
    assert _folds(groups[:4]) is None


class Tied(torch.nn.Module):
    """Two layers that are one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(196, 8)
        self.second, self.last = torch.nn.Linear(8, 8), torch.nn.Linear(8, 10)
        self.third = self.second

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = self.second(self.first(images.flatten(1)).tanh()).tanh()
        logits: torch.Tensor = self.last(self.third(hidden).tanh())
        return logits


def test_tied_networks_are_scored_and_stay_tied() -> None:
    models = []
    for seed in range(6):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            models.append(Tied().state_dict())
    table = pd.DataFrame({"model": [f"m{i}" for i in range(6)], "epoch": 0, "split": "train"})
    zoo = Zoo.from_models("tied", table, models)
    task = task_from_module(Tied(), load_dataset("digits", image_size=14))
    task = replace(task, fit=Images(task.fit.images[:64], task.fit.labels[:64]))
    logits = task.logits(zoo.stacked([2]), task.test.images)[0]
    module = Tied().eval()
    module.load_state_dict(models[2])
    torch.testing.assert_close(logits, module(task.test.images).detach(), rtol=1e-4, atol=1e-5)
    for anchors in (range(4), models[:4]):
        prepared = prepare(None, zoo, anchors=anchors, space="pca", method="gaussian", task=task)
        samples = draw_samples(prepared, 2)
        assert all(each.tensors["second.weight"] is each.tensors["third.weight"] for each in samples)
        found = evaluate_samples(samples, prepared, zoo)
        assert {SAMPLES, ANCHORS, MEAN, TWIN} < set(found.summary["group"])
        assert found.summary["accuracy"].between(0, 1).all()
        assert (found.table["nearest"] != "").all()
    copies = [{name: tensor.clone() for name, tensor in model.items()} for model in models[:2]]
    prepare(None, zoo, anchors=copies, space="weights", task=task)
    copies[1]["third.weight"] += 1
    with pytest.raises(Refusal) as refusal:
        prepare(None, zoo, anchors=copies, space="weights", task=task)
    assert refusal.value.code == "foreign-anchors"
    # Slices of tied tensors are other objects, and are trained as one all the same.
    trainer = _Traced(task, {name: tensor[:3] for name, tensor in zoo.stacked().items()}, 1e-2)
    trainer.epoch(1, 0, 0)
    trained = trainer.networks()
    assert torch.equal(trained["second.weight"], trained["third.weight"])
    assert not torch.equal(trained["second.weight"], zoo.stacked()["second.weight"][:3])
    assert unstack({name: tensor[:3] for name, tensor in zoo.stacked().items()}, 1).keys() == models[0].keys()


def test_evaluation_can_be_cancelled(digits: Zoo) -> None:
    prepared = prepare(None, digits, anchors=range(30), method="gaussian", space="weights")
    with pytest.raises(Cancelled):
        evaluate_samples(draw_samples(prepared, 2), prepared, digits, cancelled=lambda: True)
