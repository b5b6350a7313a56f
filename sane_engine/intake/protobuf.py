"""The wire format of protocol buffers, read field by field from a file, without a schema and without recursion.

A message is a run of fields; what is not asked for is jumped over, so a graph of gigabytes costs one step a field.
https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sane_engine.intake import refusals
from sane_engine.intake.sources import Source

_WINDOW = 64 * 1024
_VARINT_BYTES = 10
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class Field:
    """One field: its number, its wire type, its value where that is a varint, and the bytes it has in the file."""

    number: int
    wire: int
    value: int
    start: int
    stop: int

    @property
    def n_bytes(self) -> int:
        """Length of the content."""
        return self.stop - self.start


class Messages:
    """Reads the messages of one file.

    Args:
        source: The file.
        steps: Fields and packed numbers that may be read in all.
    """

    def __init__(self, source: Source, steps: int) -> None:
        self._source, self._ceiling, self._left = source, steps, steps
        self._window, self._at = b"", 0

    def count(self, steps: int = 1) -> None:
        """Spend steps.

        Raises:
            Refusal: ``too-large`` when none are left.
        """
        self._left -= steps
        if self._left < 0:
            raise refusals.too_large(f"more than {self._ceiling:,} fields")

    def fields(self, start: int, stop: int) -> Iterator[Field]:
        """The fields of the message that lies between two offsets.

        Raises:
            Refusal: ``truncated``, ``damaged`` or ``too-large``.
        """
        at = start
        while at < stop:
            self.count()
            tag, at = self._varint(at, stop)
            number, wire, value = tag >> 3, tag & 7, 0
            if wire == VARINT:
                first = at
                value, at = self._varint(at, stop)
            elif wire == BYTES:
                length, first = self._varint(at, stop)
                at = first + length
            elif wire in {FIXED64, FIXED32}:
                first, at = at, at + (8 if wire == FIXED64 else 4)
            else:
                raise refusals.damaged("it holds a field of an unknown kind")
            if number == 0:
                raise refusals.damaged("it holds a field of an unknown kind")
            if at > self._source.size:
                raise refusals.truncated()
            if at > stop:
                raise refusals.damaged("a field is longer than what it lies in")
            yield Field(number, wire, value, first, at)

    def _varint(self, at: int, stop: int) -> tuple[int, int]:
        if not self._at <= at <= self._at + len(self._window) - _VARINT_BYTES:
            self._window = self._source.read(at, min(_WINDOW, self._source.size - at))
            self._at = at
        if at < stop and at - self._at < len(self._window) and self._window[at - self._at] < 0x80:
            return self._window[at - self._at], at + 1  # nearly all of them
        value = 0
        for number in range(_VARINT_BYTES):
            if at >= stop or at - self._at >= len(self._window):
                if at >= self._source.size:
                    raise refusals.truncated()
                raise refusals.damaged("a number is not complete")
            byte = self._window[at - self._at]
            at += 1
            value |= (byte & 0x7F) << (7 * number)
            if byte < 0x80:
                return value & (2**64 - 1), at
        raise refusals.damaged("a number has too many bytes")

    def data(self, field: Field, ceiling: int) -> bytes:
        """The content of a field, if it is at most ``ceiling`` bytes."""
        if field.n_bytes > ceiling:
            raise refusals.too_large(f"a field of {refusals.size(field.n_bytes)}")
        return self._source.read(field.start, field.n_bytes)

    def text(self, field: Field, ceiling: int) -> str:
        """A string field."""
        return self.data(field, ceiling).decode("utf-8", "replace")

    def numbers(self, field: Field, ceiling: int) -> list[int]:
        """A repeated varint field: one number, or many packed into one run of bytes."""
        if field.wire == VARINT:
            return [field.value]
        if field.wire != BYTES:
            raise refusals.damaged("a number is written in an unknown way")
        data = self.data(field, ceiling)
        found: list[int] = []
        value = shift = 0
        self.count(len(data) // 64)
        for byte in data:
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                found.append(value & (2**64 - 1))
                value = shift = 0
            elif shift >= 7 * _VARINT_BYTES:
                raise refusals.damaged("a number has too many bytes")
        if shift:
            raise refusals.damaged("a number is not complete")
        return found
