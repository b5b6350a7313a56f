"""Several zoos as one: for an encoder that is to know networks of more than one architecture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from sane_engine.checkpoint import Refusal
from sane_engine.zoo.signature import Signature, tie
from sane_engine.zoo.sources import Rows, stacked_digest
from sane_engine.zoo.zoo import Zoo

if TYPE_CHECKING:
    from torch import Tensor


def combine_zoos(zoos: Sequence[Zoo], *, most: int | None = None, seed: int = 0) -> Zoo:
    """One zoo of all the checkpoints of several, whatever their architectures; tensors are not read.

    Models are called ``zoo/model``, the column ``zoo`` says where they come from, splits stay as they are. Of the
    other columns all are kept; what a zoo does not know of its models is missing.

    Args:
        zoos: At least one; a single one comes back as it is unless it is thinned.
        most: Take at most this many checkpoints of each, drawn by the seed.
        seed: Which are drawn.

    Raises:
        Refusal: There is no zoo (``no-zoo``), or two have the same name (``same-name``).
    """
    if not zoos:
        raise Refusal("no-zoo", "There is no zoo to combine.", "Name at least one.")
    names = [zoo.name for zoo in zoos]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise Refusal("same-name", f"Two of the zoos are called {twice}.", "Name each once.")
    random = np.random.default_rng(seed)
    if most is not None:
        drawn = [np.sort(random.permutation(len(zoo))[:most]) for zoo in zoos]
        zoos = [zoo.select(rows) if len(rows) < len(zoo) else zoo for zoo, rows in zip(zoos, drawn, strict=True)]
    if len(zoos) == 1:
        return zoos[0]
    tables = []
    for zoo in zoos:
        table = zoo.table.assign(zoo=zoo.name, model=zoo.name + "/" + zoo.table["model"])
        if any("group" in other.table for other in zoos):
            table["group"] = zoo.name + "/" + zoo.table[zoo.group_column].astype(str)
        tables.append(table)
    provenance = {
        "combined": [{"zoo": zoo.name, "checkpoints": len(zoo), "digest": zoo.digest} for zoo in zoos],
        "seed": seed,
    }
    table = pd.concat(tables, ignore_index=True, sort=False)
    return Zoo(" + ".join(names), table, _CombinedSource(tuple(zoos)), provenance=provenance)


@dataclass(frozen=True)
class _CombinedSource:
    """The rows of several zoos, one after another.

    Attributes:
        zoos: At least one.
    """

    zoos: tuple[Zoo, ...]
    _groups: list[Rows] = field(default_factory=list, compare=False)

    def __len__(self) -> int:
        return sum(len(zoo) for zoo in self.zoos)

    def group_of(self, rows: Rows) -> Rows:
        """Equal numbers for equal signatures, also across zoos."""
        if not self._groups:
            numbers: dict[str, int] = {}
            whole = np.zeros(len(self), dtype=np.int64)
            first = 0
            for zoo in self.zoos:
                for members in zoo.layout_groups():
                    key = json.dumps([p.to_json() for p in zoo.signature(int(members[0]))])
                    whole[first + members] = numbers.setdefault(key, len(numbers))
                first += len(zoo)
            self._groups.append(whole)
        return self._groups[0][rows]

    def signature(self, row: int) -> Signature:
        """See :class:`~sane_engine.zoo.sources.TensorSource`."""
        zoo, own = self._at(row)
        return zoo.signature(own)

    def tensors(self, row: int) -> dict[str, Tensor]:
        """See :class:`~sane_engine.zoo.sources.TensorSource`."""
        zoo, own = self._at(row)
        return zoo.tensors(own)

    def stacked(self, rows: Rows) -> dict[str, Tensor]:
        """See :class:`~sane_engine.zoo.sources.TensorSource`."""
        import torch

        parts: list[dict[str, Tensor]] = []
        places: list[Rows] = []
        first = 0
        for zoo in self.zoos:
            here = np.flatnonzero((rows >= first) & (rows < first + len(zoo)))
            if len(here):
                parts.append(zoo.stacked(rows[here] - first))
                places.append(here.astype(np.int64))
            first += len(zoo)
        if len(parts) == 1:
            return parts[0]
        back = torch.from_numpy(np.argsort(np.concatenate(places)))
        signature = self.signature(int(rows[0]))
        own = [p.name for p in signature if p.tied_to is None]
        return tie({name: torch.cat([part[name] for part in parts])[back] for name in own}, signature)

    def digest(self, rows: Rows) -> str:
        """See :class:`~sane_engine.zoo.sources.TensorSource`."""
        return stacked_digest(self, rows)

    def _at(self, row: int) -> tuple[Zoo, int]:
        for zoo in self.zoos:
            if row < len(zoo):
                return zoo, row
            row -= len(zoo)
        raise IndexError(row)
