"""Networks run side by side do what each does alone, and their answers are counted right."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from sane_engine.behaviour.answers import answers, noise, path_norms
from sane_engine.behaviour.networks import architecture_of, by_activation, plainest_architecture, runner
from sane_engine.representations import NoiseBehaviour
from sane_engine.zoo import Zoo
from sane_engine.zoo.architecture_families import Architecture
from sane_engine.zoo.architectures import ArchitectureSpec, ConvSpec, ResNetSpec, build

CHAIN = ArchitectureSpec((2, 12, 12), (ConvSpec(4, 3, 1, 1, 2), ConvSpec(3, 2, 2)), (6,), 5, "relu")
FLAT = ArchitectureSpec((1, 4, 4), (), (7,), 3, "tanh")
RESIDUAL = ResNetSpec(input_shape=(1, 8, 8), widths=(4, 6), blocks=(1, 1), classes=3)


def zoo_of(architecture: Architecture, models: int = 3) -> Zoo:
    dicts = []
    for seed in range(models):
        torch.manual_seed(seed)
        dicts.append({name: tensor.detach() for name, tensor in build(architecture).state_dict().items()})
    table = pd.DataFrame({"model": [f"m{i}" for i in range(models)]})
    return Zoo.from_models("networks", table, dicts, architecture=architecture.to_json())


@pytest.mark.parametrize("architecture", [CHAIN, FLAT, RESIDUAL])
def test_networks_side_by_side_do_what_each_does_alone(architecture: Architecture) -> None:
    zoo = zoo_of(architecture)
    images = torch.randn(4, *architecture.input_shape)
    with torch.no_grad():
        outputs = runner(architecture, zoo.stacked())(images)
        for row in range(len(zoo)):
            network = build(architecture)
            network.load_state_dict(zoo.tensors(row))
            assert torch.allclose(outputs[-1][row], network(images), atol=1e-5)
            first = network.conv1 if hasattr(network, "conv1") else network.fc1
            alone: Tensor = first(images if hasattr(network, "conv1") else images.flatten(1))
            assert torch.allclose(outputs[0][row], alone, atol=1e-5), "before activation and pooling"


def test_residual_networks_have_a_behaviour_too() -> None:
    zoo = zoo_of(RESIDUAL)
    features = NoiseBehaviour().fit(zoo).transform(zoo)
    layers = sum(1 for name, shape in RESIDUAL.shapes.items() if len(shape) > 1)
    assert features.shape == (3, layers + 2 * (5 * layers + 11))
    assert np.isfinite(features).all()
    assert np.ptp(features, axis=0).max() > 0


def test_answers_without_signs_do_not_see_a_unit_turned_over() -> None:
    stacked = {name: tensor.clone() for name, tensor in zoo_of(FLAT).stacked().items()}
    turned = dict(stacked)
    turned["fc1.weight"], turned["fc1.bias"] = turned["fc1.weight"].clone(), turned["fc1.bias"].clone()
    turned["fc2.weight"] = turned["fc2.weight"].clone()
    turned["fc1.weight"][:, 2] *= -1
    turned["fc1.bias"][:, 2] *= -1
    turned["fc2.weight"][:, :, 2] *= -1
    images = noise(FLAT.input_shape, 0)

    def numbers(tensors: dict[str, Tensor], signs: bool) -> Tensor:
        return answers([runner(FLAT, tensors)(kind) for kind in images], tensors, signs=signs)

    assert torch.allclose(numbers(stacked, False), numbers(turned, False), atol=1e-4)
    assert not torch.allclose(numbers(stacked, True), numbers(turned, True), atol=1e-2)


def test_path_norms_of_a_chain_are_products_of_absolute_weights() -> None:
    stacked = zoo_of(FLAT).stacked()
    first, second = (stacked[f"fc{i}.weight"].abs().double() for i in (1, 2))
    found = path_norms({name: tensor for name, tensor in stacked.items() if name.endswith("weight")})
    assert torch.allclose(found[:, 1], (second @ first).sum(dim=2).mean(dim=1).log10())


def test_rows_of_a_zoo_are_run_with_the_activation_they_name() -> None:
    zoo = zoo_of(FLAT).with_columns(activation=["relu", "tanh", "unheard-of"])
    known = architecture_of(zoo)
    assert known == FLAT
    found = {one.activation: rows.tolist() for one, rows in by_activation(zoo, FLAT)}
    assert found == {"relu": [0], "tanh": [1, 2]}
    assert architecture_of(Zoo.from_models("bare", zoo.table, [zoo.tensors(i) for i in range(3)])) is None


def test_plainest_chain_of_known_weights_keeps_every_layer() -> None:
    plain = plainest_architecture(dict(CHAIN.shapes))
    assert plain is not None
    assert plain.activation == "tanh"
    assert [c.stride for c in plain.convolutions] == [1, 1]
    assert dict(plain.shapes) == dict(CHAIN.shapes)
