"""A map of many vectors in two dimensions, and where a new vector falls on it.

Every feature is z-scored over the vectors first (and constant features dropped), so that no latent counts more
because of its scale. That standardised space is "the original space" below: neighbours, distances and
trustworthiness are measured in it, for UMAP and PCA alike. A vector with a NaN or infinite entry gets NaN
coordinates and takes no part. Nothing here needs torch; umap and sklearn are imported on use.

McInnes et al., "UMAP" (2018); Venna & Kaski, "Neighborhood preservation in nonlinear projection methods" (2001) for
trustworthiness.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sane_engine.checkpoint import Refusal
from sane_engine.progress import CancelCheck, Progress, no_progress, stop_if
from sane_engine.workspace import atomic_file

Method = Literal["umap", "pca"]
Matrix = NDArray[np.float64]

TRUSTWORTHINESS_SAMPLE = 2000
# With fewer points UMAP's spectral start has nothing to work with; the map is a PCA then, and says so.
FEWEST_FOR_UMAP = 8
# A new point is "outside" if it is further from its nearest model than this share of the models are from theirs.
OUTSIDE_PERCENTILE = 95.0
_REFERENCE_SAMPLE = 2000
_ROWS_AT_A_TIME = 1024
_FORMAT = "sane-explorer/projection/1"

# numba compiles while it is first used, and doing so in two threads at once is not safe.
_UMAP_LOCK = threading.Lock()


@dataclass(frozen=True)
class Projection:
    """A map of n vectors with f features.

    Attributes:
        coordinates: float32 [n, 2]; NaN for vectors that are not finite.
        method: What was used: ``"umap"`` or ``"pca"``.
        seed: Seed of UMAP's layout and of the trustworthiness sample.
        n_neighbors: Neighbours UMAP looked at, and trustworthiness is about.
        trustworthiness: 0 to 1; below 1 by the neighbours on the map that are none in the original space, the more
            the further they are there. NaN with fewer than five vectors, or if all are equal.
        trustworthiness_n: Number of vectors it was measured on.
        explained: PCA: share of the variance along each axis.
        centre: Mean of each feature, float32 [f].
        scale: Standard deviation of each feature, float32 [f]; 0 where the feature is constant and dropped.
        vectors_digest: Hex sha256 of the vectors.
        note: Empty, or what should be said beside the map.
    """

    coordinates: NDArray[np.float32]
    method: Method
    seed: int
    n_neighbors: int
    trustworthiness: float
    trustworthiness_n: int
    explained: tuple[float, float] | None
    centre: NDArray[np.float32]
    scale: NDArray[np.float32]
    vectors_digest: str
    note: str = ""

    def standardise(self, vectors: ArrayLike) -> Matrix:
        """Vectors [q, f] in the map's standardised space [q, f'].

        Raises:
            ValueError: Another number of features.
        """
        matrix = np.atleast_2d(np.asarray(vectors, dtype=np.float64))
        if matrix.shape[1] != len(self.scale):
            raise ValueError(
                f"The map was made of {len(self.scale)} features, these vectors have {matrix.shape[1]}."
            )
        kept = self.scale > 0
        return np.asarray((matrix[:, kept] - self.centre[kept]) / self.scale[kept], dtype=np.float64)

    def save(self, path: str | Path) -> None:
        """Write to a safetensors file, atomically."""
        from safetensors.numpy import save_file

        arrays = {"coordinates": self.coordinates, "centre": self.centre, "scale": self.scale}
        scalars = {name: value for name, value in vars(self).items() if name not in arrays}
        with atomic_file(path) as temporary:
            save_file(arrays, temporary, metadata={"format": _FORMAT, "projection": json.dumps(scalars)})

    @classmethod
    def load(cls, path: str | Path) -> Projection:
        """Read what :meth:`save` wrote.

        Raises:
            Refusal: The file is not a projection.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="np") as source:
                metadata = source.metadata() or {}
                if metadata.get("format") != _FORMAT:
                    raise Refusal("not-a-projection", "This file holds no projection.", "Make it again.")
                arrays = {name: source.get_tensor(name) for name in ("coordinates", "centre", "scale")}
            scalars: dict[str, Any] = json.loads(metadata["projection"])
            explained = scalars.pop("explained")
            return cls(**arrays, **scalars, explained=None if explained is None else (explained[0], explained[1]))
        except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise Refusal(
                "broken-projection", f"The projection cannot be read: {error}.", "Make it again."
            ) from error


