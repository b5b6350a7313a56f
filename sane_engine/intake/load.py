"""The door of the house: untrusted files in, checkpoints or refusals out."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from sane_engine.checkpoint import Checkpoint, Property, Provenance, Refusal
from sane_engine.intake import refusals
from sane_engine.intake.child import Answer, answers
from sane_engine.intake.limits import DEFAULT_LIMITS, Limits
from sane_engine.progress import CancelCheck

if TYPE_CHECKING:
    from torch import Tensor

    Tensors = dict[str, Tensor]

Source = str | Path | bytes | bytearray | memoryview


def load_checkpoint(
    source: Source,
    *,
    name: str | None = None,
    limits: Limits = DEFAULT_LIMITS,
    cancelled: CancelCheck | None = None,
) -> Checkpoint:
    """Load one network's weights from a file that is not trusted.

    The format is recognised by content: safetensors (also sharded: give the index, its folder, or a zip of both),
    torch files old and new with a state dict at any depth, ``.npz``, or a zip with one of these. The file is parsed
    by a child process under limits; nothing in it is executed.

    Args:
        source: Path, or the bytes themselves.
        name: What to call it; by default the file's name.
        limits: Ceilings on memory, time and sizes.
        cancelled: Asked while waiting.

    Returns:
        Tensors with exactly the stored bits, contiguous, on the CPU, in file order. Where some entries are not
        finite, ``properties["non_finite"]`` counts them: a diverged model is something to look at.

    Raises:
        Refusal: Nothing can be loaded; ``.code`` says why, ``.hint`` what to do.
        Cancelled: ``cancelled`` answered true.
    """
    found = load_checkpoints(source, name=name, limits=limits, cancelled=cancelled)
    if len(found) > 1:
        raise refusals.several(len(found))
    return found[0]


def load_checkpoints(
    source: Source,
    *,
    name: str | None = None,
    limits: Limits = DEFAULT_LIMITS,
    cancelled: CancelCheck | None = None,
) -> list[Checkpoint]:
    """Load every checkpoint of a file: several from a zip archive, in the archive's order, otherwise one.

    Members that hold no checkpoint are listed, with the reason, in the first one's ``provenance.ignored``. In an
    archive of several, checkpoints bear their member's name.

    Args:
        source: Path, or the bytes themselves.
        name: What to call a single checkpoint.
        limits: Ceilings on memory, time and sizes.
        cancelled: Asked while waiting.

    Raises:
        Refusal: The file holds no checkpoint at all.
        Cancelled: ``cancelled`` answered true.
    """
    with tempfile.TemporaryDirectory(prefix="sane-intake-") as private:
        folder = Path(private)
        if isinstance(source, bytes | bytearray | memoryview):
            # Under a name of ours: nothing about the file may depend on the name it had.
            path, alone = folder / "upload", True
            path.write_bytes(source)
        else:
            path, alone = Path(source), False
        shown = name or ("checkpoint" if alone else path.absolute().name)
        answer = next(answers([path], folder, limits, alone=alone, cancelled=cancelled))
        return _checkpoints(answer, path, shown)


def load_each(
    paths: Sequence[str | Path], *, limits: Limits = DEFAULT_LIMITS, cancelled: CancelCheck | None = None
) -> Generator[list[Checkpoint] | Refusal]:
    """Load many files with one child for all of them, in order; a bad file gives its refusal and ends nothing.

    Starting a child takes about 0.1 s, which a folder of thousands of small checkpoints should pay once.
    """
    files = [Path(path) for path in paths]
    # Whoever stops early ends the child first: it must not write into the folder while that is removed.
    with (
        tempfile.TemporaryDirectory(prefix="sane-intake-") as private,
        closing(answers(files, Path(private), limits, alone=False, cancelled=cancelled)) as replies,
    ):
        for path, answer in zip(files, replies, strict=True):
            try:
                yield _checkpoints(answer, path, path.name)
            except Refusal as refusal:
                yield refusal
            # What was unpacked for one file goes before the next is read, or a folder of archives fills the disk.
            shutil.rmtree(answer["folder"], ignore_errors=True)


def load_tensors(path: Source, *, limits: Limits = DEFAULT_LIMITS) -> Tensors | dict[str, Tensors]:
    """Load the tensors alone: ``{name: tensor}``, or ``{member: {name: tensor}}`` for an archive of several.

    Raises:
        Refusal: As :func:`load_checkpoint`.
    """
    found = load_checkpoints(path, limits=limits)
    if len(found) == 1:
        return dict(found[0].tensors)
    return {checkpoint.name: dict(checkpoint.tensors) for checkpoint in found}


def _checkpoints(answer: Answer, path: Path, shown: str) -> list[Checkpoint]:
    if "refusal" in answer:
        raise Refusal(*answer["refusal"])
    beside = path if path.is_dir() else path.parent
    folders = {"given": beside, "spool": Path(answer["folder"])}
    # The names come back from the child: only the last part of each is used, so they cannot lead elsewhere.
    files = [folders[kind] / PurePosixPath(name).name for kind, name in answer["files"]]
    models = answer["models"]
    names = _names([model["member"] for model in models], shown)
    return [_checkpoint(model, files, name) for model, name in zip(models, names, strict=True)]


def _names(members: list[str], shown: str) -> list[str]:
    """What each checkpoint is called; unique, printable, and never a path that leads anywhere."""
    if len(members) == 1:
        return [shown]
    result: list[str] = []
    for member in members:
        parts = [part for part in PurePosixPath(member.replace("\\", "/")).parts if part not in {"/", "..", "."}]
        name = refusals.printable("/".join(parts), 200) or "checkpoint"
        count = 2
        unique = name
        while unique in result:
            unique, count = f"{name} ({count})", count + 1
        result.append(unique)
    return result


def _checkpoint(model: dict[str, Any], files: list[Path], name: str) -> Checkpoint:
    from sane_engine.intake.tensors import read_tensors

    tensors, non_finite = read_tensors(model["tensors"], files)
    properties: dict[str, Property] = dict(model["properties"])
    if non_finite:
        properties["non_finite"] = non_finite
    provenance = Provenance(
        sha256=model["sha256"],
        container=model["container"],
        size_bytes=model["size"],
        key_path=tuple(model["key_path"]),
        prefixes_stripped=tuple(model["prefixes"]),
        ignored=tuple((entry, reason) for entry, reason in model["ignored"]),
        dtypes=dict(Counter(row[1] for row in model["tensors"])),
    )
    return Checkpoint(name=name, tensors=tensors, properties=properties, provenance=provenance)
