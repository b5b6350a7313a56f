"""Which tensors of a network are one and the same."""

from __future__ import annotations

import torch
from torch import Tensor


def memory_key(tensor: Tensor) -> object:
    """A key that two tensors share exactly if they are tied: the same place in memory, read the same way.

    ``module.state_dict()`` makes a new tensor object for every name, so being the same object is not enough.
    """
    address = tensor.data_ptr() if tensor.layout is torch.strided else 0
    # Tensors without elements or without memory (meta) have no address: they are tied if they are one object.
    return (address, tensor.shape, tensor.stride(), tensor.dtype) if address else id(tensor)
