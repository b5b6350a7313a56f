"""How a state dict lies in a token sequence: which values of which tensor each token holds."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from sane_engine.tokens.bits import cast_exact, copy_exact, copy_of
from sane_engine.tokens.grouping import Shape, View

Role = Literal["matrix", "column", "tied", "carried"]

FORMAT = 1
"""Version of the JSON form; a layout of another version is refused."""

MAP_CACHE_BYTES = 1 << 29
"""Masks, positions and component maps kept in memory for reuse, all layouts together."""


@dataclass(frozen=True)
class TensorSlot:
    """Where one tensor of the state dict is.

    Attributes:
        name: Its name.
        shape: Its shape.
        dtype: Its format; a tensor that comes back has it again.
        role: ``"matrix"`` leads a layer, ``"column"`` adds one value to each row of it, ``"tied"`` is the same
            memory as another tensor, ``"carried"`` (integers, booleans, complex numbers, sparse, no elements) goes
            beside the tokens.
        layer: Index of its layer, -1 if carried. A tied tensor has its owner's.
        column: Where its values start within a row of the layer, -1 if it has none of its own.
        axis: The axis of its output channels.
        view: Its shape as (groups, axes before, output axis, axes after); ``()`` if it has no values of its own.
        tied_to: Name of the tensor it is the same as, or None.
    """

    name: str
    shape: Shape
    dtype: torch.dtype
    role: Role
    layer: int = -1
    column: int = -1
    axis: int = 0
    view: View | tuple[()] = ()
    tied_to: str | None = None

    @property
    def width(self) -> int:
        """Values a row of the layer."""
        return self.view[1] * self.view[3] if self.view else 0


@dataclass(frozen=True)
class LayerSlot:
    """Where one layer is.

    Attributes:
        name: The module's name, or the tensor's where the module has several layers.
        index: Position in file order.
        rows: Output channels.
        width: Values a row: fan-in plus one for each companion tensor.
        chunks: Tokens a row.
        start: First token.
        members: Tensor names in column order.
    """

    name: str
    index: int
    rows: int
    width: int
    chunks: int
    start: int
    members: tuple[str, ...]

    @property
    def n_tokens(self) -> int:
        """Tokens of the layer: rows × chunks."""
        return self.rows * self.chunks

    @property
    def stop(self) -> int:
        """The token after the last one."""
        return self.start + self.n_tokens


class _MapCache:
    """The most recently used maps, within a budget of bytes; shared by threads."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._maps: OrderedDict[tuple[Layout, str], Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, layout: Layout, kind: str, make: Callable[[], Tensor]) -> Tensor:
        key = (layout, kind)
        with self._lock:
            if key in self._maps:
                self._maps.move_to_end(key)
                return self._maps[key]
        made = make()
        with self._lock:
            self._maps[key] = made
            while sum(each.nbytes for each in self._maps.values()) > self._budget:
                self._maps.popitem(last=False)
        return made


_MAPS = _MapCache(MAP_CACHE_BYTES)


