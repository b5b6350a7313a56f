"""The signature of a model: names, shapes and dtypes of its tensors, without the tensors and without torch.

Models of equal signature can be stacked. The token layout of a model is a finer thing and lives in ``tokens``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Parameter:
    """One named tensor of a model.

    Attributes:
        name: Name in the state dict.
        shape: Shape for one model (a stack of n has ``[n, *shape]``).
        dtype: Short name, for example ``"float32"``.
        tied_to: Name of an earlier tensor that is the same memory; such a tensor is not stored twice.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    tied_to: str | None = None

    def to_json(self) -> dict[str, Any]:
        """A JSON object; ``tied_to`` only where there is one."""
        entry: dict[str, Any] = {"name": self.name, "shape": list(self.shape), "dtype": self.dtype}
        return entry if self.tied_to is None else {**entry, "tied_to": self.tied_to}


Signature = tuple[Parameter, ...]


def signature_from_json(entries: Sequence[Mapping[str, Any]]) -> Signature:
    """Inverse of :meth:`Parameter.to_json` over all tensors."""
    return tuple(
        Parameter(str(e["name"]), tuple(int(s) for s in e["shape"]), str(e["dtype"]), e.get("tied_to"))
        for e in entries
    )


def signature_of(tensors: Mapping[str, Tensor], *, stacked: bool = False) -> Signature:
    """The signature of one model, or of a stack of models whose first dimension is the model."""
    from sane_engine.ties import memory_key

    first: dict[object, str] = {}
    parameters = []
    for name, tensor in tensors.items():
        shape = tuple(tensor.shape[1:] if stacked else tensor.shape)
        dtype = str(tensor.dtype).removeprefix("torch.")
        owner = first.setdefault(memory_key(tensor), name)
        parameters.append(Parameter(name, shape, dtype, None if owner == name else owner))
    return tuple(parameters)


def tie(tensors: Mapping[str, Tensor], signature: Signature) -> dict[str, Tensor]:
    """All tensors in the signature's order, tied ones as the same object."""
    return {p.name: tensors[p.tied_to or p.name] for p in signature}
