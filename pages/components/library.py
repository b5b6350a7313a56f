"""Zoos, encoders and what was computed from them: found where it is kept, computed where it is not, shared by all.

Everything is remembered under digests of the zoo and of the encoder, so a changed file never shows an old picture.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pages.components.memory import Memory
from pages.components.opening import opened_zoos
from sane_engine.baselines import zoo_layer_features
from sane_engine.baselines.sane_layers import embedding_features
from sane_engine.checkpoint import Refusal
from sane_engine.demo import Level, Precomputed, find_precomputed, precompute
from sane_engine.inventory import mark_used
from sane_engine.progress import Progress, no_progress
from sane_engine.projection import Projection
from sane_engine.sane import SaneConfig, encoder_folders, encoder_record
from sane_engine.sane.encoder_file import UNIVERSAL
from sane_engine.zoo import Zoo, embedded_zoos, load_zoo, zoo_folders

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from sane_engine.sane import Sane

_ZOOS: Memory[Zoo] = Memory(4)
_ENCODERS: Memory[Sane] = Memory(4)
_KEPT: Memory[Precomputed] = Memory(6)
_TABLES: Memory[pd.DataFrame] = Memory(12)
_SPECTRA: Memory[pd.DataFrame] = Memory(256)
_MAPS: Memory[tuple[pd.DataFrame, go.Figure]] = Memory(16)
_DIGESTS: WeakKeyDictionary[Zoo, str] = WeakKeyDictionary()


def zoo_choices() -> dict[str, str]:
    """What the zoo picker offers: key in links → label."""
    opened = opened_zoos()
    often = Counter(zoo.label for zoo in opened)
    # Two files of one name are told apart by their content.
    labels = {z.key: z.label if often[z.label] == 1 else f"{z.label} ({z.key[-6:]})" for z in opened}
    return {name: name for name in sorted(zoo_folders())} | labels


def zoo_location(key: str) -> Path | str:
    """Where a zoo lies: a path, or the name of one that has a name."""
    for zoo in opened_zoos():
        if zoo.key == key:
            return zoo.path
    return key


def _age(path: Path) -> float:
    """When the zoo at ``path`` was last changed, as far as the file system says."""
    inner = path / "zoo.json"
    return (inner if inner.exists() else path).stat().st_mtime


def get_zoo(key: str, *, progress: Progress = no_progress) -> Zoo:
    """The zoo that links call ``key``.

    Raises:
        Refusal: It is gone or cannot be read.
    """
    location = zoo_location(key)
    path = location if isinstance(location, Path) else zoo_folders().get(location)
    if path is None:
        raise Refusal("zoo-not-found", f"There is no zoo called {key}.", "Choose another one in the sidebar.")
    label = next((zoo.label for zoo in opened_zoos() if zoo.key == key), None)
    name = None if label is None else Path(label).stem  # an upload lies under a name made of its content
    zoo = _ZOOS.get((str(path), _age(path)), lambda: load_zoo(location, name=name, progress=progress))
    mark_used(path)
    return zoo


def digest_of(zoo: Zoo) -> str:
    """Digest of a zoo, made once a zoo: every click needs it, and it reads the whole table. No page changes one."""
    found = _DIGESTS.get(zoo)
    if found is None:
        found = _DIGESTS[zoo] = zoo.digest
    return found


def encoder_choices() -> list[str]:
    """Names of the encoders that ship with the code or were trained into the workspace."""
    return sorted(encoder_folders())


def default_encoder(zoo_key: str | None) -> str | None:
    """The encoder named after the zoo, else one trained on it, else the universal one, else any."""
    names = encoder_choices()
    if zoo_key is not None and f"{zoo_key}-sane" in names:
        return f"{zoo_key}-sane"
    wanted = (*_trained_on(zoo_key, names), UNIVERSAL, *(f"{name}-sane" for name in embedded_zoos()), *names)
    return next((name for name in wanted if name in names), None)


def _trained_on(zoo_key: str | None, names: list[str]) -> list[str]:
    """Encoders that were trained on this very zoo."""
    if zoo_key is None:
        return []
    try:
        digest = digest_of(get_zoo(zoo_key))
        return [name for name in names if encoder_provenance(name).get("zoo_digest") == digest]
    except (Refusal, OSError, KeyError, ValueError):  # the pages that open them say what is wrong
        return []


def encoder_digest(name: str) -> str:
    """Digest of an encoder, without loading it."""
    return str(encoder_record(encoder_folders()[name])["digest"])


def encoder_provenance(name: str) -> dict[str, Any]:
    """What an encoder was trained on and how well it does, without loading it."""
    found = encoder_record(encoder_folders()[name]).get("provenance")
    return dict(found) if isinstance(found, dict) else {}


def training_of(name: str) -> str:
    """What an encoder of several zoos was trained on, for captions: ``900 checkpoints of 3 zoos: a, b, c``."""
    zoos = encoder_provenance(name).get("zoos")
    if not isinstance(zoos, list):
        return ""
    count = sum(int(zoo["checkpoints"]) for zoo in zoos)
    return f"{count:,} checkpoints of {len(zoos)} zoos: {', '.join(str(zoo['zoo']) for zoo in zoos)}"


def encoder_config(name: str) -> SaneConfig:
    """The settings of an encoder, without loading it."""
    return SaneConfig.from_json(encoder_record(encoder_folders()[name])["config"])


def get_encoder(name: str) -> Sane:
    """The encoder itself; loads torch."""
    from sane_engine.sane import load_encoder

    mark_used(encoder_folders()[name])
    return _ENCODERS.get(encoder_digest(name), lambda: load_encoder(encoder_folders()[name]))


def kept(zoo_key: str, encoder: str) -> Precomputed | None:
    """Embeddings and maps of a zoo as an encoder sees it, or None if they were never made."""
    zoo, digest = get_zoo(zoo_key), encoder_digest(encoder)
    key = (digest_of(zoo), digest)
    found = _KEPT.peek(key)
    if found is None:
        found = find_precomputed(digest_of(zoo), digest, zoo_key, encoder)
        if found is not None:
            _KEPT.put(key, found)
    if found is not None:
        mark_used(found.folder)
    return found


def make_kept(zoo_key: str, encoder: str, *, progress: Progress) -> Precomputed:
    """Compute what :func:`kept` looks for, and keep it in the workspace."""
    zoo = get_zoo(zoo_key)
    return _KEPT.get(
        (digest_of(zoo), encoder_digest(encoder)), lambda: precompute(zoo, get_encoder(encoder), progress=progress)
    )


@dataclass(frozen=True)
class Atlas:
    """A map with what its points are.

    Attributes:
        projection: Coordinates of p points.
        rows: Row in the zoo's table of each point [p].
        layers: Layer index of each point [p]; −1 where a point is a whole model.
        layer_names: Layer name of each point, or None where points are models.
    """

    projection: Projection
    rows: NDArray[np.int64]
    layers: NDArray[np.int64]
    layer_names: tuple[str, ...] | None


def atlas(known: Precomputed, level: Level, method: str) -> Atlas:
    """The map of the models, or of the layers, by UMAP or PCA."""
    projection = known.projections[level, method]
    if level == "models":
        rows = np.arange(len(known.embeddings), dtype=np.int64)
        return Atlas(projection, rows, np.full(len(rows), -1, dtype=np.int64), None)
    rows, layers = known.layer_points[:, 0], known.layer_points[:, 1]
    names = tuple(known.embeddings.names_of(int(row))[layer] for row, layer in zip(rows, layers, strict=True))
    return Atlas(projection, rows, layers, names)


def drawn_once(key: Hashable, make: Callable[[], tuple[pd.DataFrame, go.Figure]]) -> tuple[pd.DataFrame, go.Figure]:
    """A map's points and figure: what most people see first is the same picture, so it is drawn for all of them.

    Args:
        key: Everything the picture depends on.
        make: Draws it.

    Returns:
        Both are shared; nobody may change them.
    """
    return _MAPS.get(key, make)


def sane_layers(known: Precomputed) -> pd.DataFrame:
    """SANE's features of every layer of every checkpoint: ``row``, ``layer``, ``name``, features, ``reason``."""
    return _TABLES.get(
        (known.record["zoo_digest"], known.record["encoder_digest"]),
        lambda: embedding_features(known.embeddings, known.reference),
    )


def layers_beside(theirs: Precomputed, ours: Precomputed) -> pd.DataFrame:
    """SANE's features of the layers of one zoo, compared with what another zoo's layers look like."""
    return _TABLES.get(
        (theirs.record["zoo_digest"], theirs.record["encoder_digest"], ours.record["zoo_digest"]),
        lambda: embedding_features(theirs.embeddings, ours.reference),
    )


def spectra(zoo_key: str, rows: Sequence[int], *, progress: Progress) -> pd.DataFrame:
    """WeightWatcher's table of some checkpoints, computed now and remembered."""
    zoo = get_zoo(zoo_key)
    missing = [row for row in rows if _SPECTRA.peek((digest_of(zoo), row)) is None]
    if missing:
        computed = zoo_layer_features(zoo, missing, "weightwatcher", progress=progress)
        for row in missing:
            part = computed[computed["row"] == row]
            _SPECTRA.put((digest_of(zoo), row), part)
    parts = [_SPECTRA.peek((digest_of(zoo), row)) for row in rows]
    return pd.concat([part for part in parts if part is not None], ignore_index=True)
