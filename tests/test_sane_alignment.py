"""Hidden units in another order are the same network: to the encoder by alignment, in training by permutation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sane_zoos import WIDE, shuffled, stacked, symmetric_zoo
from torch import Tensor

from sane_engine import tokenize_batch
from sane_engine.sane import Sane, SaneConfig, decode_models, embed, load_encoder, pretrain, reconstruction
from sane_engine.sane.alignment import Aligner, fit_aligner, symmetries_of
from sane_engine.sane.augmentation import RandomPermutation, View, views
from sane_engine.sane.training_set import TrainingSet, rows_of_split, token_batch
from sane_engine.tokens import detokenize_batch
from sane_engine.zoo import Zoo
from sane_engine.zoo.architectures import forward_stacked

CONFIG = SaneConfig(
    token_size=8, latent=5, d_model=16, layers=1, heads=2, feedforward=24, window=64, steps=6, batch_size=8,
    gamma=0.0, noise=0.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def zoo() -> Zoo:
    return symmetric_zoo()


@pytest.fixture(scope="module")
def encoder(zoo: Zoo) -> Sane:
    return pretrain(zoo, CONFIG)


def logits(zoo: Zoo, tensors: dict[str, Tensor]) -> Tensor:
    images = torch.randn(7, 1, 6, 6, generator=torch.Generator().manual_seed(3))
    return forward_stacked(zoo.architecture, {n: t.float() for n, t in tensors.items()}, images)


def training_set(zoo: Zoo, config: SaneConfig) -> TrainingSet:
    rows = rows_of_split(zoo, "train")
    symmetries = symmetries_of(zoo, rows, config.token_size)
    aligner = fit_aligner(zoo, rows, config.token_size, symmetries) if config.align else Aligner()
    return TrainingSet(zoo, rows, config, aligner=aligner, symmetries=symmetries)


def test_a_permuted_copy_is_embedded_as_the_original(zoo: Zoo, encoder: Sane) -> None:
    other = shuffled(zoo)
    assert np.allclose(embed(encoder, other).layers, embed(encoder, zoo).layers, atol=1e-5)
    plain = pretrain(zoo, replace(CONFIG, align=False))
    assert not np.allclose(embed(plain, other).layers, embed(plain, zoo).layers, atol=1e-1)
    assert encoder.provenance["aligned"]
    assert not plain.provenance["aligned"]


def test_alignment_keeps_what_the_networks_compute(zoo: Zoo, encoder: Sane) -> None:
    other = shuffled(zoo)
    aligned = encoder.aligner.align(token_batch(other, np.arange(len(other)), 8))
    tensors = detokenize_batch(aligned)
    assert not torch.equal(tensors["conv2.weight"], other.stacked()["conv2.weight"])
    assert torch.allclose(logits(zoo, tensors), logits(zoo, zoo.stacked()), atol=1e-5)
    alone = encoder.aligner.align(token_batch(other, np.array([5]), 8))
    assert torch.equal(alone.tokens[0], aligned.tokens[5]), "alignment depends on which models are together"


def test_reconstruction_and_decoding_are_those_of_aligned_models(zoo: Zoo, encoder: Sane) -> None:
    other = shuffled(zoo)
    batches = [token_batch(each, np.arange(4), 8) for each in (zoo, other)]
    decoded = [decode_models(encoder, batch) for batch in batches]
    for name in decoded[0]:
        assert torch.allclose(decoded[0][name], decoded[1][name], atol=1e-4)
    scores = [reconstruction(encoder, each).query("layer == 'all'")["r2"].to_numpy() for each in (zoo, other)]
    assert np.allclose(*scores, atol=1e-4)


def test_other_layouts_are_left_as_they_are(encoder: Sane) -> None:
    batch = tokenize_batch(stacked(2, WIDE), 8)
    assert encoder.aligner.align(batch) is batch


def test_the_file_keeps_reference_and_symmetry(zoo: Zoo, encoder: Sane, tmp_path: Path) -> None:
    encoder.save(tmp_path / "e")
    again = load_encoder(tmp_path / "e")
    assert again.digest == encoder.digest
    assert again.config == CONFIG
    other = shuffled(zoo, seed=4)
    assert np.array_equal(embed(again, other).layers, embed(encoder, other).layers)
    again.aligner = Aligner()
    assert again.digest != encoder.digest, "what is aligned to is part of what an encoder computes"


def test_files_of_earlier_versions_load_and_do_not_align(zoo: Zoo, tmp_path: Path) -> None:
    plain = pretrain(zoo, replace(CONFIG, align=False))
    plain.save(tmp_path / "e")
    path = tmp_path / "e" / "encoder.json"
    record = json.loads(path.read_text())
    del record["symmetries"]
    for name in ("align", "permute", "permuted_views"):
        del record["config"][name]
    path.write_text(json.dumps(record))
    again = load_encoder(tmp_path / "e")
    assert not again.config.align
    assert np.array_equal(embed(again, zoo).layers, embed(plain, zoo).layers)


def test_a_permuted_view_is_another_form_of_the_same_networks(zoo: Zoo) -> None:
    training = training_set(zoo, replace(CONFIG, permute=1.0))
    group = training.groups[0]
    view = training.view(0, np.arange(8))
    permuted = RandomPermutation(1.0)(view, torch.Generator().manual_seed(0))
    assert torch.equal(permuted.tokens, permuted.target)
    assert (permuted.tokens != view.tokens).flatten(1).any(dim=1).all()
    assert not permuted.tokens[~view.mask].any(), "padding does not stay empty"

    def tensors(tokens: Tensor) -> dict[str, Tensor]:
        return group.layout.unfold(group.statistics.undo(tokens, group.layout))

    assert torch.allclose(logits(zoo, tensors(permuted.tokens)), logits(zoo, tensors(view.tokens)), atol=1e-5)


def test_share_of_the_minibatch_that_is_permuted(zoo: Zoo) -> None:
    view = training_set(zoo, replace(CONFIG, permute=0.5)).view(0, np.resize(np.arange(24), 400))
    permuted = RandomPermutation(0.5)(view, torch.Generator().manual_seed(0))
    moved = (permuted.tokens != view.tokens).flatten(1).any(dim=1).float().mean()
    assert 0.4 < float(moved) < 0.6


@pytest.mark.parametrize("which", ["both", "one"])
def test_which_of_two_views_is_permuted(zoo: Zoo, which: str) -> None:
    config = replace(CONFIG, permute=1.0, permuted_views=which, gamma=0.1, window=5)
    minibatch = training_set(zoo, config).view(0, np.arange(6))
    first, second = views(minibatch, config, torch.Generator().manual_seed(0))
    assert torch.equal(first.positions, second.positions), "the views are of different windows"

    def canonical(view: View) -> bool:
        places = view.positions[..., 0].long()[..., None].expand_as(view.target)
        return torch.equal(view.target, minibatch.target.gather(1, places))

    assert [canonical(first), canonical(second)] == [which == "one", False]


def test_training_with_permutation_repeats_itself_and_says_nothing_of_unknown_layouts(zoo: Zoo) -> None:
    config = replace(CONFIG, permute=0.5, permuted_views="one", gamma=0.1)
    assert pretrain(zoo, config).digest == pretrain(zoo, config).digest
    tensors = {"scale": torch.randn(12, 7), "offset": torch.randn(12, 3)}
    unknown = Zoo.from_stacked("unknown", symmetric_zoo(12).table.drop(columns="activation"), tensors)
    assert not pretrain(unknown, config).aligner.alignments


@pytest.mark.parametrize(
    "change", [{"permute": 1.5}, {"permuted_views": "none"}, {"positives": "epochs"}, {"align": 1}]
)
def test_wrong_settings_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(CONFIG, **change)
