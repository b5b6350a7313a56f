"""A zoo: a table of checkpoints, and their tensors read when they are asked for."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sane_engine.checkpoint import Refusal
from sane_engine.zoo.signature import Signature
from sane_engine.zoo.sources import MemorySource, Rows, TensorSource
from sane_engine.zoo.splits import split_by_group
from sane_engine.zoo.table import Kind, as_rows, canonical_bytes, group_column, kind_of, properties_of, validated

if TYPE_CHECKING:
    from torch import Tensor

RowsLike = Sequence[int] | NDArray[Any] | slice


class Zoo:
    """A population of trained networks. Nothing here imports torch until tensors are asked for.

    Attributes:
        name: What to call it on screen.
        table: One row a checkpoint, ``RangeIndex``; ``model`` (str), ``epoch`` (int), ``split``
            (``"train" | "validation" | "test"``), metrics as fractions, hyper-parameters. Treat it as read-only.
        architecture: JSON spec that rebuilds the module, if known.
        provenance: How the zoo was made or where it was read from.
        dropped: ``model`` and ``reason`` of what is not in the table.
        symmetry: Text of the ``symmetry.json`` beside it, if there is one; ``symmetry_of_zoo`` reads it.
    """

    def __init__(
        self,
        name: str,
        table: pd.DataFrame,
        source: TensorSource,
        *,
        architecture: dict[str, Any] | None = None,
        provenance: dict[str, Any] | None = None,
        dropped: pd.DataFrame | None = None,
        rows: Rows | None = None,
        weights_digest: str | None = None,
        symmetry: str | None = None,
    ) -> None:
        self.name = name
        self.table = validated(table)
        self.architecture = architecture
        self.provenance = dict(provenance or {})
        empty = pd.DataFrame({"model": pd.Series(dtype="str"), "reason": pd.Series(dtype="str")})
        self.dropped = empty if dropped is None or dropped.empty else dropped.reset_index(drop=True)
        self._source = source
        self._rows: Rows = np.arange(len(source), dtype=np.int64) if rows is None else rows
        self._weights_digest = weights_digest
        self.symmetry = symmetry
        if len(self.table) != len(self._rows):
            raise Refusal(
                "zoo-table-length",
                f"The table has {len(self.table)} rows but there are {len(self._rows)} models.",
                "Give one row for each model.",
            )

    @classmethod
    def from_stacked(
        cls,
        name: str,
        table: pd.DataFrame,
        stacked: Mapping[str, Tensor],
        *,
        architecture: dict[str, Any] | None = None,
        provenance: dict[str, Any] | None = None,
        dropped: pd.DataFrame | None = None,
    ) -> Zoo:
        """A zoo in memory.

        Args:
            name: What to call it.
            table: One row a model, in the order of the stack.
            stacked: Parameter name → tensor ``[n, …]``, in state dict order.
            architecture: JSON spec that rebuilds the module.
            provenance: How it was made; must be JSON.
            dropped: ``model`` and ``reason`` of models that are left out.
        """
        lengths = {tensor.shape[0] if tensor.ndim else -1 for tensor in stacked.values()}
        if lengths != {len(table)}:
            raise Refusal(
                "zoo-stack-length",
                f"The table has {len(table)} rows; the stacked tensors have {sorted(lengths)} models.",
                "Every stacked tensor needs the models as its first dimension.",
            )
        numbers = np.arange(len(table), dtype=np.int64)
        source = MemorySource((dict(stacked),), np.zeros_like(numbers), numbers)
        return cls(name, table, source, architecture=architecture, provenance=provenance, dropped=dropped)

    @classmethod
    def from_models(
        cls,
        name: str,
        table: pd.DataFrame,
        models: Sequence[Mapping[str, Tensor]],
        *,
        architecture: dict[str, Any] | None = None,
        provenance: dict[str, Any] | None = None,
        dropped: pd.DataFrame | None = None,
    ) -> Zoo:
        """A zoo in memory from one mapping a model; the models may have different layouts."""
        source = MemorySource.of_models(models)
        return cls(name, table, source, architecture=architecture, provenance=provenance, dropped=dropped)

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"Zoo({self.name!r}, {len(self)} checkpoints of {self.table['model'].nunique()} models)"

    @property
    def properties(self) -> list[str]:
        """Columns worth colouring by; :meth:`kind` tells how."""
        return properties_of(self.table)

    def kind(self, column: str) -> Kind:
        """``"numeric"`` or ``"categorical"``."""
        return kind_of(self.table[column])

    @property
    def group_column(self) -> str:
        """The column whose rows stay together in a split: ``"group"`` where there is one, else ``"model"``."""
        return group_column(self.table)

    def tensors(self, row: int) -> dict[str, Tensor]:
        """The tensors of one checkpoint, in file order; tied tensors are the same object.

        Raises:
            IndexError: No such row.
            Refusal: The file is not readable any more.
        """
        return self._source.tensors(int(self._rows[row]))

    def stacked(self, rows: RowsLike | None = None) -> dict[str, Tensor]:
        """The tensors of several checkpoints, ``[len(rows), …]`` each, in the order of ``rows``.

        Raises:
            IndexError: No such row.
            Refusal: The rows do not share names, shapes and dtypes (``mixed-layouts``), or there are none.
        """
        own = self._rows[as_rows(rows, len(self))]
        if not len(own):
            raise Refusal("no-models", "No models are selected.", "Select at least one.")
        if len(set(self._source.group_of(own).tolist())) > 1:
            raise Refusal(
                "mixed-layouts",
                "The selected models differ in tensor names, shapes or dtypes, so they cannot be stacked.",
                "Take the rows of one of layout_groups().",
            )
        return self._source.stacked(own)

    def signature(self, row: int) -> Signature:
        """Names, shapes and dtypes of the tensors of one checkpoint, without reading them if possible."""
        return self._source.signature(int(self._rows[row]))

    def layout_groups(self) -> list[Rows]:
        """Row numbers that share tensor names, shapes and dtypes, a group each, in order of first appearance."""
        groups = self._source.group_of(self._rows)
        return [np.flatnonzero(groups == g).astype(np.int64) for g in dict.fromkeys(groups.tolist())]

    def select(self, rows: RowsLike) -> Zoo:
        """A view of some rows, in their order; tensors are not read. Splits stay as they are."""
        own = as_rows(rows, len(self))
        same = len(own) == len(self) and bool((own == np.arange(len(self))).all())
        return self._like(self.table.iloc[own], self._rows[own], self._weights_digest if same else None)

    def split(self, fractions: Sequence[float] = (0.7, 0.15, 0.15), seed: int = 0) -> Zoo:
        """The same zoo with a new ``split`` column, drawn by model (or by ``group``), never by checkpoint."""
        labels = split_by_group(self.table[self.group_column].to_numpy(), fractions=fractions, seed=seed)
        return self._like(self.table.assign(split=labels), self._rows, self._weights_digest)

    def with_columns(self, **columns: Any) -> Zoo:
        """The same zoo with more (or replaced) columns, one value a row."""
        return self._like(self.table.assign(**columns), self._rows, self._weights_digest)

    def _like(self, table: pd.DataFrame, rows: Rows, weights_digest: str | None) -> Zoo:
        return Zoo(
            self.name,
            table,
            self._source,
            architecture=self.architecture,
            provenance=self.provenance,
            dropped=self.dropped,
            rows=rows,
            weights_digest=weights_digest,
            symmetry=self.symmetry,
        )

    @property
    def weights_digest(self) -> str:
        """Hex sha256 of the tensors in row order, without the table."""
        if self._weights_digest is None:
            self._weights_digest = self._source.digest(self._rows)
        return self._weights_digest

    def with_weights_digest(self) -> Zoo:
        """The same zoo with a digest made of the weights as they are, whatever was said of them; reads them all."""
        return self._like(self.table, self._rows, self._source.digest(self._rows))

    @property
    def digest(self) -> str:
        """Hex sha256 of the content, table and tensors (or their files); saving and loading do not change it."""
        return hashlib.sha256(self.weights_digest.encode() + canonical_bytes(self.table)).hexdigest()

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the native format to the folder ``path``, atomically; what was there is replaced.

        Raises:
            Refusal: ``path`` is something other than a zoo (``not-a-zoo``): it is not overwritten.
        """
        from sane_engine.zoo.native import save_native

        return save_native(self, Path(path))
