"""Universal neural functionals: networks that read weights, equivariant by construction.

Zhou, Finn & Harrison, "Universal Neural Functionals" (2024, arXiv:2402.05232). Importing this loads no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sane_engine.exports import lazily

if TYPE_CHECKING:
    from sane_engine.baselines.functional.layer import EquivariantLayer as EquivariantLayer
    from sane_engine.baselines.functional.layer import EquivariantMap as EquivariantMap
    from sane_engine.baselines.functional.spaces import Spaces as Spaces

_HOME = {
    "EquivariantLayer": "layer",
    "EquivariantMap": "layer",
    "Spaces": "spaces",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazily(__name__, _HOME)
