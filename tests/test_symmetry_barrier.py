"""What alignment moved, and the loss barrier between two networks before and after it: known answers."""

from __future__ import annotations

from math import prod

import numpy as np
import pandas as pd
import pytest
import torch
from test_symmetry_finding import network, symmetry_of

from sane_engine.checkpoint import Refusal
from sane_engine.progress import Cancelled
from sane_engine.sampling.batch_norm import conditioning
from sane_engine.symmetry import Symmetry, barrier, find_symmetry, groups_table, movement, symmetry_of_zoo
from sane_engine.symmetry.interpolating import Line
from sane_engine.symmetry.spec import Factor, Group
from sane_engine.zoo import Zoo, load_zoo
from sane_engine.zoo.architectures import build, evaluate
from sane_engine.zoo.resnet_spec import ResNetSpec
from sane_engine.zoo.task import Task, activation_of, task_of_zoo

GOOD = 11  # a row at the last epoch


@pytest.fixture(scope="module")
def zoo() -> Zoo:
    return load_zoo("digits-independent")


@pytest.fixture(scope="module")
def task(zoo: Zoo) -> Task:
    return task_of_zoo(zoo)


@pytest.fixture(scope="module")
def symmetry(zoo: Zoo) -> Symmetry:
    assert zoo.architecture is not None
    return find_symmetry(build(zoo.architecture), torch.randn(1, 1, 14, 14))


def test_a_permuted_copy_is_behind_a_barrier_until_it_is_aligned(zoo: Zoo, task: Task, symmetry: Symmetry) -> None:
    model = zoo.tensors(GOOD)
    copy = symmetry.permute(model, symmetry.random(torch.Generator().manual_seed(0)))
    found = barrier(copy, model, symmetry, task)
    assert len(found.before.share) == len(found.after.share) == 25
    assert found.before.height > 0.3
    assert found.after.height == pytest.approx(0, abs=1e-5)
    np.testing.assert_allclose(found.after.accuracy, found.before.accuracy[-1])


def test_the_ends_are_the_networks_themselves(zoo: Zoo, task: Task, symmetry: Symmetry) -> None:
    a, b = 5, GOOD
    found = barrier(zoo.tensors(a), zoo.tensors(b), symmetry, task, points=5)
    for line in (found.before, found.after):
        expected = zoo.table.iloc[[a, b]]
        np.testing.assert_allclose(line.accuracy[[0, -1]], expected["test_accuracy"], atol=1e-6)
        np.testing.assert_allclose(line.loss[[0, -1]], expected["test_loss"], rtol=1e-4)
    assert found.n_images == 359
    assert found.table()["share"].tolist() == [0, 0.25, 0.5, 0.75, 1]


def test_alignment_lowers_the_barrier_of_independent_networks(zoo: Zoo, task: Task, symmetry: Symmetry) -> None:
    last = np.flatnonzero((zoo.table["epoch"] == zoo.table["epoch"].max()) & (zoo.table["test_accuracy"] > 0.93))
    pairs = list(zip(last[:8:2], last[1:8:2], strict=True))
    found = [barrier(zoo.tensors(i), zoo.tensors(j), symmetry, task, points=11) for i, j in pairs]
    assert np.mean([one.after.height for one in found]) < np.mean([one.before.height for one in found])


def test_the_height_is_the_excess_over_the_chord() -> None:
    line = Line(np.array([0.0, 0.5, 1.0]), np.zeros(3), np.array([1.0, 4.0, 3.0]))
    assert line.height == pytest.approx(2.0)
    assert Line(np.array([0.0, 0.5, 1.0]), np.zeros(3), np.array([1.0, 1.0, 3.0])).height == 0


def test_running_statistics_are_measured_again_at_every_point() -> None:
    generator = torch.Generator().manual_seed(0)
    spec = ResNetSpec(widths=(4, 6), blocks=(1, 1), classes=10)
    one, other = (
        {n: torch.randn(s, generator=generator) / max(1, prod(s[1:])) ** 0.5 for n, s in spec.shapes.items()}
        for _ in range(2)
    )
    for model in (one, other):
        model.update({n: t.abs() + 0.5 for n, t in model.items() if n.endswith("running_var")})
        model.update({n: torch.tensor(3) for n in spec.counters})
    table = pd.DataFrame({"model": ["a", "b"], "epoch": 1, "split": "train"})
    provenance = {"spec": {"dataset": "digits"}}
    zoo = Zoo.from_models("norms", table, [one, other], architecture=spec.to_json(), provenance=provenance)
    task, symmetry = task_of_zoo(zoo), symmetry_of_zoo(zoo)
    with pytest.raises(Refusal) as caught:
        barrier(one, other, symmetry, task, points=3)
    assert caught.value.code == "running-statistics"
    measure = conditioning(zoo)
    assert measure is not None
    found = barrier(one, other, symmetry, task, points=3, condition=measure)
    assert found.conditioned
    middle = {n: torch.lerp(one[n].double(), other[n].double(), 0.5).to(one[n].dtype)[None] for n in one}
    measured = measure(middle)
    assert not torch.allclose(measured["bn1.running_var"], middle["bn1.running_var"], rtol=0.1)
    loss = float(evaluate(spec, measured, task.images, task.labels)[1])
    assert found.before.loss[1] == pytest.approx(loss, rel=1e-4)
    assert loss != pytest.approx(float(evaluate(spec, middle, task.images, task.labels)[1]), rel=0.01)
    copy = symmetry.permute(one, symmetry.random(torch.Generator().manual_seed(0)))
    assert barrier(copy, one, symmetry, task, points=3, condition=measure).after.height == pytest.approx(
        0, abs=1e-4
    )


