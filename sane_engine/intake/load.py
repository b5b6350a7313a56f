"""The door of the house: untrusted files in, checkpoints or refusals out."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from sane_engine.checkpoint import Checkpoint, Property, Provenance, Refusal, TensorEntry
from sane_engine.intake import refusals
from sane_engine.intake.child import Answer, Request, answers, source_bytes
from sane_engine.intake.limits import MIB, Limits, configured_limits
from sane_engine.intake.paths import resolve_below
from sane_engine.intake.private import Folder
from sane_engine.intake.sources import open_given
from sane_engine.progress import CancelCheck, Progress, no_progress

if TYPE_CHECKING:
    from torch import Tensor

    Tensors = dict[str, Tensor]

LARGE_BYTES = 256 * MIB
"""Files above this are better not held in memory as a whole."""

Source = str | Path | bytes | bytearray | memoryview


def load_checkpoint(
    source: Source,
    *,
    name: str | None = None,
    limits: Limits | None = None,
    lazy: bool = False,
    alone: bool = False,
    below: str | Path | None = None,
    progress: Progress = no_progress,
    cancelled: CancelCheck | None = None,
) -> Checkpoint:
    """Load one network's weights from a file that is not trusted.

    The format is recognised by content: safetensors (also sharded: give the index, its folder, or a zip of both),
    torch files old and new with a state dict at any depth, ``.npz``, the initialisers of ONNX, or a zip with one of
    these. The file is parsed by a child process under limits; nothing in it is executed.

    Args:
        source: Path, or the bytes themselves.
        name: What to call it; by default the file's name.
        limits: Ceilings on memory, time and sizes; by default those of the environment (``SANE_LIMITS``).
        lazy: Read each tensor when it is asked for, every time, instead of all of them now: for files that are
            larger than memory. The file has to stay where it is.
        alone: The file was uploaded: what it names beside itself (shards, external data) is not looked for.
        below: Read only files below this folder, whatever path or link leads there: for paths that the users of a
            server give.
        progress: Called with the bytes that were read, and how many there are.
        cancelled: Asked while waiting.

    Returns:
        Tensors with exactly the stored bits, contiguous, on the CPU, in file order. Where some entries are not
        finite, ``properties["non_finite"]`` counts them: a diverged model is something to look at. (Not with
        ``lazy``: :meth:`~sane_engine.intake.lazy.LazyTensors.non_finite` does it when asked.)

    Raises:
        Refusal: Nothing can be loaded; ``.code`` says why, ``.hint`` what to do.
        Cancelled: ``cancelled`` answered true.
    """
    found = load_checkpoints(
        source,
        name=name,
        limits=limits,
        lazy=lazy,
        alone=alone,
        below=below,
        progress=progress,
        cancelled=cancelled,
    )
    if len(found) > 1:
        raise refusals.several(len(found))
    return found[0]


def load_checkpoints(
    source: Source,
    *,
    name: str | None = None,
    limits: Limits | None = None,
    lazy: bool = False,
    alone: bool = False,
    below: str | Path | None = None,
    progress: Progress = no_progress,
    cancelled: CancelCheck | None = None,
) -> list[Checkpoint]:
    """Load every checkpoint of a file: several from a zip archive, in the archive's order, otherwise one.

    Members that hold no checkpoint are listed, with the reason, in the first one's ``provenance.ignored``. In an
    archive of several, checkpoints bear their member's name. Arguments are those of :func:`load_checkpoint`.

    Raises:
        Refusal: The file holds no checkpoint at all.
        Cancelled: ``cancelled`` answered true.
    """
    limits = limits or configured_limits()
    how = Request(limits, alone, below=_folder(below), progress=progress, cancelled=cancelled)
    return _ask(source, name, how, lazy=lazy)


def list_checkpoints(
    source: Source,
    *,
    limits: Limits | None = None,
    below: str | Path | None = None,
    cancelled: CancelCheck | None = None,
) -> list[Checkpoint]:
    """What a file holds, from its headers alone: instant, however large it is.

    Returns:
        Checkpoints with ``entries`` and without ``tensors``. No checksum was looked at, and ``provenance.sha256``
        is empty.

    Raises:
        Refusal: As :func:`load_checkpoints`, as far as headers tell.
        Cancelled: ``cancelled`` answered true.
    """
    limits = limits or configured_limits()
    return _ask(source, None, Request(limits, header=True, below=_folder(below), cancelled=cancelled), lazy=False)


def list_tensors(
    source: Source, *, limits: Limits | None = None, below: str | Path | None = None
) -> tuple[TensorEntry, ...]:
    """Names, types and shapes of the tensors of one checkpoint, in file order, without reading them.

    Raises:
        Refusal: As :func:`load_checkpoint`, as far as headers tell.
    """
    found = list_checkpoints(source, limits=limits, below=below)
    if len(found) > 1:
        raise refusals.several(len(found))
    return found[0].entries


def is_large(path: str | Path) -> bool:
    """Whether a file, or the files beside an index of shards, are better loaded with ``lazy``."""
    return source_bytes(Path(path)) > LARGE_BYTES


def _folder(below: str | Path | None) -> Path | None:
    return None if below is None else Path(below)


def _ask(source: Source, name: str | None, how: Request, *, lazy: bool) -> list[Checkpoint]:
    private = Folder(Path(tempfile.mkdtemp(prefix="sane-intake-")))
    try:
        if isinstance(source, bytes | bytearray | memoryview):
            # Under a name of ours: nothing about the file may depend on the name it had.
            path, how = private.path / "upload", replace(how, alone=True, below=None)
            path.write_bytes(source)
        else:
            path = Path(source) if how.below is None else resolve_below(how.below, source)
        shown = name or ("checkpoint" if path.parent == private.path else path.absolute().name)
        with closing(answers([path], private.path, how)) as replies:
            answer = next(replies)
        return _checkpoints(answer, path, shown, how, private if lazy else None)
    finally:
        if not lazy:
            private.remove()


def load_each(
    paths: Sequence[str | Path],
    *,
    limits: Limits | None = None,
    below: str | Path | None = None,
    cancelled: CancelCheck | None = None,
) -> Generator[list[Checkpoint] | Refusal]:
    """Load many files with one child for all of them, in order; a bad file gives its refusal and ends nothing.

    Starting a child takes about 0.1 s, which a folder of thousands of small checkpoints should pay once.
    """
    files = [Path(path) for path in paths]
    how = Request(limits or configured_limits(), below=_folder(below), cancelled=cancelled)
    # Whoever stops early ends the child first: it must not write into the folder while that is removed.
    with (
        tempfile.TemporaryDirectory(prefix="sane-intake-") as private,
        closing(answers(files, Path(private), how)) as replies,
    ):
        for path, answer in zip(files, replies, strict=True):
            try:
                yield _checkpoints(answer, path, path.name, how, None)
            except Refusal as refusal:
                yield refusal
            # What was unpacked for one file goes before the next is read, or a folder of archives fills the disk.
            shutil.rmtree(answer["folder"], ignore_errors=True)


def load_tensors(path: Source, *, limits: Limits | None = None) -> Tensors | dict[str, Tensors]:
    """Load the tensors alone: ``{name: tensor}``, or ``{member: {name: tensor}}`` for an archive of several.

    Raises:
        Refusal: As :func:`load_checkpoint`.
    """
    found = load_checkpoints(path, limits=limits)
    if len(found) == 1:
        return dict(found[0].tensors)
    return {checkpoint.name: dict(checkpoint.tensors) for checkpoint in found}


def _checkpoints(answer: Answer, path: Path, shown: str, how: Request, keep: Folder | None) -> list[Checkpoint]:
    if "refusal" in answer:
        raise Refusal(*answer["refusal"])
    beside = path if path.is_dir() else path.parent
    folders = {"given": (beside, how.below), "spool": (Path(answer["folder"]), None)}
    # The names come back from the child: only the last part of each is used, so they cannot lead elsewhere.
    opens = []
    for kind, name in answer["files"]:
        folder, below = folders[kind]
        opens.append(partial(open_given, folder / PurePosixPath(name).name, below))
    models = answer["models"]
    names = _names([model["member"] for model in models], shown)
    return [_checkpoint(model, opens, name, how, keep) for model, name in zip(models, names, strict=True)]


def _names(members: list[str], shown: str) -> list[str]:
    """What each checkpoint is called; unique, printable, and never a path that leads anywhere."""
    if len(members) == 1:
        return [shown]
    # An archive may have thousands of members of one name: numbers go on where the last of its name stopped.
    result: dict[str, None] = {}
    last: Counter[str] = Counter()
    for member in members:
        parts = [part for part in PurePosixPath(member.replace("\\", "/")).parts if part not in {"/", "..", "."}]
        name = refusals.printable("/".join(parts), 200) or "checkpoint"
        unique = name
        while unique in result:
            last[name] += 1
            unique = f"{name} ({last[name] + 1})"
        result[unique] = None
    return list(result)


def _checkpoint(
    model: dict[str, Any], opens: list[Any], name: str, how: Request, keep: Folder | None
) -> Checkpoint:
    rows = model["tensors"]
    properties: dict[str, Property] = dict(model["properties"])
    tensors: Mapping[str, Tensor] = {}
    if keep is not None:
        from sane_engine.intake.lazy import LazyTensors

        tensors = LazyTensors(rows, opens, keep)
    elif not how.header:
        from sane_engine.intake.tensors import count_non_finite, read_tensors

        tensors = read_tensors(rows, opens)
        non_finite = sum(map(count_non_finite, {id(tensor): tensor for tensor in tensors.values()}.values()))
        if non_finite:
            properties["non_finite"] = non_finite
    provenance = Provenance(
        sha256=model["sha256"],
        container=model["container"],
        size_bytes=model["size"],
        key_path=tuple(model["key_path"]),
        prefixes_stripped=tuple(model["prefixes"]),
        ignored=tuple((entry, reason) for entry, reason in model["ignored"]),
        dtypes=dict(Counter(row[1] for row in rows)),
    )
    entries = tuple(
        TensorEntry(row[0], row[1], tuple(row[2]), row[5], rows[row[6]][0] if row[6] >= 0 else None) for row in rows
    )
    return Checkpoint(name=name, tensors=tensors, properties=properties, provenance=provenance, entries=entries)