@dataclass(frozen=True, eq=False)
class Layout:
    """The bijection between the tensors of a state dict and a token sequence [n, d].

    Layouts are equal if they agree in everything, including names, formats and ties. The maps below are computed
    once and shared: do not write to them.

    Attributes:
        token_size: Values a token, d.
        slots: One entry a tensor, in the order of the state dict.
        layers: The layers in file order.
    """

    token_size: int
    slots: tuple[TensorSlot, ...]
    layers: tuple[LayerSlot, ...]

    @cached_property
    def n_tokens(self) -> int:
        """Length of the sequence, n."""
        return self.layers[-1].stop

    @cached_property
    def dtype(self) -> torch.dtype:
        """Format of the tokens: float64 if some tokenised tensor needs it, else float32."""
        wide = any(slot.view and slot.dtype == torch.float64 for slot in self.slots)
        return torch.float64 if wide else torch.float32

    @cached_property
    def layer_names(self) -> tuple[str, ...]:
        """Names of the layers in file order; no two are equal."""
        return tuple(layer.name for layer in self.layers)

    @cached_property
    def _key(self) -> tuple[int, tuple[TensorSlot, ...], tuple[LayerSlot, ...], int]:
        return self.token_size, self.slots, self.layers, hash((self.token_size, self.slots, self.layers))

    def __hash__(self) -> int:
        return self._key[3]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Layout):
            return NotImplemented
        return self is other or (hash(self) == hash(other) and self._key[:3] == other._key[:3])

    def __reduce__(self) -> tuple[Callable[[str], Layout], tuple[str]]:
        return Layout.from_json, (self.to_json(),)

    # -- maps ---------------------------------------------------------------------------------------------------

    def mask(self) -> Tensor:
        """Which entries of the tokens are values and not padding, bool [n, d]."""
        return _MAPS.get(self, "mask", self._mask)

    def positions(self) -> Tensor:
        """Position of each token, int64 [n, 3]: in the sequence, layer, within the layer."""
        return _MAPS.get(self, "positions", self._positions)

    def layer_of_token(self) -> Tensor:
        """Index of each token's layer, int64 [n]."""
        return self.positions()[:, 1]

    def component_of_entry(self) -> Tensor:
        """Index into ``slots`` of the tensor each entry belongs to, int64 [n, d]; -1 is padding."""
        return _MAPS.get(self, "component", self._component_of_entry)

    def _mask(self) -> Tensor:
        mask = torch.ones(self.n_tokens, self.token_size, dtype=torch.bool)
        for layer in self.layers:
            self._rows(mask, layer)[:, layer.width :] = False
        return mask

    def _positions(self) -> Tensor:
        counts = torch.tensor([layer.n_tokens for layer in self.layers])
        starts = torch.tensor([layer.start for layer in self.layers])
        layers = torch.repeat_interleave(torch.arange(len(self.layers)), counts)
        index = torch.arange(self.n_tokens)
        return torch.stack((index, layers, index - starts[layers]), dim=1)

    def _component_of_entry(self) -> Tensor:
        component = torch.full((self.n_tokens, self.token_size), -1)
        for i, slot in enumerate(self.slots):
            if slot.view:
                rows = self._rows(component, self.layers[slot.layer])
                rows[:, slot.column : slot.column + slot.width] = i
        return component

    def _rows(self, tokens: Tensor, layer: LayerSlot) -> Tensor:
        """The layer's rows [..., rows, chunks · d], a view of contiguous ``tokens`` [..., n, d]."""
        part = tokens.narrow(-2, layer.start, layer.n_tokens)
        return part.reshape(*tokens.shape[:-2], layer.rows, layer.chunks * self.token_size)

    # -- values -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def fold(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Write tensors [..., *shape] that share leading batch axes into new tokens [..., n, d]; padding is zero.

        Only the tensors that have values of their own (not tied, not carried) are read. Exact, not differentiable.
        """
        n, d = self.n_tokens, self.token_size
        tokens: Tensor | None = None
        batch: Shape = ()
        batch_strides: Shape = ()
        for slot in self.slots:
            if not slot.view:
                continue
            values = tensors[slot.name]
            if tokens is None:
                batch = tuple(values.shape[: values.dim() - len(slot.shape)])
                tokens = torch.empty(*batch, n, d, dtype=self.dtype, device=values.device)
                batch_strides = tokens.stride()[:-2]
            layer = self.layers[slot.layer]
            length = layer.chunks * d
            groups, before, out, after = slot.view
            offset = layer.start * d + slot.column
            if groups == before == 1:
                target = tokens.as_strided((*batch, out, after), (*batch_strides, length, 1), offset)
                values = values.reshape(*batch, out, after)
            else:
                strides = (*batch_strides, out * length, after, length, 1)
                target = tokens.as_strided((*batch, *slot.view), strides, offset)
                values = values.reshape(*batch, *slot.view)
            copy_exact(target, values)
            if slot.role == "matrix" and layer.width < length:
                shape, row_strides = (*batch, layer.rows, length - layer.width), (*batch_strides, length, 1)
                tokens.as_strided(shape, row_strides, layer.start * d + layer.width).zero_()
        if tokens is None:
            raise ValueError("the layout has no tokens")
        return tokens

    def unfold(self, tokens: Tensor, carried: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Read the tensors [..., *shape] back from tokens [..., n, d], in the order of the state dict.

        Tokens may be any floating-point numbers, for example a decoder's output; padding is ignored. The results
        are new contiguous memory, tied tensors are one object, and gradients flow to ``tokens``.

        Args:
            tokens: The token sequence, with any leading batch axes.
            carried: The tensors that are not tokenised, by name; copied as they are.

        Raises:
            ValueError: ``tokens`` does not end in [n, d], or a carried tensor is missing.
        """
        if tokens.dim() < 2 or tuple(tokens.shape[-2:]) != (self.n_tokens, self.token_size):
            expected = f"[..., {self.n_tokens}, {self.token_size}]"
            raise ValueError(f"tokens of this layout have shape {expected}, got {list(tokens.shape)}")
        batch = tokens.shape[:-2]
        result: dict[str, Tensor] = {}
        for slot in self.slots:
            if slot.tied_to is not None:
                result[slot.name] = result[slot.tied_to]
            elif slot.view:
                rows = self._rows(tokens, self.layers[slot.layer]).narrow(-1, slot.column, slot.width)
                groups, before, out, after = slot.view
                values = rows.reshape(*batch, groups, out, before, after).transpose(-3, -2)
                result[slot.name] = cast_exact(values, slot.dtype).reshape((*batch, *slot.shape))
            elif carried is None or slot.name not in carried:
                raise ValueError(f"the carried tensor {slot.name!r} is missing")
            else:
                result[slot.name] = copy_of(carried[slot.name])
        return result

    # -- identity -----------------------------------------------------------------------------------------------

    def to_json(self) -> str:
        """The layout as one line of JSON that :meth:`from_json` reads; the same in every process."""
        slots = [{**asdict(slot), "dtype": str(slot.dtype).removeprefix("torch.")} for slot in self.slots]
        layers = [asdict(layer) for layer in self.layers]
        content = {"format": FORMAT, "token_size": self.token_size, "slots": slots, "layers": layers}
        return json.dumps(content, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Layout:
        """Read what :meth:`to_json` wrote.

        Raises:
            ValueError: The text is not a layout, or one of another version.
        """
        try:
            content = json.loads(text)
            if content["format"] != FORMAT:
                raise ValueError(f"layout format {content['format']} is not {FORMAT}")
            slots = tuple(TensorSlot(**_slot_fields(entry)) for entry in content["slots"])
            layers = tuple(LayerSlot(**{**each, "members": tuple(each["members"])}) for each in content["layers"])
            return cls(int(content["token_size"]), slots, layers)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a token layout: {error!r}") from error

    def digest(self) -> str:
        """SHA-256 of the JSON form: equal for equal layouts, in every process."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def _slot_fields(entry: Mapping[str, Any]) -> dict[str, Any]:
    dtype = getattr(torch, entry["dtype"])
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"{entry['dtype']!r} is not a dtype")
    return {**entry, "dtype": dtype, "shape": tuple(entry["shape"]), "view": tuple(entry["view"])}
