"""The files that a reply points into: what the user gave, and what had to be unpacked.

Bytes that lie in a file as they will lie in memory are never copied by the child; the parent reads them where they
are. Everything else (compressed entries, strided views, the other byte order) goes into one private spool file.
"""

from __future__ import annotations

import os
import stat
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from sane_engine.checkpoint import Refusal
from sane_engine.intake import refusals
from sane_engine.intake.limits import MIB, Limits
from sane_engine.intake.paths import open_below
from sane_engine.intake.tree import Extent

CHUNK = MIB
ALIGNMENT = 64
OPEN_FILES = 32
"""An archive of thousands of checkpoints would otherwise run out of file descriptors."""


@dataclass(eq=False)
class Source:
    """One readable file; ``index`` is its number in the reply, ``size`` its bytes when it was opened."""

    files: Files
    size: int
    index: int

    @property
    def stream(self) -> IO[bytes]:
        """The file, open. Closed behind the scenes when many others are read, so ask for it again each time."""
        return self.files.stream(self.index)

    def read(self, offset: int, n_bytes: int) -> bytes:
        """Exactly ``n_bytes`` from ``offset``.

        Raises:
            Refusal: ``truncated``.
        """
        if offset < 0 or n_bytes < 0 or offset + n_bytes > self.size:
            raise refusals.truncated()
        stream = self.stream
        stream.seek(offset)
        data = stream.read(n_bytes)
        if len(data) != n_bytes:
            raise refusals.truncated()
        return data

    def chunks(self, offset: int, n_bytes: int) -> Iterator[bytes]:
        """The same bytes in pieces of at most one MiB."""
        end = offset + n_bytes
        while offset < end:
            piece = self.read(offset, min(CHUNK, end - offset))
            offset += len(piece)
            yield piece


def open_given(path: Path, below: Path | None) -> IO[bytes]:
    """Open a file of the user's: any, or with ``below`` only one that lies there, whatever links may say.

    Raises:
        Refusal: ``outside-root``, ``missing`` or ``unreadable``, with ``below``.
        OSError: The system's own, without.
    """
    return path.open("rb") if below is None else os.fdopen(open_below(below, path), "rb")


@dataclass
class Files:
    """Opens files, numbers them, and keeps the spool.

    Attributes:
        folder: Private folder; every name in it is generated here.
        limits: Ceilings on what may be opened and spooled.
        below: Folder that the user's files must lie in, or None for any place.
        report: Called with the bytes of a pass over a file that are done, and how many there are.
        names: Of each file of the reply: ``("given", file name)`` beside the source, or ``("spool", name)``.
        unpacked: Bytes in all spools together.
        given_bytes: Bytes of the user's files together.
    """

    folder: Path
    limits: Limits
    below: Path | None = None
    report: Callable[[int, int], None] = lambda _done, _total: None
    names: list[tuple[str, str]] = field(default_factory=list)
    unpacked: int = 0
    given_bytes: int = 0
    _paths: list[Path] = field(default_factory=list)
    _streams: OrderedDict[int, IO[bytes]] = field(default_factory=OrderedDict)
    _blob: Spool | None = None

    @property
    def most_unpacked(self) -> int:
        """How much may be unpacked in all: archives in archives multiply what each alone may do."""
        given = self.given_bytes * self.limits.archive_ratio + self.limits.free_expansion_bytes
        return min(self.limits.archive_bytes, given)

    def _add(self, path: Path, kind: str) -> int:
        self.names.append((kind, path.name))
        self._paths.append(path)
        return len(self.names) - 1

    def stream(self, index: int) -> IO[bytes]:
        """File number ``index``, open; the one that was used longest ago is closed beyond ``OPEN_FILES``."""
        stream = self._streams.pop(index, None)
        if stream is None:
            given, path = self.names[index][0] == "given", self._paths[index]
            stream = open_given(path, self.below) if given else path.open("r+b")
        self._streams[index] = stream
        if len(self._streams) > OPEN_FILES:
            self._streams.popitem(last=False)[1].close()
        return stream

    def open(self, path: Path) -> Source:
        """Open a file of the user's for reading and give it a number.

        Raises:
            Refusal: ``missing``, ``unreadable`` or ``too-large``.
        """
        index = self._add(path, "given")
        try:
            # A pipe or a device would block, or never end.
            if self.below is None and not stat.S_ISREG(path.stat().st_mode):
                raise refusals.unreadable()
            stream = self.stream(index)
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise refusals.unreadable()
            size = stream.seek(0, 2)
        except Refusal:
            raise
        except (FileNotFoundError, ValueError):  # ValueError: a null character in the path
            raise refusals.missing() from None
        except OSError:
            raise refusals.unreadable() from None
        if size > self.limits.file_bytes:
            raise refusals.too_large(refusals.size(size))
        self.given_bytes += size
        return Source(self, size, index)

    def spool(self) -> Spool:
        """A new spool file with a generated name."""
        path = self.folder / f"spool-{len(self.names)}"
        path.touch(mode=0o600)
        return Spool(Source(self, 0, self._add(path, "spool")))

    @property
    def blob(self) -> Spool:
        """The spool that small unpacked pieces share."""
        if self._blob is None:
            self._blob = self.spool()
        return self._blob

    def read(self, extent: Extent) -> bytes:
        """The bytes of an extent of any file opened here."""
        stream = self.stream(extent.file)
        stream.seek(extent.offset)
        return stream.read(extent.n_bytes)

    def close(self) -> None:
        """Flush and close every file."""
        while self._streams:
            self._streams.popitem()[1].close()


@dataclass(eq=False)
class Spool:
    """A file that only grows; each piece starts at a multiple of 64 bytes."""

    source: Source

    def write(self, pieces: Iterator[bytes] | list[bytes]) -> Extent:
        """Append and say where it lies.

        Raises:
            Refusal: ``too-large`` when all spools of a file together would pass their ceiling.
        """
        files = self.source.files
        padding = -self.source.size % ALIGNMENT
        start = offset = self.source.size + padding
        stream = self.source.stream
        stream.seek(self.source.size)
        stream.write(b"\0" * padding)
        for piece in pieces:
            files.unpacked += len(piece)
            if files.unpacked > files.most_unpacked:
                raise refusals.too_large(f"more than {refusals.size(files.most_unpacked)} unpacked")
            # Making the next piece may have moved or closed the stream.
            stream = self.source.stream
            stream.seek(offset)
            stream.write(piece)
            offset += len(piece)
        self.source.size = offset
        return Extent(self.source.index, start, offset - start)
