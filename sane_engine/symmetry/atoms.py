"""The pieces an axis is made of: atoms, signs, and the request to begin again.

See :mod:`sane_engine.symmetry.labels` for what they mean together.
"""

from __future__ import annotations

from collections.abc import Sequence

Product = tuple["Leaf", ...]
Axis = tuple[Product, ...]


class Sign:
    """A variable in {−1, +1} for each unit of an atom; united with others like atoms are."""

    __slots__ = ("fixed", "parent", "parts")

    def __init__(self) -> None:
        self.parent: Sign | None = None
        self.fixed = False
        self.parts: tuple[Sign, ...] | None = None


class Atom:
    """``size`` indices that are exchanged together with every other axis that holds this atom."""

    __slots__ = ("concat", "contexts", "dropped", "fixed", "parent", "parts", "serial", "size")

    def __init__(self, size: int, contexts: list[tuple[Atom, ...]], serial: int) -> None:
        self.size = size
        self.parent: Atom | None = None
        self.fixed = False
        self.parts: tuple[Atom, ...] | None = None
        self.concat = False
        self.contexts = contexts
        self.dropped: set[Atom] = set()
        self.serial = serial


Leaf = tuple[Atom, Sign | None]


class Restart(Exception):
    """An atom must be cut where a product was assumed: begin again, with the parameter's axis cut from the start.

    Attributes:
        tensor: Name of the parameter.
        dim: Its axis.
        sizes: Lengths of the stretches, from ``offset`` on.
    """

    def __init__(self, tensor: str, dim: int, offset: int, sizes: Sequence[int]) -> None:
        super().__init__(f"axis {dim} of {tensor} is cut at {offset} into {list(sizes)}")
        self.tensor, self.dim, self.offset, self.sizes = tensor, dim, offset, tuple(sizes)
