"""Write a checkpoint that every tool can read."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sane_engine.workspace import atomic_file

if TYPE_CHECKING:
    from torch import Tensor


def save_checkpoint(tensors: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    """Write named tensors to ``.safetensors``, or to ``.pt`` / ``.pth`` as a plain state dict.

    The file appears complete or not at all. Tensors are written contiguous and from the CPU. Tied tensors stay tied
    in a torch file; safetensors cannot hold shared memory, so each name gets a copy there.

    Args:
        tensors: Name → tensor, of any shape and stride.
        path: Its suffix chooses the format.

    Raises:
        ValueError: Another suffix.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        _save_safetensors(tensors, path)
    elif suffix in {".pt", ".pth"}:
        _save_torch(tensors, path)
    else:
        raise ValueError(f"cannot save as {path.suffix or 'a file without suffix'}: use .safetensors, .pt or .pth")


def _plain(tensor: Tensor) -> Tensor:
    """On the CPU, contiguous, and with every change of sign or conjugation that torch has put off carried out."""
    return tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()


def _save_safetensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    from safetensors.torch import save_file

    from sane_engine.intake.containers.safetensors import ORDER_KEY

    owned = {name: _plain(tensor) for name, tensor in tensors.items()}
    seen: set[int] = set()
    for name, tensor in owned.items():
        address = tensor.untyped_storage().data_ptr()
        # A view of a larger storage, or one that another name has: safetensors wants each tensor's memory its own.
        if address in seen or tensor.untyped_storage().nbytes() != tensor.nbytes:
            owned[name] = tensor.clone()
        seen.add(address)
    with atomic_file(path) as temporary:
        save_file(owned, temporary, metadata={"format": "pt", ORDER_KEY: json.dumps([*owned])})


def _save_torch(tensors: Mapping[str, Tensor], path: Path) -> None:
    import torch

    # One contiguous copy a tensor object: names that share the object share the copy, and with it the storage.
    copies: dict[int, Tensor] = {}
    state = {}
    for name, tensor in tensors.items():
        if id(tensor) not in copies:
            plain = _plain(tensor)
            exact = plain.untyped_storage().nbytes() == plain.nbytes
            copies[id(tensor)] = plain if exact else plain.clone()
        state[name] = copies[id(tensor)]
    with atomic_file(path) as temporary:
        torch.save(state, temporary)
