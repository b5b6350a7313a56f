"""Which tensors of a network are one and the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor


def memory_key(tensor: Tensor) -> object:
    """A key that two tensors share exactly if they are tied: the same place in memory, read the same way.

    ``module.state_dict()`` makes a new tensor object for every name, so being the same object is not enough.
    """
    address = tensor.data_ptr() if tensor.layout is torch.strided else 0
    # Tensors without elements or without memory (meta) have no address: they are tied if they are one object.
    return (address, tensor.shape, tensor.stride(), tensor.dtype) if address else id(tensor)


def once_each(tensors: Mapping[str, Tensor], make: Callable[[str, Tensor], Tensor]) -> dict[str, Tensor]:
    """``make(name, tensor)`` of every tensor; of tied ones only of the first, and its result is theirs too."""
    owners: dict[object, str] = {}
    made: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        owner = owners.setdefault(memory_key(tensor), name)
        made[name] = made[owner] if owner != name else make(name, tensor)
    return made
