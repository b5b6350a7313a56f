"""A zoo: its table, its splits, its tensors, and the native format."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sane_engine.checkpoint import Refusal
from sane_engine.tokens import tokenize
from sane_engine.zoo import Zoo, load_zoo
from sane_engine.zoo.splits import split_by_group, split_sizes

ROOT = Path(__file__).resolve().parent.parent
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]


def table(n: int, epochs: int = 2, **columns: Any) -> pd.DataFrame:
    rows = pd.DataFrame({"model": [f"m{i // epochs}" for i in range(n)], "epoch": [i % epochs for i in range(n)]})
    return rows.assign(**columns)


def random_tensor(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randint(-100, 100, shape, generator=generator)
    return (raw > 0) if dtype == torch.bool else raw.abs().to(dtype) if dtype == torch.uint8 else raw.to(dtype) / 1


def zoo_of(n: int = 6, **columns: Any) -> Zoo:
    stacked = {
        "conv.weight": torch.arange(n * 12, dtype=torch.float32).reshape(n, 3, 4),
        "bn.num_batches_tracked": torch.arange(n),
        "scale": torch.linspace(0, 1, n, dtype=torch.float64),
        "half": torch.arange(n * 2).reshape(n, 2).half(),
    }
    return Zoo.from_stacked(
        "tiny", table(n, **columns), stacked, architecture={"kind": "none"}, provenance={"by": 1}
    )


def assert_same(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert list(left) == list(right)
    for name, tensor in left.items():
        assert tensor.dtype == right[name].dtype
        assert tensor.shape == right[name].shape
        assert (
            tensor.contiguous()
            .view(-1)
            .view(torch.uint8)
            .equal(right[name].contiguous().view(-1).view(torch.uint8))
        )


models = st.lists(
    st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=3).map(tuple), st.integers(0, 2**31)),
    min_size=1,
    max_size=5,
)


@given(layouts=st.lists(models, min_size=1, max_size=3), copies=st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_native_round_trip_is_exact(layouts: list[Any], copies: int) -> None:
    zoo_models = [
        {
            f"{index}.z{-index}": random_tensor(shape, dtype, seed + copy)
            for index, (dtype, shape, seed) in enumerate(one)
        }
        for copy in range(copies)
        for one in layouts
    ]
    zoo = Zoo.from_models("random", table(len(zoo_models)), zoo_models)
    with tempfile.TemporaryDirectory() as folder:
        zoo.save(Path(folder) / "zoo")
        again = load_zoo(Path(folder) / "zoo")
        pd.testing.assert_frame_equal(again.table, zoo.table)
        assert again.digest == zoo.digest
        for row, expected in enumerate(zoo_models):
            assert_same(again.tensors(row), expected)
        for group in again.layout_groups():
            stack = again.stacked(group[::-1].copy())
            for position, row in enumerate(group[::-1]):
                assert_same({k: t[position] for k, t in stack.items()}, zoo_models[row])


def test_native_keeps_what_is_said_about_the_zoo(tmp_path: Path) -> None:
    mixed = [1, "x", None, True, [1], {"a": 2}]
    dropped = pd.DataFrame({"model": ["gone"], "reason": ["NaN"]})
    zoo = zoo_of(lr=np.linspace(0, 1, 6), act=["a", None, "b"] * 2, flag=[True, False, None] * 2, mixed=mixed)
    zoo = Zoo("tiny", zoo.table, zoo._source, architecture=zoo.architecture, provenance={"by": 1}, dropped=dropped)
    zoo.save(tmp_path / "zoo")
    again = load_zoo(tmp_path / "zoo")
    pd.testing.assert_frame_equal(again.table, zoo.table)
    assert (again.name, again.architecture, again.provenance) == ("tiny", {"kind": "none"}, {"by": 1})
    assert again.dropped.to_dict("records") == [{"model": "gone", "reason": "NaN"}]
    assert again.properties == ["model", "epoch", "split", "lr", "act", "flag", "mixed"]
    assert [again.kind(c) for c in ("lr", "act", "flag", "epoch")] == [
        "numeric",
        "categorical",
        "categorical",
        "numeric",
    ]


def test_hidden_columns_of_several_layouts_stay_hidden(tmp_path: Path) -> None:
    zoo = Zoo.from_models("two", table(3), [{"a": torch.zeros(2)}, {"b": torch.ones(3)}, {"a": torch.ones(2)}])
    zoo.save(tmp_path / "zoo")
    assert (tmp_path / "zoo" / "weights-1.safetensors").is_file()
    again = load_zoo(tmp_path / "zoo")
    assert list(again.table) == ["model", "epoch", "split"]
    assert [g.tolist() for g in again.layout_groups()] == [[0, 2], [1]]
    with pytest.raises(Refusal, match="cannot be stacked"):
        again.stacked()


def test_tied_tensors_stay_tied(tmp_path: Path) -> None:
    weight = torch.arange(8.0).reshape(4, 2)
    zoo = Zoo.from_stacked("tied", table(4), {"embed": weight, "bias": torch.ones(4, 1), "head": weight})
    zoo.save(tmp_path / "zoo")
    for one in (zoo.tensors(1), load_zoo(tmp_path / "zoo").tensors(1), load_zoo(tmp_path / "zoo").stacked([1, 2])):
        assert list(one) == ["embed", "bias", "head"]
        assert one["head"] is one["embed"]


def test_reading_rows_in_any_order_and_density(tmp_path: Path) -> None:
    zoo = zoo_of(40)
    again = load_zoo(zoo.save(tmp_path / "zoo"))
    for rows in ([39, 0], [3, 4, 5], [5, 5, 4], list(range(40)), slice(2, 9), np.arange(40) % 7 == 0):
        assert_same(again.stacked(rows), zoo.stacked(rows))
    view = again.select([30, 10]).select([1])
    assert view.table["model"].tolist() == ["m5"]
    assert_same(view.tensors(0), zoo.tensors(10))
    with pytest.raises(IndexError):
        again.stacked([40])


def test_what_a_reader_changes_does_not_change_the_zoo() -> None:
    zoo = zoo_of()
    before = zoo.digest
    zoo.tensors(0)["conv.weight"].zero_()
    zoo.stacked()["conv.weight"].zero_()
    again = Zoo("tiny", zoo.table, zoo._source)
    assert again.digest == before


def test_digest_follows_the_content() -> None:
    zoo = zoo_of()
    assert zoo.digest == zoo_of().digest
    assert zoo.digest != zoo.select([1, 0, 2, 3, 4, 5]).digest
    assert zoo.digest != zoo.with_columns(extra=range(6)).digest
    assert zoo.weights_digest == zoo.with_columns(extra=range(6)).weights_digest
    assert zoo.select(range(6)).digest == zoo.digest


def test_a_zoo_can_go_to_another_process(tmp_path: Path) -> None:
    zoo = load_zoo(zoo_of().save(tmp_path / "zoo"))
    again = pickle.loads(pickle.dumps(zoo))
    assert_same(again.tensors(3), zoo.tensors(3))


@given(
    counts=st.lists(st.integers(1, 5), min_size=1, max_size=30),
    seed=st.integers(0, 99),
    fractions=st.sampled_from([(0.7, 0.15, 0.15), (0.5, 0.0, 0.5), (1.0, 0.0, 0.0), (0.34, 0.33, 0.33)]),
)
@settings(deadline=None)
def test_no_model_is_in_two_splits(counts: list[int], seed: int, fractions: tuple[float, float, float]) -> None:
    groups = [f"m{i}" for i, count in enumerate(counts) for _ in range(count)]
    labels = split_by_group(groups, fractions=fractions, seed=seed)
    of_model: dict[str, set[str]] = {}
    for group, label in zip(groups, labels, strict=True):
        of_model.setdefault(group, set()).add(label)
    assert all(len(found) == 1 for found in of_model.values())
    sizes = split_sizes(len(counts), fractions)
    assert sum(sizes) == len(counts)
    assert all(abs(size - share * len(counts)) <= 2 for size, share in zip(sizes, fractions, strict=True))
    wanted = [i for i, share in enumerate(fractions) if share > 0]
    if len(counts) >= len(wanted):
        assert all(sizes[i] > 0 for i in wanted)
    shuffled = np.random.default_rng(0).permutation(len(groups))
    assert (split_by_group([groups[i] for i in shuffled], fractions=fractions, seed=seed) == labels[shuffled]).all()


def test_few_models_are_spread_as_far_as_they_go() -> None:
    assert [split_sizes(n, (0.7, 0.15, 0.15)) for n in (0, 1, 2, 3, 20)] == [
        (0, 0, 0),
        (1, 0, 0),
        (1, 0, 1),
        (1, 1, 1),
        (14, 3, 3),
    ]
    with pytest.raises(ValueError, match="sum to 1"):
        split_sizes(3, (0.5, 0.1, 0.1))


def test_split_by_seed_and_by_group() -> None:
    zoo = zoo_of(60)
    assert zoo.split(seed=1).table["split"].tolist() == zoo.split(seed=1).table["split"].tolist()
    assert zoo.split(seed=1).table["split"].tolist() != zoo.split(seed=2).table["split"].tolist()
    grouped = zoo_of(60, group=[f"g{i // 20}" for i in range(60)]).split(seed=4)
    assert (grouped.table.groupby("group")["split"].nunique() == 1).all()
    assert grouped.group_column == "group"


@pytest.mark.parametrize(
    ("columns", "code"),
    [
        ({"model": "same", "epoch": 0}, "zoo-table-duplicate"),
        ({"epoch": [0.5] * 6}, "zoo-table-epoch"),
        ({"split": ["holdout"] * 6}, "zoo-table-split"),
        ({"split": ["train", "test"] * 3}, "zoo-table-straddle"),
        ({"model": [None] * 6}, "zoo-table-no-model"),
    ],
)
def test_a_wrong_table_is_refused(columns: dict[str, Any], code: str) -> None:
    with pytest.raises(Refusal) as refusal:
        zoo_of(**columns)
    assert refusal.value.code == code
    assert "\n" not in refusal.value.line()


def test_pruned_copies_are_other_rows_of_a_model() -> None:
    zoo = zoo_of(model=["a", "a", "a", "b", "b", "b"], epoch=[1] * 6, sparsity=[np.nan, 0.5, 0.9] * 2)
    assert len(zoo) == 6
    with pytest.raises(Refusal, match="Two checkpoints"):
        zoo_of(model="a", epoch=1, sparsity=[0.0, np.nan, 0.1, 0.2, 0.3, 0.4])


def test_the_gap_is_derived_and_the_columns_are_ordered() -> None:
    zoo = zoo_of(lr=0.1, test_accuracy=[0.5] * 6, train_accuracy=[0.75] * 6)
    assert zoo.table["generalisation_gap"].tolist() == [0.25] * 6
    assert list(zoo.table) == [
        "model", "epoch", "split", "train_accuracy", "test_accuracy", "generalisation_gap", "lr",
    ]  # fmt: skip


def test_stack_and_table_must_fit() -> None:
    with pytest.raises(Refusal, match="6 rows"):
        Zoo.from_stacked("x", table(6), {"a": torch.zeros(5, 2)})


def test_a_damaged_zoo_is_refused_in_one_line(tmp_path: Path) -> None:
    zoo_of().save(tmp_path / "zoo")
    description = json.loads((tmp_path / "zoo" / "zoo.json").read_text())
    weights = (tmp_path / "zoo" / "weights.safetensors").read_bytes()

    def refused() -> str:
        with pytest.raises(Refusal) as refusal:
            load_zoo(tmp_path / "zoo").tensors(0)
        assert "\n" not in refusal.value.line()
        return refusal.value.code

    (tmp_path / "zoo" / "weights.safetensors").write_bytes(weights[:-8])
    assert refused() == "zoo-changed"
    (tmp_path / "zoo" / "weights.safetensors").write_bytes(b"\xff" * len(weights))
    assert refused() == "zoo-weights-unreadable"
    (tmp_path / "zoo" / "weights.safetensors").write_bytes(weights)
    (tmp_path / "zoo" / "zoo.json").write_text(json.dumps({**description, "format": 99}))
    assert refused() == "zoo-format"
    (tmp_path / "zoo" / "zoo.json").write_text(json.dumps({**description, "layouts": []}))
    assert refused() == "zoo-damaged"
    (tmp_path / "zoo" / "zoo.json").write_text("{")
    assert refused() == "zoo-damaged"


def test_saving_replaces_a_zoo_but_nothing_else(tmp_path: Path) -> None:
    zoo_of().save(tmp_path / "zoo")
    zoo_of(8).save(tmp_path / "zoo")
    assert len(load_zoo(tmp_path / "zoo")) == 8
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    with pytest.raises(Refusal, match="not replaced"):
        zoo_of().save(tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter.tex").exists()


def test_a_zoo_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Refusal) as refusal:
        load_zoo(tmp_path / "nowhere")
    assert refusal.value.code == "zoo-not-found"


def test_the_table_loads_without_torch(tmp_path: Path) -> None:
    zoo_of().save(tmp_path / "zoo")
    code = (
        "import sys; from sane_engine.zoo import load_zoo, embedded_zoos; embedded_zoos()\n"
        "zoo = load_zoo(sys.argv[1]); zoo.split(seed=1); zoo.select([0]); zoo.layout_groups(); zoo.properties\n"
        "assert len(zoo.digest) == 64\n"
        "assert len(zoo.table) == 6 and 'torch' not in sys.modules\n"
        "assert len(zoo.tensors(0)) == 4 and 'torch' in sys.modules"
    )
    outcome = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "zoo")], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert outcome.returncode == 0, outcome.stderr


def test_an_open_zoo_that_is_replaced_is_refused(tmp_path: Path) -> None:
    path = zoo_of().save(tmp_path / "zoo")
    opened = load_zoo(path)
    assert opened.tensors(1)["scale"] == 0.2
    zoo_of().with_columns(note="another").save(path)
    with pytest.raises(Refusal, match="replaced") as caught:
        opened.tensors(1)
    assert caught.value.code == "zoo-changed"
    assert load_zoo(path).tensors(1)["scale"] == 0.2


def test_modules_whose_weights_are_tied_stay_tied_in_a_zoo() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 3, bias=False), torch.nn.Linear(3, 3, bias=False))
    module[1].weight = module[0].weight
    zoo = Zoo.from_models("tied", table(2), [module.state_dict(), module.state_dict()])
    assert tokenize(zoo.tensors(0), 4).tokens.shape == tokenize(module.state_dict(), 4).tokens.shape == (3, 4)
