"""Where the tensors of a zoo come from: memory, stacked safetensors, or any other source that speaks this protocol.

A source knows its rows by number and nothing of the table. It reads tensors when asked, never before.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from sane_engine.checkpoint import Refusal
from sane_engine.zoo.signature import Signature, signature_of, tie

if TYPE_CHECKING:
    from torch import Tensor

Rows = NDArray[np.int64]

Stamp = tuple[int, int, int] | None
"""Inode, size in bytes and time of the last change of a file; ``None`` where there is none."""

# Reading one stretch of a stack and picking from it beats one read a row unless the rows are sparser than this.
_DENSE = 0.25


class TensorSource(Protocol):
    """What a :class:`~sane_engine.zoo.zoo.Zoo` asks for. Sources are picklable and thread-safe."""

    def __len__(self) -> int:
        """Number of models."""

    def group_of(self, rows: Rows) -> Rows:
        """A number for each row; equal numbers mean equal signatures. May have to read one file a group."""

    def signature(self, row: int) -> Signature:
        """Names, shapes and dtypes of the tensors of one row."""

    def tensors(self, row: int) -> dict[str, Tensor]:
        """The tensors of one row, in file order, on the CPU."""

    def stacked(self, rows: Rows) -> dict[str, Tensor]:
        """Tensors ``[len(rows), …]`` of rows that share a signature; the caller has checked that they do."""

    def digest(self, rows: Rows) -> str:
        """Hex sha256 of the content of these rows, in this order."""


def stacked_digest(source: TensorSource, rows: Rows, *, block: int = 1024) -> str:
    """Hex sha256 over signatures and raw bytes, block by block; equal for equal content, wherever it lies."""
    import torch

    total = hashlib.sha256()
    groups = source.group_of(rows)
    for group in dict.fromkeys(groups.tolist()):
        members = np.flatnonzero(groups == group)
        signature = source.signature(int(rows[members[0]]))
        total.update(json.dumps([p.to_json() for p in signature]).encode())
        total.update(members.astype("<i8").tobytes())
        of_parameter = {p.name: hashlib.sha256() for p in signature if p.tied_to is None}
        for start in range(0, len(members), block):
            stack = source.stacked(rows[members[start : start + block]])
            for name, hasher in of_parameter.items():
                if stack[name].numel():
                    hasher.update(stack[name].contiguous().reshape(-1).view(torch.uint8).numpy().data)
        for hasher in of_parameter.values():
            total.update(hasher.digest())
    return total.hexdigest()


def stamp_of(path: Path) -> Stamp:
    """What tells a file from one that takes its place."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _picks(rows: Rows) -> tuple[int, int, bool]:
    """First and one past last row, and whether reading the whole stretch is cheaper than row by row."""
    low, high = int(rows.min()), int(rows.max()) + 1
    return low, high, len(rows) >= _DENSE * (high - low)


@dataclass(frozen=True)
class MemorySource:
    """Stacks that are already in memory.

    Attributes:
        stacks: One mapping a signature: name → tensor ``[n, …]``; tied tensors are the same object.
        layout: For each row, which stack it is in.
        position: For each row, where in its stack.
    """

    stacks: tuple[Mapping[str, Tensor], ...]
    layout: Rows
    position: Rows

    @classmethod
    def of_models(cls, models: Sequence[Mapping[str, Tensor]]) -> MemorySource:
        """Stack models of any signatures."""
        import torch

        members: dict[Signature, list[int]] = {}
        for row, model in enumerate(models):
            members.setdefault(signature_of(model), []).append(row)
        layout = np.zeros(len(models), dtype=np.int64)
        position = np.zeros(len(models), dtype=np.int64)
        stacks = []
        for index, (signature, rows) in enumerate(members.items()):
            own = [p.name for p in signature if p.tied_to is None]
            stacks.append(
                tie({k: torch.stack([models[r][k].detach().cpu() for r in rows]) for k in own}, signature)
            )
            layout[rows] = index
            position[rows] = np.arange(len(rows))
        return cls(tuple(stacks), layout, position)

    def __len__(self) -> int:
        return len(self.layout)

    def group_of(self, rows: Rows) -> Rows:
        """See :class:`TensorSource`."""
        return self.layout[rows]

    def signature(self, row: int) -> Signature:
        """See :class:`TensorSource`."""
        return signature_of(self.stacks[self.layout[row]], stacked=True)

    def tensors(self, row: int) -> dict[str, Tensor]:
        """Copies, so that whoever changes one does not change the zoo."""
        stack, at = self.stacks[self.layout[row]], int(self.position[row])
        own = {p.name: stack[p.name][at].clone() for p in self.signature(row) if p.tied_to is None}
        return tie(own, self.signature(row))

    def stacked(self, rows: Rows) -> dict[str, Tensor]:
        """See :class:`TensorSource`; always a copy."""
        import torch

        signature = self.signature(int(rows[0]))
        stack, at = self.stacks[self.layout[rows[0]]], torch.from_numpy(self.position[rows])
        return tie({p.name: stack[p.name][at] for p in signature if p.tied_to is None}, signature)

    def digest(self, rows: Rows) -> str:
        """See :class:`TensorSource`."""
        return stacked_digest(self, rows)


