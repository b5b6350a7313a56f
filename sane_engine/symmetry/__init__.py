"""Symmetry of networks: find it, permute by it, align by it.

Every name is imported on first use, so that importing this package loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sane_engine.symmetry.aligning import align as align
    from sane_engine.symmetry.aligning import align_zoo as align_zoo
    from sane_engine.symmetry.aligning import distance as distance
    from sane_engine.symmetry.aligning import match as match
    from sane_engine.symmetry.families import symmetry_of_tensors as symmetry_of_tensors
    from sane_engine.symmetry.permutations import Permutations as Permutations
    from sane_engine.symmetry.spec import Symmetry as Symmetry
    from sane_engine.symmetry.tracing import find_symmetry as find_symmetry

_HOME = {
    "Permutations": "permutations",
    "Symmetry": "spec",
    "align": "aligning",
    "align_zoo": "aligning",
    "distance": "aligning",
    "find_symmetry": "tracing",
    "match": "aligning",
    "symmetry_of_tensors": "families",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
