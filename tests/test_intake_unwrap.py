"""Where the state dict is found, what is stripped from its names, and what is told about the rest."""

from __future__ import annotations

import argparse
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attacks import torch_bytes
from torch import nn

from sane_engine.checkpoint import Checkpoint, Refusal
from sane_engine.intake import load_checkpoint, save_checkpoint


def state(prefix: str = "", fill: float = 1.0) -> dict[str, torch.Tensor]:
    return {f"{prefix}conv.weight": torch.full((2, 3), fill), f"{prefix}conv.bias": torch.full((2,), fill)}


def adam() -> dict[str, Any]:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


NAMES = ["conv.weight", "conv.bias"]
STEP = torch.tensor(5.0)
CASES = {
    "bare": (state(), (), (), NAMES),
    "ordered": (OrderedDict(state()), (), (), NAMES),
    "state_dict": ({"state_dict": state(), "epoch": 3}, ("state_dict",), (), NAMES),
    "model_state_dict": ({"epoch": 1, "model_state_dict": state()}, ("model_state_dict",), (), NAMES),
    "net": ({"net": state(), "acc": 91.0}, ("net",), (), NAMES),
    "deep": ({"a": {"model": {"state_dict": state()}}}, ("a", "model", "state_dict"), (), NAMES),
    "unknown key": ({"my_cnn": state(), "loss": 0.5}, ("my_cnn",), (), NAMES),
    "parallel": ({"state_dict": state("module.")}, ("state_dict",), ("module.",), NAMES),
    "compiled": (state("_orig_mod."), (), ("_orig_mod.",), NAMES),
    "both": (state("module._orig_mod."), (), ("module.", "_orig_mod."), NAMES),
    "not all": (
        state("module.") | {"scale": torch.ones(1)},
        (),
        (),
        ["module.conv.weight", "module.conv.bias", "scale"],
    ),
    "a real model attribute": (state("model."), (), (), ["model.conv.weight", "model.conv.bias"]),
    "lightning": (
        {"state_dict": state("model."), "pytorch-lightning_version": "2.1", "hyper_parameters": {"lr": 0.1}},
        ("state_dict",),
        ("model.",),
        NAMES,
    ),
    "ema only": ({"ema": state(), "step": 5}, ("ema",), (), NAMES),
    "list of one": ([state()], ("0",), (), NAMES),
    "list of two": (
        [state(), state(fill=2.0)],
        (),
        (),
        ["0.conv.weight", "0.conv.bias", "1.conv.weight", "1.conv.bias"],
    ),
    "pairs": (list(state().items()), (), (), NAMES),
    "two networks": (
        {"generator": state(), "critic": {"fc.weight": torch.ones(2)}, "epoch": 4},
        (),
        (),
        ["generator.conv.weight", "generator.conv.bias", "critic.fc.weight"],
    ),
    "with optimizer": ({"model": state(), "optimizer": adam()}, ("model",), (), NAMES),
    "unnamed optimizer": ({"weights": state(), "adam": adam()}, ("weights",), (), NAMES),
    "a network called scaler": ({"scaler": state(), "scheduler": {"step": 3}}, ("scaler",), (), NAMES),
    "random state": ({"model": state(), "rng_state": torch.get_rng_state()}, ("model",), (), NAMES),
    "averaged": ({"n_averaged": torch.tensor(3), **state("module.")}, (), ("module.",), NAMES),
    "numpy": ({"model": {"conv.weight": np.ones((2, 3)), "conv.bias": np.ones(2)}}, ("model",), (), NAMES),
    "defaultdict": (defaultdict(dict, {"net": state()}), ("net",), (), NAMES),
}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    """All cases through one child: the start of a process a case would be most of this file's time."""
    from sane_engine.intake import load_each

    folder: Path = tmp_path_factory.mktemp("cases")
    for i, (content, *_) in enumerate(CASES.values()):
        (folder / f"{i:02d}").write_bytes(torch_bytes(content))
    outcomes = load_each(sorted(folder.iterdir()))
    return {
        case: outcome if isinstance(outcome, Refusal) else outcome[0]
        for case, outcome in zip(CASES, outcomes, strict=True)
    }


