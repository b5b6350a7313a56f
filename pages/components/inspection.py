"""What is known about dropped checkpoints, step by step, kept in the session until the user takes them away."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import streamlit as st

from pages.components.current import Current
from pages.components.library import encoder_choices, encoder_digest, get_encoder, kept
from pages.components.uploads import Incoming, receive
from sane_engine.checkpoint import Checkpoint, Refusal
from sane_engine.intake import resolve_below
from sane_engine.progress import Progress
from sane_engine.projection import Placement, place
from sane_engine.sane.encoder_file import UNIVERSAL
from sane_engine.workspace import open_root

if TYPE_CHECKING:
    from torch import Tensor

    from sane_engine.zoo.signature import Signature

_FILES = "files"
# Memory of one session: the oldest files go first, and the page says so.
_MOST_FILES = 12
_MOST_MODELS = 12
_NEIGHBOURS = 5


@dataclass
class Inspected:
    """One network on the page.

    Attributes:
        key: Unique in the session.
        name: What to call it.
        tensors: Its weights.
        checkpoint: What the intake found, or None for a model of the zoo.
        layers: Tables by kind; those of SANE by ``sane-`` and the encoder's and zoo's digests.
        vectors: Model vectors [f] by the encoder's digest.
        layer_vectors: Layer vectors [L, f] by the encoder's digest, if it was trained on this architecture.
        zoo_row: Row in the zoo's table, for a model of the zoo.
        notes: Sentences about the embedding, by the encoder's digest.
        foreign: Whether the encoder was trained on another architecture, by its digest.
        problems: Refusals by what was tried.
        source: What keeps the file that ``tensors`` are read from, where they are not in memory.
    """

    key: str
    name: str
    tensors: Mapping[str, Tensor]
    checkpoint: Checkpoint | None = None
    layers: dict[str, pd.DataFrame] = field(default_factory=dict)
    vectors: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    layer_vectors: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    zoo_row: int | None = None
    notes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    foreign: dict[str, bool] = field(default_factory=dict)
    problems: dict[str, Refusal] = field(default_factory=dict)
    source: Incoming | None = None


@dataclass
class DroppedFile:
    """One file on the page.

    Attributes:
        name: As the user calls it.
        waiting: Its copy on the disk until it is read, or its path on this machine.
        models: What came of it.
        refusal: Why nothing did.
        found: How many checkpoints are in it, if more than are kept.
        same: Other names under which the same bytes were dropped.
    """

    name: str
    waiting: Incoming | Path | None
    models: list[Inspected] = field(default_factory=list)
    refusal: Refusal | None = None
    found: int = 0
    same: list[str] = field(default_factory=list)

    @property
    def notes(self) -> list[str]:
        """What the page must say, so that nothing is left out in silence."""
        notes = [f"{other} is the same file as {self.name}." for other in self.same]
        if self.found > len(self.models) > 0:
            notes.append(
                f"{len(self.models)} of {self.found} checkpoints in {self.name} taken; open the file as a zoo, in "
                "the sidebar, for all."
            )
        return notes


def files() -> dict[str, DroppedFile]:
    """The dropped files of this session by sha256, oldest first."""
    found: dict[str, DroppedFile] = st.session_state.setdefault(_FILES, {})
    return found


def take(name: str, stream: IO[bytes]) -> None:
    """Copy an uploaded file to the disk, since an upload is gone after a page switch."""
    incoming = receive(stream)
    _add(incoming.sha256, DroppedFile(name, incoming))


def take_path(text: str) -> None:
    """Take a file that lies on this machine; nothing of it is copied.

    Raises:
        Refusal: There is nothing at that path, it leads out of the folder that may be opened
            (:func:`~sane_engine.workspace.open_root`), or it is a folder without an index of shards.
    """
    text = text.strip()
    if not text:
        raise Refusal("missing", "The path is empty.", "Type where the file lies.")
    path = resolve_below(open_root(), Path(text).expanduser())
    seen = path.stat()
    # A digest of gigabytes would make slow what can be listed at once. A file that changes is another file.
    about = f"{path}\0{seen.st_size}\0{seen.st_mtime_ns}\0{seen.st_ino}"
    _add(hashlib.sha256(about.encode("utf-8", "surrogateescape")).hexdigest(), DroppedFile(path.name, path))


def _add(digest: str, file: DroppedFile) -> None:
    known = files().get(digest)
    if known is None:
        files()[digest] = file
    elif file.name != known.name and file.name not in known.same:
        known.same.append(file.name)
    while len(files()) > _MOST_FILES:
        oldest = next(iter(files()))
        taken_off().append(files().pop(oldest).name)


def taken_off() -> list[str]:
    """Names of the files that made room for newer ones."""
    found: list[str] = st.session_state.setdefault("files-taken-off", [])
    return found


def drop(digest: str) -> None:
    """Forget a file."""
    files().pop(digest, None)


def read(digest: str, file: DroppedFile) -> None:
    """Read a file's checkpoints, or note why it cannot be read."""
    from sane_engine.intake import is_large, load_checkpoints

    if file.waiting is None:
        return
    copied = isinstance(file.waiting, Incoming)
    path = file.waiting.path if isinstance(file.waiting, Incoming) else file.waiting
    try:
        large = is_large(path)
        below = None if copied else open_root()
        found = load_checkpoints(path, name=file.name, alone=copied, lazy=large, below=below)
        names = [checkpoint.name for checkpoint in found]
        # Tensors of a large file are read from it as long as the page shows it.
        kept = file.waiting if large and isinstance(file.waiting, Incoming) else None
        file.found = len(found)
        for i, checkpoint in enumerate(found[:_MOST_MODELS]):
            name = file.name if len(found) == 1 else f"{file.name} › {names[i]}"
            file.models.append(Inspected(f"{digest[:16]}-{i}", name, checkpoint.tensors, checkpoint, source=kept))
    except Refusal as refusal:
        file.refusal = refusal
    file.waiting = None


