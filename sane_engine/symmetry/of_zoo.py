"""The symmetry of the networks of a zoo: from its architecture, from what lies beside it, or from the tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from sane_engine.symmetry.families import symmetry_of_tensors
from sane_engine.symmetry.restricting import without_signs
from sane_engine.symmetry.spec import Symmetry

if TYPE_CHECKING:
    from sane_engine.zoo.zoo import Zoo

Shapes = Mapping[str, tuple[int, ...]]


def symmetry_of_zoo(zoo: Zoo, row: int | None = None) -> Symmetry:
    """Which neurons of a zoo's networks may change places, and signs, without changing what they compute.

    In this order: the module that ``zoo.architecture`` rebuilds, where it has the zoo's tensors; the
    ``symmetry.json`` beside the zoo, where it fits them; :func:`symmetry_of_tensors`. Signs flip only if the
    activation of *every* row is odd: the table's ``activation`` column counts, where there is one.

    Args:
        zoo: Networks of one layout, or several.
        row: Asks for the layout of this row, and for the rows that share it; needed where there are several.

    Returns:
        The symmetry; a trivial one whose note says why where nothing is known.

    Raises:
        IndexError: No such row.
    """
    if len(zoo) == 0:
        return _unknown("the zoo has no models")
    groups = zoo.layout_groups()
    if row is None and len(groups) > 1:
        return _unknown(f"the zoo has {len(groups)} layouts: ask for one of its rows")
    first = int(groups[0][0]) if row is None else row
    if not 0 <= first < len(zoo):
        raise IndexError(f"row {row} of {len(zoo)}")
    rows = next(members for members in groups if first in members)
    shapes = {p.name: p.shape for p in zoo.signature(first)}
    notes: list[str] = []
    if zoo.architecture is not None:
        found = _of_architecture(zoo.select(rows), shapes, notes)
        if found is not None:
            return found
    if zoo.symmetry is not None:
        found = _of_text(zoo.symmetry, shapes, notes)
        if found is not None:
            return found
    found = symmetry_of_tensors(zoo.tensors(first))
    return replace(found, notes=(*notes, *found.notes))


def with_symmetry(zoo: Zoo, *symmetries: Symmetry) -> Zoo:
    """The same zoo with what is known of its networks; :meth:`Zoo.save` then writes ``symmetry.json`` beside it.

    Args:
        zoo: Any zoo.
        symmetries: One for each layout that is known.

    Raises:
        ValueError: One of them fits none of the zoo's layouts.
    """
    layouts = [{p.name: p.shape for p in zoo.signature(int(group[0]))} for group in zoo.layout_groups()]
    for symmetry in symmetries:
        if not any(_fits(symmetry, shapes) for shapes in layouts):
            raise ValueError("this symmetry belongs to another network than the zoo's")
    same = zoo.select(slice(None))
    texts = [symmetry.to_json() for symmetry in symmetries]
    same.symmetry = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]" if texts else None
    return same


def _unknown(reason: str) -> Symmetry:
    return Symmetry((), (), {}, (f"unknown: not aligned ({reason})",))


def _fits(symmetry: Symmetry, shapes: Shapes) -> bool:
    return all(shapes.get(name) == symmetry.shape(name) for name in symmetry.tensors)


def _of_architecture(zoo: Zoo, shapes: Shapes, notes: list[str]) -> Symmetry | None:
    import torch

    from sane_engine.symmetry.tracing import find_symmetry
    from sane_engine.zoo.architectures import as_architecture, build
    from sane_engine.zoo.spec import ACTIVATIONS, SpecError

    try:
        architecture = as_architecture(zoo.architecture or {})
    except (SpecError, TypeError, ValueError) as error:
        notes.append(f"the zoo's architecture is not known here: {error}")
        return None
    if architecture.shapes != dict(shapes):
        notes.append("the zoo's architecture has other tensors than its models")
        return None
    told = zoo.table["activation"].tolist() if "activation" in zoo.table else [architecture.activation]
    known = sorted({name for name in told if name in ACTIVATIONS})
    example = torch.randn(2, *architecture.input_shape, generator=torch.Generator().manual_seed(0))
    found = [
        find_symmetry(build(replace(architecture, activation=name)), example)
        for name in known or [architecture.activation]
    ]
    fewest = min(found, key=lambda symmetry: len(symmetry.signs))
    return fewest if all(name in known for name in told) else without_signs(fewest)


def _of_text(text: str, shapes: Shapes, notes: list[str]) -> Symmetry | None:
    try:
        content = json.loads(text)
        entries = content if isinstance(content, list) else [content]
        symmetries = [Symmetry.from_json(json.dumps(entry)) for entry in entries]
    except (ValueError, RecursionError) as error:
        notes.append(f"symmetry.json cannot be read: {error}")
        return None
    for symmetry in symmetries:
        if symmetry.tensors and _fits(symmetry, shapes):
            return symmetry
    notes.append("symmetry.json belongs to another network")
    return None
