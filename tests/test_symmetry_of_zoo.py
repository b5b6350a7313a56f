"""The symmetry of a zoo: from its architecture, from the file beside it, from its tensors, or not at all."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from symmetry_networks import CASES
from test_symmetry_finding import symmetry_of
from torch import Tensor

from sane_engine import Zoo, load_zoo, save_checkpoint, symmetry_of_zoo
from sane_engine.symmetry import with_symmetry
from sane_engine.zoo.architectures import ArchitectureSpec, build

SPEC = ArchitectureSpec(input_shape=(1, 12, 12))


def table(models: int, **columns: list[str]) -> pd.DataFrame:
    return pd.DataFrame({"model": [f"m{i}" for i in range(models)], "epoch": 0, "split": "train", **columns})


def stacked(models: int) -> dict[str, Tensor]:
    states = [build(SPEC).state_dict() for _ in range(models)]
    return {name: torch.stack([state[name] for state in states]) for name in states[0]}


def small_zoo(activations: list[str] | None, **architecture: object) -> Zoo:
    columns = {} if activations is None else {"activation": activations}
    described = {**SPEC.to_json(), **architecture}
    return Zoo.from_stacked("small", table(3, **columns), stacked(3), architecture=described)


def test_the_architecture_gives_neurons_and_signs() -> None:
    found = symmetry_of_zoo(small_zoo(None))
    assert found.n_neurons == 8 + 6 + 4 + 20
    assert len(found.signs) == 4
    zoo = small_zoo(["tanh"] * 3)
    assert symmetry_of_zoo(zoo) == found
    model = build(SPEC)
    images = torch.randn(4, 1, 12, 12)
    changed = found.permute(zoo.tensors(1), found.random(torch.Generator().manual_seed(0)))
    with torch.no_grad():
        before, after = (torch.func.functional_call(model, t, (images,)) for t in (zoo.tensors(1), changed))
    assert not torch.equal(changed["conv1.weight"], zoo.tensors(1)["conv1.weight"])
    assert torch.allclose(before, after, atol=1e-5)


@pytest.mark.parametrize("odd_one_out", ["relu", "gelu", "swish", None])
def test_one_row_whose_activation_is_not_odd_forbids_flips(odd_one_out: str) -> None:
    found = symmetry_of_zoo(small_zoo(["tanh", odd_one_out, "tanh"]))
    assert found.n_neurons == 38
    assert found.signs == ()
    assert symmetry_of_zoo(small_zoo(["tanh", odd_one_out, "tanh"]).select([0, 2])).signs != ()


def test_the_column_counts_more_than_the_architecture() -> None:
    assert symmetry_of_zoo(small_zoo(["tanh"] * 3, activation="relu")).signs != ()
    assert symmetry_of_zoo(small_zoo(["relu"] * 3, activation="tanh")).signs == ()


def test_an_architecture_of_other_networks_is_not_believed() -> None:
    found = symmetry_of_zoo(small_zoo(None, hidden=[21]))
    assert found.n_neurons == 38  # a plain chain, told by its tensors
    assert found.signs == ()
    assert "other tensors" in found.notes[0]


def vit_zoo() -> Zoo:
    return Zoo.from_models("vits", table(2), [dict(CASES["vit-tiny"].make().state_dict()) for _ in range(2)])


def test_a_known_symmetry_is_kept_beside_the_zoo(tmp_path: Path) -> None:
    assert symmetry_of_zoo(vit_zoo()).is_trivial
    known = symmetry_of("vit-tiny")
    with_symmetry(vit_zoo(), known).select([1]).save(tmp_path / "zoo")
    assert symmetry_of_zoo(load_zoo(tmp_path / "zoo")) == known


def test_a_symmetry_can_be_laid_beside_plain_checkpoints(tmp_path: Path) -> None:
    for i in range(2):
        save_checkpoint(dict(CASES["vit-tiny"].make().state_dict()), tmp_path / f"m{i}.safetensors")
    (tmp_path / "symmetry.json").write_text(symmetry_of("vit-tiny").to_json())
    zoo = load_zoo(tmp_path)
    assert (len(zoo), len(zoo.dropped)) == (2, 0)
    assert symmetry_of_zoo(zoo) == symmetry_of("vit-tiny")


@pytest.mark.parametrize("text", ["{", "[1]", '{"format": 1}', "null"])
def test_a_broken_record_is_said_and_not_used(text: str) -> None:
    zoo = vit_zoo()
    zoo.symmetry = text
    found = symmetry_of_zoo(zoo)
    assert found.is_trivial
    assert "symmetry.json" in found.notes[0]


def test_a_symmetry_of_other_networks_is_refused() -> None:
    with pytest.raises(ValueError, match="another network"):
        with_symmetry(vit_zoo(), symmetry_of("mlp"))
    zoo = vit_zoo()
    zoo.symmetry = symmetry_of("mlp").to_json()
    assert symmetry_of_zoo(zoo).is_trivial


def test_layouts_are_asked_for_by_row(tmp_path: Path) -> None:
    models = [dict(CASES[name].make().state_dict()) for name in ("mlp", "vit-tiny", "gpt-2")]
    zoo = Zoo.from_models("mixed", table(3), models)
    assert symmetry_of_zoo(zoo).is_trivial
    assert "3 layouts" in symmetry_of_zoo(zoo).notes[0]
    assert symmetry_of_zoo(zoo, 0).n_neurons == 48
    known = with_symmetry(zoo, symmetry_of("gpt-2"), symmetry_of("vit-tiny"))
    known.save(tmp_path / "zoo")
    again = load_zoo(tmp_path / "zoo")
    assert symmetry_of_zoo(again, 1) == symmetry_of("vit-tiny")
    assert symmetry_of_zoo(again, 2) == symmetry_of("gpt-2")
    with pytest.raises(IndexError):
        symmetry_of_zoo(zoo, 3)
