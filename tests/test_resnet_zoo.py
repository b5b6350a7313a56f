"""Zoos of residual networks: their JSON rebuilds the module, buffers included, and training is the plain loop's."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from sane_engine.symmetry import symmetry_of_zoo
from sane_engine.workspace import assets_root
from sane_engine.zoo.architectures import SmallResNet, build, evaluate, forward_stacked
from sane_engine.zoo.datasets import load_dataset
from sane_engine.zoo.hyperparameters import plan_models
from sane_engine.zoo.initialisation import initialise
from sane_engine.zoo.population import train_zoo
from sane_engine.zoo.single import score, train_single
from sane_engine.zoo.spec import ResNetSpec, SpecError, ZooSpec
from sane_engine.zoo.training import one_thread
from sane_engine.zoo.zoo import Zoo

SPEC = ZooSpec(
    "resnets",
    architecture=ResNetSpec(widths=(4, 6), blocks=(1, 2)),
    train_images=160,
    scored_images=120,
    n_models=4,
    epochs=2,
    checkpoint_epochs=(0, 1, 2),
    activation=("relu", "tanh"),
    initialisation=("kaiming_normal", "uniform"),
    optimiser=("momentum", "adam"),
    learning_rate=(0.003,),
    pruning=(0.5,),
    seed=1,
)


@pytest.fixture(scope="module")
def zoo() -> Zoo:
    before = torch.get_rng_state()
    trained = train_zoo(SPEC, workers=0)
    assert torch.equal(before, torch.get_rng_state()), "training disturbed the global generator"
    return trained


@pytest.mark.parametrize(
    "architecture",
    [
        ResNetSpec(),
        ResNetSpec(input_shape=(3, 9, 11), widths=(5, 5, 7), blocks=(2, 1, 2), classes=3, activation="gelu"),
        ResNetSpec(widths=(4,), blocks=(1,)),
    ],
)
def test_json_rebuilds_the_module_and_names_all_its_tensors(architecture: ResNetSpec) -> None:
    content = json.loads(json.dumps(architecture.to_json()))
    network = build(content)
    assert isinstance(network, SmallResNet)
    assert network.architecture == architecture
    state = network.state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == architecture.shapes
    assert list(state) == list(architecture.shapes)
    begun = initialise(architecture, "kaiming_normal", 0)
    for name, tensor in begun.items():
        assert tensor.dtype == state[name].dtype
        if any(name.startswith(f"{norm}.") for norm in architecture.norms):
            assert torch.equal(tensor, state[name]), f"{name} does not begin as torch begins it"
    network.load_state_dict(begun)
    assert network(torch.zeros(2, *architecture.input_shape)).shape == (2, architecture.classes)


@one_thread()  # as the trainer does: the order of sums decides the last digits, and batch norm makes them grow
def test_agrees_with_the_plain_loop_running_statistics_included(zoo: Zoo) -> None:
    few = load_dataset("digits").capped(SPEC.train_images, SPEC.seed)
    (train, _), (images, labels) = few.scored(SPEC.scored_images, SPEC.seed)
    assert len(train) == len(images) == 120
    for number, plan in enumerate(plan_models(SPEC)):
        for position, (epoch, state) in enumerate(train_single(SPEC, plan, few).items()):
            row = 4 * number + position
            assert zoo.table.loc[row, ["model", "epoch", "sparsity"]].tolist() == [plan.model, epoch, 0.0]
            found = zoo.tensors(row)
            assert list(found) == list(state)
            for name, tensor in found.items():
                assert tensor.dtype == state[name].dtype
                assert_close(tensor, state[name], rtol=1e-4, atol=1e-5)
            assert found["bn1.num_batches_tracked"].item() == 5 * epoch
            network = build({**(zoo.architecture or {}), "activation": plan.activation})
            network.load_state_dict(found)
            accuracy, loss = score(network, images, labels)
            assert zoo.table.loc[row, "test_accuracy"] == pytest.approx(accuracy, abs=1e-6)
            assert zoo.table.loc[row, "test_loss"] == pytest.approx(loss, rel=1e-4)


def test_children_train_the_same_networks_and_dropout_is_each_models_own(zoo: Zoo) -> None:
    dropping = replace(SPEC, n_models=2, dropout=(0.4,), epochs=1, checkpoint_epochs=(1,), pruning=())
    alone, beside = train_zoo(dropping, workers=0), train_zoo(dropping, workers=1)
    for name, tensor in alone.stacked().items():
        assert torch.equal(tensor, beside.stacked()[name])
    plain = train_zoo(replace(dropping, dropout=(0.0,)), workers=0)
    assert not torch.equal(plain.stacked()["fc.weight"], alone.stacked()["fc.weight"])


def test_pruning_takes_weights_and_leaves_norms(zoo: Zoo) -> None:
    whole, pruned = zoo.tensors(2), zoo.tensors(3)
    assert zoo.table.loc[3, "sparsity"] == 0.5
    assert sum(int((pruned[n] == 0).sum()) for n, t in whole.items() if t.dim() > 1) == pytest.approx(
        sum(t.numel() for t in whole.values() if t.dim() > 1) / 2, abs=1
    )
    for name in ("bn1.weight", "layer2.0.downsample.1.running_var", "bn1.num_batches_tracked"):
        assert torch.equal(whole[name], pruned[name])


def test_many_at_once_is_each_alone_and_differentiable(zoo: Zoo) -> None:
    assert zoo.architecture is not None
    stacked = zoo.stacked([2, 6])
    images = torch.randn(2, 5, 1, 14, 14, generator=torch.Generator().manual_seed(0))
    floats = {name: t for name, t in stacked.items() if t.is_floating_point()}
    weights = {name: t if "running" in name else t.requires_grad_() for name, t in floats.items()}
    logits = forward_stacked(zoo.architecture, {**stacked, **weights}, images, activation="tanh")
    network = build({**zoo.architecture, "activation": "tanh"})
    network.load_state_dict(zoo.tensors(6))
    assert_close(logits[1], network(images[1]))
    torch.autograd.backward(logits.sum())
    gradient = weights["conv1.weight"].grad
    assert gradient is not None
    assert gradient.abs().sum() > 0
    labels = torch.tensor([0, 1, 2, 3, 4])
    accuracy, _ = evaluate(zoo.architecture, zoo.stacked([2, 6]), images[0], labels, activation="tanh")
    shared = forward_stacked(zoo.architecture, zoo.stacked([2, 6]), images[0], activation="tanh")
    assert_close(accuracy, (shared.argmax(2) == labels).float().mean(1))


def test_symmetry_is_found_through_residual_streams(zoo: Zoo) -> None:
    symmetry = symmetry_of_zoo(zoo)
    # Two widths of residual stream, and the inside of three blocks.
    assert len(symmetry.groups) == 5


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"family": "resnet", "width": [4]}, "no field 'width'"),
        ({"family": "resnet", "widths": [4]}, "as many numbers of blocks"),
        ({"family": "resnet", "widths": [4], "blocks": [0]}, "positive whole numbers"),
        ({"family": "resnet", "activation": "tan"}, "choose from tanh"),
        ({"family": "resnet", "dropout": 1.0}, "dropout"),
        ({"family": "resnet", "input_shape": [1, 14]}, "three positive"),
        ({"family": "transformer"}, "no field 'family'"),
    ],
)
def test_a_wrong_architecture_is_refused(content: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        ZooSpec.from_json({"name": "a", "architecture": content})


def test_the_shipped_specification_is_one() -> None:
    spec = ZooSpec.load(assets_root() / "specs" / "digits-resnet.json")
    assert ZooSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    assert isinstance(spec.architecture, ResNetSpec)
    assert spec.n_models >= 60
    assert len(spec.checkpoint_epochs) >= 4
