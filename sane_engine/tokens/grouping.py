"""Which tensors of a state dict make up a layer, and along which axis its output channels lie.

Only names and shapes are read, so a checkpoint without its code is enough. A wrong guess never loses anything: the
layout records the choice and undoes it. It only decides which numbers share a token.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

Shape = tuple[int, ...]
View = tuple[int, int, int, int]
OutputAxis = int | tuple[int, int]
"""The axis of the output channels, or ``(axis, groups)`` for a grouped transposed convolution."""

_PARAMETRIZED = re.compile(r"(?:(?P<module>.+)\.)?parametrizations\.(?P<leaf>[^.]+)\.original(?P<part>[01]?)")
# Names outside torch.nn: the norms of TensorFlow ports and of TransformerLens.
_BIAS_NAMES = {"gamma": "beta", "w": "b"}


@dataclass(frozen=True)
class Member:
    """One tensor of a layer.

    Attributes:
        name: The tensor's name.
        view: The tensor's shape as (groups, axes before, output axis, axes after). Its rows are groups × output
            axis, the values of a row are the axes before × the axes after.
        axis: The output axis, for the reader; ``view`` says all that is needed to undo it.
    """

    name: str
    view: View
    axis: int = 0

    @property
    def rows(self) -> int:
        """Number of output channels."""
        return self.view[0] * self.view[2]

    @property
    def width(self) -> int:
        """Number of values a row."""
        return self.view[1] * self.view[3]


@dataclass(frozen=True)
class Group:
    """The tensors of one layer, in column order; ``name`` is the module they belong to, or the tensor's own."""

    name: str
    members: tuple[Member, ...]


@dataclass(frozen=True)
class _Anchor:
    """A tensor that may have companions: module and parameter name, freed from how the parameter is stored."""

    module: str
    leaf: str
    companions: tuple[str, ...]
    """Full names of the tensors that may join, in column order; the bias, which tells the output axis, is first."""


def group_tensors(
    shapes: Mapping[str, Shape], own: Collection[str], output_axes: Mapping[str, OutputAxis]
) -> list[Group]:
    """Group tensors into layers, in file order (a layer stands where its first member stands).

    Args:
        shapes: Shape of every floating-point tensor, in file order, also of those that are only evidence (tied).
        own: Names to be placed; each ends in exactly one group.
        output_axes: Output axes the caller knows, by tensor name.

    Raises:
        ValueError: An output axis is given for a tensor that cannot have it.
    """
    anchors = {name: anchor for name in shapes if (anchor := _anchor(name, shapes))}
    axes = _output_axes(shapes, anchors, output_axes)
    claimed: set[str] = set()
    drafts: list[tuple[str, tuple[Member, ...]]] = []
    # Weights before running statistics, which lead a layer only where a norm has no weight of its own.
    for name in sorted((n for n in anchors if n in own), key=lambda n: anchors[n].leaf == "running_mean"):
        if name in claimed:
            continue
        matrix = _member(name, shapes[name], *axes[name])
        companions = tuple(
            Member(other, (1, 1, matrix.rows, 1))
            for other in anchors[name].companions
            if other in own and other not in claimed and _one_value_a_row(shapes[other], shapes[name], matrix)
        )
        members = (matrix, *companions)
        claimed.update(member.name for member in members)
        module = anchors[name].module if anchors[name].leaf in ("weight", *_BIAS_NAMES, "running_mean") else ""
        drafts.append((module, members))
    for name in own:
        if name not in claimed:
            known = name in axes
            shape = shapes[name] if known else _without_batch_axes(name, shapes[name])
            drafts.append(("", (_member(name, shape, *(axes[name] if known else (0, 1))),)))
    order = {name: i for i, name in enumerate(shapes)}
    drafts.sort(key=lambda draft: min(order[member.name] for member in draft[1]))
    modules = Counter(module for module, _ in drafts)
    return [
        Group(module if module and modules[module] == 1 and module not in shapes else members[0].name, members)
        for module, members in drafts
    ]


def _join(module: str, leaf: str) -> str:
    return f"{module}.{leaf}" if module else leaf


def _anchor(name: str, names: Collection[str]) -> _Anchor | None:
    """What ``name`` is the main tensor of, or None where it can only be a companion or stand alone."""
    stored: tuple[str, ...] = ()
    if match := _PARAMETRIZED.fullmatch(name):
        module, leaf, part = match["module"] or "", match["leaf"], match["part"]
        magnitude = f"{name[:-1]}0"
        if part == "0" or (part == "1" and magnitude not in names):
            return None
        stored = (magnitude,) if part == "1" else ()
    else:
        module, _, leaf = name.rpartition(".")
        partner = {"_g": "_v", "_u": "_orig"}.get(leaf[-2:])
        if partner and _join(module, f"{leaf[:-2]}{partner}") in names:
            return None
        if leaf.endswith("_v") and _join(module, f"{leaf[:-2]}_g") in names:  # weight normalisation
            leaf = leaf[:-2]
            stored = (_join(module, f"{leaf}_g"),)
        elif leaf.endswith("_orig"):  # spectral normalisation, pruning
            leaf = leaf[:-5]
            stored = (_join(module, f"{leaf}_u"),)
    if leaf == "running_mean":
        return _Anchor(module, leaf, (_join(module, "bias"), _join(module, "running_var")))
    if leaf not in _BIAS_NAMES and "weight" not in leaf:
        return None
    bias = _BIAS_NAMES.get(leaf) or leaf.replace("weight", "bias", 1)
    statistics = ("running_mean", "running_var") if leaf in ("weight", "gamma") else ()
    return _Anchor(module, leaf, (_join(module, bias), *stored, *(_join(module, each) for each in statistics)))


