"""Maps: known answers, determinism, and where a new point falls."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sane_engine.checkpoint import Refusal
from sane_engine.projection import Projection, place, project, reference_distances


def clusters(n: int = 90, f: int = 8) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    generator = np.random.default_rng(0)
    label = np.arange(n) % 3
    return generator.normal(size=(n, f)) + 12 * np.eye(f)[label], label


def test_pca_finds_the_axes_of_the_standardised_vectors() -> None:
    generator = np.random.default_rng(0)
    hidden = generator.normal(size=200)
    # Two copies of one signal in very different units, one noise feature, one constant.
    vectors = np.stack([hidden, -1000 * hidden, generator.normal(size=200), np.full(200, 3.3)], axis=1)
    found = project(vectors, method="pca")
    standard = (vectors[:, :3] - vectors[:, :3].mean(axis=0)) / vectors[:, :3].std(axis=0)
    singular = np.linalg.svd(standard, compute_uv=False)
    assert found.explained == pytest.approx(tuple(singular[:2] ** 2 / (singular**2).sum()), abs=1e-5)
    assert abs(np.corrcoef(found.coordinates[:, 0], hidden)[0, 1]) > 0.99
    assert found.scale[3] == 0
    assert (found.coordinates == project(vectors, method="pca", seed=5).coordinates).all()


def test_umap_keeps_clusters_apart_and_repeats_with_its_seed(tmp_path: Path) -> None:
    vectors, label = clusters()
    found = project(vectors, method="umap", seed=3, n_neighbors=10)
    assert (found.method, found.seed, found.n_neighbors, found.note) == ("umap", 3, 10, "")
    centres = np.stack([found.coordinates[label == c].mean(axis=0) for c in range(3)])
    nearest = np.linalg.norm(found.coordinates[:, None] - centres, axis=2).argmin(axis=1)
    assert (nearest == label).all()
    assert found.trustworthiness > 0.85 and found.trustworthiness_n == 90
    assert (project(vectors, method="umap", seed=3, n_neighbors=10).coordinates == found.coordinates).all()
    found.save(tmp_path / "map.safetensors")
    back = Projection.load(tmp_path / "map.safetensors")
    assert (back.coordinates == found.coordinates).all()
    assert {**vars(back), "coordinates": 0, "centre": 0, "scale": 0} == {
        **vars(found), "coordinates": 0, "centre": 0, "scale": 0
    }  # fmt: skip


def test_a_vector_that_is_not_finite_is_left_out_and_said_so() -> None:
    vectors, _ = clusters()
    vectors[4, 2] = np.nan
    found = project(vectors, method="pca")
    assert np.isnan(found.coordinates[4]).all()
    assert np.isfinite(np.delete(found.coordinates, 4, axis=0)).all()
    assert "1 of 90" in found.note
    fallen = place(found, vectors, vectors[3:5])
    assert (fallen.coordinates[0] == found.coordinates[3]).all()
    assert np.isnan(fallen.coordinates[1]).all() and fallen.outside[1]


@pytest.mark.parametrize("n", [0, 1, 2, 7])
def test_few_vectors_get_a_pca(n: int) -> None:
    found = project(clusters()[0][:n], method="umap")
    assert found.method == "pca" and "Too few" in found.note
    assert found.coordinates.shape == (n, 2) and np.isfinite(found.coordinates).all()


def test_equal_vectors_fall_on_one_point() -> None:
    found = project(np.ones((20, 3)), method="umap")
    assert (found.coordinates == 0).all()


def test_a_vector_of_the_map_is_placed_on_itself() -> None:
    vectors, _ = clusters()
    found = project(vectors, method="pca")
    fallen = place(found, vectors, vectors[[7, 30]])
    assert (fallen.coordinates == found.coordinates[[7, 30]]).all()
    assert list(fallen.neighbours[:, 0]) == [7, 30]
    assert (fallen.distances[:, 0] == 0).all() and not fallen.outside.any()
    assert (np.diff(fallen.distances, axis=1) >= 0).all()


def test_neighbours_are_the_nearest_in_the_original_space() -> None:
    vectors, _ = clusters()
    found = project(vectors, method="pca")
    new = np.random.default_rng(1).normal(size=(5, 8))
    fallen = place(found, vectors, new, k=4)
    distances = np.linalg.norm(found.standardise(new)[:, None] - found.standardise(vectors)[None], axis=2)
    assert (fallen.neighbours == distances.argsort(axis=1)[:, :4]).all()
    assert fallen.distances == pytest.approx(np.sort(distances, axis=1)[:, :4])
    weights = 1 / fallen.distances[0]
    expected = (weights[:, None] * found.coordinates[fallen.neighbours[0]]).sum(axis=0) / weights.sum()
    assert fallen.coordinates[0] == pytest.approx(expected, rel=1e-5)


def test_far_points_are_outside_and_near_ones_are_not() -> None:
    vectors, label = clusters()
    found = project(vectors, method="pca")
    centre = vectors[label == 0].mean(axis=0)
    fallen = place(found, vectors, np.stack([centre, centre + 100]))
    assert list(fallen.outside) == [False, True]
    assert fallen.ratio[0] < 1 < fallen.ratio[1] and fallen.percentile[1] == 100


def test_other_epochs_of_a_model_are_not_its_neighbours() -> None:
    models = np.random.default_rng(0).normal(size=(20, 4))
    epochs = np.repeat(models, 3, axis=0) + 1e-4 * np.random.default_rng(1).normal(size=(60, 4))
    found = project(epochs, method="pca")
    assert reference_distances(found, epochs).max() < 0.01
    between = reference_distances(found, epochs, groups=[f"m{i // 3}" for i in range(60)])
    assert between.min() > 0.05
    new = epochs[:1] + 0.01
    assert place(found, epochs, new).outside[0]
    assert not place(found, epochs, new, groups=[i // 3 for i in range(60)]).outside[0]


def test_a_model_of_the_map_keeps_its_place_and_is_no_neighbour_of_itself() -> None:
    vectors, _ = clusters()
    found = project(vectors, method="pca")
    models = [f"m{i // 2}" for i in range(len(vectors))]
    where = place(found, vectors, vectors[[6, 6]], groups=models, own=[models[6], None])
    assert set(where.neighbours[0]).isdisjoint({6, 7})
    assert where.distances[0, 0] > 0
    assert where.neighbours[1, 0] == 6 and where.distances[1, 0] == 0
    np.testing.assert_allclose(where.coordinates[0], found.coordinates[6], atol=1e-5)
    everyone = place(found, vectors, vectors[[6]], groups=["m"] * len(vectors), own=["m"])
    assert (everyone.neighbours == -1).all() and np.isnan(everyone.distances).all() and everyone.outside.all()


def test_wrong_use_is_refused(tmp_path: Path) -> None:
    vectors, _ = clusters()
    found = project(vectors, method="pca")
    with pytest.raises(ValueError, match="not the vectors"):
        place(found, vectors + 1, vectors)
    with pytest.raises(ValueError, match="8 features"):
        place(found, vectors, vectors[:, :3])
    with pytest.raises(ValueError, match="Unknown method"):
        project(vectors, method="tsne")  # type: ignore[arg-type]  # that is the point
    (tmp_path / "map.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(Refusal):
        Projection.load(tmp_path / "map.safetensors")


def test_a_neighbourhood_too_small_for_umap_is_widened() -> None:
    vectors, _ = clusters(20)
    assert project(vectors, method="umap", n_neighbors=1).n_neighbors == 2


def test_wide_vectors_have_the_axes_of_their_inner_products() -> None:
    vectors = np.random.default_rng(0).normal(size=(12, 40))
    wide = project(vectors, method="pca")
    padded = np.concatenate([vectors] * 5)  # more vectors than features, and the same axes
    tall = project(padded, method="pca").coordinates[:12]
    assert np.allclose(np.abs(wide.coordinates), np.abs(tall), atol=1e-4)