@pytest.mark.parametrize("case", CASES)
def test_the_state_dict_is_found(case: str, loaded: dict[str, Checkpoint]) -> None:
    _, key_path, prefixes, names = CASES[case]
    checkpoint = loaded[case]
    assert not isinstance(checkpoint, Refusal), checkpoint
    assert checkpoint.provenance.key_path == key_path
    assert checkpoint.provenance.prefixes_stripped == prefixes
    assert list(checkpoint.tensors) == names


def test_plain_weights_are_preferred_to_their_average() -> None:
    content = {"ema_state_dict": state(fill=2.0), "state_dict": state(fill=1.0)}
    checkpoint = load_checkpoint(torch_bytes(content))
    assert checkpoint.provenance.key_path == ("state_dict",)
    assert checkpoint.tensors["conv.bias"].tolist() == [1.0, 1.0]
    assert checkpoint.provenance.ignored == (("ema_state_dict", "moving average of the weights"),)


def test_what_stands_beside_the_weights_becomes_properties_or_is_listed() -> None:
    content = {
        "epoch": 12,
        "best_prec1": torch.tensor(91.5),
        "val_acc": np.float64(0.925),
        "arch": "resnet20",
        "pretrained": False,
        "args": argparse.Namespace(lr=0.1, widths=[1, 2]),
        "optimizer": adam(),
        "mean": torch.ones(3),
        "history": [0.1, 0.2],
        "state_dict": state(),
    }
    for legacy in (False, True):
        checkpoint = load_checkpoint(torch_bytes(content, legacy=legacy))
        assert checkpoint.properties == {
            "epoch": 12,
            "best_prec1": 91.5,
            "val_acc": 0.925,
            "arch": "resnet20",
            "pretrained": False,
            "args.lr": 0.1,
        }
        assert dict(checkpoint.provenance.ignored) == {
            "optimizer": "optimizer state",
            "mean": "tensor beside the state dict",
            "history": "list of 2 entries",
            "args.widths": "list of 2 entries",
        }


@pytest.mark.filterwarnings("ignore:Sparse (BSR|CSR) tensor support is in beta")
def test_tensors_that_are_not_read_are_listed() -> None:
    blocks = torch.eye(4).to_sparse_bsr((2, 2))
    content = state() | {"mask": blocks, "meta": torch.empty(2, device="meta")}
    checkpoint = load_checkpoint(torch_bytes(content))
    assert list(checkpoint.tensors) == NAMES
    assert dict(checkpoint.provenance.ignored) == {
        "mask": "sparse tensor of blocks or batches",
        "meta": "tensor without data",
    }


def test_a_real_network_with_every_kind_of_layer() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.LSTM(4, 3), nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
    )
    checkpoint = load_checkpoint(torch_bytes(nn.DataParallel(model).state_dict()))
    model.load_state_dict(dict(checkpoint.tensors))
    assert list(checkpoint.tensors) == list(model.state_dict())
    assert all(torch.equal(checkpoint.tensors[name], tensor) for name, tensor in model.state_dict().items())
    assert checkpoint.provenance.prefixes_stripped == ("module.",)


def test_a_tree_that_contains_itself_ends() -> None:
    content: dict[str, Any] = {"state_dict": state(), "history": {}}
    content["history"]["all"] = content["history"]
    content["self"] = content
    assert list(load_checkpoint(torch_bytes(content)).tensors) == NAMES


def test_signs_that_torch_has_put_off_are_never_dropped(tmp_path: Path) -> None:
    negated = torch.randn(4, dtype=torch.complex64).conj().imag
    assert negated.is_neg()
    found = load_checkpoint(torch_bytes({"negated": negated, "w": torch.ones(2)}))
    assert list(found.tensors) == ["w"]
    assert found.provenance.ignored[0][0] == "negated"
    for suffix in (".pt", ".safetensors"):
        save_checkpoint({"negated": negated}, tmp_path / f"own{suffix}")
        assert torch.equal(load_checkpoint(tmp_path / f"own{suffix}").tensors["negated"], negated)


def test_properties_that_no_one_could_write_down_do_not_cost_the_weights() -> None:
    found = load_checkpoint(torch_bytes({"state_dict": {"a\ud800": torch.ones(2)}, "n": 10**5000, "s": "\ud800"}))
    assert list(found.tensors) == ["a?"]
    assert found.properties == {"s": "?"}
    assert found.provenance.ignored == (("n", "integer of more than 64 bits"),)
