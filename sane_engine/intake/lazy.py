"""The tensors of a large file, each read when it is asked for and forgotten when nobody holds it any more."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from sane_engine.intake.materialise import Row
from sane_engine.intake.private import Folder
from sane_engine.intake.tensors import Opener, count_non_finite, read_one
from sane_engine.progress import CancelCheck, Progress, no_progress, stop_if

if TYPE_CHECKING:
    from torch import Tensor


class LazyTensors(Mapping[str, "Tensor"]):
    """Name → tensor, in file order; every look-up reads the file.

    As long as somebody holds a tensor, asking for it again, or for a name tied to it, gives the same object.
    Iterating over ``values()`` keeps one tensor at a time; a list of them keeps all.

    Args:
        rows: The child's description of each tensor.
        opens: For each file of its reply, a function that opens it.
        folder: Folder with what had to be unpacked, removed with this object; None if nothing had to be.
    """

    def __init__(self, rows: Sequence[Row], opens: Sequence[Opener], folder: Folder | None) -> None:
        self._rows, self._opens, self._folder = list(rows), list(opens), folder
        self._number = {row[0]: number for number, row in enumerate(self._rows)}
        self._alive: weakref.WeakValueDictionary[int, Tensor] = weakref.WeakValueDictionary()

    def __getitem__(self, name: str) -> Tensor:
        number = self._number[name]
        tied = self._rows[number][6]
        number = tied if tied >= 0 else number
        tensor = self._alive.get(number)
        if tensor is None:
            tensor = read_one(self._rows[number], self._opens)
            self._alive[number] = tensor
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._number)

    def __len__(self) -> int:
        return len(self._rows)

    def shapes(self) -> dict[str, Tensor]:
        """The same names, ties and shapes without data: tensors on torch's meta device."""
        import torch

        made: list[Tensor] = []
        for _name, dtype, shape, *_, tied in self._rows:
            made.append(made[tied] if tied >= 0 else torch.empty(shape, dtype=getattr(torch, dtype), device="meta"))
        return {row[0]: tensor for row, tensor in zip(self._rows, made, strict=True)}

    def non_finite(self, *, progress: Progress = no_progress, cancelled: CancelCheck | None = None) -> int:
        """Entries that are NaN or infinite, read tensor by tensor; tied tensors count once.

        Raises:
            Cancelled: ``cancelled`` answered true.
        """
        total, done, found = sum(row[5] for row in self._rows if row[6] < 0), 0, 0
        for row in self._rows:
            if row[6] < 0:
                stop_if(cancelled)
                found += count_non_finite(self[row[0]])
                done += row[5]
                progress(done, total, "looking at the weights")
        return found
