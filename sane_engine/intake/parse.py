"""From one opened file to the models in it: sniff, read the container, unwrap. Runs in the child."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath

from sane_engine.checkpoint import Refusal
from sane_engine.intake import refusals
from sane_engine.intake.containers.npz import is_npz, read_npz
from sane_engine.intake.containers.onnx import OpenBeside, read_onnx
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
    header: bool
    skipped: list[tuple[str, str]] = field(default_factory=list)
    first_refusal: Refusal | None = None
    members: int = 0

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
        found = unwrap(contents, self.limits)
        size = sum(source.size for source in sources)
        if self.header:
            return Model(member, contents.container, "", size, found)
        digest = hashlib.sha256()
        done = 0
        for source in sources:
            for piece in source.chunks(0, source.size):
                digest.update(piece)
                done += len(piece)
                self.files.report(done, size)
        return Model(member, contents.container, digest.hexdigest(), size, found)

    def onnx(self, source: Source, open_beside: OpenBeside | None, member: str) -> Model:
        contents, beside = read_onnx(source, self.limits, open_beside)
        return self.model(contents, [source, *beside], member)

    def sharded(
        self, source: Source, open_shard: Callable[[str], Source], member: str
    ) -> tuple[Model, tuple[str, ...]]:
        index = read_index(source, self.limits)
        contents, shards = read_sharded(index, open_shard, self.limits)
        return self.model(contents, [source, *shards], member), index.shards

    def archive(self, directory: ZipDirectory, inside: str = "", depth: int = 1) -> list[Model]:
        """Every model of an archive and, up to a depth, of the archives in it; ``inside`` is put before names."""
        names = [name for name in directory.entries if not _is_clutter(name)]
        if not names:
            raise refusals.empty_archive()
        self.members += len(names)
        if self.members > self.limits.archive_members:
            raise refusals.too_large(f"an archive of {self.members:,} files")
        models: dict[str, list[Model]] = {}
        consumed: set[str] = set()
        # Indices first: what they name are shards and no checkpoints of their own.
        for name in sorted(names, key=lambda name: not name.endswith(".json")):
            if name in consumed:
                continue
            member = inside + name
            try:
                source = directory.unpack(name)
                kind = sniff(source)
                if kind == "index":
                    model, shards = self.sharded(source, _beside(directory, name), member)
                    models[name] = [model]
                    consumed.update(_sibling(name, shard) for shard in shards)
                    continue
                if kind == "onnx":
                    models[name] = [self.onnx(source, None, member)]
                    continue
                inner = ZipDirectory(source, self.files, self.limits) if kind == "zip" else None
                contents = self.single(source, kind, inner)
                if contents is not None:
                    models[name] = [self.model(contents, [source], member)]
                elif depth >= self.limits.archive_depth:
                    raise refusals.nested_archive(self.limits.archive_depth)
                else:
                    assert inner is not None
                    models[name] = self.archive(inner, f"{member}/", depth + 1)
            except Refusal as refusal:
                if refusal.code == "too-large":
                    raise
                self.skipped.append((member, str(refusal)))
                if self.first_refusal is None and refusal.code not in _NOTES:
                    shown = refusals.printable(PurePosixPath(name).name, 40)
                    self.first_refusal = Refusal(refusal.code, f"{shown}: {refusal}", refusal.hint)
        return [model for name in names for model in models.get(name, ())]


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


def _no_link(path: Path, files: Files, name: str) -> Source:
    # What an ONNX file names may be any file; a link beside it would make that any file of the machine.
    target = path.with_name(name)
    if target.is_symlink() or not target.is_file():
        raise refusals.external_data(name)
    return files.open(target)


def parse(path: Path, files: Files, limits: Limits, *, alone: bool, header: bool = False) -> list[Model]:
    """Every model in a file, or in a folder that is one sharded checkpoint.

    Args:
        path: What to read.
        files: Opens and numbers files.
        limits: Ceilings.
        alone: The file is all there is (it came as bytes), so files beside it are not looked for.
        header: Make no digests.

    Raises:
        Refusal: Nothing in it can be loaded.
    """
    if _is_folder(path):
        indices = sorted(path.glob(INDEX_PATTERN))
        if len(indices) != 1:
            raise refusals.folder()
        path = indices[0]
    parser = _Parser(files, limits, header)
    source = files.open(path)
    kind = sniff(source)

    def open_beside(name: str) -> Source:
        target = path.with_name(name)
        if alone or not target.is_file():
            raise refusals.missing_shard(name)
        return files.open(target)

    if kind == "index":
        return [parser.sharded(source, open_beside, "")[0]]
    if kind == "onnx":
        return [parser.onnx(source, None if alone else partial(_no_link, path, files), "")]
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
