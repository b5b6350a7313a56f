"""Representations: what they keep, what they ignore, and that nothing of test models reaches their fit."""

from __future__ import annotations

import importlib.metadata

import numpy as np
import pandas as pd
import pytest
import torch
from sane_zoos import zoo as synthetic_zoo

from sane_engine import Refusal, Zoo, baselines, symmetry_of_zoo
from sane_engine.baselines.spectral_worker import DID_NOT_RUN
from sane_engine.baselines.statistics import zoo_weight_statistics
from sane_engine.representations import (
    AlignedWeights,
    ConsensusAgreement,
    NoiseBehaviour,
    RawWeights,
    SaneEncoding,
    TokenPca,
    WeightStatistics,
    WeightWatcherFeatures,
    representation,
    representations,
)
from sane_engine.representations.spectra import cached_spectra
from sane_engine.sane.config import SaneConfig
from sane_engine.zoo.architectures import ArchitectureSpec, ConvSpec, build
from sane_engine.zoo.spec import ResNetSpec

TINY = SaneConfig(
    token_size=12, latent=4, d_model=16, layers=1, heads=2, feedforward=16, window=16, steps=4, batch_size=8
)
CNN = ArchitectureSpec(input_shape=(1, 8, 8), convolutions=(ConvSpec(4, 3, 2), ConvSpec(3, 2)), hidden=(6,))


def networks(models: int = 12) -> Zoo:
    """Small CNNs whose weights grow from model to model."""
    dicts = []
    for i in range(models):
        torch.manual_seed(i)
        network = build(CNN)
        dicts.append({name: tensor.detach() * (1 + 0.2 * i) for name, tensor in network.state_dict().items()})
    table = pd.DataFrame({"model": [f"m{i}" for i in range(models)], "activation": "tanh"})
    return Zoo.from_models("cnns", table, dicts, architecture=CNN.to_json())


def permuted(zoo: Zoo) -> Zoo:
    symmetry = symmetry_of_zoo(zoo)
    generator = torch.Generator().manual_seed(3)
    dicts = [
        symmetry.permute(zoo.tensors(i), symmetry.random(generator)) if i else zoo.tensors(0)
        for i in range(len(zoo))
    ]
    return Zoo.from_models("permuted", zoo.table, dicts, architecture=zoo.architecture)


