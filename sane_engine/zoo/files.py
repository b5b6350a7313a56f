"""Tensors that lie in one file a checkpoint: read through the intake when asked for, kept in a bounded cache."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sane_engine.checkpoint import Refusal
from sane_engine.zoo.signature import Signature, signature_of, tie
from sane_engine.zoo.sources import Rows

if TYPE_CHECKING:
    from torch import Tensor

    from sane_engine.checkpoint import Checkpoint

CACHE_BYTES = 512 * 1024 * 1024
_BLOCK = 1024 * 1024


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class TensorCache:
    """The most recently used models, at most ``limit`` bytes of them. Safe to share between threads."""

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self.limit = limit
        self._models: OrderedDict[int, tuple[int, Mapping[str, Tensor]]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __getstate__(self) -> int:
        return self.limit

    def __setstate__(self, limit: int) -> None:
        self.__init__(limit)  # type: ignore[misc]  # another process starts with an empty cache

    def get(self, row: int) -> Mapping[str, Tensor] | None:
        """The tensors of a row if they are here."""
        with self._lock:
            found = self._models.get(row)
            if found is not None:
                self._models.move_to_end(row)
            return None if found is None else found[1]

    def put(self, row: int, tensors: Mapping[str, Tensor]) -> None:
        """Keep the tensors of a row; the least recently used ones make room. One above the limit is not kept."""
        size = sum(t.numel() * t.element_size() for t in {id(t): t for t in tensors.values()}.values())
        with self._lock:
            if row in self._models or size > self.limit:
                return
            self._models[row] = (size, tensors)
            self._bytes += size
            while self._bytes > self.limit:
                self._bytes -= self._models.popitem(last=False)[1][0]


@dataclass(frozen=True)
class CheckpointFiles:
    """One checkpoint file a row.

    Attributes:
        paths: The files.
        family: A number for each row; rows of one family are taken to share a signature, which is checked when they
            are read. So a zoo of 50,000 files opens without reading them.
        signatures: Signatures already known, by family; the others are found by reading one file.
        cache: Holds what was read.
        digests: Hex sha256 by row of the bytes that a row was first seen to be made of, all shards included. A file
            that is found to hold others later is refused: what was computed of the zoo would not be of it.
    """

    paths: tuple[Path, ...]
    family: Rows
    signatures: dict[int, Signature] = field(default_factory=dict)
    cache: TensorCache = field(default_factory=TensorCache)
    digests: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.paths)

    def group_of(self, rows: Rows) -> Rows:
        """See :class:`TensorSource`."""
        return self.family[rows]

    def signature(self, row: int) -> Signature:
        """See :class:`TensorSource`."""
        family = int(self.family[row])
        if family not in self.signatures:
            next(self._read([row]))
        return self.signatures[family]

    def tensors(self, row: int) -> dict[str, Tensor]:
        """Copies, so that whoever changes one does not change the zoo."""
        read = next(self._read([row]))
        signature = self.signatures[int(self.family[row])]
        return tie({p.name: read[p.name].clone() for p in signature if p.tied_to is None}, signature)

    def stacked(self, rows: Rows) -> dict[str, Tensor]:
        """See :class:`TensorSource`."""
        import torch

        signature = self.signature(int(rows[0]))
        stacks: dict[str, Tensor] = {}
        for index, read in enumerate(self._read(rows.tolist())):
            for parameter in signature:
                if parameter.tied_to is None:
                    tensor = read[parameter.name]
                    if index == 0:
                        stacks[parameter.name] = torch.empty((len(rows), *parameter.shape), dtype=tensor.dtype)
                    stacks[parameter.name][index] = tensor
        return tie(stacks, signature)

    def digest(self, rows: Rows) -> str:
        """Over the bytes of the files, in the order of the rows; what was not read before is only hashed."""
        total = hashlib.sha256()
        for row in rows.tolist():
            try:
                if row not in self.digests:
                    self.digests[row] = sha256_of(self.paths[row])
                total.update(bytes.fromhex(self.digests[row]))
            except OSError as error:
                raise Refusal(
                    "zoo-file-gone",
                    f"{self.paths[row].name} cannot be read any more ({error.strerror or error}).",
                    "Put the file back, or load the zoo again.",
                ) from error
        return total.hexdigest()

    def _read(self, rows: Sequence[int]) -> Iterator[Mapping[str, Tensor]]:
        """The tensors of each row, in order; one child of the intake reads what is not in the cache."""
        from sane_engine.intake import load_each

        held = {row: tensors for row in rows if (tensors := self.cache.get(row)) is not None}
        missing = list(dict.fromkeys(row for row in rows if row not in held))
        reading = zip(missing, load_each([self.paths[row] for row in missing]) if missing else (), strict=True)
        for row in rows:
            while row not in held:
                read, outcome = next(reading)
                held[read] = self._checked(read, outcome)
            yield held[row]

    def _checked(self, row: int, outcome: list[Checkpoint] | Refusal) -> Mapping[str, Tensor]:
        name = f"{self.paths[row].parent.name}/{self.paths[row].name}"
        if isinstance(outcome, Refusal):
            raise Refusal(outcome.code, f"{name}: {outcome}", outcome.hint) from outcome
        sha256 = outcome[0].provenance.sha256
        if self.digests.setdefault(row, sha256) != sha256:
            raise Refusal(
                "zoo-changed", f"{name} was written anew since the zoo was opened.", "Open the zoo again."
            )
        tensors = outcome[0].tensors
        found = signature_of(tensors)
        if len(outcome) > 1 or self.signatures.setdefault(int(self.family[row]), found) != found:
            raise Refusal(
                "mixed-layouts",
                f"{name} differs from the other models in tensor names, shapes or dtypes.",
                "Put models of one architecture in one folder.",
            )
        self.cache.put(row, tensors)
        return tensors


def families(signatures: Sequence[Signature]) -> tuple[Rows, dict[int, Signature]]:
    """Number the different signatures in order of appearance: a number for each row, and what each stands for."""
    numbers: dict[Signature, int] = {}
    family = np.asarray([numbers.setdefault(s, len(numbers)) for s in signatures], dtype=np.int64)
    return family, {number: signature for signature, number in numbers.items()}
