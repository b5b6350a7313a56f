"""Numbers of single networks, computed once: several splits, seeds and representations ask for the same ones."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class Remembered:
    """Rows of tensors in memory, by what they were made of; the oldest go first.

    Args:
        limit: Networks remembered at most.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rows: dict[bytes, tuple[Tensor, ...]] = {}

    def rows(
        self, keys: Sequence[bytes], make: Callable[[list[int]], tuple[Tensor, ...]], at_once: int
    ) -> tuple[Tensor, ...]:
        """The tensors ``[m, …]`` of m networks.

        Args:
            keys: What each network is; see :func:`keys_of`.
            make: From places among the keys to tensors with a row for each.
            at_once: How many to make at a time.
        """
        missing = [place for place, key in enumerate(keys) if key not in self._rows]
        made: dict[bytes, tuple[Tensor, ...]] = {}
        for first in range(0, len(missing), at_once):
            places = missing[first : first + at_once]
            tensors = make(places)
            made |= {keys[p]: tuple(tensor[i].clone() for tensor in tensors) for i, p in enumerate(places)}
        found = [made.get(key) or self._rows[key] for key in keys]
        self._rows.update(made)
        while len(self._rows) > self._limit:
            self._rows.pop(next(iter(self._rows)))
        return tuple(torch.stack(rows) for rows in zip(*found, strict=True))


def keys_of(context: str, tensors: Sequence[Tensor]) -> list[bytes]:
    """What each network is: a digest of the context and of its row of each tensor ``[m, …]``."""
    start = context.encode()
    arrays = [tensor.detach().float().contiguous().numpy() for tensor in tensors]
    keys = []
    for row in range(len(arrays[0])):
        state = hashlib.sha256(start)
        for array in arrays:
            state.update(array[row].tobytes())
        keys.append(state.digest())
    return keys