@dataclass(frozen=True)
class StackedFiles:
    """Stacks in safetensors files, one file a signature, read slice by slice.

    No file is held open: a zoo may be sent to another process or kept for days. If it is replaced on disk
    meanwhile it is refused, for its table would speak of weights that are gone.

    Attributes:
        paths: One file a signature.
        signatures: What is in each file.
        layout: For each row, which file it is in.
        position: For each row, where in its stack.
        stamps: What each file was when the zoo was opened: see :func:`stamp_of`.
    """

    paths: tuple[Path, ...]
    signatures: tuple[Signature, ...]
    layout: Rows
    position: Rows
    stamps: tuple[Stamp, ...]

    def __len__(self) -> int:
        return len(self.layout)

    def group_of(self, rows: Rows) -> Rows:
        """See :class:`TensorSource`."""
        return self.layout[rows]

    def signature(self, row: int) -> Signature:
        """See :class:`TensorSource`."""
        return self.signatures[int(self.layout[row])]

    def tensors(self, row: int) -> dict[str, Tensor]:
        """See :class:`TensorSource`."""
        stack = self._read(int(self.layout[row]), self.position[[row]])
        signature = self.signature(row)
        return tie({p.name: stack[p.name][0] for p in signature if p.tied_to is None}, signature)

    def stacked(self, rows: Rows) -> dict[str, Tensor]:
        """See :class:`TensorSource`."""
        return tie(self._read(int(self.layout[rows[0]]), self.position[rows]), self.signature(int(rows[0])))

    def digest(self, rows: Rows) -> str:
        """See :class:`TensorSource`."""
        return stacked_digest(self, rows)

    def _read(self, layout: int, at: Rows) -> dict[str, Tensor]:
        import torch
        from safetensors import SafetensorError, safe_open

        low, high, dense = _picks(at)
        consecutive = bool((at == np.arange(low, low + len(at))).all())
        index = torch.from_numpy(at - low)
        read = {}
        try:
            with safe_open(self.paths[layout], framework="pt") as file:
                for parameter in self.signatures[layout]:
                    if parameter.tied_to is not None:
                        continue
                    stack = file.get_slice(parameter.name)
                    if dense:
                        stretch = stack[low:high]
                        read[parameter.name] = stretch if consecutive else stretch[index]
                    else:
                        read[parameter.name] = torch.cat([stack[int(i) : int(i) + 1] for i in at])
        except (OSError, SafetensorError, IndexError, ValueError) as error:
            self._unchanged(layout)
            path = self.paths[layout]
            reason = str(error).replace(str(path), path.name)  # whoever reads this need not know where it lies
            raise Refusal(
                "zoo-weights-unreadable",
                f"The weights of this zoo cannot be read from {path.name}: {reason}.",
                "Load the zoo again; if that does not help, make it again.",
            ) from error
        # Looked at afterwards: the file that was opened is still in its place, so what was read is of it.
        self._unchanged(layout)
        return read

    def _unchanged(self, layout: int) -> None:
        if stamp_of(self.paths[layout]) != self.stamps[layout]:
            raise Refusal("zoo-changed", "The zoo was replaced since it was opened.", "Open it again.")
