"""SANE's layer curves: known answers on embeddings made by hand, and the way from tensors through an encoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sane_engine.baselines import FEATURES, layer_features, zoo_layer_features
from sane_engine.baselines.sane_layers import SaneReference, embedding_features, fit_reference
from sane_engine.sane import Embeddings, Sane, SaneConfig
from tests.test_baselines import network, zoo_of

NAMES = ("conv", "fc")


def embeddings_of(layers: NDArray[np.float32], names: tuple[str, ...] = NAMES) -> Embeddings:
    m, n_layers, _ = layers.shape
    return Embeddings(
        models=layers.mean(axis=1),
        layers=layers,
        layer_count=np.full(m, n_layers),
        layer_names=(names,),
        foreign=np.zeros(m, dtype=bool),
        encoder_digest="e",
    )


def random_layers(m: int = 30) -> NDArray[np.float32]:
    layers = np.random.default_rng(0).normal(size=(m, 2, 6)).astype(np.float32)
    layers[:, 1] += 5
    return layers


def test_norm_spread_and_distance_are_euclidean() -> None:
    layers = random_layers()
    table = embedding_features(embeddings_of(layers))
    last = table[(table["row"] == 29) & (table["layer"] == 1)].iloc[0]
    distances = np.linalg.norm(layers[:, 1] - layers[:, 1].mean(axis=0), axis=1)
    assert last["name"] == "fc"
    assert last["norm"] == pytest.approx(np.linalg.norm(layers[29, 1, :3]), rel=1e-5)
    assert last["spread"] == pytest.approx(np.linalg.norm(layers[29, 1, 3:]), rel=1e-5)
    assert last["distance"] == pytest.approx(distances[29], rel=1e-5)
    assert last["distance_ratio"] == pytest.approx(distances[29] / np.sqrt((distances**2).mean()), rel=1e-5)


def test_components_are_the_principal_axes_of_all_layers() -> None:
    layers = random_layers()
    cloud = layers.reshape(-1, 6).astype(float)
    axes = np.linalg.svd(cloud - cloud.mean(axis=0), full_matrices=False)
    table = embedding_features(embeddings_of(layers))
    expected = np.abs((cloud - cloud.mean(axis=0)) @ axes[2][:3].T)
    assert np.abs(table[["pc1", "pc2", "pc3"]].to_numpy()) == pytest.approx(expected, abs=1e-4)
    shares = axes[1] ** 2 / (axes[1] ** 2).sum()
    assert fit_reference(embeddings_of(layers)).explained == pytest.approx(tuple(shares[:3]), abs=1e-6)


def test_another_architecture_is_compared_with_the_whole_cloud() -> None:
    reference = fit_reference(embeddings_of(random_layers()))
    foreign = embeddings_of(np.zeros((1, 3, 6), dtype=np.float32), ("a", "b", "c"))
    table = embedding_features(foreign, reference)
    assert table["distance"].to_numpy() == pytest.approx(np.full(3, np.linalg.norm(reference.cloud_mean)), rel=1e-5)
    assert table["distance_ratio"].to_numpy() == pytest.approx(table["distance"].to_numpy() / reference.cloud_rms)


def test_models_that_are_not_finite_do_not_spoil_the_reference() -> None:
    layers = random_layers()
    spoiled = np.concatenate([layers, np.full((1, 2, 6), np.nan, dtype=np.float32)])
    clean, other = fit_reference(embeddings_of(layers)), fit_reference(embeddings_of(spoiled))
    assert other.components == pytest.approx(clean.components)
    table = embedding_features(embeddings_of(spoiled))
    assert (table.loc[table["row"] == 30, "reason"] != "").all()
    assert (table.loc[table["row"] != 30, "reason"] == "").all()


def test_a_reference_comes_back_from_disk(tmp_path: Path) -> None:
    reference = fit_reference(embeddings_of(random_layers()))
    reference.save(tmp_path / "reference.safetensors")
    back = SaneReference.load(tmp_path / "reference.safetensors")
    assert back.layer_names == NAMES
    assert (back.components == reference.components).all()
    assert back.explained == reference.explained and back.cloud_rms == reference.cloud_rms


@pytest.fixture(scope="module")
def encoder() -> Sane:
    return Sane(
        SaneConfig(token_size=16, latent=4, d_model=16, layers=1, heads=2, feedforward=32, window=32)
    ).eval()


def test_the_layer_axis_is_that_of_the_other_kinds(encoder: Sane) -> None:
    tensors = network()
    table = layer_features(tensors, "sane", encoder=encoder)
    statistics = layer_features(tensors, "statistics")
    assert list(table["name"]) == list(statistics["name"]) and list(table["layer"]) == list(statistics["layer"])
    assert list(table.columns) == ["layer", "name", *(f.name for f in FEATURES["sane"]), "reason"]
    assert np.isfinite(table[["norm", "spread"]]).all(axis=None)
    assert table[["distance", "pc1"]].isna().all(axis=None)
    assert (table["reason"] == "").all()


def test_a_network_with_nan_has_rows_with_a_reason(encoder: Sane) -> None:
    tensors = network()
    tensors["fc.weight"] = torch.full_like(tensors["fc.weight"], float("inf"))
    table = layer_features(tensors, "sane", encoder=encoder)
    assert list(table["name"]) == ["conv1", "conv2", "fc"]
    assert table["reason"].str.contains("infinite").all()
    assert table["norm"].isna().all()


def test_a_zoo_is_compared_with_itself(encoder: Sane) -> None:
    zoo = zoo_of([network(seed) for seed in range(0, 60, 10)])
    table = zoo_layer_features(zoo, [4, 2], "sane", encoder=encoder)
    assert list(table["row"]) == [4, 4, 4, 2, 2, 2]
    assert list(table["model"]) == ["m2", "m2", "m2", "m1", "m1", "m1"]
    assert table["distance_ratio"].to_numpy() == pytest.approx(np.ones(6))