def _output_axes(
    shapes: Mapping[str, Shape], anchors: Mapping[str, _Anchor], given: Mapping[str, OutputAxis]
) -> dict[str, tuple[int, int]]:
    """Output axis and number of groups of each anchor and of each tensor in ``given``.

    The caller's word counts first, then the length of the bias. Where that says nothing (square, or no bias),
    layers of the same name elsewhere in the checkpoint decide: GPT-2's ``mlp.c_proj`` for its ``attn.c_proj``.
    """
    axes: dict[str, tuple[int, int]] = {}
    votes: dict[tuple[str, str, int], set[int]] = {}
    undecided: list[tuple[str, tuple[str, str, int]]] = []
    for name, axis in given.items():
        if name not in shapes:
            raise ValueError(f"output_axes names {name!r}, which is not a floating-point tensor of this model")
        axes[name] = _given_axis(name, shapes, anchors.get(name), axis)
    for name, anchor in anchors.items():
        shape = shapes[name]
        key = (anchor.module.rpartition(".")[2], anchor.leaf, len(shape))
        if name not in axes:
            if len(shape) < 2:
                axes[name] = (0, 1)
                continue
            found = _axis_from_bias(shape, _length(shapes.get(anchor.companions[0])))
            if found is None:
                undecided.append((name, key))
                continue
            axes[name] = found
        votes.setdefault(key, set()).add(axes[name][0])
    for name, key in undecided:
        # A number (Sequential) says nothing about the kind of layer; contradicting namesakes neither.
        agreed = votes.get(key, set()) if not key[0].isdigit() else set()
        axes[name] = (1, 1) if agreed == {1} else (0, 1)
    return axes


def _given_axis(
    name: str, shapes: Mapping[str, Shape], anchor: _Anchor | None, axis: OutputAxis
) -> tuple[int, int]:
    shape = shapes[name]
    index, groups = axis if isinstance(axis, tuple) else (axis, None)
    if not -len(shape) <= index < max(len(shape), 1):
        raise ValueError(f"output axis {index} of {name!r} is out of range for shape {list(shape)}")
    index = index % len(shape) if shape else 0
    if groups is None:
        bias = _length(shapes.get(anchor.companions[0])) if anchor else None
        groups = (_transposed_groups(shape, bias) if index == 1 else None) or 1
    if groups < 1 or (groups > 1 and (index != 1 or shape[0] % groups)):
        raise ValueError(f"{name!r} of shape {list(shape)} has no {groups} groups along its output axis {index}")
    return index, groups


def _axis_from_bias(shape: Shape, bias: int | None) -> tuple[int, int] | None:
    """Output axis and groups of a weight from the length of its bias, or None where that does not tell."""
    if bias is None or (bias == shape[0] == shape[1]):
        return None
    if bias == shape[0]:
        return 0, 1
    groups = _transposed_groups(shape, bias)
    return None if groups is None else (1, groups)


def _transposed_groups(shape: Shape, bias: int | None) -> int | None:
    """Groups of a transposed weight [in, out / groups, …], or None if a bias of that length does not fit it."""
    if bias is None or not shape[1] or bias % shape[1]:
        return None
    groups = bias // shape[1]
    fits = groups == 1 or (len(shape) >= 3 and shape[0] % groups == 0)
    return groups if fits else None


def _length(shape: Shape | None) -> int | None:
    return shape[0] if shape is not None and len(shape) == 1 and shape[0] > 0 else None


def _member(name: str, shape: Shape, axis: int, groups: int) -> Member:
    if not shape:
        return Member(name, (1, 1, 1, 1))
    before, after = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    return Member(name, (groups, before // groups, shape[axis], after), axis)


def _one_value_a_row(shape: Shape, matrix_shape: Shape, matrix: Member) -> bool:
    size = math.prod(shape)
    if size != matrix.rows or max(shape, default=1) != size:
        return False
    # A magnitude of weight normalisation keeps its axes: it must vary along the output axis and no other.
    same_axes = len(shape) == len(matrix_shape) > 1
    return not same_axes or (shape[matrix.axis] == size and matrix.view[0] == 1)


def _without_batch_axes(name: str, shape: Shape) -> Shape:
    """Drop the leading axes of length one of a positional table or class token, which broadcast over the batch."""
    if name.rpartition(".")[2] == "kernel":
        return shape
    while len(shape) > 2 and shape[0] == 1:
        shape = shape[1:]
    return shape