@pytest.fixture(autouse=True)
def workspace(tmp_path: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANE_WORKSPACE", str(tmp_path))


def test_raw_weights_are_the_weights() -> None:
    zoo = networks()
    features = RawWeights().fit(zoo).transform(zoo)
    expected = np.concatenate([tensor.numpy().reshape(-1) for tensor in zoo.tensors(5).values()])
    np.testing.assert_array_equal(features[5], expected)


def test_aligned_weights_do_not_see_permutations_and_signs() -> None:
    zoo = networks()
    aligned = AlignedWeights().fit(zoo)
    np.testing.assert_allclose(aligned.transform(permuted(zoo)), aligned.transform(zoo), atol=1e-5)
    assert not np.allclose(RawWeights().transform(permuted(zoo)), RawWeights().transform(zoo), atol=1e-3)


@pytest.mark.parametrize("make", [NoiseBehaviour, lambda: TokenPca(TINY), WeightStatistics])
def test_what_a_network_does_or_is_made_of_stays_under_permutation(make: type) -> None:
    zoo = networks()
    symmetry = symmetry_of_zoo(zoo)
    order = symmetry.random(torch.Generator().manual_seed(1), flips=False)
    moved = Zoo.from_models(
        "moved",
        zoo.table,
        [symmetry.permute(zoo.tensors(i), order) for i in range(len(zoo))],
        architecture=zoo.architecture,
    )
    found = make().fit(zoo)
    before, after = found.transform(zoo), found.transform(moved)
    if isinstance(found, TokenPca):
        # Rows move, and so do the columns of the layer behind: only the first layer's pooling is blind to both.
        before, after = before[:, : 2 * TINY.latent], after[:, : 2 * TINY.latent]
    np.testing.assert_allclose(after, before, rtol=1e-3, atol=1e-4)
    assert np.ptp(before, axis=0).max() > 0


def test_agreement_ranks_a_network_by_how_much_it_is_one_of_the_others() -> None:
    torch.manual_seed(0)
    good = {name: tensor.detach() for name, tensor in build(CNN).state_dict().items()}
    noise = [{name: torch.randn_like(tensor) * 0.3 for name, tensor in good.items()} for _ in range(5)]
    strength = [0.0, 0.1, 0.2, 0.5, 1.0]
    dicts = [
        {name: tensor + s * noise[i][name] for name, tensor in good.items()} for i, s in enumerate(strength)
    ] + [{**good, "fc2.weight": good["fc2.weight"].flip(0), "fc2.bias": good["fc2.bias"].flip(0)}]
    table = pd.DataFrame({"model": [f"m{i}" for i in range(6)], "activation": "tanh"})
    zoo = Zoo.from_models("noisy", table, dicts, architecture=CNN.to_json())
    agreement = ConsensusAgreement().fit(zoo.select(range(4)))
    found = agreement.transform(zoo)[:, :12].reshape(6, 3, 4)
    assert (found[0, :, 3] > 0.9).all()  # correlation with the consensus
    assert (np.diff(found[2:5, :, 3], axis=0) < 0).all()
    assert (found[5, :, 0] < found[0, :, 0]).all()  # the same network with its classes in another order
    assert np.allclose(agreement.transform(permuted(zoo)), agreement.transform(zoo), atol=1e-4)
    unknown = Zoo.from_models("unknown", table, dicts)
    assert np.allclose(agreement.transform(unknown)[0], agreement.transform(zoo)[0], atol=1e-5)
    with pytest.raises(Refusal, match="Nothing is known"):
        ConsensusAgreement().fit(unknown)
    with pytest.raises(Refusal, match="another layout"):
        agreement.transform(synthetic_zoo())


def test_behaviour_needs_the_architecture_and_follows_the_activation() -> None:
    zoo = networks()
    with pytest.raises(Refusal) as caught:
        NoiseBehaviour().fit(synthetic_zoo(6))
    assert caught.value.code == "unknown-architecture"
    other = zoo.with_columns(activation="relu")
    behaviour = NoiseBehaviour().fit(zoo)
    assert not np.allclose(behaviour.transform(zoo), behaviour.transform(other))


def test_a_missing_activation_is_the_architectures_own() -> None:
    zoo = networks(5)
    gaps = zoo.with_columns(activation=["tanh", np.nan, "relu", None, "unheard of"])
    told = zoo.with_columns(activation=["tanh", "tanh", "relu", "tanh", "tanh"])
    for made in (ConsensusAgreement().fit(zoo), NoiseBehaviour().fit(zoo)):
        np.testing.assert_array_equal(made.transform(gaps), made.transform(told))


def test_behaviour_of_residual_networks_does_not_see_permutations() -> None:
    architecture = ResNetSpec(input_shape=(1, 8, 8), widths=(6, 3, 4), blocks=(1, 1, 2), classes=3)
    torch.manual_seed(0)
    dicts = [{n: t.detach() for n, t in build(architecture).state_dict().items()} for _ in range(4)]
    for number, tensors in enumerate(dicts):
        for name in tensors:
            if name.endswith("running_var"):
                tensors[name] = torch.rand_like(tensors[name]) + number + 0.1
    table = pd.DataFrame({"model": list("abcd"), "activation": "relu"})
    zoo = Zoo.from_models("resnets", table, dicts, architecture=architecture.to_json())
    behaviour = NoiseBehaviour().fit(zoo)
    found = behaviour.transform(zoo)
    assert np.isfinite(found).all()
    assert np.ptp(found, axis=0).max() > 0
    np.testing.assert_array_equal(behaviour.transform(zoo), found)
    np.testing.assert_allclose(behaviour.transform(permuted(zoo)), found, rtol=1e-3, atol=1e-4)


def test_path_norms_are_those_of_the_paths() -> None:
    zoo = networks(2)
    tensors = {name: tensor.double() for name, tensor in zoo.tensors(1).items()}
    first = tensors["conv1.weight"].abs().sum((2, 3)) @ torch.ones(1, dtype=torch.float64)
    features = NoiseBehaviour().fit(zoo).transform(zoo)[1]
    weighted_layers = 4
    norms = features[:weighted_layers]
    assert norms[0] == pytest.approx(float(first.mean().log10()), abs=1e-5)
    assert (np.diff(norms) != 0).all()


def test_weightwatcher_is_computed_once_and_for_the_rest_only(monkeypatch: pytest.MonkeyPatch) -> None:
    zoo = networks(6)
    asked: list[int] = []

    def spectra(zoo: Zoo, rows: list[int], kind: str, **options: object) -> pd.DataFrame:
        """In place of the package, which takes seconds: norms, and an alpha that is missing now and then."""
        asked.extend(rows)
        table = zoo_weight_statistics(zoo, rows)[["row", "layer", "name", "weight_var", "reason"]]
        numbers = table["weight_var"].to_numpy()
        columns = {f.name: numbers * (i + 1) for i, f in enumerate(baselines.FEATURES["weightwatcher"])}
        columns["alpha"] = np.where(table["row"] == 1, np.nan, numbers)
        return table.drop(columns="weight_var").assign(**columns)

    monkeypatch.setattr(baselines, "zoo_layer_features", spectra)
    found = WeightWatcherFeatures().fit(zoo.select([0, 1, 2]))
    assert len(asked) == 3
    features = found.transform(zoo)
    assert len(asked) == 6
    np.testing.assert_array_equal(found.transform(zoo.select([4, 1])), features[[4, 1]])
    assert len(asked) == 6
    assert features.shape[1] > 10
    assert np.isfinite(features).all()


def test_spectra_of_another_package_or_of_a_run_that_failed_are_not_taken_from_disk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    zoo = networks(4)
    asked: list[list[int]] = []
    fails = {2}

    def spectra(zoo: Zoo, rows: list[int], kind: str, **options: object) -> pd.DataFrame:
        asked.append(list(rows))
        table = zoo_weight_statistics(zoo, rows)[["row", "layer", "name", "reason"]]
        table.loc[table["row"].isin(fails) & (table["layer"] == 1), "reason"] = f"{DID_NOT_RUN}it was killed."
        return table.assign(**dict.fromkeys((f.name for f in baselines.FEATURES["weightwatcher"]), 1.0))

    monkeypatch.setattr(baselines, "zoo_layer_features", spectra)
    with pytest.raises(Refusal, match="1 of 4 checkpoints") as caught:
        cached_spectra(zoo)
    assert caught.value.code == "spectra-unfinished"
    fails.clear()
    assert len(cached_spectra(zoo)) == len(cached_spectra(zoo)) == 16
    assert asked == [[0, 1, 2, 3], [2]]
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "another")
    cached_spectra(zoo)
    assert asked[2:] == [[0, 1, 2, 3]]


