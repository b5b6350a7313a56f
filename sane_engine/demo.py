"""What is computed once for a pair of zoo and encoder and then kept: embeddings, maps, WeightWatcher's features.

The embedded zoos ship with it under ``assets/embeddings``; a user's own zoo gets it from the same
:func:`precompute`, cached in the workspace under the digests of both. Reading it back loads no torch.

Embeddings are kept as float16: an error of at most 0.05 % of each value. Maps and references are made *of the
rounded values*, so all files agree exactly. Token latents and weight statistics are not kept; both are computed
when asked for.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from sane_engine.baselines.sane_layers import SaneReference, fit_reference
from sane_engine.checkpoint import Refusal
from sane_engine.progress import CancelCheck, Progress, no_progress, stop_if
from sane_engine.projection import Projection, project
from sane_engine.sane.embeddings import Embeddings
from sane_engine.workspace import assets_root, atomic_folder, workspace_root

if TYPE_CHECKING:
    import pandas as pd

    from sane_engine.sane import Sane
    from sane_engine.zoo import Zoo

Level = Literal["models", "layers"]
LEVELS: tuple[Level, ...] = ("models", "layers")
METHODS: tuple[Literal["umap", "pca"], ...] = ("umap", "pca")
_FORMAT = "sane-explorer/precomputed/1"
_RECORD = "embeddings.json"
_EMBEDDINGS = "embeddings.safetensors"
_REFERENCE = "sane-reference.safetensors"
_SPECTRAL = "weightwatcher.parquet"
# A map of more layers than this takes long and shows no more.
LAYER_POINTS = 5000
# Spectra of every checkpoint up to this many weights in all (a minute or two); beyond, of the last epochs only …
_WEIGHTS_FOR_ALL_SPECTRA = 20_000_000
# … and of as many models, drawn by the seed, as keep the work there.
_WEIGHTS_FOR_SPECTRA = 200_000_000


@dataclass(frozen=True)
class Precomputed:
    """What is kept for a zoo and an encoder; rows are those of the zoo's table.

    Attributes:
        folder: Where it lies.
        embeddings: Per layer and per model, float32 (rounded to float16), without tokens.
        reference: What the layer embeddings of this zoo look like, for distances and components.
        projections: ``(level, method)`` → map: ``("models" | "layers", "umap" | "pca")``.
        layer_points: int64 [p, 2]: zoo row and layer index of each point of the maps at level ``"layers"``.
        weightwatcher: WeightWatcher's table of ``zoo_layer_features`` without ``model`` and ``epoch``; float32.
        record: Provenance: digests, seed, versions, command, and the measured qualities of the maps.
    """

    folder: Path
    embeddings: Embeddings
    reference: SaneReference
    projections: Mapping[tuple[Level, str], Projection]
    layer_points: NDArray[np.int64]
    weightwatcher: pd.DataFrame
    record: Mapping[str, Any]

    def vectors(self, level: Level) -> NDArray[np.float32]:
        """The vectors [n, f] that the maps of a level were made of."""
        if level == "models":
            return self.embeddings.models
        return self.embeddings.layers[self.layer_points[:, 0], self.layer_points[:, 1]]


def rounded(embeddings: Embeddings) -> Embeddings:
    """The same embeddings as float32 numbers that float16 can hold, without token latents.

    Values beyond float16's ±65,504 are clipped to it.
    """

    def to_half(values: NDArray[np.float32]) -> NDArray[np.float32]:
        limit = np.finfo(np.float16).max
        return np.clip(values, -limit, limit).astype(np.float16).astype(np.float32)

    return replace(embeddings, layers=to_half(embeddings.layers), models=to_half(embeddings.models), tokens=None)


def last_epochs(table: pd.DataFrame) -> NDArray[np.int64]:
    """Rows with the last epoch of each model, in table order; all rows where the table has no epochs."""
    if "epoch" not in table.columns or "model" not in table.columns:
        return np.arange(len(table), dtype=np.int64)
    ranked = table["epoch"].fillna(-1).reset_index(drop=True)
    return np.sort(ranked.groupby(table["model"].to_numpy()).idxmax().to_numpy(dtype=np.int64))


def choose_layer_points(table: pd.DataFrame, embeddings: Embeddings, seed: int) -> NDArray[np.int64]:
    """Zoo rows and layer indices [p, 2] for the map of layers: every layer of each model's last epoch.

    At most ``LAYER_POINTS`` of them, of models drawn by the seed.
    """
    rows = last_epochs(table)
    deepest = max(1, int(embeddings.layers.shape[1]))
    if len(rows) * deepest > LAYER_POINTS:
        n_models = max(1, LAYER_POINTS // deepest)
        rows = np.sort(np.random.default_rng(seed).choice(rows, n_models, replace=False))
    counts = np.asarray(embeddings.layer_count)[rows]
    layers = [np.arange(count, dtype=np.int64) for count in counts]
    return np.stack([np.repeat(rows, counts), np.concatenate([np.zeros(0, dtype=np.int64), *layers])], axis=1)


def _spectral_rows(zoo: Zoo, seed: int) -> NDArray[np.int64]:
    """Rows whose spectra are worth computing beforehand; see the limits above."""
    if not len(zoo.table):
        return np.zeros(0, dtype=np.int64)
    sizes = np.zeros(len(zoo.table))
    for group in zoo.layout_groups():
        sizes[group] = sum(tensor.numel() for tensor in zoo.tensors(int(group[0])).values())
    if sizes.sum() <= _WEIGHTS_FOR_ALL_SPECTRA:
        return np.arange(len(zoo.table), dtype=np.int64)
    rows = last_epochs(zoo.table)
    drawn = np.random.default_rng(seed).permutation(rows)
    affordable = int(np.searchsorted(np.cumsum(sizes[drawn]), _WEIGHTS_FOR_SPECTRA, side="right"))
    return np.sort(drawn[: max(1, affordable)])


def precomputed_folder(zoo_digest: str, encoder_digest: str) -> Path:
    """Where the workspace keeps what belongs to these contents."""
    return workspace_root() / "embeddings" / f"{zoo_digest[:16]}--{encoder_digest[:16]}"


def _versions() -> dict[str, str]:
    packages = ("torch", "numpy", "pandas", "umap-learn", "scikit-learn", "weightwatcher")
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}


def precompute(
    zoo: Zoo,
    encoder: Sane,
    folder: str | Path | None = None,
    *,
    seed: int = 0,
    provenance: Mapping[str, Any] | None = None,
    progress: Progress = no_progress,
    cancelled: CancelCheck | None = None,
) -> Precomputed:
    """Embed a zoo, map it, run WeightWatcher over it, and keep all of it in a folder.

    Args:
        zoo: The zoo.
        encoder: The encoder.
        folder: Where to write; by default in the workspace. It appears whole or not at all.
        seed: Seed of the maps, and of the thinning of large zoos.
        provenance: What else to record, such as ``command`` and ``commit``.
        progress: Called with percents of the whole.
        cancelled: Asked throughout; a UMAP that has begun is finished first.

    Raises:
        Cancelled: ``cancelled`` answered true; the folder is as it was.
        Refusal: The zoo cannot be embedded (weights that are not finite …).
    """
    from sane_engine.baselines import zoo_layer_features
    from sane_engine.sane import embed

    target = precomputed_folder(zoo.digest, encoder.digest) if folder is None else Path(folder)

    def part(start: int, stop: int) -> Progress:
        def report(done: int, total: int, message: str, /) -> None:
            progress(start + (stop - start) * done // max(1, total), 100, message)

        return report

    embeddings = rounded(embed(encoder, zoo, keep_tokens=False, progress=part(0, 25), cancelled=cancelled))
    reference = fit_reference(embeddings)
    points = choose_layer_points(zoo.table, embeddings, seed)
    vectors: dict[Level, NDArray[np.float32]] = {
        "models": embeddings.models,
        "layers": embeddings.layers[points[:, 0], points[:, 1]],
    }
    projections: dict[tuple[Level, str], Projection] = {}
    for number, level in enumerate(LEVELS):
        for method in METHODS:
            stop_if(cancelled)
            progress(25 + 12 * number, 100, f"Map of {level} ({method})")
            projections[level, method] = project(vectors[level], method=method, seed=seed, cancelled=cancelled)
    rows = _spectral_rows(zoo, seed)
    spectral = zoo_layer_features(
        zoo, rows.tolist(), "weightwatcher", progress=part(50, 98), cancelled=cancelled
    ).drop(columns=["model", "epoch"], errors="ignore")
    record: dict[str, Any] = {
        "format": _FORMAT,
        "zoo": zoo.name,
        "zoo_digest": zoo.digest,
        "encoder_digest": encoder.digest,
        "aligned": bool(encoder.aligner.alignments),
        "seed": seed,
        "rows": len(zoo.table),
        "layer_points": len(points),
        "weightwatcher_rows": "all" if len(rows) == len(zoo.table) else rows.tolist(),
        "notes": list(embeddings.notes),
        "maps": {f"{level}-{method}": _quality(found) for (level, method), found in projections.items()},
        "versions": _versions(),
        **(provenance or {}),
    }
    kept = Precomputed(target, embeddings, reference, projections, points, _compact(spectral), record)
    write_precomputed(kept)
    progress(100, 100, "Kept")
    return kept


def _quality(projection: Projection) -> dict[str, Any]:
    return {
        "trustworthiness": projection.trustworthiness,
        "trustworthiness_n": projection.trustworthiness_n,
        "n_neighbors": projection.n_neighbors,
        "explained": projection.explained,
        "note": projection.note,
    }


def _compact(table: pd.DataFrame) -> pd.DataFrame:
    """Numbers as float32, row and layer as int32."""
    numbers = table.select_dtypes("float64").columns
    return table.astype(dict.fromkeys(numbers, "float32") | {"row": "int32", "layer": "int32"})


def write_precomputed(kept: Precomputed) -> None:
    """Write it into its folder, which appears whole or not at all; what was there is replaced."""
    with atomic_folder(kept.folder) as temporary:
        _write(kept, temporary)


def _write(kept: Precomputed, folder: Path) -> None:
    from safetensors.numpy import save_file

    half: dict[str, Any] = {
        "layers": kept.embeddings.layers.astype(np.float16),
        "models": kept.embeddings.models.astype(np.float16),
    }
    replace(kept.embeddings, **half).save(folder / _EMBEDDINGS)
    kept.reference.save(folder / _REFERENCE)
    for (level, method), projection in kept.projections.items():
        projection.save(folder / f"projection-{level}-{method}.safetensors")
    save_file({"layer_points": kept.layer_points}, folder / "layer-points.safetensors")
    kept.weightwatcher.to_parquet(folder / _SPECTRAL, index=False, compression="zstd")
    (folder / _RECORD).write_text(json.dumps(kept.record, indent=1) + "\n", encoding="utf-8")


def read_precomputed(
    folder: str | Path, *, zoo_digest: str | None = None, encoder_digest: str | None = None
) -> Precomputed:
    """Read what :func:`precompute` wrote, without torch.

    Args:
        folder: Where it lies.
        zoo_digest: If given, the zoo it must belong to.
        encoder_digest: If given, the encoder it must belong to.

    Raises:
        Refusal: Nothing is there (``not-precomputed``), it cannot be read (``broken-precomputed``), or it belongs
            to another zoo or encoder (``stale-precomputed``).
    """
    import pandas as pd
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    folder = Path(folder)
    if not (folder / _RECORD).is_file():
        raise Refusal("not-precomputed", "Nothing is computed for this zoo and encoder yet.", "Embed the zoo.")
    try:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        if record["format"] != _FORMAT:
            raise ValueError(f"format {record['format']!r}")
        for what, expected in (("zoo", zoo_digest), ("encoder", encoder_digest)):
            if expected is not None and record[f"{what}_digest"] != expected:
                raise Refusal(
                    "stale-precomputed", f"The kept embeddings belong to another {what}.", "Embed the zoo again."
                )
        stored = Embeddings.load(folder / _EMBEDDINGS)
        return Precomputed(
            folder=folder,
            embeddings=replace(
                stored, layers=stored.layers.astype(np.float32), models=stored.models.astype(np.float32)
            ),
            reference=SaneReference.load(folder / _REFERENCE),
            projections={
                (level, method): Projection.load(folder / f"projection-{level}-{method}.safetensors")
                for level in LEVELS
                for method in METHODS
            },
            layer_points=load_file(folder / "layer-points.safetensors")["layer_points"],
            weightwatcher=pd.read_parquet(folder / _SPECTRAL),
            record=record,
        )
    except Refusal:
        raise
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise Refusal(
            "broken-precomputed", f"The kept embeddings cannot be read: {error}.", "Embed the zoo again."
        ) from error


def embedded_folder(zoo_name: str, encoder_name: str) -> Path:
    """Where the embeddings of an embedded zoo ship."""
    return assets_root() / "embeddings" / f"{zoo_name}--{encoder_name}"


def load_precomputed(zoo_name: str, encoder_name: str) -> Precomputed | None:
    """What ships for an embedded zoo and encoder, or ``None`` if there is none or it is of other contents.

    Compares the digests of the zoo's table and weights and of the encoder's record; loads no torch.

    Raises:
        Refusal: The zoo or the encoder is not there, or the files are damaged.
    """
    from sane_engine.sane import encoder_record
    from sane_engine.zoo import load_zoo

    return find_precomputed(
        load_zoo(zoo_name).digest, encoder_record(encoder_name)["digest"], zoo_name, encoder_name
    )


def find_precomputed(
    zoo_digest: str, encoder_digest: str, zoo_name: str = "", encoder_name: str = ""
) -> Precomputed | None:
    """What ships or lies in the workspace for these contents, or ``None``.

    Args:
        zoo_digest: ``zoo.digest``.
        encoder_digest: ``encoder.digest``, or that of ``encoder_record``.
        zoo_name: Name of the embedded zoo, if it is one.
        encoder_name: Name of the embedded encoder, if it is one.

    Raises:
        Refusal: The files that ship are damaged; damaged ones in the workspace count as none and are made again.
    """
    own = precomputed_folder(zoo_digest, encoder_digest)
    candidates = [own]
    if zoo_name and encoder_name:
        candidates.insert(0, embedded_folder(zoo_name, encoder_name))
    for folder in candidates:
        try:
            return read_precomputed(folder, zoo_digest=zoo_digest, encoder_digest=encoder_digest)
        except Refusal as refusal:
            if folder != own and refusal.code not in ("not-precomputed", "stale-precomputed"):
                raise
    return None
