"""Samples for deeper and wider networks, and for other classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sane_engine import Refusal, Zoo, load_encoder, load_zoo
from sane_engine.sampling import prepare
from sane_engine.sampling.sampling import draw_samples
from sane_engine.sampling.targets import correspondence, sample_target
from sane_engine.sampling.task import task_from
from sane_engine.tokens import layout_of
from sane_engine.zoo.architectures import ArchitectureSpec, ConvSpec, ResNetSpec, build
from sane_engine.zoo.datasets import load_dataset

OWN = ArchitectureSpec()
DEEPER = ArchitectureSpec(
    convolutions=(ConvSpec(8, 5, 2, 1), ConvSpec(6, 3, 1, 1), ConvSpec(6, 3), ConvSpec(4, 2)), hidden=(20, 20)
)
WIDER = ArchitectureSpec(convolutions=(ConvSpec(12, 5, 2, 1), ConvSpec(9, 3), ConvSpec(5, 2)), hidden=(30,))


@pytest.fixture(scope="module")
def digits() -> Zoo:
    zoo = load_zoo("digits")
    last = zoo.table["epoch"] == 25
    return zoo.select(np.flatnonzero(last & (zoo.table["split"] == "train"))[:30])


@pytest.mark.parametrize("space", ["latents", "pca", "weights"])
@pytest.mark.parametrize("target", [DEEPER, WIDER])
def test_every_network_of_the_target_can_be_run(digits: Zoo, space: str, target: ArchitectureSpec) -> None:
    prepared = prepare(load_encoder("digits-sane"), digits, anchors=range(20), space=space, seed=1)
    few, many = sample_target(prepared, target.to_json(), 2), sample_target(prepared, target.to_json(), 3)
    for each in few:
        build(target).load_state_dict(dict(each.tensors))
        assert all(bool(tensor.isfinite().all()) for tensor in each.tensors.values())
        for tensor in each.tensors.values():
            assert tensor.dim() < 2 or len(torch.unique(tensor.flatten(1), dim=0)) == len(tensor)
    assert all(torch.equal(few[1].tensors[name], many[1].tensors[name]) for name in few[1].tensors)


def test_the_own_architecture_is_the_identity(digits: Zoo) -> None:
    layout = layout_of(digits.tensors(0), 37)
    same = correspondence(layout, layout)
    assert torch.equal(same.token, torch.arange(layout.n_tokens)) and not same.draw.any()
    assert all(name == other for name, other in same.tensor.items())
    prepared = prepare(None, digits, anchors=range(20), space="weights", method="gaussian", seed=1)
    for one, other in zip(sample_target(prepared, OWN.to_json(), 2), draw_samples(prepared, 2), strict=True):
        for name in one.tensors:
            torch.testing.assert_close(one.tensors[name], other.tensors[name], rtol=1e-5, atol=1e-6)


def test_a_layer_too_many_passes_on_what_it_gets(digits: Zoo) -> None:
    prepared = prepare(None, digits, anchors="top 50 %", space="weights", seed=1)
    deeper = sample_target(prepared, DEEPER.to_json(), 2)
    module = build(DEEPER)
    module.load_state_dict(dict(deeper[0].tensors))
    images = torch.randn(3, 6, 6, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(module.get_submodule("conv3")(images), images[:, :, 1:-1, 1:-1])
    task = task_from(DEEPER.to_json(), load_dataset("digits", image_size=14))
    stacked = {name: torch.stack([s.tensors[name] for s in deeper]) for name in deeper[0].tensors}
    assert float(task.score(stacked, task.test)[0].mean()) > 0.5


def test_a_new_head_is_initialised_and_the_rest_is_sampled(digits: Zoo) -> None:
    prepared = prepare(None, digits, anchors=range(20), space="weights", seed=1)
    kept = sample_target(prepared, OWN.to_json(), 1)[0].tensors
    new = sample_target(prepared, OWN.to_json(), 1, new_head=True)[0].tensors
    assert {name for name in kept if not torch.equal(kept[name], new[name])} == {"fc2.weight", "fc2.bias"}
    five = sample_target(prepared, ArchitectureSpec(classes=5).to_json(), 1)[0].tensors
    assert five["fc2.weight"].shape == (5, 20) and torch.equal(five["fc1.weight"], kept["fc1.weight"])


def test_other_kinds_of_layer_are_refused(digits: Zoo) -> None:
    prepared = prepare(None, digits, anchors=range(20), space="weights", seed=1)
    with pytest.raises(Refusal) as refusal:
        sample_target(prepared, ResNetSpec().to_json(), 1)
    assert refusal.value.code == "foreign-target"


def test_a_task_for_the_target(digits: Zoo) -> None:
    prepared = prepare(None, digits, anchors=range(20), space="weights", seed=1)
    task = task_from(WIDER.to_json(), load_dataset("digits", image_size=14))
    samples = sample_target(prepared, WIDER.to_json(), 2)
    stacked = {name: torch.stack([s.tensors[name] for s in samples]) for name in samples[0].tensors}
    assert task.logits(stacked, task.test.images).shape == (2, len(task.test), 10)