@dataclass(frozen=True)
class Placement:
    """Where q new vectors fall on a map.

    Attributes:
        coordinates: float32 [q, 2]: mean of the neighbours' coordinates, weighted by 1 / distance; NaN for vectors
            that are not finite.
        neighbours: int64 [q, k]: row numbers of the nearest vectors in the original space, nearest first.
        distances: float64 [q, k]: distances to them in the standardised space.
        percentile: float64 [q]: share, 0 to 100, of the map's own vectors that are nearer to another model than the
            new vector is to its nearest.
        ratio: float64 [q]: nearest distance divided by the 95th percentile of the map's own nearest distances.
        outside: bool [q]: ``ratio`` is above 1 (or not a number): the map says little about this vector.
    """

    coordinates: NDArray[np.float32]
    neighbours: NDArray[np.int64]
    distances: Matrix
    percentile: Matrix
    ratio: Matrix
    outside: NDArray[np.bool_]


def digest(vectors: ArrayLike) -> str:
    """Hex sha256 of shape and float32 content."""
    matrix = np.ascontiguousarray(vectors, dtype=np.float32)
    return hashlib.sha256(repr(matrix.shape).encode() + matrix.tobytes()).hexdigest()


def _scales(vectors: Matrix) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and standard deviation [f]; the latter 0 where it is rounding error only."""
    centre = vectors.mean(axis=0)
    scale = vectors.std(axis=0)
    scale[scale <= 1e-6 * np.abs(vectors).max(axis=0)] = 0
    return centre.astype(np.float32), scale.astype(np.float32)


def _pca(points: Matrix) -> tuple[Matrix, tuple[float, float]]:
    """Coordinates [n, 2] on the first two principal axes, and the shares of the variance along them."""
    if not points.shape[1]:
        return np.zeros((len(points), 2)), (0.0, 0.0)
    centred = points - points.mean(axis=0)
    if points.shape[1] <= len(points):
        variance, axes = np.linalg.eigh(centred.T @ centred)
        axes = axes[:, ::-1][:, :2]
    else:
        # Fewer vectors than features: the same axes from the small matrix of inner products.
        variance, shares_of = np.linalg.eigh(centred @ centred.T)
        axes = centred.T @ shares_of[:, ::-1][:, :2]
        axes = axes / np.maximum(np.linalg.norm(axes, axis=0), np.finfo(float).tiny)
    # The sign of an axis is arbitrary: fix it, so that the map does not flip between machines.
    axes = axes * np.where(axes[np.abs(axes).argmax(axis=0), range(axes.shape[1])] < 0, -1, 1)
    coordinates = np.zeros((len(points), 2))
    coordinates[:, : axes.shape[1]] = centred @ axes
    shares = [*(np.clip(variance[::-1][:2], 0, None) / max(variance.sum(), np.finfo(float).tiny)), 0.0]
    return coordinates, (float(shares[0]), float(shares[1]))


def _umap(points: Matrix, seed: int, n_neighbors: int) -> Matrix:
    with _UMAP_LOCK:
        import umap

        # A seed means one thread; saying so keeps umap from warning that it does.
        reducer = umap.UMAP(n_components=2, n_neighbors=n_neighbors, random_state=seed, n_jobs=1)
        return np.asarray(reducer.fit_transform(points.astype(np.float32)), dtype=np.float64)


def _trustworthiness(points: Matrix, coordinates: Matrix, seed: int, n_neighbors: int) -> tuple[float, int]:
    n = len(points)
    if n < 5 or not points.shape[1]:
        return float("nan"), n
    from sklearn.manifold import trustworthiness

    if n > TRUSTWORTHINESS_SAMPLE:
        sample = np.random.default_rng(seed).choice(n, TRUSTWORTHINESS_SAMPLE, replace=False)
        points, coordinates, n = points[sample], coordinates[sample], TRUSTWORTHINESS_SAMPLE
    return float(trustworthiness(points, coordinates, n_neighbors=min(n_neighbors, (n - 1) // 2))), n


def project(
    vectors: ArrayLike,
    *,
    method: Method = "umap",
    seed: int = 0,
    n_neighbors: int = 15,
    progress: Progress = no_progress,
    cancelled: CancelCheck | None = None,
) -> Projection:
    """Map vectors to two dimensions.

    Args:
        vectors: [n, f]; vectors that are not finite get NaN coordinates.
        method: ``"umap"`` (its first run in a process compiles for 10–15 s, see :func:`warm_up`) or ``"pca"``.
        seed: Same vectors, same seed: same map.
        n_neighbors: Size of UMAP's neighbourhoods; lowered to n − 1 where there are fewer vectors,
            and at least 2, which UMAP needs.
        progress: Called between the steps.
        cancelled: Asked between the steps; UMAP itself cannot be interrupted.

    Raises:
        ValueError: Unknown method, or ``vectors`` is not a matrix.
        Cancelled: ``cancelled`` answered true.
    """
    if method not in ("umap", "pca"):
        raise ValueError(f"Unknown method {method!r}: choose umap or pca.")
    matrix = np.asarray(vectors, dtype=np.float64)
    if matrix.ndim != 2:
        raise ValueError(f"vectors must be [n, f], not {matrix.shape}.")
    finite = np.isfinite(matrix).all(axis=1)
    n = int(finite.sum())
    notes = (
        [f"{len(matrix) - n:,} of {len(matrix):,} vectors are not finite and are left out."]
        if n < len(matrix)
        else []
    )
    if n:
        centre, scale = _scales(matrix[finite])
    else:
        centre = scale = np.zeros(matrix.shape[1], dtype=np.float32)
    kept = scale > 0
    points = np.asarray((matrix[finite][:, kept] - centre[kept]) / scale[kept], dtype=np.float64)
    n_neighbors = max(2 if method == "umap" and n > 2 else 1, min(n_neighbors, n - 1))
    used = method
    if method == "umap" and (n < FEWEST_FOR_UMAP or not kept.any()):
        used = "pca"
        notes.append(f"Too few different vectors for UMAP ({n}): this is a PCA.")
    stop_if(cancelled)
    progress(0, 2, f"Projection of {n:,} vectors ({used})")
    explained = None
    if not n:
        flat = np.zeros((0, 2))
    elif used == "pca":
        flat, explained = _pca(points)
    else:
        flat = _umap(points, seed, n_neighbors)
    stop_if(cancelled)
    progress(1, 2, "Trustworthiness of the projection")
    trust, trust_n = _trustworthiness(points, flat, seed, n_neighbors)
    coordinates = np.full((len(matrix), 2), np.nan, dtype=np.float32)
    coordinates[finite] = flat
    progress(2, 2, "Projection done")
    return Projection(
        coordinates=coordinates,
        method=used,
        seed=seed,
        n_neighbors=n_neighbors,
        trustworthiness=trust,
        trustworthiness_n=trust_n,
        explained=explained,
        centre=centre,
        scale=scale,
        vectors_digest=digest(matrix),
        note=" ".join(notes),
    )


def _nearest(
    queries: Matrix, points: Matrix, k: int, forbidden: NDArray[np.bool_] | None = None
) -> tuple[Any, Matrix]:
    """Rows [q, k] and distances [q, k] of the k nearest points to each query, nearest first."""
    squares = (points**2).sum(axis=1)
    estimate = squares[None, :] - 2 * (queries @ points.T)
    if forbidden is not None:
        estimate[forbidden] = np.inf
    # The estimate loses digits for points that nearly coincide: choose a few more by it, then measure exactly.
    shortlist = min(len(points), k + 8)
    candidates = np.argpartition(estimate, shortlist - 1, axis=1)[:, :shortlist]
    exact = np.sqrt(((points[candidates] - queries[:, None, :]) ** 2).sum(axis=2))
    exact[np.isinf(np.take_along_axis(estimate, candidates, axis=1))] = np.inf
    order = np.argsort(exact, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(candidates, order, axis=1), np.take_along_axis(exact, order, axis=1)


def reference_distances(
    projection: Projection, vectors: ArrayLike, *, groups: Sequence[Any] | None = None
) -> Matrix:
    """How far the map's own vectors are from the nearest vector of another model, ascending.

    Args:
        projection: The map; its seed draws the sample where there are more than 2,000 vectors.
        vectors: The vectors it was made of [n, f].
        groups: Model of each vector; other epochs of the same model do not count as neighbours. Without it every
            vector is its own model.
    """
    points = projection.standardise(vectors)
    finite = np.flatnonzero(np.isfinite(points).all(axis=1))
    labels = np.arange(len(points)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    points, labels = points[finite], labels[finite]
    sample = np.arange(len(points))
    if len(sample) > _REFERENCE_SAMPLE:
        sample = np.random.default_rng(projection.seed).choice(sample, _REFERENCE_SAMPLE, replace=False)
    found = [np.zeros(0)]
    for start in range(0, len(sample), _ROWS_AT_A_TIME):
        rows = sample[start : start + _ROWS_AT_A_TIME]
        _, distances = _nearest(points[rows], points, 1, labels[rows][:, None] == labels[None, :])
        found.append(distances[:, 0])
    every = np.concatenate(found)
    return np.sort(every[np.isfinite(every)])


def place(
    projection: Projection,
    vectors: ArrayLike,
    new_vectors: ArrayLike,
    *,
    k: int = 5,
    groups: Sequence[Any] | None = None,
    own: Sequence[Any] | None = None,
) -> Placement:
    """Put new vectors on an existing map, among their nearest neighbours in the original space.

    Neither the map nor a model of it is refitted, so a point lands where its neighbours are, even if it is far from
    all of them: ``ratio`` and ``outside`` say so.

    Args:
        projection: The map.
        vectors: The vectors it was made of [n, f].
        new_vectors: [q, f].
        k: Number of neighbours.
        groups: Model of each of ``vectors``, see :func:`reference_distances`.
        own: For new vectors of models that are on the map: the model of each, or None. Its own vectors give it its
            place, but are no neighbours of it; where no others are left, a neighbour is −1 and its distance NaN.

    Raises:
        ValueError: ``vectors`` are not those of the map, or the numbers of features differ, or no vector is finite.
    """
    if digest(vectors) != projection.vectors_digest:
        raise ValueError("These are not the vectors the map was made of.")
    points = projection.standardise(vectors)
    known = np.flatnonzero(np.isfinite(points).all(axis=1))
    if not len(known):
        raise ValueError("The map has no finite vector to compare with.")
    queries = projection.standardise(new_vectors)
    good = np.isfinite(queries).all(axis=1)
    k = min(k, len(known))
    neighbours = np.full((len(queries), k), -1, dtype=np.int64)
    distances = np.full((len(queries), k), np.nan)
    coordinates = np.full((len(queries), 2), np.nan, dtype=np.float32)
    for start in range(0, int(good.sum()), _ROWS_AT_A_TIME):
        rows = np.flatnonzero(good)[start : start + _ROWS_AT_A_TIME]
        nearest, distance = _nearest(queries[rows], points[known], k)
        neighbours[rows], distances[rows] = known[nearest], distance
        # A vector of the map itself has all the weight.
        same = distance == 0
        weights = np.where(same.any(axis=1, keepdims=True), same, 1 / np.where(same, 1, distance))
        weights /= weights.sum(axis=1, keepdims=True)
        coordinates[rows] = (weights[:, :, None] * projection.coordinates[known[nearest]]).sum(axis=1)
    if own is not None and groups is not None:
        labels = np.asarray(groups, dtype=object)[known]
        for row in (row for row in np.flatnonzero(good).tolist() if own[row] is not None):
            forbidden = (labels == own[row])[None, :]
            nearest, distance = _nearest(queries[[row]], points[known], k, forbidden)
            left = np.isfinite(distance[0])
            neighbours[row], distances[row] = (
                np.where(left, known[nearest[0]], -1),
                np.where(left, distance[0], np.nan),
            )
    typical_distances = reference_distances(projection, vectors, groups=groups)
    percentile = np.full(len(queries), np.nan)
    ratio = np.full(len(queries), np.nan)
    if len(typical_distances):
        percentile[good] = 100 * np.searchsorted(typical_distances, distances[good, 0]) / len(typical_distances)
        typical = max(float(np.percentile(typical_distances, OUTSIDE_PERCENTILE)), np.finfo(float).tiny)
        ratio[good] = distances[good, 0] / typical
    return Placement(coordinates, neighbours, distances, percentile, ratio, outside=~(ratio <= 1))


def warm_up() -> None:
    """Import umap and let numba compile what a first map needs; for a background thread.

    Takes 10–15 s in a fresh process, nothing afterwards.
    """
    points = np.random.default_rng(0).normal(size=(64, 4))
    _umap(points, 0, 15)