def spectral(model: Inspected, progress: Progress) -> pd.DataFrame:
    """WeightWatcher's layer table, and the statistics beside it."""
    from sane_engine.baselines import layer_features

    if "weightwatcher" not in model.layers:
        model.layers["statistics"] = layer_features(model.tensors, "statistics")
        model.layers["weightwatcher"] = layer_features(model.tensors, "weightwatcher", progress=progress)
    return model.layers["weightwatcher"]


def embed_model(model: Inspected, now: Current, progress: Progress) -> pd.DataFrame | None:
    """SANE's layer table and the model's vector; None, with the problem noted, where it cannot be embedded."""
    from sane_engine.baselines.sane_layers import embedding_features
    from sane_engine.sane import embed

    if now.encoder is None or (known := kept(now.key, now.encoder)) is None:
        return None
    digest = str(known.record["encoder_digest"])
    key = f"sane-{digest}-{known.record['zoo_digest']}"
    if key in model.layers:
        return model.layers[key]
    if key in model.problems:
        return None
    try:
        tensors = in_zoo_order(model.tensors, now)
        embeddings = embed(get_encoder(now.encoder), [tensors], keep_tokens=False, progress=progress)
    except Refusal as refusal:
        model.problems[key] = refusal
        return None
    model.vectors[digest] = embeddings.models[0]
    model.foreign[digest] = bool(embeddings.foreign[0])
    if not embeddings.foreign[0] and like_zoo(model.tensors, now):
        model.layer_vectors[digest] = embeddings.layers[0]
    model.notes[digest] = embeddings.notes
    model.layers[key] = embedding_features(embeddings, known.reference).drop(columns="row")
    return model.layers[key]


def in_zoo_order(tensors: Mapping[str, Tensor], now: Current) -> Mapping[str, Tensor]:
    """A network of the zoo's names and shapes in the zoo's order; safetensors files come sorted by name."""
    parameters = _layout_in_zoo(tensors, now)
    return tensors if parameters is None else {p.name: tensors[p.name] for p in parameters}


def like_zoo(tensors: Mapping[str, Tensor], now: Current) -> bool:
    """Whether the zoo has networks of these names and shapes."""
    return _layout_in_zoo(tensors, now) is not None


def _layout_in_zoo(tensors: Mapping[str, Tensor], now: Current) -> Signature | None:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for members in now.zoo.layout_groups():
        parameters = now.zoo.signature(int(members[0]))
        if {p.name: tuple(p.shape) for p in parameters} == shapes:
            return parameters
    return None


def universal_view(model: Inspected, progress: Progress) -> pd.DataFrame | None:
    """SANE's layer table by the universal encoder, whatever the architecture; None where it cannot be embedded."""
    from sane_engine.baselines.sane_layers import embedding_features, reference_of
    from sane_engine.sane import embed

    if UNIVERSAL not in encoder_choices():
        return None
    encoder = get_encoder(UNIVERSAL)
    key = f"sane-{UNIVERSAL}-{encoder_digest(UNIVERSAL)}"
    if any(tried.startswith("sane-") for tried in model.problems):
        return None  # said already
    if key not in model.layers:
        try:
            embeddings = embed(encoder, [model.tensors], keep_tokens=False, progress=progress)
        except Refusal as refusal:
            model.problems[key] = refusal
            return None
        model.layers[key] = embedding_features(embeddings, reference_of(encoder)).drop(columns="row")
    return model.layers[key]


def problems(model: Inspected) -> list[Refusal]:
    """What could not be done with this model, each reason once."""
    return list({refusal.code: refusal for refusal in model.problems.values()}.values())


def placement(models: list[Inspected], now: Current) -> tuple[list[Inspected], Placement] | None:
    """Where the embedded ones fall on the zoo's map of models."""
    if now.encoder is None or (known := kept(now.key, now.encoder)) is None:
        return None
    digest = str(known.record["encoder_digest"])
    embedded = [model for model in models if digest in model.vectors]
    if not embedded:
        return None
    vectors = np.stack([model.vectors[digest] for model in embedded])
    groups = now.zoo.table[now.zoo.group_column].astype(str).tolist()
    found = place(
        known.projections["models", "umap"],
        known.vectors("models"),
        vectors,
        k=_NEIGHBOURS,
        groups=groups,
        own=[None if model.zoo_row is None else groups[model.zoo_row] for model in embedded],
    )
    return embedded, found
