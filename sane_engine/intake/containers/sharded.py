"""A safetensors checkpoint in several files, held together by an index: ``{"weight_map": {tensor: shard}}``."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from sane_engine.intake import refusals
from sane_engine.intake.containers.safetensors import read_safetensors
from sane_engine.intake.limits import Limits
from sane_engine.intake.sniff import sniff
from sane_engine.intake.sources import Source
from sane_engine.intake.tree import Contents, TensorView


@dataclass(frozen=True)
class Index:
    """Tensor name → shard, and the files it names."""

    weight_map: dict[str, str]

    @property
    def shards(self) -> tuple[str, ...]:
        """File names beside the index, without folders."""
        return tuple(sorted(set(self.weight_map.values())))


def read_index(source: Source, limits: Limits) -> Index:
    """Read the index itself.

    Raises:
        Refusal: ``damaged``, ``unsupported`` (an index of pickled shards) or ``too-large``.
    """
    if source.size > limits.header_bytes:
        raise refusals.too_large(f"an index of {refusals.size(source.size)}")
    try:
        table = json.loads(source.read(0, source.size))["weight_map"]
    except (ValueError, RecursionError, KeyError, TypeError):
        raise refusals.damaged("its index is not valid JSON") from None
    if not isinstance(table, dict) or not all(isinstance(shard, str) for shard in table.values()) or not table:
        raise refusals.damaged("its index names no shards")
    index = Index(table)
    for shard in index.shards:
        # A shard lies beside its index. Anything else would let an index read files of the machine.
        if shard in {"", ".", ".."} or any(c in shard for c in "/\\\0:"):
            raise refusals.damaged("its index names a file in another folder")
    return index


def read_sharded(
    index: Index, open_shard: Callable[[str], Source], limits: Limits
) -> tuple[Contents, list[Source]]:
    """Read the header of every shard; tensors come shard after shard, in the order of their data.

    Returns:
        The contents, and the shards in the order of their names.

    Raises:
        Refusal: ``missing-shard``, ``unsupported``, ``damaged`` or ``too-large``.
    """
    contents = Contents("safetensors-sharded", {}, flat=True)
    tensors: dict[str, TensorView] = {}
    sources, total = [], 0
    for shard in index.shards:
        source = open_shard(shard)
        total += source.size
        if total > limits.file_bytes:
            raise refusals.too_large(refusals.size(total))
        if sniff(source) != "safetensors":
            raise refusals.unsupported("Shards that are not safetensors", "Save the model as safetensors.")
        part = read_safetensors(source, limits)
        sources.append(source)
        contents.ignored.extend(part.ignored)
        contents.metadata.update(part.metadata)
        assert isinstance(part.root, dict)
        for name, tensor in part.root.items():
            if index.weight_map.get(name) != shard:
                contents.ignored.append((name, "in a shard, but not in the index"))
            else:
                tensors[name] = tensor
    left_out = {name for name, _ in contents.ignored}
    if any(name not in tensors and name not in left_out for name in index.weight_map):
        raise refusals.damaged("its index names a tensor that no shard holds")
    contents.root = tensors
    return contents, sources
