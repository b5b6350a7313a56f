"""Scalar curves over the layers from SANE's layer embeddings, to lie beside the spectral ones.

A layer's embedding is the mean of its token latents followed by their standard deviation [2 · latent]. From it:

- ``norm``, ``spread``: Euclidean norms of the two halves; need nothing but the network;
- ``distance``: Euclidean distance to the zoo's mean for the same layer if the network has the zoo's layers (same
  names in the same order), else to the mean over all layers of the zoo; ``distance_ratio`` divides it by the root
  mean square of the same distance over the zoo's own models (or layers), so 1 is typical;
- ``pc1`` … ``pc3``: coordinates on the principal axes of *all* layer embeddings of the zoo together, centred on
  their mean. One set of axes for all layers, so a curve over depth has a meaning, also for another architecture.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sane_engine.baselines.catalogue import FEATURES
from sane_engine.baselines.layer_axis import shapes_of, weight_layers
from sane_engine.checkpoint import Refusal
from sane_engine.progress import CancelCheck, Progress, no_progress, stop_if
from sane_engine.workspace import atomic_file

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray
    from torch import Tensor

    from sane_engine.sane import Embeddings, Sane
    from sane_engine.zoo import Zoo

N_COMPONENTS = 3
MOST_WEIGHTS_OF_A_FILE = 50_000_000
"""Of a network that lies in a file because it is large, SANE embeds this many weights at most: it sees the sequence
as a whole, and the tokens with their positions take several times the room of the weights."""

_COLUMNS = tuple(feature.name for feature in FEATURES["sane"])


@dataclass(frozen=True)
class SaneReference:
    """What a zoo's layer embeddings look like; f = 2 · latent, L layers.

    Attributes:
        layer_names: Names of the zoo's layers; empty if its models differ, and then ``layer_mean`` is [0, f].
        layer_mean: Mean embedding of each layer, float32 [L, f].
        layer_rms: Root mean square distance of the zoo's models to it, float32 [L].
        cloud_mean: Mean over all layers of all models, float32 [f].
        cloud_rms: Root mean square distance of all layers of all models to it.
        components: Principal axes of all layers of all models, orthonormal rows, float32 [3, f]; each has its
            largest entry positive, so a curve does not flip between runs.
        explained: Share of the variance along each axis, 0 to 1.
        encoder_digest: Digest of the encoder the embeddings came from.
    """

    layer_names: tuple[str, ...]
    layer_mean: NDArray[np.float32]
    layer_rms: NDArray[np.float32]
    cloud_mean: NDArray[np.float32]
    cloud_rms: float
    components: NDArray[np.float32]
    explained: tuple[float, ...]
    encoder_digest: str

    def save(self, path: str | Path) -> None:
        """Write to a safetensors file, atomically."""
        from safetensors.numpy import save_file

        arrays = {
            "layer_mean": self.layer_mean,
            "layer_rms": self.layer_rms,
            "cloud_mean": self.cloud_mean,
            "components": self.components,
        }
        scalars = {
            "layer_names": self.layer_names,
            "cloud_rms": self.cloud_rms,
            "explained": self.explained,
            "encoder_digest": self.encoder_digest,
        }
        with atomic_file(path) as temporary:
            save_file(arrays, temporary, metadata={"sane_reference": json.dumps(scalars)})

    @classmethod
    def load(cls, path: str | Path) -> SaneReference:
        """Read what :meth:`save` wrote; loads no torch."""
        from safetensors import safe_open

        with safe_open(path, framework="np") as source:
            scalars = json.loads(source.metadata()["sane_reference"])
            arrays = {name: source.get_tensor(name) for name in source.keys()}  # noqa: SIM118 (not a mapping)
        return cls(
            layer_names=tuple(scalars["layer_names"]),
            cloud_rms=float(scalars["cloud_rms"]),
            explained=tuple(scalars["explained"]),
            encoder_digest=scalars["encoder_digest"],
            **arrays,
        )


def _signed(components: NDArray[np.float32]) -> NDArray[np.float32]:
    import numpy as np

    largest = np.take_along_axis(components, np.abs(components).argmax(axis=1)[:, None], axis=1)
    return np.asarray(components * np.where(largest < 0, -1, 1), dtype=np.float32)


def fit_reference(embeddings: Embeddings) -> SaneReference:
    """Summarise the layer embeddings of a zoo.

    Args:
        embeddings: Embeddings of the zoo's models; models with NaN or infinite embeddings are left out.

    Raises:
        ValueError: Fewer than two finite layer embeddings.
    """
    import numpy as np

    layers = np.asarray(embeddings.layers, dtype=np.float32)
    real = np.arange(layers.shape[1])[None, :] < np.asarray(embeddings.layer_count)[:, None]
    healthy = np.isfinite(layers).all(axis=2)
    whole = np.asarray((healthy | ~real).all(axis=1))
    cloud = layers[real & whole[:, None]].astype(np.float64)
    if len(cloud) < 2:
        raise ValueError("A reference needs at least two finite layer embeddings.")
    names = {embeddings.names_of(model) for model in np.flatnonzero(whole).tolist()}
    if len(names) == 1:
        layer_names = names.pop()
        members = layers[whole][:, : len(layer_names)].astype(np.float64)
        layer_mean = members.mean(axis=0)
        layer_rms = np.sqrt(((members - layer_mean) ** 2).sum(axis=2).mean(axis=0))
    else:
        layer_names = ()
        layer_mean = np.zeros((0, layers.shape[2]))
        layer_rms = np.zeros(0)
    cloud_mean = cloud.mean(axis=0)
    centred = cloud - cloud_mean
    # Eigenvectors of the covariance: exact, and cheap however many layers there are.
    variance, axes = np.linalg.eigh(centred.T @ centred / len(cloud))
    order = np.argsort(variance)[::-1][:N_COMPONENTS]
    components = np.zeros((N_COMPONENTS, layers.shape[2]), dtype=np.float32)
    components[: len(order)] = axes[:, order].T
    total = max(float(variance.sum()), np.finfo(float).tiny)
    return SaneReference(
        layer_names=layer_names,
        layer_mean=layer_mean.astype(np.float32),
        layer_rms=layer_rms.astype(np.float32),
        cloud_mean=cloud_mean.astype(np.float32),
        cloud_rms=float(np.sqrt((centred**2).sum(axis=1).mean())),
        components=_signed(components),
        explained=tuple(float(max(variance[axis], 0.0) / total) for axis in order),
        encoder_digest=embeddings.encoder_digest,
    )


def reference_of(encoder: Sane) -> SaneReference | None:
    """What a universal encoder compares networks with: the layers of those it was trained on; else ``None``."""
    if encoder.cloud is None:
        return None
    import numpy as np

    cloud = encoder.cloud
    width = 2 * encoder.config.latent
    return SaneReference(
        layer_names=(),
        layer_mean=np.zeros((0, width), dtype=np.float32),
        layer_rms=np.zeros(0, dtype=np.float32),
        cloud_mean=cloud.mean.numpy(),
        cloud_rms=float(cloud.rms),
        components=cloud.components.numpy(),
        explained=tuple(cloud.explained.tolist()),
        encoder_digest=encoder.digest,
    )


def layer_scalars(
    layers: NDArray[np.float32], names: Sequence[str], reference: SaneReference | None
) -> NDArray[np.float64]:
    """The features of the layers of one model, or of several that share their layers.

    Args:
        layers: Layer embeddings [L, f] or [m, L, f].
        names: Names of the L layers.
        reference: The zoo to compare with; distances and components are NaN without it.

    Returns:
        float64 [L, 7] or [m, L, 7], columns as in ``FEATURES["sane"]``; all NaN where an embedding is not finite.
    """
    import numpy as np

    layers = layers.astype(np.float64)
    latent = layers.shape[-1] // 2
    cells = np.full((*layers.shape[:-1], len(_COLUMNS)), np.nan)
    cells[..., 0] = np.linalg.norm(layers[..., :latent], axis=-1)
    cells[..., 1] = np.linalg.norm(layers[..., latent:], axis=-1)
    if reference is not None:
        centred = layers - reference.cloud_mean
        if tuple(names) == reference.layer_names:
            distance = np.linalg.norm(layers - reference.layer_mean, axis=-1)
            typical = reference.layer_rms.astype(np.float64)
        else:
            distance = np.linalg.norm(centred, axis=-1)
            typical = np.full(layers.shape[-2], reference.cloud_rms)
        cells[..., 2] = distance
        cells[..., 3] = np.divide(distance, typical, out=np.full(distance.shape, np.nan), where=typical > 0)
        cells[..., 4:] = centred @ reference.components.T.astype(np.float64)
    cells[~np.isfinite(layers).all(axis=-1)] = np.nan
    return cells


def _table(
    cells: NDArray[np.float64], models: Sequence[int], names: Sequence[str], reasons: Sequence[str]
) -> pd.DataFrame:
    """Cells [m, L, 7] as rows, model by model."""
    import numpy as np
    import pandas as pd

    frame = pd.DataFrame(cells.reshape(-1, len(_COLUMNS)), columns=list(_COLUMNS))
    frame.insert(0, "row", np.repeat(np.asarray(models, dtype=np.int64), len(names)))
    frame.insert(1, "layer", np.tile(np.arange(len(names)), len(models)))
    frame.insert(2, "name", list(names) * len(models))
    frame["reason"] = list(reasons)
    return frame


def sane_features(
    tensors: Mapping[str, Tensor],
    encoder: Sane,
    *,
    reference: SaneReference | None = None,
    progress: Progress = no_progress,
    cancelled: CancelCheck | None = None,
) -> pd.DataFrame:
    """SANE's features of every layer; see :func:`sane_engine.baselines.layer_features`."""
    import numpy as np

    from sane_engine.sane import embed

    axis = [layer.name for layer in weight_layers(tensors)]
    shapes = shapes_of(tensors)
    n_weights = sum(t.numel() for t in {id(t): t for t in shapes.values()}.values() if t.is_floating_point())
    if shapes is not tensors and n_weights > MOST_WEIGHTS_OF_A_FILE:
        empty = np.full((1, len(axis), len(_COLUMNS)), np.nan)
        reason = f"{n_weights:,} weights: SANE reads a network as a whole, here up to {MOST_WEIGHTS_OF_A_FILE:,}."
        return _table(empty, [0], axis, [reason] * len(axis)).drop(columns="row")
    try:
        embeddings = embed(encoder, [dict(tensors)], keep_tokens=False, progress=progress, cancelled=cancelled)
    except Refusal as refusal:
        # The encoder sees the network as one sequence: one bad tensor spoils every layer.
        empty = np.full((1, len(axis), len(_COLUMNS)), np.nan)
        return _table(empty, [0], axis, [str(refusal)] * len(axis)).drop(columns="row")
    if reference is None:
        reference = reference_of(encoder)
    return embedding_features(embeddings, reference, fit=False).drop(columns="row")


