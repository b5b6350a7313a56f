"""The parts of the population trainer: specification, data, networks, passes written out by hand, pruning."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from sane_engine.workspace import assets_root
from sane_engine.zoo.architecture_spec import FLAT_DROPOUTS
from sane_engine.zoo.architectures import build, forward_stacked
from sane_engine.zoo.datasets import load_dataset, stratified_split
from sane_engine.zoo.hyperparameters import batch_order, dropout_masks, plan_models
from sane_engine.zoo.initialisation import initialise
from sane_engine.zoo.pruning import prune_by_magnitude
from sane_engine.zoo.spec import (
    ACTIVATIONS,
    INITIALISATIONS,
    ArchitectureSpec,
    ConvSpec,
    Range,
    SpecError,
    ZooSpec,
)
from sane_engine.zoo.stacked import StackedNetwork
from sane_engine.zoo.training import chunked


@st.composite
def architectures(draw: st.DrawFn) -> ArchitectureSpec:
    convolutions = draw(
        st.lists(
            st.builds(
                ConvSpec,
                out=st.integers(1, 4),
                kernel=st.integers(1, 3),
                stride=st.integers(1, 2),
                padding=st.integers(0, 2),
                pool=st.integers(1, 3),
            ),
            max_size=3,
        )
    )
    height, width = draw(st.integers(16, 17)), draw(st.integers(16, 17))
    # As many as leave anything of the image.
    size, kept = min(height, width), 0
    for convolution in convolutions:
        size = convolution.output_size(size)
        if size < 1:
            break
        kept += 1
    return ArchitectureSpec(
        input_shape=(draw(st.integers(1, 3)), height, width),
        convolutions=tuple(convolutions[:kept]),
        hidden=tuple(draw(st.lists(st.integers(1, 6), max_size=2))),
        classes=draw(st.integers(2, 5)),
        activation=draw(st.sampled_from(ACTIVATIONS)),
    )


@settings(deadline=None, max_examples=40)
@given(architecture=architectures(), seed=st.integers(0, 2**31), dropout=st.booleans())
def test_written_out_passes_agree_with_module_and_autograd(
    architecture: ArchitectureSpec, seed: int, dropout: bool
) -> None:
    models, batch = 2, 3
    singles = [initialise(architecture, "kaiming_normal", seed + number) for number in range(models)]
    stacked = {name: torch.stack([single[name] for single in singles]).requires_grad_() for name in singles[0]}
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(models, batch, *architecture.input_shape, generator=generator)
    labels = torch.randint(architecture.classes, (models, batch), generator=generator)

    logits = forward_stacked(architecture, stacked, images)
    for number, single in enumerate(singles):
        network = build(architecture)
        network.load_state_dict(single)
        assert_close(network(images[number]), logits[number], rtol=1e-4, atol=1e-5)

    # Twice with other images in between: buffers must not remember.
    network_of_all = StackedNetwork(architecture, models, batch)
    network_of_all.load({name: tensor.detach() for name, tensor in stacked.items()})
    units = sum(inputs for inputs, _ in architecture.fully_connected)
    masks = torch.ones(models, units, batch) if dropout else None
    with torch.no_grad():
        network_of_all.forward(torch.randn(models, batch, images[0, 0].numel(), generator=generator), None)
        again = network_of_all.forward(images.flatten(2), masks)
        assert_close(again.transpose(1, 2), logits, rtol=1e-4, atol=1e-5)
        gradient = torch.softmax(again, 1) - F.one_hot(labels, architecture.classes).transpose(1, 2)
        network_of_all.backward(gradient, masks)
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    expected = torch.autograd.grad(loss, list(stacked.values()))
    flat = torch.cat([part.flatten(1) for part in expected], dim=1)
    assert_close(network_of_all.gradients, flat, rtol=1e-3, atol=1e-4)


def test_dropout_acts_on_every_fully_connected_layer_in_both_passes() -> None:
    architecture = ArchitectureSpec(input_shape=(1, 2, 3), convolutions=(), hidden=(4,), classes=3)
    parameters = initialise(architecture, "normal", 0)
    weights = {name: tensor.clone().requires_grad_() for name, tensor in parameters.items()}
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(5, 6, generator=generator)
    masks = (torch.rand(10, 5, generator=generator) > 0.5).float() * 2
    hidden = torch.tanh(F.linear(images * masks[:6].T, weights["fc1.weight"], weights["fc1.bias"]))
    logits = F.linear(hidden * masks[6:].T, weights["fc2.weight"], weights["fc2.bias"])
    direction = torch.randn(5, 3, generator=generator)
    expected = torch.autograd.grad((logits * direction).sum(), list(weights.values()))

    network = StackedNetwork(architecture, 1, 5)
    network.load({name: tensor[None] for name, tensor in parameters.items()})
    assert_close(network.forward(images[None], masks[None])[0].T, logits)
    network.backward(direction.T[None].clone(), masks[None])
    assert_close(network.gradients[0], torch.cat([part.flatten() for part in expected]))


def test_demo_architecture_has_1696_parameters_under_their_usual_names() -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in build(ArchitectureSpec()).state_dict().items()}
    assert shapes == ArchitectureSpec().shapes
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 1696
    assert list(shapes)[:3] == ["conv1.weight", "conv1.bias", "conv2.weight"]


@pytest.mark.parametrize("scheme", INITIALISATIONS)
def test_initialisations_have_the_spread_their_name_promises(scheme: str) -> None:
    architecture = ArchitectureSpec(input_shape=(1, 20, 20), convolutions=(), hidden=(300,), classes=10)
    weight = initialise(architecture, scheme, 0)["fc1.weight"]
    expected = {
        "uniform": (1 / 400 / 3) ** 0.5,
        "normal": (1 / 400) ** 0.5,
        "kaiming_uniform": (2 / 400) ** 0.5,
        "kaiming_normal": (2 / 400) ** 0.5,
        "xavier_uniform": (2 / 700) ** 0.5,
        "xavier_normal": (2 / 700) ** 0.5,
    }[scheme]
    assert weight.std().item() == pytest.approx(expected, rel=0.02)
    bounded = weight.abs().max().item() < 2 * expected
    assert bounded == (not scheme.endswith("normal"))
    assert torch.equal(weight, initialise(architecture, scheme, 0)["fc1.weight"])


def test_digits_are_split_by_class_and_standardised_on_train_only() -> None:
    data = load_dataset("digits")
    assert data.train_images.shape == (len(data.train_labels), 1, 14, 14)
    assert data.train_images.dtype == torch.float32
    assert len(data.train_labels) + len(data.test_labels) == 1797
    assert data.train_images.mean().item() == pytest.approx(0, abs=1e-5)
    assert data.train_images.std().item() == pytest.approx(1, abs=1e-3)
    assert abs(data.test_images.mean().item()) > 1e-5
    share = torch.bincount(data.test_labels) / (
        torch.bincount(data.test_labels) + torch.bincount(data.train_labels)
    )
    assert share.sub(0.2).abs().max() < 0.01
    everything = torch.cat([data.train_images, data.test_images]).flatten(1)
    raw = torch.unique(load_dataset("digits", image_size=8).train_images.flatten(1), dim=0)
    assert len(torch.unique(everything, dim=0)) >= len(raw)
    again = load_dataset("digits")
    assert again.digest == data.digest != load_dataset("digits", image_size=8).digest
    assert torch.equal(again.test_images, data.test_images)
    with pytest.raises(SpecError, match="choose from digits"):
        load_dataset("digit")


@pytest.mark.parametrize("name", ["digits", "digits-independent"])
def test_shipped_specifications_ask_for_what_the_demo_needs(name: str) -> None:
    spec = ZooSpec.load(assets_root() / "specs" / f"{name}.json")
    assert spec.name == name
    assert ZooSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    assert len(spec.checkpoint_epochs) >= 6
    assert spec.shared_initialisation == (name == "digits")
    assert spec.n_models >= (300 if name == "digits" else 100)
    plans = plan_models(spec)
    assert {plan.optimiser for plan in plans} == {"sgd", "momentum", "adam", "adamw"}
    assert len({plan.initialisation_seed for plan in plans}) == (1 if name == "digits" else spec.n_models)


@pytest.mark.parametrize("path", sorted((assets_root() / "specs").glob("*.json")), ids=lambda path: path.stem)
def test_every_shipped_specification_is_documented_and_says_what_it_is(path: Path) -> None:
    spec = ZooSpec.load(path)
    assert spec.name == path.stem
    assert ZooSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    plans = plan_models(spec)
    starts = {plan.initialisation_seed for plan in plans}
    assert len(starts) == (1 if spec.shared_initialisation else spec.n_models)
    assert {plan.stop_epoch for plan in plans} <= set(spec.checkpoint_epochs)
    guide = (assets_root().parent / "docs" / "zoos.md").read_text(encoding="utf-8")
    assert f"specs/{path.name}" in guide


def test_the_wild_zoo_has_the_tutorials_network_and_mostly_its_settings() -> None:
    spec = ZooSpec.load(assets_root() / "specs" / "wild.json")
    assert spec.architecture.shapes["conv2.weight"] == (20, 10, 5, 5)
    assert sum(int(np.prod(shape)) for shape in spec.architecture.shapes.values()) == 21_840
    plans = plan_models(spec)
    assert sum(plan.optimiser != "adam" for plan in plans) > 0.75 * len(plans)
    assert sum(plan.initialisation == "uniform" for plan in plans) > 0.6 * len(plans)
    assert sum(plan.dropout == 0.5 for plan in plans) > 0.5 * len(plans)
    assert {32, 64, 128} == {plan.batch_size for plan in plans}
    assert spec.train_images is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "needs a name"),
        ({"name": "a", "n_model": 3}, "no field 'n_model'"),
        ({"name": "a", "n_models": 0}, "n_models must be"),
        ({"name": "a", "n_models": True}, "n_models must be"),
        ({"name": "a", "epochs": 5}, "whole numbers of epochs from 0 to epochs"),
        ({"name": "a", "checkpoint_epochs": 5}, "must be a list"),
        ({"name": "a", "activation": ["tan"]}, "choose from tanh"),
        ({"name": "a", "optimiser": []}, "at least one"),
        ({"name": "a", "learning_rate": 0}, "above 0"),
        ({"name": "a", "learning_rate": {"low": 0, "high": 1, "log": True}}, "cannot start at 0"),
        ({"name": "a", "learning_rate": {"low": 1, "high": 0.1}}, "low ≤ high"),
        ({"name": "a", "learning_rate": {"low": 1, "hi": 2}}, "no field 'hi'"),
        ({"name": "a", "learning_rate": {"sgd": 0.1}, "optimiser": ["adam"]}, "not for 'adam'"),
        ({"name": "a", "dropout": [0.5, 1.0]}, "below 1"),
        ({"name": "a", "momentum": [1.0]}, "momentum must stay below 1"),
        ({"name": "a", "stop_epoch": [3]}, "one of checkpoint_epochs"),
        ({"name": "a", "stop_epoch": 5}, "must be a list"),
        ({"name": "a", "train_images": 0}, "train_images must be"),
        ({"name": "a", "scored_images": 2.5}, "scored_images must be"),
        ({"name": "a", "architecture": {"flat_dropout": "rows"}}, "choose from units"),
        ({"name": "a", "architecture": {"convolutions": [{"out": 2, "kernel": 3, "pool": 0}]}}, "pool must be"),
        ({"name": "a", "architecture": {"convolutions": [{"out": 2, "kernel": 3, "pool": 13}]}}, "Nothing of"),
        ({"name": "a", "weight_decay": ["x"]}, "weight_decay must be"),
        ({"name": "a", "batch_size": 0}, "batch_size"),
        ({"name": "a", "pruning": [1.5]}, "sparsity"),
        ({"name": "a", "architecture": {"convolutions": [{"out": 2, "kernel": 99}]}}, "Nothing of the image"),
        ({"name": "a", "architecture": {"convolutions": [{"out": 2, "kernal": 3}]}}, "no field 'kernal'"),
        ({"name": "a", "shared_initialisation": True, "initialisation": ["normal", "uniform"]}, "one scheme"),
    ],
)
def test_a_wrong_specification_is_refused_in_one_line(content: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError) as refusal:
        ZooSpec.from_json(content)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_specification_file_that_is_not_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text("{", encoding="utf-8")
    with pytest.raises(SpecError, match=r"spec\.json is not a JSON file"):
        ZooSpec.load(tmp_path / "spec.json")


def test_specification_is_read_without_torch() -> None:
    code = (
        "import sys, sane_engine.zoo.spec, sane_engine.zoo.hyperparameters as h; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=assets_root().parent)


def test_hyperparameters_fill_their_ranges_and_larger_zoos_extend_smaller_ones() -> None:
    spec = ZooSpec(
        "a",
        n_models=400,
        optimiser=("sgd", "adam"),
        learning_rate={"sgd": Range(0.01, 1, log=True), "adam": (0.001,)},
        weight_decay=Range(1e-5, 1e-3, log=True, zero=0.25),
        batch_size=(16, 32),
    )
    plans = plan_models(spec)
    assert plans[:10] == plan_models(ZooSpec.from_json({**spec.to_json(), "n_models": 10}))
    rates = np.array([plan.learning_rate for plan in plans if plan.optimiser == "sgd"])
    assert rates.min() < 0.015
    assert rates.max() > 0.7
    assert 0.05 < np.median(rates) < 0.2
    assert {plan.learning_rate for plan in plans if plan.optimiser == "adam"} == {0.001}
    decays = np.array([plan.weight_decay for plan in plans])
    assert 0.18 < (decays == 0).mean() < 0.32
    assert decays[decays > 0].min() >= 1e-5
    assert len({plan.seed for plan in plans}) == 400


def test_every_model_has_its_own_order_and_masks() -> None:
    first, second = plan_models(ZooSpec("a", n_models=2, dropout=0.25))
    orders = [batch_order(plan, epoch, 100) for plan in (first, second) for epoch in (1, 2)]
    assert all(torch.equal(order.sort().values, torch.arange(100)) for order in orders)
    assert len({tuple(order.tolist()) for order in orders}) == 4
    assert torch.equal(orders[0], batch_order(first, 1, 100))
    perceptron = ArchitectureSpec(input_shape=(1, 2, 5), convolutions=(), hidden=(10,))
    masks, others = (torch.stack(list(islice(dropout_masks(plan, 1, perceptron), 50))) for plan in (first, second))
    assert masks.shape == (50, 20, 32)
    assert masks.mean().item() == pytest.approx(1, abs=0.02)
    assert set(masks.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert not torch.equal(masks, others)


def test_dropout_before_the_first_fully_connected_layer_takes_units_channels_or_nothing() -> None:
    (plan,) = plan_models(ZooSpec("a", n_models=1, dropout=0.5, batch_size=64))
    masks = {}
    for kind in FLAT_DROPOUTS:
        architecture = ArchitectureSpec(
            (1, 4, 4), (ConvSpec(30, 1, pool=2),), hidden=(40,), dropout=0.5, flat_dropout=kind
        )
        masks[kind] = next(dropout_masks(plan, 1, architecture))
        assert masks[kind].shape == (30 * 4 + 40, 64)
        assert masks[kind][120:].mean().item() == pytest.approx(1, abs=0.1)
        # The module says the same: what survives a pass through its dropout are units, whole channels, or all.
        network = build(architecture)
        network.feature_dropout.train()
        kept = network.feature_dropout(torch.ones(64, 30, 2, 2)).flatten(2)
        whole = (kept == kept[..., :1]).all().item()
        assert whole == (kind != "units")
        assert kept.mean().item() == pytest.approx(1, abs=0.1)
        assert (kept == 1).all().item() == (kind == "none")
    assert (masks["none"][:120] == 1).all()
    channels = masks["channels"][:120].view(30, 4, 64)
    assert (channels == channels[:, :1]).all()
    assert channels.mean().item() == pytest.approx(1, abs=0.1)
    assert not (masks["units"][:120].view(30, 4, 64) == channels).all()


def test_chunks_hold_every_model_once_and_only_what_trains_together() -> None:
    spec = ZooSpec("a", n_models=100, activation=("tanh", "relu"), optimiser=("sgd", "adam"), batch_size=(16, 32))
    plans = plan_models(spec)
    chunks = chunked(plans, 8)
    assert sorted(plan.model for chunk in chunks for plan in chunk) == [plan.model for plan in plans]
    assert max(map(len, chunks)) <= 8
    for chunk in chunks:
        assert len({(plan.activation, plan.optimiser, plan.batch_size) for plan in chunk}) == 1


def test_pruning_removes_exactly_the_smallest_even_among_equals() -> None:
    stacked = {
        "a.weight": torch.tensor([[[1.0, -5.0], [2.0, 2.0]], [[2.0, 2.0], [2.0, 2.0]]]),
        "a.bias": torch.tensor([[0.1, 0.2], [0.0, -0.1]]),
        "b.weight": torch.tensor([[[3.0, -0.5]], [[2.0, 9.0]]]),
    }
    pruned = prune_by_magnitude(stacked, 0.5)
    assert pruned["a.weight"][0].tolist() == [[0, -5], [0, 2]]
    assert pruned["b.weight"][0].tolist() == [[3, 0]]
    assert [int((pruned["a.weight"][n] == 0).sum() + (pruned["b.weight"][n] == 0).sum()) for n in (0, 1)] == [3, 3]
    assert torch.equal(pruned["a.bias"], stacked["a.bias"])
    assert not torch.signbit(pruned["b.weight"][0, 0, 1])
    assert stacked["b.weight"][0, 0, 1] == -0.5
    with pytest.raises(ValueError, match="sparsity"):
        prune_by_magnitude(stacked, 1.5)


def test_a_class_of_two_images_is_in_both_parts() -> None:
    train, test = stratified_split(np.asarray([0, 0, 1, 1, 2]))
    labels = np.asarray([0, 0, 1, 1, 2])
    assert labels[train].tolist() == [0, 1, 2]
    assert labels[test].tolist() == [0, 1]
