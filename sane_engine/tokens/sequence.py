"""Tensors to tokens and back, for one model and for many of one layout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter

import torch
from torch import Tensor, nn

from sane_engine.checkpoint import Refusal
from sane_engine.ties import memory_key
from sane_engine.tokens.bits import TOKENIZED_DTYPES, copy_of
from sane_engine.tokens.grouping import OutputAxis, Shape, group_tensors
from sane_engine.tokens.layout import LayerSlot, Layout, Role, TensorSlot

_Entry = tuple[str, Shape, torch.dtype, str | None, bool]
"""Name, shape, dtype, name of the tensor it is tied to or None, whether it is strided."""

_DTYPE = attrgetter("dtype")


@dataclass(frozen=True, eq=False)
class TokenSequence:
    """One model as tokens.

    Attributes:
        tokens: Float32 [n, d], or float64 if some tensor is; padding is zero.
        mask: Which entries are values, bool [n, d]; shared between sequences, do not write to it.
        positions: Int64 [n, 3]: in the sequence, layer, within the layer; shared, do not write to it.
        layout: How to get the tensors back.
        carried: The tensors that are not tokenised (integers, booleans, complex numbers, no elements).
    """

    tokens: Tensor
    mask: Tensor
    positions: Tensor
    layout: Layout
    carried: Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """Models that share a layout as tokens: like :class:`TokenSequence` with a leading axis of models.

    Attributes:
        tokens: Float32 or float64 [m, n, d].
        mask: Bool [n, d].
        positions: Int64 [n, 3].
        layout: The layout of every model.
        carried: Tensor name → [m, *shape].
    """

    tokens: Tensor
    mask: Tensor
    positions: Tensor
    layout: Layout
    carried: Mapping[str, Tensor]

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def __getitem__(self, index: int) -> TokenSequence:
        carried = {name: tensor[index] for name, tensor in self.carried.items()}
        return TokenSequence(self.tokens[index], self.mask, self.positions, self.layout, carried)

    def __iter__(self) -> Iterator[TokenSequence]:
        return (self[i] for i in range(len(self)))


def layout_of(
    tensors: Mapping[str, Tensor], token_size: int, *, output_axes: Mapping[str, OutputAxis] | None = None
) -> Layout:
    """The token layout of a state dict; reads names, shapes, dtypes and ties, never values.

    Args:
        tensors: State dict: name → tensor, in file order.
        token_size: Values a token.
        output_axes: Axis of the output channels by tensor name, where names and shapes do not tell it
            (see :func:`output_axes_of`).

    Raises:
        ValueError: ``token_size`` < 1, a value that is not a tensor, an impossible axis.
        Refusal: No floating-point tensor (``no-floats``).
    """
    return _cached_layout(_entries(tensors), _checked(token_size), _frozen(output_axes))


def output_axes_of(module: nn.Module) -> dict[str, OutputAxis]:
    """Output axes of the layers of ``module`` that do not keep their output channels in axis 0.

    These are transposed convolutions, with their groups, and the ``Conv1D`` of Hugging Face's GPT-2. Pass the
    result as ``output_axes`` where a square weight without bias would leave it open.
    """
    axes: dict[str, OutputAxis] = {}
    transposed = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    leaves = ("weight", "weight_v", "weight_orig", *(f"parametrizations.weight.original{i}" for i in ("", 1)))
    for prefix, layer in module.named_modules():
        if isinstance(layer, transposed):
            axis: OutputAxis = (1, layer.groups) if layer.groups > 1 else 1
        elif type(layer).__name__ == "Conv1D" and hasattr(layer, "nf"):
            axis = 1
        else:
            continue
        own = layer.state_dict(keep_vars=True)
        names = [leaf for leaf in leaves if leaf in own and own[leaf].dim() > 1]
        axes.update({f"{prefix}.{leaf}" if prefix else leaf: axis for leaf in names})
    return axes


def tokenize(
    tensors: Mapping[str, Tensor], token_size: int, *, output_axes: Mapping[str, OutputAxis] | None = None
) -> TokenSequence:
    """Turn a state dict into a token sequence, one token an output channel, split or padded to ``token_size``.

    Every floating-point tensor comes back bit for bit from :func:`detokenize`; the rest is carried. Nothing in the
    result shares memory with ``tensors``.

    Raises:
        ValueError: As :func:`layout_of`.
    """
    layout = layout_of(tensors, token_size, output_axes=output_axes)
    carried = {name: copy_of(tensors[name]) for name in _carried(layout)}
    return TokenSequence(layout.fold(tensors), layout.mask(), layout.positions(), layout, carried)


def tokenize_batch(
    models: Sequence[Mapping[str, Tensor]] | Mapping[str, Tensor],
    token_size: int,
    *,
    output_axes: Mapping[str, OutputAxis] | None = None,
) -> TokenBatch:
    """Turn models of one layout into tokens [m, n, d] in one pass.

    Args:
        models: State dicts, or one mapping of stacked tensors [m, *shape].
        token_size: Values a token.
        output_axes: As for :func:`layout_of`.

    Raises:
        ValueError: As :func:`layout_of`; no models; or models whose layouts differ (the first difference is named).
    """
    if isinstance(models, Mapping):
        stacked: Mapping[str, Tensor] = models
        layout = _cached_layout(_entries(models, stacked=True), _checked(token_size), _frozen(output_axes))
    else:
        if not models:
            raise ValueError("there are no models to tokenize")
        layout = layout_of(models[0], token_size, output_axes=output_axes)
        stacked = _Columns(models, layout)
    carried = {name: copy_of(stacked[name]) for name in _carried(layout)}
    return TokenBatch(layout.fold(stacked), layout.mask(), layout.positions(), layout, carried)


def detokenize(sequence: TokenSequence) -> dict[str, Tensor]:
    """The state dict of a token sequence: names, order, shapes, dtypes and ties as they were; new memory."""
    return sequence.layout.unfold(sequence.tokens, sequence.carried)


def detokenize_batch(batch: TokenBatch) -> dict[str, Tensor]:
    """The stacked state dict [m, *shape] of a batch; new memory."""
    return batch.layout.unfold(batch.tokens, batch.carried)


def _carried(layout: Layout) -> list[str]:
    return [slot.name for slot in layout.slots if slot.role == "carried"]


def _checked(token_size: int) -> int:
    if isinstance(token_size, bool) or not isinstance(token_size, int) or token_size < 1:
        raise ValueError(f"token_size must be a whole number of at least 1, got {token_size!r}")
    return token_size


def _frozen(output_axes: Mapping[str, OutputAxis] | None) -> tuple[tuple[str, OutputAxis], ...]:
    return tuple(sorted(output_axes.items())) if output_axes else ()


def _entries(tensors: Mapping[str, Tensor], *, stacked: bool = False) -> tuple[_Entry, ...]:
    """What a layout depends on, for each tensor; of stacked tensors without their leading axis."""
    if not isinstance(tensors, Mapping):
        raise ValueError(f"a model is a mapping from names to tensors, got {type(tensors).__name__}")
    entries: list[_Entry] = []
    owners: dict[object, str] = {}
    count: int | None = None
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{name!r} is not a tensor but {type(tensor).__name__}")
        shape = tuple(tensor.shape)
        if stacked:
            if not shape or (count is not None and shape[0] != count):
                raise ValueError(f"{name!r} of shape {list(shape)} does not stack {count or 'several'} models")
            count, shape = shape[0], shape[1:]
        owner = owners.setdefault(memory_key(tensor), name)
        tied_to = owner if owner != name else None
        entries.append((name, shape, tensor.dtype, tied_to, tensor.layout is torch.strided))
    return tuple(entries)


@lru_cache(maxsize=64)
def _cached_layout(
    entries: tuple[_Entry, ...], token_size: int, output_axes: tuple[tuple[str, OutputAxis], ...]
) -> Layout:
    shapes = {name: shape for name, shape, dtype, _, strided in entries if dtype in TOKENIZED_DTYPES and strided}
    own = {name: None for name, _, _, tied_to, _ in entries if tied_to is None and 0 not in shapes.get(name, (0,))}
    if not own:
        raise Refusal(
            "no-floats", "The model has no floating-point tensor.", "Give one with weights, not with integers only."
        )
    dtypes = {name: dtype for name, _, dtype, _, _ in entries}
    layers: list[LayerSlot] = []
    slots: dict[str, TensorSlot] = {}
    start = 0
    for index, group in enumerate(group_tensors(shapes, own, dict(output_axes))):
        column = 0
        for member in group.members:
            role: Role = "column" if column else "matrix"
            name = member.name
            slots[name] = TensorSlot(
                name, shapes[name], dtypes[name], role, index, column, member.axis, member.view
            )
            column += member.width
        chunks = -(-column // token_size)
        names = tuple(member.name for member in group.members)
        layers.append(LayerSlot(group.name, index, group.members[0].rows, column, chunks, start, names))
        start = layers[-1].stop
    for name, shape, dtype, tied_to, _ in entries:
        if tied_to is not None:
            owner = slots[tied_to]
            slots[name] = TensorSlot(name, shape, dtype, "tied", owner.layer, axis=owner.axis, tied_to=tied_to)
        elif name not in slots:
            slots[name] = TensorSlot(name, shape, dtype, "carried")
    return Layout(token_size, tuple(slots[name] for name, *_ in entries), tuple(layers))


class _Columns(Mapping[str, Tensor]):
    """The tensors of several models, stacked when they are asked for, so that only one stack exists at a time.

    The checks run over whole columns in C: a Python loop over models and tensors would cost more than the copy.
    """

    def __init__(self, models: Sequence[Mapping[str, Tensor]], layout: Layout) -> None:
        """Check names and ties against ``layout``, which is that of the first model; the rest when stacking.

        Raises:
            ValueError: A model has another layout; says which model and which tensor.
        """
        self._models = models
        self._dtypes = {slot.name: slot.dtype for slot in layout.slots}
        names = list(self._dtypes)
        if not all(map(names.__eq__, map(list, models))):
            raise _difference(models)
        values = zip(*(model.values() for model in models), strict=True)
        self._columns = dict(zip(names, values, strict=True))
        if not _same_ties(self._columns, layout):
            raise _difference(models)

    def __getitem__(self, name: str) -> Tensor:
        column = self._columns[name]
        try:
            if list(map(_DTYPE, column)).count(self._dtypes[name]) != len(column):
                raise _difference(self._models)
            with torch.inference_mode():  # a third faster than no_grad on many small tensors
                return torch.stack(column)
        except (AttributeError, RuntimeError, TypeError) as error:  # another shape; not a tensor
            raise _difference(self._models) from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)


def _same_ties(columns: Mapping[str, tuple[Tensor, ...]], layout: Layout) -> bool:
    """Whether the tensors of each model are tied as those of the first; only equal shapes and dtypes can be."""
    alike: dict[tuple[Shape, torch.dtype], list[TensorSlot]] = {}
    for slot in layout.slots:
        alike.setdefault((slot.shape, slot.dtype), []).append(slot)
    for slots in alike.values():
        if len(slots) == 1:
            continue
        owners = [next(i for i, each in enumerate(slots) if each.name in (s.tied_to, s.name)) for s in slots]
        for tensors in zip(*(columns[slot.name] for slot in slots), strict=True):
            places = [memory_key(tensor) if isinstance(tensor, Tensor) else None for tensor in tensors]
            if [places.index(place) for place in places] != owners:
                return False
    return True


def _difference(models: Sequence[Mapping[str, Tensor]]) -> ValueError:
    """The first difference between the layout of the first model and another, in words."""
    first = {entry[0]: entry for entry in _entries(models[0])}
    for i, model in enumerate(models):
        try:
            entries = {entry[0]: entry for entry in _entries(model)}
        except ValueError as error:
            return ValueError(f"model {i}: {error}")
        for name in entries:
            if name not in first:
                return ValueError(f"model {i} has a tensor {name!r} that model 0 lacks")
        for name in first:
            if name not in entries:
                return ValueError(f"model {i} lacks the tensor {name!r} of model 0")
        if list(entries) != list(first):
            return ValueError(f"model {i} has the tensors of model 0 in another order")
        for name, entry in entries.items():
            if entry != first[name]:
                return ValueError(f"{name!r} of model {i} is {_words(entry)}, of model 0 {_words(first[name])}")
    return ValueError("the models cannot be stacked: their tensors lie on different devices")


def _words(entry: _Entry) -> str:
    _, shape, dtype, tied_to, strided = entry
    kind = "" if strided else "sparse "
    tied = f" tied to {tied_to!r}" if tied_to is not None else ""
    return f"{kind}{str(dtype).removeprefix('torch.')} {list(shape)}{tied}"
