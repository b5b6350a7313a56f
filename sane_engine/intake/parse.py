"""From one opened file to the models in it: sniff, read the container, unwrap. Runs in the child."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from sane_engine.checkpoint import Refusal
from sane_engine.intake import refusals
from sane_engine.intake.containers.npz import is_npz, read_npz
from sane_engine.intake.containers.safetensors import read_safetensors
from sane_engine.intake.containers.sharded import read_index, read_sharded
from sane_engine.intake.containers.torch_legacy import read_torch_legacy
from sane_engine.intake.containers.torch_zip import read_torch_zip, torch_root
from sane_engine.intake.limits import Limits
from sane_engine.intake.pickle_machine import read_pickle
from sane_engine.intake.sniff import sniff
from sane_engine.intake.sources import Files, Source
from sane_engine.intake.tree import Contents
from sane_engine.intake.unwrap import Found, unwrap
from sane_engine.intake.zip_directory import ZipDirectory

INDEX_PATTERN = "*.safetensors.index.json"
_NOTES = {"text", "html-page", "empty", "unsupported", "not-a-checkpoint"}
"""Refusals of archive members that were never meant as checkpoints: notes, tables, pictures."""


@dataclass
class Model:
    """One checkpoint of a file; ``member`` is its name inside an archive, empty where the file itself is it."""

    member: str
    container: str
    sha256: str
    size: int
    found: Found


@dataclass
class _Parser:
    files: Files
    limits: Limits
    skipped: list[tuple[str, str]] = field(default_factory=list)
    first_refusal: Refusal | None = None

    def single(self, source: Source, kind: str, directory: ZipDirectory | None) -> Contents | None:
        """The contents of a file that is one checkpoint; None for an archive."""
        if kind == "safetensors":
            return read_safetensors(source, self.limits)
        if kind == "torch-legacy":
            return read_torch_legacy(source, self.limits)
        if kind == "pickle":
            stream = source.stream
            stream.seek(0)
            # Not a torch file, so it can hold no tensors but numpy's; what it names decides the refusal.
            return Contents("pickle", read_pickle(stream, self.limits))
        assert directory is not None
        root = torch_root(directory)
        if root is not None:
            return read_torch_zip(directory, root, self.limits)
        return read_npz(directory, self.limits) if is_npz(directory) else None

    def model(self, contents: Contents, sources: list[Source], member: str) -> Model:
        digest = hashlib.sha256()
        for source in sources:
            for piece in source.chunks(0, source.size):
                digest.update(piece)
        found = unwrap(contents, self.limits)
        return Model(member, contents.container, digest.hexdigest(), sum(s.size for s in sources), found)

    def sharded(
        self, source: Source, open_shard: Callable[[str], Source], member: str
    ) -> tuple[Model, tuple[str, ...]]:
        index = read_index(source, self.limits)
        contents, shards = read_sharded(index, open_shard, self.limits)
        return self.model(contents, [source, *shards], member), index.shards

    def archive(self, directory: ZipDirectory) -> list[Model]:
        names = [name for name in directory.entries if not _is_clutter(name)]
        if not names:
            raise refusals.empty_archive()
        if len(names) > self.limits.archive_members:
            raise refusals.too_large(f"an archive of {len(names):,} files")
        models: list[Model] = []
        sources = {}
        consumed: set[str] = set()
        indices = [name for name in names if name.endswith(".json")]
        for name in [*indices, *(name for name in names if name not in indices)]:
            if name in consumed:
                continue
            try:
                source = sources[name] = directory.unpack(name)
                kind = sniff(source)
                if kind == "index":
                    model, shards = self.sharded(source, _beside(directory, name), name)
                    models.append(model)
                    consumed.update(_sibling(name, shard) for shard in shards)
                    continue
                inner = ZipDirectory(source, self.files, self.limits) if kind == "zip" else None
                contents = self.single(source, kind, inner)
                if contents is None:
                    raise refusals.nested_archive()
                models.append(self.model(contents, [source], name))
            except Refusal as refusal:
                if refusal.code == "too-large":
                    raise
                self.skipped.append((name, str(refusal)))
                if self.first_refusal is None and refusal.code not in _NOTES:
                    shown = refusals.printable(PurePosixPath(name).name, 40)
                    self.first_refusal = Refusal(refusal.code, f"{shown}: {refusal}", refusal.hint)
        order = {name: i for i, name in enumerate(names)}
        return sorted(models, key=lambda model: order[model.member])


def _is_clutter(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return not parts or parts[0] == "__MACOSX" or parts[-1].startswith(".") or parts[-1] == "Thumbs.db"


def _sibling(name: str, shard: str) -> str:
    folder, _, _ = name.rpartition("/")
    return f"{folder}/{shard}" if folder else shard


def _beside(directory: ZipDirectory, name: str) -> Callable[[str], Source]:
    def open_shard(shard: str) -> Source:
        entry = _sibling(name, shard)
        if entry not in directory.entries:
            raise refusals.missing_shard(shard)
        return directory.unpack(entry)

    return open_shard


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name too long to exist, say: opening it gives the refusal
        return False


def parse(path: Path, files: Files, limits: Limits, *, alone: bool) -> list[Model]:
    """Every model in a file, or in a folder that is one sharded checkpoint.

    Args:
        path: What to read.
        files: Opens and numbers files.
        limits: Ceilings.
        alone: The file is all there is (it came as bytes), so shards beside it are not looked for.

    Raises:
        Refusal: Nothing in it can be loaded.
    """
    if _is_folder(path):
        indices = sorted(path.glob(INDEX_PATTERN))
        if len(indices) != 1:
            raise refusals.folder()
        path = indices[0]
    parser = _Parser(files, limits)
    source = files.open(path)
    kind = sniff(source)
    if kind == "index":

        def open_shard(shard: str) -> Source:
            target = path.with_name(shard)
            if alone or not target.is_file():
                raise refusals.missing_shard(shard)
            return files.open(target)

        return [parser.sharded(source, open_shard, "")[0]]
    directory = ZipDirectory(source, files, limits) if kind == "zip" else None
    contents = parser.single(source, kind, directory)
    if contents is not None:
        return [parser.model(contents, [source], "")]
    assert directory is not None
    models = parser.archive(directory)
    if not models:
        if parser.first_refusal is not None:
            raise parser.first_refusal
        first = refusals.printable(PurePosixPath(parser.skipped[0][0]).name, 40)
        raise refusals.no_checkpoints(f"{first}{' …' if len(parser.skipped) > 1 else ''}")
    # What the archive holds beside its checkpoints is told once, with the first of them.
    models[0].found.ignored.extend(parser.skipped)
    return models
