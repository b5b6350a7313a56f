"""A zip that somebody exported becomes an item of this workspace, if it is what it says it is.

The zip is untrusted. Its directory is counted before it is parsed, names come from a short list of patterns and
never lead anywhere, sizes and digests are checked while bytes are read, and the item is opened in a process of its
own before anything can see it here. Nothing that exists is replaced.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from sane_engine.checkpoint import Refusal
from sane_engine.inventory.items import KINDS, Item, find_item
from sane_engine.inventory.taking_out import CHUNK, EXPORTABLE, FILES, FORMAT, MANIFEST, digest_of_files
from sane_engine.progress import CancelCheck, Progress, no_progress, stop_if
from sane_engine.workspace import (
    assets_root,
    atomic_folder,
    discard,
    disk_full,
    plain_name,
    require_room,
    unfinished_folder,
    workspace_root,
)

# The largest kind is a set of samples, one file each; a zip with more is a script gone wild.
MOST_FILES = 5_000
# About 100 bytes an entry: as much as MOST_FILES need, with long names.
LARGEST_DIRECTORY = 4 * 1024 * 1024
LARGEST_MANIFEST = 4 * 1024 * 1024
# Stored weights have ratio 1, JSON reaches 20; what shrinks more than this holds nothing.
HIGHEST_RATIO = 100
_FREE_RATIO_BYTES = 1024 * 1024
# Reading a zoo of 10 GB and its digests on a slow disk.
CHECK_SECONDS = 600.0
_LOCK_SECONDS = 30.0
_CODE = Path(__file__).resolve().parents[2]
_DIGEST = re.compile(r"[0-9a-f]{64}")
_END, _END64, _LOCATOR = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"


@dataclass(frozen=True)
class _Manifest:
    """What ``item.json`` says, once it is known to be possible.

    Attributes:
        kind: One that can be exported.
        name: What the item was called; any text.
        sizes: File name → bytes.
        digests: File name → sha256, 64 hexadecimal digits.
    """

    kind: str
    name: str
    sizes: Mapping[str, int]
    digests: Mapping[str, str]


def import_item(
    source: str | os.PathLike[str] | BinaryIO,
    *,
    progress: Progress = no_progress,
    cancelled: CancelCheck | None = None,
) -> Item:
    """Take in what :func:`~sane_engine.inventory.export_item` wrote.

    Args:
        source: A path or a binary file.
        progress: Called with bytes.
        cancelled: Asked between pieces.

    Returns:
        The new item. Where its name is taken by something else, a number is put behind it.

    Raises:
        Refusal: It is no such zip (``not-an-item``), it is damaged or not what it says (``broken-item``), the same
            is here already (``item-known``), or there is no room (``over-quota``, ``disk-full``).
        Cancelled: ``cancelled`` answered true; nothing was left behind.
    """
    if isinstance(source, (str, os.PathLike)):
        try:
            with Path(source).open("rb") as stream:
                return import_item(stream, progress=progress, cancelled=cancelled)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise Refusal(
                "not-an-item", f"{Path(source).name} cannot be read ({reason}).", "Check the path."
            ) from error
    try:
        _count_directory(source)
        with zipfile.ZipFile(source) as archive:
            manifest = _manifest(archive)
            return _take_in(archive, manifest, progress, cancelled)
    except (zipfile.BadZipFile, zlib.error, EOFError, struct.error, NotImplementedError, UnicodeError) as error:
        raise _broken("its bytes are damaged") from error


def _count_directory(stream: BinaryIO) -> None:
    """Refuse a huge table of contents before :mod:`zipfile` makes an object of each of its entries."""
    size = stream.seek(0, os.SEEK_END)
    start = max(0, size - 65_600)
    stream.seek(start)
    tail = stream.read()
    place = tail.rfind(_END)
    if place < 0 or len(tail) - place < 22:
        raise Refusal("not-an-item", "This is not a zip.", "Give a zip that was exported from a workspace.")
    directory = struct.unpack_from("<L", tail, place + 12)[0]
    if place >= 20 and tail[place - 20 : place - 16] == _LOCATOR:
        stream.seek(min(size, struct.unpack_from("<Q", tail, place - 12)[0]))
        record = stream.read(56)
        if len(record) < 56 or record[:4] != _END64:
            raise _broken("its directory makes no sense")
        directory = max(directory if directory != 0xFFFFFFFF else 0, struct.unpack_from("<Q", record, 40)[0])
    if directory > LARGEST_DIRECTORY:
        raise Refusal("not-an-item", "The zip has too many entries for an item.", "Export the item again.")
    stream.seek(0)


def _manifest(archive: zipfile.ZipFile) -> _Manifest:
    """What ``item.json`` says, checked against the directory of the zip."""
    entries = archive.infolist()
    names = [entry.filename for entry in entries]
    if MANIFEST not in names:
        raise Refusal(
            "not-an-item", f"The zip has no {MANIFEST}.", "Open a zip of checkpoints in the sidebar instead."
        )
    if len(entries) > MOST_FILES or len(set(names)) != len(names):
        raise _broken("it has too many entries, or two of one name")
    for entry in entries:
        if entry.flag_bits & 0x1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _broken("it is encrypted or compressed in an unusual way")
        if entry.file_size > _FREE_RATIO_BYTES and entry.file_size > HIGHEST_RATIO * entry.compress_size:
            raise _broken("an entry unpacks to far more than it is")
    if archive.getinfo(MANIFEST).file_size > LARGEST_MANIFEST:
        raise _broken(f"its {MANIFEST} is too large")
    try:
        content = json.loads(archive.read(MANIFEST).decode("utf-8"))
        kind, name, files = content["kind"], content["name"], content["files"]
        sizes = {file: about["bytes"] for file, about in files.items()}
        digests = {file: about["sha256"] for file, about in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _broken(f"its {MANIFEST} makes no sense") from error
    told = isinstance(kind, str) and isinstance(name, str)
    if content.get("format") != FORMAT or not told or kind not in EXPORTABLE:
        raise Refusal(
            "not-an-item",
            "The zip holds no item that this version knows.",
            "Update SANE Explorer, or export again.",
        )
    # A bool is an int to isinstance, and neither 1.0 nor Infinity is a number of bytes.
    if not all(type(size) is int for size in sizes.values()):
        raise _broken("a size is not a whole number")
    if not all(isinstance(digest, str) and _DIGEST.fullmatch(digest) for digest in digests.values()):
        raise _broken("a digest makes no sense")
    if bad := [file for file in sizes if not EXPORTABLE[kind].fullmatch(file)]:
        raise _broken(f"a {kind} has no file {bad[0][:60]!r}")
    if KINDS[kind].marker not in sizes or {FILES + file for file in sizes} | {MANIFEST} != set(names):
        raise _broken("files are missing or too many")
    declared = {
        entry.filename.removeprefix(FILES): entry.file_size for entry in entries if entry.filename != MANIFEST
    }
    if declared != sizes:
        raise _broken("sizes disagree")
    return _Manifest(kind, name, sizes, digests)


def _take_in(
    archive: zipfile.ZipFile, manifest: _Manifest, progress: Progress, cancelled: CancelCheck | None
) -> Item:
    kind = KINDS[manifest.kind]
    total = sum(manifest.sizes.values())
    require_room(total)
    root = workspace_root() / kind.pattern.split("/")[0]
    root.mkdir(parents=True, exist_ok=True)
    # Under a name that nobody reads first: what it is called is known once it was looked at.
    folder = unfinished_folder(root / "import")
    try:
        done = 0
        for file in manifest.sizes:
            done = _unpack(archive, manifest, file, folder / file, done, total, progress, cancelled)
        progress(total, max(1, total), "Looking at it")
        digest = _check(kind.name, folder)
        with _one_at_a_time():
            name = _free_name(root, kind.name, manifest.name, digest)
            with atomic_folder(root / name) as temporary:
                for path in sorted(folder.iterdir()):  # what came in, and what the check made of it
                    path.replace(temporary / path.name)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise disk_full("the item") from error
        raise
    finally:
        discard(folder)
    progress(total, max(1, total), "Kept")
    return find_item(f"{kind.name}/{name}")


def _unpack(
    archive: zipfile.ZipFile,
    manifest: _Manifest,
    file: str,
    target: Path,
    done: int,
    total: int,
    progress: Progress,
    cancelled: CancelCheck | None,
) -> int:
    sha, size = hashlib.sha256(), 0
    with archive.open(FILES + file) as packed, target.open("xb") as out:
        while piece := packed.read(CHUNK):
            stop_if(cancelled)
            size += len(piece)
            if size > manifest.sizes[file]:
                raise _broken("an entry is larger than it says")
            sha.update(piece)
            out.write(piece)
            progress(done + size, max(1, total), file)
    if size != manifest.sizes[file] or sha.hexdigest() != manifest.digests[file]:
        raise _broken(f"{file} is not the file that was exported")
    return done + size


def _check(kind: str, folder: Path) -> str:
    """Open the item in a process of its own, which may crash or hang for all we care; its digest."""
    command = [sys.executable, "-m", "sane_engine.inventory.checking", kind, str(folder)]
    try:
        outcome = subprocess.run(
            command,
            cwd=_CODE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=CHECK_SECONDS,
            check=False,
        )
        answer = json.loads(outcome.stdout.splitlines()[-1])
        digest = answer.get("digest")
    except (subprocess.TimeoutExpired, IndexError, ValueError, AttributeError) as error:
        raise _broken("it cannot be opened") from error
    if not isinstance(digest, str):
        raise _broken(" ".join(str(answer.get("refusal", "it cannot be opened")).split())[:200])
    return digest


def _free_name(root: Path, kind: str, wanted: str, digest: str) -> str:
    """The name it gets here: what it was called, without what a file system could mind, if that is free.

    Raises:
        Refusal: The same is here already.
    """
    if kind == "embeddings":
        if (root / digest / KINDS[kind].marker).is_file():
            raise _known(digest)
        return digest
    plain = plain_name(wanted, kind).lower().removesuffix(".removed")
    shipped = assets_root() / root.name
    for number in range(1, 10_000):
        name = plain if number == 1 else f"{plain}-{number}"
        if (shipped / name).exists():
            continue  # what ships with the code would hide it
        if not (root / name).exists():
            return name
        if (root / name / KINDS[kind].marker).is_file() and _digest_here(kind, root / name) == digest:
            raise _known(name)
    raise _broken("every name for it is taken")


def _digest_here(kind: str, folder: Path) -> str:
    return digest_of_files(kind, folder) if kind == "samples" else find_item(f"{kind}/{folder.name}").digest


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Two imports of one item would both find its name free."""
    root = workspace_root()
    root.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(root / ".import.lock", timeout=_LOCK_SECONDS):
            yield
    except Timeout as error:
        raise Refusal("import-busy", "Another import is at work.", "Try again in a moment.") from error


def _known(name: str) -> Refusal:
    return Refusal("item-known", f"The same is here already: {name}.", "There is nothing to import.")


def _broken(reason: str) -> Refusal:
    return Refusal("broken-item", f"The zip cannot be taken in: {reason}.", "Export the item again.")
