"""Universal neural functionals: networks that read weights, equivariant by construction.

Zhou, Finn & Harrison, "Universal Neural Functionals" (2024, arXiv:2402.05232), built from a
:class:`~sane_engine.symmetry.Symmetry`, so from any network that could be traced. What is theirs: the basis of
equivariant linear maps given by valid partitions, layers of them with pointwise nonlinearities between, pooling at
the end. What differs here:

- axes that nothing permutes (kernel positions, input channels, classes) are channels, each entry with its own
  coefficients, so no positional encoding is needed and the basis is that of the symmetry itself;
- tensors with the same permutable axes share their hidden channels, and each basis map is pooling, one matrix for
  all tensors that meet, and broadcasting; its rank is bounded, so that cost is linear in the number of tensors;
- means instead of sums, layer norms over channels, residual layers;
- units inside heads and groups (wreath products), which one permutation a group does not describe;
- sign flips: weights that flip enter by their size, and by products that do not flip.

Importing this loads no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sane_engine.exports import lazily

if TYPE_CHECKING:
    from sane_engine.baselines.functional.layer import EquivariantLayer as EquivariantLayer
    from sane_engine.baselines.functional.layer import EquivariantMap as EquivariantMap
    from sane_engine.baselines.functional.network import Functional as Functional
    from sane_engine.baselines.functional.representation import FunctionalConfig as FunctionalConfig
    from sane_engine.baselines.functional.representation import FunctionalRepresentation as FunctionalRepresentation
    from sane_engine.baselines.functional.spaces import Spaces as Spaces

_HOME = {
    "EquivariantLayer": "layer",
    "EquivariantMap": "layer",
    "Functional": "network",
    "FunctionalConfig": "representation",
    "FunctionalRepresentation": "representation",
    "Spaces": "spaces",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazily(__name__, _HOME)