def test_networks_without_batch_norm_are_not_conditioned(zoo: Zoo, task: Task, symmetry: Symmetry) -> None:
    assert conditioning(zoo) is None
    model = zoo.tensors(GOOD)
    assert not barrier(model, model, symmetry, task, points=2, condition=lambda stacked: {}).conditioned


def test_it_reports_and_can_be_stopped(zoo: Zoo, task: Task, symmetry: Symmetry) -> None:
    model, reports = zoo.tensors(GOOD), []
    barrier(model, model, symmetry, task, points=2, progress=lambda *said: reports.append(said[:2]))
    assert reports[-1] == (4, 4)
    with pytest.raises(Cancelled):
        barrier(model, model, symmetry, task, cancelled=lambda: True)
    with pytest.raises(ValueError, match="at least 2 points"):
        barrier(model, model, symmetry, task, points=1)


def test_a_zoo_without_architecture_images_or_one_activation_is_refused(zoo: Zoo) -> None:
    first = zoo.select(range(4))

    def refusal(architecture: dict[str, object] | None, provenance: dict[str, object]) -> str:
        other = Zoo.from_stacked(
            "other", first.table, first.stacked(), architecture=architecture, provenance=provenance
        )
        with pytest.raises(Refusal) as caught:
            task_of_zoo(other)
        return caught.value.code

    assert refusal(None, zoo.provenance) == "no-architecture"
    assert refusal(zoo.architecture, {}) == "no-data-set"
    assert refusal(zoo.architecture, {"spec": {"dataset": "no such images"}}) == "no-data-set"
    assert refusal(zoo.architecture, {**zoo.provenance, "data": {"sha256": "0" * 64}}) == "other-data-set"
    assert activation_of(zoo) == "tanh"
    mixed = zoo.with_columns(activation=["relu", *["tanh"] * (len(zoo) - 1)])
    assert activation_of(mixed, [1, 2]) == "tanh"
    with pytest.raises(Refusal) as caught:
        activation_of(mixed, [0, 1])
    assert caught.value.code == "mixed-activations"


@pytest.mark.parametrize("name", ["small-cnn", "vit-tiny"])
def test_the_moved_share_is_that_of_the_planted_permutation(name: str) -> None:
    symmetry = symmetry_of(name)
    original = {key: tensor.detach() for key, tensor in network(name).state_dict().items()}
    planted = symmetry.random(torch.Generator().manual_seed(1))
    found = movement(symmetry.permute(original, planted), original, symmetry)
    assert found.distance_before > 1
    assert found.distance_after == pytest.approx(0, abs=1e-6)
    assert 0.8 < found.moved <= 1
    assert all(torch.equal(found.aligned[key], original[key]) for key in original)
    unmoved = movement(original, original, symmetry)
    assert (unmoved.moved, unmoved.distance_before) == (0, 0)
    assert (unmoved.groups["moved"] == 0).all()


def test_flipped_signs_are_counted(zoo: Zoo, symmetry: Symmetry) -> None:
    model = zoo.tensors(GOOD)
    planted = symmetry.identity()
    planted.flips[0][:2] = -1
    found = movement(symmetry.permute(model, planted), model, symmetry)
    assert found.groups["flipped"].tolist() == [2 / 8, 0, 0, 0]
    assert (found.moved, found.flipped) == (0, pytest.approx(2 / 38))


def test_a_unit_with_several_signs_has_flipped_where_one_of_them_has() -> None:
    value, gate = (((Factor(4, 0, sign),),) for sign in (0, 1))
    symmetry = Symmetry((Group(4, label="gated"),), (0, 0), {"value": (value,), "gate": (gate,)})
    model = {"value": torch.tensor([1.0, 2.0, 3.0, 4.0]), "gate": torch.tensor([4.0, 3.0, 2.0, 1.0])}
    planted = symmetry.identity()
    planted.flips[0][:2] = -1
    planted.flips[1][1] = -1  # a dictionary by group would keep these signs alone
    found = movement(model, model, symmetry, permutations=planted)
    assert found.groups["flipped"].tolist() == [0.5] and found.flipped == 0.5


def test_a_diverged_network_is_refused(zoo: Zoo, symmetry: Symmetry) -> None:
    model = zoo.tensors(GOOD)
    broken = {name: tensor.clone() for name, tensor in model.items()}
    broken["fc1.bias"][0] = float("nan")
    with pytest.raises(Refusal) as caught:
        movement(broken, model, symmetry)
    assert caught.value.code == "non-finite"


def test_the_table_lists_every_group_with_what_it_touches(symmetry: Symmetry) -> None:
    table = groups_table(symmetry).set_index("group")
    assert table["units"].tolist() == [8, 6, 4, 20]
    assert table.loc["fc1.weight[0]", "tensors"] == "fc1.weight, fc1.bias, fc2.weight"
    assert table["signs"].all() and (table["kind"] == "neurons").all()
    transformer = groups_table(symmetry_of("vit-tiny"))
    heads = transformer[transformer["kind"] == "blocks"]
    assert len(heads)
    assert set(transformer["inside"]) - {""} == set(heads["group"])
