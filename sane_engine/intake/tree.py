"""What a parsed file is made of, before anyone decides which part of it is the checkpoint.

A tree holds plain dicts, lists, strings and numbers, plus the two kinds of leaf defined here. Nothing in it can
execute anything, and a tensor is only a description: which bytes, which shape, which stride.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sane_engine.intake import refusals
from sane_engine.intake.dtypes import ITEM_BYTES
from sane_engine.intake.limits import Limits

if TYPE_CHECKING:
    from sane_engine.intake.sources import Files


@dataclass(frozen=True)
class Extent:
    """A run of bytes in one of the files of a reply: ``file`` is an index, ``offset`` and ``n_bytes`` bytes."""

    file: int
    offset: int
    n_bytes: int


@dataclass(eq=False)
class Storage:
    """Raw bytes that tensors are views of.

    Attributes:
        n_bytes: Size as the file declares it.
        locate: Finds the bytes, checked (CRC, exact size) and uncompressed; called only for tensors that are kept.
        big_endian: The elements are stored with the most significant byte first.
        inline: The bytes themselves, where a pickle holds them (a numpy array); ``locate`` is not called then.
        stored: Bytes that the file spends on them, where that is not ``n_bytes``: a sparse tensor.
        dense: Writes the bytes out where the file does not have them as such; ``locate`` is not called then.
    """

    n_bytes: int
    locate: Callable[[], Extent]
    big_endian: bool = False
    inline: bytes | None = None
    stored: int | None = None
    dense: Callable[[Files], Extent] | None = None
    _extent: Extent | None = field(default=None, repr=False)

    def extent(self, files: Files) -> Extent:
        """The checked bytes, found once.

        Raises:
            Refusal: ``damaged``, ``truncated`` or ``too-large``.
        """
        if self._extent is None:
            found = self.locate() if self.dense is None else self.dense(files)
            if found.n_bytes != self.n_bytes:
                raise refusals.damaged("a tensor's data has another size than declared")
            self._extent = found
        return self._extent


@dataclass(frozen=True)
class TensorView:
    """A strided view of a storage; ``offset`` and ``stride`` count elements."""

    storage: Storage
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int = 0

    @property
    def elements(self) -> int:
        """Number of entries as seen by the model, which a stride of 0 can make larger than the storage."""
        count = 1
        for extent in self.shape:
            count *= extent
        return count

    @property
    def n_bytes(self) -> int:
        """Bytes of the tensor once it is contiguous."""
        return self.elements * ITEM_BYTES[self.dtype]

    @property
    def contiguous(self) -> bool:
        """Whether the entries lie in the storage in row-major order without gaps."""
        return self.elements == 0 or all(
            size == 1 or stride == expected
            for size, stride, expected in zip(self.shape, self.stride, row_major(self.shape), strict=True)
        )


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides, in elements, of a contiguous tensor."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def _whole(number: object) -> int:
    # bool is an int to Python, and a float would pass the comparisons below: neither is a size.
    if type(number) is not int or not 0 <= number < 2**62:
        raise refusals.damaged("a tensor has an impossible shape")
    return number


def view(
    storage: Storage, dtype: str, shape: Sequence[object], stride: Sequence[object], offset: object, limits: Limits
) -> TensorView:
    """A view that is known to lie inside its storage.

    Raises:
        Refusal: ``damaged`` if it does not, ``too-large`` if it has too many axes or entries.
    """
    if len(shape) != len(stride):
        raise refusals.damaged("a tensor has an impossible shape")
    if len(shape) > limits.dimensions:
        raise refusals.too_large(f"a tensor with {len(shape)} axes")
    sizes, steps = tuple(map(_whole, shape)), tuple(map(_whole, stride))
    result = TensorView(storage, dtype, sizes, steps, _whole(offset))
    if result.n_bytes > limits.tensor_bytes:
        raise refusals.too_large(f"a tensor of {refusals.size(result.n_bytes)}")
    if result.elements:
        last = result.offset + sum((size - 1) * step for size, step in zip(sizes, steps, strict=True))
        if (last + 1) * ITEM_BYTES[dtype] > storage.n_bytes:
            raise refusals.damaged("a tensor reaches beyond its data")
    return result


@dataclass(frozen=True)
class Opaque:
    """Something that was read but is not kept; ``kind`` says what it is, for people."""

    kind: str


@dataclass
class Contents:
    """A parsed file.

    Attributes:
        container: One of the containers that :class:`~sane_engine.checkpoint.Provenance` lists.
        root: The tree.
        metadata: Properties that the container itself keeps beside the tree.
        ignored: Entries that were dropped while parsing, each with the reason.
        flat: The root is known to be name → tensor, so there is nothing to unwrap.
    """

    container: str
    root: object
    metadata: dict[str, object] = field(default_factory=dict)
    ignored: list[tuple[str, str]] = field(default_factory=list)
    flat: bool = False
