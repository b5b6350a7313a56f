"""Every container gives back the bits that went in: values, types, shapes, order and ties."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attacks import rewritten, torch_bytes, zip_bytes
from safetensors.torch import save_file
from torch import Tensor

from sane_engine.checkpoint import Refusal
from sane_engine.intake import load_checkpoint, load_checkpoints, load_each, load_tensors, save_checkpoint

DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex128),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    *(torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2),
]


def random_bits(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    """Arbitrary bit patterns, NaNs with payload included."""
    if dtype is torch.bool:
        return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) > 0.5
    count = int(np.prod(shape)) * dtype.itemsize
    raw = torch.randint(0, 256, (count,), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return raw.view(dtype).reshape(shape) if count else torch.empty(shape, dtype=dtype)


def zoo_of_types(dtypes: list[torch.dtype] = DTYPES) -> dict[str, Tensor]:
    state = {f"z{i}.{dtype}": random_bits((3, 5), dtype, i) for i, dtype in enumerate(dtypes)}
    state["scalar"] = torch.tensor(3.25)
    state["counter"] = torch.tensor(7)
    state["nothing"] = torch.empty(0)
    state["a.empty.matrix"] = torch.empty(4, 0, dtype=torch.float16)
    return state


def bits(tensor: Tensor) -> bytes:
    flat = tensor.detach().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def assert_same(found: Any, expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert found[name].shape == tensor.shape, name
        assert bits(found[name]) == bits(tensor), name
        assert found[name].is_contiguous()
        assert found[name].device.type == "cpu"


@pytest.mark.parametrize("legacy", [False, True])
def test_torch_files_come_back_bit_by_bit(legacy: bool) -> None:
    state = zoo_of_types()
    if legacy:
        # The old format has no storages for the newest types.
        state = {
            name: t for name, t in state.items() if not str(t.dtype).startswith(("torch.uint", "torch.float8"))
        }
        state["bytes"] = torch.arange(7, dtype=torch.uint8)
    checkpoint = load_checkpoint(torch_bytes(state, legacy=legacy), name="typed")
    assert_same(checkpoint.tensors, state)
    assert checkpoint.name == "typed"
    assert checkpoint.provenance.container == ("torch-legacy" if legacy else "torch-zip")
    assert sum(checkpoint.provenance.dtypes.values()) == len(state)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
def test_what_we_save_comes_back_in_the_same_order(tmp_path: Path, suffix: str) -> None:
    state = zoo_of_types([dtype for dtype in DTYPES if dtype is not torch.complex128])
    state["transposed"] = torch.arange(12.0).reshape(3, 4).T
    state["part"] = torch.arange(100.0)[10:20]
    save_checkpoint(state, tmp_path / f"model{suffix}")
    checkpoint = load_checkpoint(tmp_path / f"model{suffix}")
    assert_same(checkpoint.tensors, state)
    assert checkpoint.name == f"model{suffix}"
    assert [path.name for path in tmp_path.iterdir()] == [f"model{suffix}"]
    assert (tmp_path / f"model{suffix}").stat().st_size < 20_000


def test_saving_to_an_unknown_suffix_says_what_is_possible(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="safetensors"):
        save_checkpoint({"w": torch.zeros(2)}, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_foreign_safetensors_with_metadata(tmp_path: Path) -> None:
    state = {"b.weight": torch.randn(2, 3), "a.bias": torch.randn(3).bfloat16()}
    save_file(state, tmp_path / "m.bin", metadata={"accuracy": "0.93", "epoch": "12", "note": "hello"})
    checkpoint = load_checkpoint(tmp_path / "m.bin")
    assert {name: bits(t) for name, t in checkpoint.tensors.items()} == {name: bits(t) for name, t in state.items()}
    assert checkpoint.properties == {"accuracy": 0.93, "epoch": 12, "note": "hello"}
    assert checkpoint.provenance.container == "safetensors"


@pytest.mark.parametrize("pack", [np.savez, np.savez_compressed])
def test_npz(pack: Any) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "second": rng.normal(size=(3, 4)),
        "first": rng.normal(size=(5,)).astype(np.float16),
        "fortran": np.asfortranarray(rng.normal(size=(4, 5)).astype(np.float32)),
        "big": rng.normal(size=(2, 3)).astype(">f4"),
        "step": np.array(5),
        "none": np.empty((0, 3), dtype=np.float32),
        "flags": np.array([True, False]),
        "waves": rng.normal(size=3).astype(">c16"),
    }
    buffer = io.BytesIO()
    pack(buffer, **arrays, names=np.array(["a", "b"]), things=np.array([{}, []], dtype=object))
    checkpoint = load_checkpoint(buffer.getvalue())
    assert_same(
        checkpoint.tensors, {k: torch.from_numpy(a.astype(a.dtype.newbyteorder("="))) for k, a in arrays.items()}
    )
    assert {name for name, _ in checkpoint.provenance.ignored} == {"names", "things"}


@pytest.mark.parametrize("legacy", [False, True])
def test_views_are_copied_out_and_ties_stay_ties(legacy: bool) -> None:
    base = torch.randn(6, 4)
    tied = torch.nn.Parameter(torch.randn(4, 4))
    state = {
        "rows": base[1:3],
        "columns": base[:, 1:3],
        "transposed": base.T,
        "permuted": torch.randn(2, 3, 4, 5).permute(3, 0, 2, 1),
        "channels_last": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "expanded": torch.tensor([1.5, 2.5]).expand(3, 2),
        "half_columns": torch.randn(4, 6).bfloat16()[:, ::2],
        "embedding": tied,
        "head": tied,
        "head_transposed": tied.data.T,
    }
    tensors = load_checkpoint(torch_bytes(state, legacy=legacy)).tensors
    assert_same(tensors, {name: tensor.detach() for name, tensor in state.items()})
    assert tensors["embedding"] is tensors["head"]
    assert tensors["head_transposed"] is not tensors["head"]
    assert not tensors["embedding"].requires_grad


def test_saved_ties(tmp_path: Path) -> None:
    shared = torch.randn(3, 3)
    for suffix in (".pt", ".safetensors"):
        save_checkpoint({"a": shared, "b": shared, "c": shared.T}, tmp_path / f"m{suffix}")
    as_torch = load_checkpoint(tmp_path / "m.pt").tensors
    assert as_torch["a"] is as_torch["b"]
    assert_same(load_checkpoint(tmp_path / "m.safetensors").tensors, {"a": shared, "b": shared, "c": shared.T})


def test_a_byte_swapped_torch_file() -> None:
    weight = torch.randn(3, 4)
    swapped = weight.numpy().byteswap().tobytes()
    data = rewritten(torch_bytes({"weight": weight}), {"byteorder": b"big", "data/0": swapped})
    assert_same(load_checkpoint(data).tensors, {"weight": weight})


def shards(folder: Path) -> dict[str, Tensor]:
    first = {"layers.0.weight": torch.randn(3, 3), "layers.0.bias": torch.randn(3)}
    second = {"layers.1.weight": torch.randn(2, 3)}
    save_file(first, folder / "model-00001-of-00002.safetensors")
    save_file(second, folder / "model-00002-of-00002.safetensors")
    weight_map = dict.fromkeys(first, "model-00001-of-00002.safetensors")
    weight_map |= dict.fromkeys(second, "model-00002-of-00002.safetensors")
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return first | second


def test_sharded_safetensors_by_index_folder_and_zip(tmp_path: Path) -> None:
    expected = shards(tmp_path)
    packed = zip_bytes({f"model/{path.name}": path.read_bytes() for path in tmp_path.iterdir()})
    digests = set()
    for source in (tmp_path / "model.safetensors.index.json", tmp_path, packed):
        checkpoint = load_checkpoint(source)
        assert {name: bits(t) for name, t in checkpoint.tensors.items()} == {
            k: bits(t) for k, t in expected.items()
        }
        assert checkpoint.provenance.container == "safetensors-sharded"
        digests.add(checkpoint.provenance.sha256)
    assert len(digests) == 1


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    shards(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    index = tmp_path / "model.safetensors.index.json"
    for source in (index, index.read_bytes()):
        with pytest.raises(Refusal, match=r"model-0000\d-of-00002") as caught:
            load_checkpoint(source)
        assert caught.value.code == "missing-shard"


def test_an_archive_of_several_keeps_names_order_and_properties(tmp_path: Path) -> None:
    states = {f"run/epoch_{i}.pt": {"w": torch.full((2, 2), float(i))} for i in (10, 2)}
    members = {name: torch_bytes({"state_dict": state, "epoch": 3}) for name, state in states.items()}
    save_file({"w": torch.ones(2, 2)}, tmp_path / "x")
    members["other.safetensors"] = (tmp_path / "x").read_bytes()
    members["metrics.csv"] = b"model,accuracy\n"
    members["__MACOSX/._epoch.pt"] = b"\x00\x05\x16\x07"
    data = zip_bytes(members)
    found = load_checkpoints(data)
    assert [checkpoint.name for checkpoint in found] == [*states, "other.safetensors"]
    assert [checkpoint.properties.get("epoch") for checkpoint in found] == [3, 3, None]
    assert found[0].provenance.ignored[-1][0] == "metrics.csv"
    nested = load_tensors(data)
    for name, state in states.items():
        assert_same(nested[name], state)
    with pytest.raises(Refusal) as caught:
        load_checkpoint(data)
    assert caught.value.code == "several-checkpoints"


def test_an_archive_of_one_is_that_one() -> None:
    state = {"w": torch.randn(3)}
    assert_same(load_tensors(zip_bytes({"folder/model.pt": torch_bytes(state)})), state)


def test_many_files_share_a_child_and_a_bad_one_ends_nothing(tmp_path: Path) -> None:
    paths = []
    for i in range(40):
        torch.save({"w": torch.full((3,), float(i))}, tmp_path / f"{i:02d}.pt")
        paths.append(tmp_path / f"{i:02d}.pt")
    paths[7].write_bytes(b"")
    found = list(load_each(paths))
    assert [i for i, outcome in enumerate(found) if isinstance(outcome, Refusal)] == [7]
    values = [outcome[0].tensors["w"][0].item() for outcome in found if not isinstance(outcome, Refusal)]
    assert values == [float(i) for i in range(40) if i != 7]


def test_weights_that_are_not_finite_load_and_are_counted() -> None:
    state = {"w": torch.tensor([1.0, float("nan"), float("inf")]), "n": torch.tensor([1, 2])}
    checkpoint = load_checkpoint(torch_bytes(state))
    assert checkpoint.properties["non_finite"] == 2
    assert_same(checkpoint.tensors, state)


@pytest.mark.parametrize("length", [128, 384, 640, 1408, 0x4B50, 65536 + 128, 0x8B1F])
def test_the_length_of_a_safetensors_header_is_never_taken_for_another_format(length: int) -> None:
    header = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(length)
    found = load_checkpoint(struct.pack("<Q", length) + header + struct.pack("<f", 1.5))
    assert found.tensors["w"].tolist() == [1.5]
