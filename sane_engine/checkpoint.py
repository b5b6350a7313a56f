"""A checkpoint: named tensors, what is known about them, and where they came from.

Nothing here imports torch at run time, so a page can show a table of checkpoints before torch is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

Property = float | int | str | bool


class Refusal(ValueError):
    """A file that is not loaded, and why, in words for the person who dropped it.

    Attributes:
        code: Stable identifier in kebab case, for example ``"truncated"``.
        hint: One short sentence: what to do next.
    """

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint

    def line(self) -> str:
        """The refusal as one line: what is wrong, then what to do."""
        return f"{self} {self.hint}".strip()

    def __reduce__(self) -> tuple[type[Refusal], tuple[str, str, str]]:
        return (type(self), (self.code, str(self), self.hint))


def is_running_statistic(name: str) -> bool:
    """Whether a tensor of this name is what a normalisation layer measured, and no optimiser trained."""
    return name.rsplit(".", 1)[-1] in ("running_mean", "running_var")


@dataclass(frozen=True)
class Provenance:
    """Where the tensors of a checkpoint came from.

    Attributes:
        sha256: Hex digest of the file's bytes; of a sharded checkpoint, of its index followed by its shards.
        container: ``"safetensors"``, ``"safetensors-sharded"``, ``"torch-zip"``, ``"torch-legacy"``, ``"npz"``,
            ``"onnx"``, ``"pickle"`` (arrays in a plain pickle) or ``"memory"``, for what never was a file.
        size_bytes: Size of the file.
        key_path: Keys that were followed from the top of the file to the state dict, outermost first.
        prefixes_stripped: Prefixes common to all tensor names that were removed, outermost first.
        ignored: Entries that are not part of the checkpoint, each with the reason.
        dtypes: How many tensors have each dtype, by the dtype's short name (``"float32"``).
    """

    sha256: str
    container: str
    size_bytes: int
    key_path: tuple[str, ...] = ()
    prefixes_stripped: tuple[str, ...] = ()
    ignored: tuple[tuple[str, str], ...] = ()
    dtypes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class TensorEntry:
    """What a file says of one tensor before it is read.

    Attributes:
        name: Its name.
        dtype: Short name, as torch has it (``"float32"``).
        shape: Its axes.
        n_bytes: Bytes it has in memory.
        tied_to: The earlier name that is the same tensor, or None.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    n_bytes: int
    tied_to: str | None = None

    @property
    def elements(self) -> int:
        """Number of entries."""
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def is_floating_point(self) -> bool:
        """Whether torch counts it among the floating-point tensors."""
        return self.dtype.startswith(("float", "bfloat"))


@dataclass(frozen=True)
class Checkpoint:
    """One network's weights.

    Attributes:
        name: What to call it on screen; never a path of this machine.
        tensors: Tensor name → CPU tensor, in file order. Tied tensors are the same object.
        properties: What the file says about the model (``accuracy``, ``epoch`` …).
        provenance: Where it came from.
        entries: The same tensors as a table, known without reading them; empty for tensors that never were a file.
    """

    name: str
    tensors: Mapping[str, Tensor]
    properties: Mapping[str, Property]
    provenance: Provenance
    entries: tuple[TensorEntry, ...] = ()

    @property
    def n_parameters(self) -> int:
        """Number of floating-point entries without running statistics; tied tensors count once, integers not."""
        return sum(n for name, n in self._sizes() if not is_running_statistic(name))

    @property
    def n_buffers(self) -> int:
        """Number of entries in running means and variances, which are measured and not trained."""
        return sum(n for name, n in self._sizes() if is_running_statistic(name))

    def _sizes(self) -> list[tuple[str, int]]:
        if self.entries:
            return [(e.name, e.elements) for e in self.entries if e.is_floating_point and e.tied_to is None]
        unique = {id(t): (name, t) for name, t in self.tensors.items() if t.is_floating_point()}
        return [(name, t.numel()) for name, t in unique.values()]
