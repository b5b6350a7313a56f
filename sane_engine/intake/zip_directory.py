"""A zip archive read with suspicion: sizes are counted before anything is unpacked, and nothing is extracted.

:mod:`zipfile` parses the directory; what it does not promise is checked here: no password, no overlapping entries
(the trick of small bombs), no implausible ratio, every CRC, and never more bytes than the directory declared.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator

from sane_engine.intake import refusals
from sane_engine.intake.limits import Limits
from sane_engine.intake.sources import CHUNK, Files, Source
from sane_engine.intake.tree import Extent

_LOCAL_HEADER = struct.Struct("<4s5H3L2H")
_FREE_RATIO_BYTES = 2**20
"""Entries smaller than this may have any ratio: a few zeros compress well and harm nobody."""


class ZipDirectory:
    """The checked table of contents of one zip file, and its bytes on demand.

    Args:
        source: The file.
        files: Where compressed entries are unpacked to.
        limits: Ceilings.

    Raises:
        Refusal: ``truncated``, ``encrypted``, ``too-large``, ``damaged`` or ``unsupported``.
    """

    def __init__(self, source: Source, files: Files, limits: Limits) -> None:
        self._source, self._files, self._limits = source, files, limits
        try:
            with zipfile.ZipFile(source.stream) as archive:
                entries = archive.infolist()
        except zipfile.BadZipFile:
            # The directory is at the end, so a download that broke off has none.
            raise refusals.truncated("the zip directory at its end is missing") from None
        except (NotImplementedError, ValueError, OverflowError, struct.error, UnicodeError):
            raise refusals.damaged("its zip directory makes no sense") from None
        self.entries = {entry.filename: entry for entry in entries if not entry.is_dir()}
        # A torch file has one entry a tensor, and about three times as many with its optimizer's state.
        if len(entries) > 4 * limits.tensors:
            raise refusals.too_large(f"an archive of {len(entries):,} entries")
        if len(self.entries) != sum(not entry.is_dir() for entry in entries):
            raise refusals.damaged("two entries of the archive have one name")
        self._check(entries)

    def _check(self, entries: list[zipfile.ZipInfo]) -> None:
        if any(entry.flag_bits & 0x1 for entry in entries):
            raise refusals.encrypted()
        total = sum(entry.file_size for entry in entries)
        if total > self._limits.archive_bytes:
            raise refusals.too_large(f"{refusals.size(total)} once unpacked")
        end = 0
        for entry in sorted(entries, key=lambda entry: entry.header_offset):
            if entry.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
                raise refusals.unsupported("Zip archives with this compression", "Compress it as an ordinary zip.")
            if entry.compress_type == zipfile.ZIP_STORED and entry.compress_size != entry.file_size:
                raise refusals.damaged("an entry of the archive has two sizes")
            if (
                entry.file_size > _FREE_RATIO_BYTES
                and entry.file_size > self._limits.archive_ratio * entry.compress_size
            ):
                raise refusals.too_large(
                    f"an entry that unpacks to {entry.file_size // max(entry.compress_size, 1)}×"
                )
            if entry.header_offset < end:
                raise refusals.damaged("entries of the archive overlap")
            end = entry.header_offset + _LOCAL_HEADER.size + entry.compress_size
        if end > self._source.size:
            raise refusals.truncated()

    def _data_offset(self, entry: zipfile.ZipInfo) -> int:
        header = _LOCAL_HEADER.unpack(self._source.read(entry.header_offset, _LOCAL_HEADER.size))
        if header[0] != b"PK\x03\x04":
            raise refusals.damaged("an entry of the archive is not where its directory says")
        return entry.header_offset + _LOCAL_HEADER.size + int(header[9]) + int(header[10])

    def chunks(self, name: str) -> Iterator[bytes]:
        """The uncompressed bytes of an entry in pieces; the last one comes only if size and CRC are right.

        Raises:
            Refusal: ``damaged`` or ``truncated``.
        """
        entry = self.entries[name]
        raw = self._source.chunks(self._data_offset(entry), entry.compress_size)
        crc = size = 0
        for piece in raw if entry.compress_type == zipfile.ZIP_STORED else _inflate(raw):
            size += len(piece)
            crc = zlib.crc32(piece, crc)
            if size > entry.file_size:
                break
            yield piece
        if size != entry.file_size or crc != entry.CRC:
            raise refusals.damaged("an entry of the archive fails its checksum")

    def read(self, name: str, ceiling: int) -> bytes:
        """The whole entry, if it is at most ``ceiling`` bytes."""
        if self.entries[name].file_size > ceiling:
            raise refusals.too_large(f"an entry of {refusals.size(self.entries[name].file_size)}")
        return b"".join(self.chunks(name))

    def extent(self, name: str) -> Extent:
        """Where the entry's checked, uncompressed bytes lie: in the file itself, or in the spool."""
        entry = self.entries[name]
        if entry.compress_type != zipfile.ZIP_STORED:
            return self._files.blob.write(self.chunks(name))
        for _ in self.chunks(name):
            pass
        return Extent(self._source.index, self._data_offset(entry), entry.file_size)

    def unpack(self, name: str) -> Source:
        """The entry as a file of its own, under a generated name."""
        spool = self._files.spool()
        spool.write(self.chunks(name))
        return spool.source


def _inflate(raw: Iterator[bytes]) -> Iterator[bytes]:
    decompressor = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        for piece in raw:
            data = decompressor.decompress(piece, CHUNK)
            while data or decompressor.unconsumed_tail:
                yield data
                data = decompressor.decompress(decompressor.unconsumed_tail, CHUNK)
        while data := decompressor.decompress(decompressor.unconsumed_tail, CHUNK):
            yield data
    except zlib.error:
        raise refusals.damaged("an entry of the archive cannot be unpacked") from None
