"""Large files: tensors that stay in the file until asked for, and headers that are read alone."""

from __future__ import annotations

import gc
from pathlib import Path

import pandas as pd
import pytest
import torch
from attacks import torch_bytes, zip_bytes
from attacks.corpus import same
from safetensors.torch import save_file

from sane_engine import layer_features, load_encoder
from sane_engine.baselines import LayerKind
from sane_engine.checkpoint import Refusal
from sane_engine.intake import list_checkpoints, list_tensors, load_checkpoint, load_checkpoints
from sane_engine.intake.lazy import LazyTensors
from sane_engine.progress import Cancelled

SHARED = torch.arange(6.0).reshape(2, 3)
STATE = {
    "a": SHARED,
    "turned": torch.arange(12.0).reshape(3, 4).T,
    "none": torch.empty(0, 3),
    "count": torch.tensor(7),
    "tied": SHARED,
    "bad": torch.tensor([1.0, float("nan")]),
}


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@pytest.mark.parametrize("packed", [False, True])
def test_lazy_tensors_are_the_same_tensors(tmp_path: Path, temporary: Path, packed: bool) -> None:
    data = torch_bytes({"state_dict": STATE, "epoch": 3})
    path = tmp_path / "m"
    path.write_bytes(zip_bytes({"m.pt": data}) if packed else data)
    eager, lazy = load_checkpoint(path), load_checkpoint(path, lazy=True)
    assert isinstance(lazy.tensors, LazyTensors)
    assert not same(lazy.tensors, eager.tensors)
    assert lazy.entries == eager.entries
    assert lazy.n_parameters == eager.n_parameters == 6 + 12 + 2
    assert lazy.provenance == eager.provenance
    assert lazy.tensors.non_finite() == eager.properties["non_finite"] == 1
    first = lazy.tensors["a"]
    assert lazy.tensors["tied"] is first
    shapes = lazy.tensors.shapes()
    assert shapes["a"] is shapes["tied"]
    assert {name: tuple(t.shape) for name, t in shapes.items()} == {n: tuple(t.shape) for n, t in STATE.items()}
    del lazy, eager, first, shapes
    gc.collect()
    assert not list(temporary.iterdir())


def test_bytes_can_be_lazy_too(temporary: Path) -> None:
    checkpoint = load_checkpoint(torch_bytes(STATE), lazy=True)
    assert checkpoint.tensors["a"].tolist() == SHARED.tolist()
    tensors = checkpoint.tensors
    del checkpoint
    gc.collect()
    assert tensors["turned"].shape == (4, 3)


def test_a_refusal_leaves_nothing_behind(temporary: Path) -> None:
    with pytest.raises(Refusal):
        load_checkpoint(b"text", lazy=True)
    gc.collect()
    assert not list(temporary.iterdir())


def test_a_file_that_changes_is_a_refusal_and_no_crash(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"w": torch.ones(1000)}, path)
    tensors = load_checkpoint(path, lazy=True).tensors
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(Refusal, match="cut off"):
        tensors["w"]
    path.unlink()
    with pytest.raises(Refusal, match="cannot be read"):
        tensors["w"]


def test_looking_at_the_weights_can_be_cancelled(tmp_path: Path) -> None:
    save_file({f"w{i}": torch.ones(10) for i in range(10)}, tmp_path / "m")
    tensors = load_checkpoint(tmp_path / "m", lazy=True).tensors
    assert isinstance(tensors, LazyTensors)
    seen: list[int] = []
    with pytest.raises(Cancelled):
        tensors.non_finite(progress=lambda done, total, _: seen.append(done), cancelled=lambda: len(seen) == 3)
    assert seen == [40, 80, 120]


@pytest.mark.parametrize("kind", ["statistics", "weightwatcher"])
def test_layer_curves_of_a_file_are_those_of_its_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: LayerKind
) -> None:
    generator = torch.Generator().manual_seed(0)
    names = {
        f"{i}.{part}": (12, 20) if part == "weight" else (12,) for i in range(3) for part in ("weight", "bias")
    }
    state = {name: torch.randn(shape, generator=generator) for name, shape in names.items()}
    save_file(state, tmp_path / "m")
    monkeypatch.setattr("sane_engine.baselines.spectral._BYTES_OF_CHUNK", 4 * 300)  # one layer at a time
    lazy, eager = load_checkpoint(tmp_path / "m", lazy=True).tensors, load_checkpoint(tmp_path / "m").tensors
    pd.testing.assert_frame_equal(layer_features(lazy, kind), layer_features(eager, kind))


def test_what_sane_leaves_out_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file({"0.weight": torch.ones(4, 3), "0.bias": torch.ones(4)}, tmp_path / "m")
    monkeypatch.setattr("sane_engine.baselines.sane_layers.MOST_WEIGHTS_OF_A_FILE", 10)
    lazy = load_checkpoint(tmp_path / "m", lazy=True).tensors
    table = layer_features(lazy, "sane", encoder=load_encoder("digits-sane"))
    assert table["reason"].tolist() == ["16 weights: SANE reads a network as a whole, here up to 10."]
    monkeypatch.setattr("sane_engine.baselines.sane_layers.MOST_WEIGHTS_OF_A_FILE", 16)
    table = layer_features(lazy, "sane", encoder=load_encoder("digits-sane"))
    assert table["reason"].tolist() == [""]


def test_headers_alone_say_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"w": torch.ones(2, 3), "h": torch.ones(4).bfloat16()}, path)
    with path.open("r+b") as file:
        # Much larger than anything that could be read in the time of this test.
        file.seek(0)
        header = b'{"w":{"dtype":"F32","shape":[2500000000],"data_offsets":[0,10000000000]}}'
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 10_000_000_000)
    (entry,) = list_tensors(path)
    assert (entry.name, entry.dtype, entry.shape, entry.elements) == (
        "w",
        "float32",
        (2_500_000_000,),
        2_500_000_000,
    )
    (found,) = list_checkpoints(path)
    assert found.n_parameters == 2_500_000_000
    assert not found.tensors
    assert found.provenance.sha256 == ""
    assert found.provenance.size_bytes == path.stat().st_size


def test_headers_of_every_container() -> None:
    for data in (torch_bytes(STATE), torch_bytes(STATE, legacy=True), zip_bytes({"a.pt": torch_bytes(STATE)})):
        entries = list_tensors(data)
        assert {entry.name: entry.shape for entry in entries} == {name: tuple(t.shape) for name, t in STATE.items()}
        assert [entry.tied_to for entry in entries if entry.name == "tied"] == ["a"]
    several = zip_bytes({name: torch_bytes(STATE) for name in ("a.pt", "b.pt")})
    assert [found.name for found in list_checkpoints(several)] == ["a.pt", "b.pt"]
    with pytest.raises(Refusal) as caught:
        list_tensors(several)
    assert caught.value.code == "several-checkpoints"


def test_members_of_an_archive_share_what_was_unpacked(temporary: Path) -> None:
    data = zip_bytes({name: torch_bytes({"w": torch.full((2,), float(i))}) for i, name in enumerate("ab")})
    found = load_checkpoints(data, lazy=True)
    last = found[1].tensors
    del found
    gc.collect()
    assert last["w"].tolist() == [1.0, 1.0]
    del last
    gc.collect()
    assert not list(temporary.iterdir())
