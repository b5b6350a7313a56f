"""What is kept for a zoo and an encoder: complete, true to its source, and never mistaken for another's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sane_engine import demo
from sane_engine.baselines import zoo_layer_features
from sane_engine.baselines.sane_layers import embedding_features
from sane_engine.checkpoint import Refusal
from sane_engine.progress import Cancelled
from sane_engine.projection import place, project
from sane_engine.sane import Sane, SaneConfig, embed
from sane_engine.zoo import Zoo
from tests.test_baselines import network, zoo_of

CONFIG = SaneConfig(token_size=16, latent=4, d_model=16, layers=1, heads=2, feedforward=32, window=32)


@pytest.fixture(scope="module")
def encoder() -> Sane:
    return Sane(CONFIG).eval()


@pytest.fixture(scope="module")
def zoo() -> Zoo:
    return zoo_of([network(seed) for seed in range(0, 60, 10)])


@pytest.fixture(scope="module")
def kept(zoo: Zoo, encoder: Sane, tmp_path_factory: pytest.TempPathFactory) -> demo.Precomputed:
    reports: list[int] = []
    folder = tmp_path_factory.mktemp("embeddings") / "little--tiny"
    found = demo.precompute(
        zoo,
        encoder,
        folder,
        seed=7,
        provenance={"command": "the one that was run"},
        progress=lambda done, total, message: reports.append(done),
    )
    assert reports == sorted(reports) and reports[-1] == 100
    return found


def test_it_comes_back_as_it_was(kept: demo.Precomputed, zoo: Zoo, encoder: Sane) -> None:
    back = demo.read_precomputed(kept.folder, zoo_digest=zoo.digest, encoder_digest=encoder.digest)
    assert (back.embeddings.layers == kept.embeddings.layers).all()
    assert back.embeddings.layers.dtype == np.float32
    assert (back.layer_points == kept.layer_points).all()
    assert set(back.projections) == {
        (level, method) for level in ("models", "layers") for method in ("umap", "pca")
    }
    for key, projection in kept.projections.items():
        assert (back.projections[key].coordinates == projection.coordinates).all()
    pd.testing.assert_frame_equal(back.weightwatcher, kept.weightwatcher)
    assert back.record == json.loads(json.dumps(kept.record))
    assert back.record["seed"] == 7 and back.record["command"] == "the one that was run"


def test_it_says_what_the_functions_of_the_house_say(kept: demo.Precomputed, zoo: Zoo, encoder: Sane) -> None:
    fresh = embed(encoder, zoo)
    assert kept.embeddings.layers == pytest.approx(fresh.layers, rel=1e-3, abs=1e-3)
    assert kept.embeddings.models == pytest.approx(fresh.models, rel=1e-3, abs=1e-3)
    spectral = zoo_layer_features(zoo, [2], "weightwatcher")
    mine = kept.weightwatcher[kept.weightwatcher["row"] == 2]
    assert mine["alpha"].to_numpy() == pytest.approx(spectral["alpha"].to_numpy(), rel=1e-6)
    assert list(mine["name"]) == list(spectral["name"])
    again = project(kept.vectors("models"), method="pca", seed=7)
    assert (again.coordinates == kept.projections["models", "pca"].coordinates).all()


def test_maps_and_vectors_belong_together(kept: demo.Precomputed) -> None:
    # Layers of the last epoch of each model: m0, m1, m2 are rows 1, 3, 5 with three layers each.
    assert kept.layer_points.tolist() == [[row, layer] for row in (1, 3, 5) for layer in range(3)]
    for (level, _), projection in kept.projections.items():
        vectors = kept.vectors(level)
        assert (place(projection, vectors, vectors[:2]).coordinates == projection.coordinates[:2]).all()
    curves = embedding_features(kept.embeddings, kept.reference)
    assert len(curves) == 18 and (curves["reason"] == "").all()


def test_what_belongs_to_another_zoo_or_encoder_is_not_taken(kept: demo.Precomputed, zoo: Zoo) -> None:
    with pytest.raises(Refusal, match="another zoo"):
        demo.read_precomputed(kept.folder, zoo_digest="0" * 64)
    with pytest.raises(Refusal, match="another encoder"):
        demo.read_precomputed(kept.folder, zoo_digest=zoo.digest, encoder_digest="0" * 64)
    assert demo.find_precomputed("0" * 64, "0" * 64) is None


def test_damage_is_refused(kept: demo.Precomputed, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in kept.folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    demo.read_precomputed(folder)
    (folder / "embeddings.safetensors").write_bytes(b"short")
    with pytest.raises(Refusal):
        demo.read_precomputed(folder)
    (folder / "embeddings.json").write_text("[]")
    with pytest.raises(Refusal):
        demo.read_precomputed(folder)


def test_a_users_zoo_is_found_in_the_workspace_without_torch(
    kept: demo.Precomputed, zoo: Zoo, encoder: Sane, workspace: Path
) -> None:
    folder = demo.precomputed_folder(zoo.digest, encoder.digest)
    assert folder.is_relative_to(workspace)
    folder.parent.mkdir(parents=True)
    folder.symlink_to(kept.folder)
    code = (
        "import sys; from sane_engine.demo import find_precomputed\n"
        f"assert find_precomputed({zoo.digest!r}, {encoder.digest!r}).embeddings.models.shape == (6, 8)\n"
        "assert not {'torch', 'umap', 'sklearn'} & set(sys.modules)"
    )
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr


def test_cancelling_leaves_nothing_behind(zoo: Zoo, encoder: Sane, tmp_path: Path) -> None:
    with pytest.raises(Cancelled):
        demo.precompute(zoo, encoder, tmp_path / "target", cancelled=lambda: True)
    assert list(tmp_path.iterdir()) == []


def test_a_zoo_too_large_for_all_spectra_gets_those_of_last_epochs(
    zoo: Zoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = sum(tensor.numel() for tensor in network().values())
    monkeypatch.setattr(demo, "_WEIGHTS_FOR_ALL_SPECTRA", 6 * weights)
    assert demo._spectral_rows(zoo, 0).tolist() == [0, 1, 2, 3, 4, 5]
    monkeypatch.setattr(demo, "_WEIGHTS_FOR_ALL_SPECTRA", 6 * weights - 1)
    assert demo._spectral_rows(zoo, 0).tolist() == [1, 3, 5]
    monkeypatch.setattr(demo, "_WEIGHTS_FOR_SPECTRA", 2 * weights)
    assert len(demo._spectral_rows(zoo, 0)) == 2


def test_every_shipped_record_belongs_to_what_ships() -> None:
    for folder in sorted((demo.assets_root() / "embeddings").glob("*--*")):
        zoo_name, encoder_name = folder.name.split("--")
        found = demo.load_precomputed(zoo_name, encoder_name)
        assert found is not None, f"{folder.name} is stale: run precompute again"
        assert found.record["weightwatcher_rows"] == "all"


def test_damaged_embeddings_in_the_workspace_count_as_none_and_are_made_again(
    zoo: Zoo, encoder: Sane, workspace: Path
) -> None:
    folder = demo.precomputed_folder(zoo.digest, encoder.digest)
    made = demo.precompute(zoo, encoder)
    assert demo.find_precomputed(zoo.digest, encoder.digest) is not None
    for damaged in sorted(folder.iterdir()):
        whole = damaged.read_bytes()
        for content in (b"", whole[: len(whole) // 2]):
            damaged.write_bytes(content)
            assert demo.find_precomputed(zoo.digest, encoder.digest) is None, damaged.name
        damaged.write_bytes(whole)
    (folder / "weightwatcher.parquet").write_bytes(b"")
    again = demo.precompute(zoo, encoder)
    assert (again.embeddings.models == made.embeddings.models).all()
    assert demo.find_precomputed(zoo.digest, encoder.digest) is not None
