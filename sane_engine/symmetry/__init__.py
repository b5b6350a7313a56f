"""Symmetry of networks: find it, permute by it, align by it.

Every name is imported on first use, so that importing this package loads no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sane_engine.exports import lazily

if TYPE_CHECKING:
    from sane_engine.symmetry.activations import ActivationMatch as ActivationMatch
    from sane_engine.symmetry.activations import match_activations as match_activations
    from sane_engine.symmetry.aligning import align as align
    from sane_engine.symmetry.aligning import align_zoo as align_zoo
    from sane_engine.symmetry.aligning import distance as distance
    from sane_engine.symmetry.aligning import match as match
    from sane_engine.symmetry.families import symmetry_of_tensors as symmetry_of_tensors
    from sane_engine.symmetry.interpolating import Barrier as Barrier
    from sane_engine.symmetry.interpolating import barrier as barrier
    from sane_engine.symmetry.moving import Movement as Movement
    from sane_engine.symmetry.moving import groups_table as groups_table
    from sane_engine.symmetry.moving import movement as movement
    from sane_engine.symmetry.of_zoo import symmetry_of_zoo as symmetry_of_zoo
    from sane_engine.symmetry.of_zoo import with_symmetry as with_symmetry
    from sane_engine.symmetry.permutations import Permutations as Permutations
    from sane_engine.symmetry.spec import Symmetry as Symmetry
    from sane_engine.symmetry.tracing import find_symmetry as find_symmetry

_HOME = {
    "Barrier": "interpolating",
    "Movement": "moving",
    "ActivationMatch": "activations",
    "Permutations": "permutations",
    "Symmetry": "spec",
    "align": "aligning",
    "align_zoo": "aligning",
    "barrier": "interpolating",
    "distance": "aligning",
    "find_symmetry": "tracing",
    "groups_table": "moving",
    "match": "aligning",
    "movement": "moving",
    "match_activations": "activations",
    "symmetry_of_tensors": "families",
    "symmetry_of_zoo": "of_zoo",
    "with_symmetry": "of_zoo",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazily(__name__, _HOME)