def embedding_features(
    embeddings: Embeddings, reference: SaneReference | None = None, *, fit: bool = True
) -> pd.DataFrame:
    """The same table from embeddings that exist already, all models one below the other.

    Args:
        embeddings: Embeddings of m models.
        reference: The zoo to compare with.
        fit: Without a reference, compare these models with themselves; else distances and components are NaN.

    Returns:
        Column ``row`` (0 … m−1), then as :func:`sane_engine.baselines.layer_features`.
    """
    import numpy as np
    import pandas as pd

    if reference is None and fit:
        reference = fit_reference(embeddings)
    alike: dict[tuple[str, ...], list[int]] = {}
    for model in range(len(embeddings)):
        alike.setdefault(embeddings.names_of(model), []).append(model)
    frames = [pd.DataFrame(columns=["row", "layer", "name", *_COLUMNS, "reason"])] if not alike else []
    for names, models in alike.items():
        cells = layer_scalars(np.asarray(embeddings.layers[models, : len(names)]), names, reference)
        lost = np.isnan(cells[..., 0]).reshape(-1)
        reasons = np.where(lost, "The embedding is not finite.", "")
        frames.append(_table(cells, models, names, reasons.tolist()))
    return pd.concat(frames, ignore_index=True).sort_values(["row", "layer"], kind="stable", ignore_index=True)


def zoo_sane_features(
    zoo: Zoo,
    rows: Sequence[int],
    *,
    encoder: Sane | None = None,
    embeddings: Embeddings | None = None,
    reference: SaneReference | None = None,
    progress: Progress = no_progress,
    cancelled: CancelCheck | None = None,
) -> pd.DataFrame:
    """SANE's features of many checkpoints; see :func:`sane_engine.baselines.zoo_layer_features`."""
    import numpy as np

    if embeddings is None:
        if encoder is None:
            raise ValueError("kind='sane' needs an encoder or embeddings.")
        from sane_engine.sane import embed

        embeddings = embed(encoder, zoo.select(rows), keep_tokens=False, progress=progress, cancelled=cancelled)
    if len(embeddings.layers) != len(rows):
        raise ValueError(f"{len(embeddings.layers)} embeddings for {len(rows)} rows.")
    stop_if(cancelled)
    frame = embedding_features(embeddings, reference)
    frame["row"] = np.asarray(rows, dtype=np.int64)[frame["row"].to_numpy(dtype=np.int64)]
    return frame