@pytest.mark.parametrize("pooling", ["mean", "layers"])
def test_sane_is_trained_on_the_training_rows_alone_and_found_again(pooling: str) -> None:
    zoo = synthetic_zoo(24)
    changed = dict(zoo.stacked(range(24)))
    changed["fc.bias"] = changed["fc.bias"].clone()
    changed["fc.bias"][20:] += 100.0
    other = Zoo.from_stacked("other", zoo.table, changed)
    train = list(range(16))
    first = SaneEncoding(pooling=pooling, config=TINY).fit(zoo.select(train))
    second = SaneEncoding(pooling=pooling, config=TINY, keep=False).fit(other.select(train))
    assert first.encoder is not None and second.encoder is not None
    assert first.encoder.digest == second.encoder.digest
    steps: list[int] = []
    again = SaneEncoding(pooling=pooling, config=TINY).fit(
        zoo.select(train), progress=lambda done, total, message: steps.append(done)
    )
    assert not steps, "a finished training is found, not repeated"
    np.testing.assert_array_equal(again.transform(zoo), first.transform(zoo))
    width = TINY.latent if pooling == "mean" else 2 * 2 * TINY.latent
    assert first.transform(zoo).shape == (24, width)


def test_untrained_encoders_differ_by_seed() -> None:
    zoo = synthetic_zoo(12)
    features = [SaneEncoding(config=TINY, trained=False, seed=s).fit(zoo).transform(zoo) for s in (0, 0, 1)]
    np.testing.assert_array_equal(features[0], features[1])
    assert not np.allclose(features[0], features[2])


def test_every_entry_says_what_it_is_and_makes_what_it_names() -> None:
    for name, entry in representations().items():
        made = entry.make(0)
        assert made.name == name == entry.name
        assert entry.description.endswith(".")
    with pytest.raises(Refusal):
        representation("nothing")
