"""Read a pickle without unpickling it.

A pickle is a program for a small stack machine; ``REDUCE``, ``NEWOBJ`` and ``BUILD`` are the steps that call code.
This machine knows the same steps but calls nothing: it builds plain dicts and lists, and recognises the few
constructors a state dict needs by their *names*. Any other name is a refusal that says which. There is nothing to
escape from, no torch is imported (a child starts in 0.1 s instead of 1–2 s), and tensors stay descriptions, so no
memory is allocated before it has been counted.

It is stricter than ``torch.load(weights_only=True)``: tensor classes called as functions (they return
uninitialised memory), ``bytearray``, and everything with a state of its own are refused.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any, Protocol

from sane_engine.checkpoint import Refusal
from sane_engine.intake import refusals
from sane_engine.intake.constructors import Global, construct, lookup, plain_key, set_state
from sane_engine.intake.limits import Limits
from sane_engine.intake.tree import Opaque

_MARK = object()

_EMPTY: dict[str, Callable[[], object]] = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": list,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
}
_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
_REFUSED = {
    "BYTEARRAY8": "bytearray",
    "NEXT_BUFFER": "an outside buffer",
    "READONLY_BUFFER": "an outside buffer",
    "EXT1": "a registered extension",
    "EXT2": "a registered extension",
    "EXT4": "a registered extension",
    "PERSID": "an outside object",
}


_ENTRY_BYTES = 64
"""About what an entry of a dict costs."""

_NONSENSE = (
    *(ValueError, IndexError, KeyError, TypeError, OverflowError, AttributeError, RecursionError),
    struct.error,
)
"""What a pickle that is not one leads to."""


class PersistentLoad(Protocol):
    """Turns the persistent id of a storage into the container's storage object."""

    def __call__(self, identity: object, /) -> object:
        """Raise a Refusal for an id that names no storage."""


class _Bounded:
    """A stream for :mod:`pickletools` that refuses to allocate what a hostile length field asks for."""

    def __init__(self, stream: IO[bytes], limits: Limits) -> None:
        self._stream, self._limits, self._left = stream, limits, limits.pickle_bytes

    def _take(self, data: bytes) -> bytes:
        self._left -= len(data)
        if self._left < 0:
            raise refusals.too_large(f"a pickle of more than {refusals.size(self._limits.pickle_bytes)}")
        return data

    def read(self, n_bytes: int) -> bytes:
        if n_bytes > self._limits.literal_bytes:
            raise refusals.too_large(f"a literal of {refusals.size(n_bytes)} inside the pickle")
        return self._take(self._stream.read(n_bytes))

    def readline(self) -> bytes:
        line = self._stream.readline(self._limits.literal_bytes + 1)
        if len(line) > self._limits.literal_bytes:
            raise refusals.too_large("a very long line inside the pickle")
        return self._take(line)

    def tell(self) -> int:
        return self._stream.tell()


def read_pickle(
    stream: IO[bytes], limits: Limits, persistent_load: PersistentLoad | None = None, *, offer: bool = True
) -> object:
    """Read one pickle and leave the stream just behind it.

    Args:
        stream: Binary stream at the pickle's first byte.
        limits: Ceilings on opcodes and literals.
        persistent_load: How storages are found; without it, a persistent id is a refusal.
        offer: Whether names may be looked up at all; the small pickles around a legacy file need none.

    Returns:
        Dicts, lists, tuples, strings, numbers, :class:`TensorView` and :class:`Opaque`.

    Raises:
        Refusal: ``pickled-code``, ``truncated``, ``damaged`` or ``too-large``.
    """
    machine = _Machine(limits, persistent_load, offer)
    bounded = _Bounded(stream, limits)
    steps = 0
    try:
        # Nothing but read, readline and tell is called on the stream.
        for opcode, argument, _ in pickletools.genops(bounded):  # type: ignore[arg-type]  # typeshed asks for more
            steps += 1
            if steps > limits.pickle_opcodes:
                raise refusals.too_large(f"a pickle of more than {limits.pickle_opcodes:,} steps")
            if opcode.name == "STOP":
                return machine.pop()
            machine.step(opcode.name, argument)
    except Refusal:
        raise
    except MemoryError:
        raise refusals.too_large("the pickle does not fit in memory") from None
    except _NONSENSE as error:
        # pickletools says "not enough data", "pickle exhausted before seeing STOP", "expected N bytes … but only".
        text = str(error)
        if any(sign in text for sign in ("exhausted", "not enough data", "but only", "no newline")):
            raise refusals.truncated() from None
        raise refusals.damaged("its pickle makes no sense") from None
    raise refusals.truncated()


@dataclass
class _Machine:
    limits: Limits
    persistent_load: PersistentLoad | None
    offer: bool
    stack: list[object] = field(default_factory=list)
    memo: dict[int, object] = field(default_factory=dict)
    copied: int = 0

    def pop(self) -> object:
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError("unexpected mark")
        return value

    def pop_to_mark(self) -> list[object]:
        items: list[object] = []
        while (value := self.stack.pop()) is not _MARK:
            items.append(value)
        items.reverse()
        return items

    def _count(self, made: object) -> None:
        """Constructors copy what they are given: a pickle that calls one again and again would fill the memory."""
        if isinstance(made, bytes | str):
            self.copied += len(made)
        elif isinstance(made, dict | list | tuple):
            self.copied += _ENTRY_BYTES * len(made)
        if self.copied > self.limits.pickle_bytes:
            raise refusals.too_large(f"a pickle that unfolds to {refusals.size(self.copied)}")

    def global_(self, module: str, name: str) -> None:
        if not self.offer:
            raise refusals.pickled_code(f"{module}.{name}")
        self.stack.append(lookup(module, name))

    def step(self, name: str, argument: Any) -> None:
        """Carry out one opcode."""
        stack = self.stack
        if name in _LITERALS:
            stack.append(argument)
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in {"PROTO", "FRAME"}:
            pass
        elif name == "MARK":
            stack.append(_MARK)
        elif name in {"BINPUT", "LONG_BINPUT", "PUT"}:
            self.memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in {"BINGET", "LONG_BINGET", "GET"}:
            stack.append(self.memo[argument])
        elif name == "DUP":
            stack.append(stack[-1])
        elif name == "POP":
            stack.pop()
        elif name == "POP_MARK":
            self.pop_to_mark()
        else:
            self._build(name, argument)

    def _build(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in {"TUPLE1", "TUPLE2", "TUPLE3"}:
            count = int(name[-1])
            items = [self.pop() for _ in range(count)][::-1]
            stack.append(tuple(items))
        elif name == "TUPLE":
            stack.append(tuple(self.pop_to_mark()))
        elif name == "LIST":
            stack.append(self.pop_to_mark())
        elif name == "DICT":
            items = self.pop_to_mark()
            stack.append({})
            self._set_items(items)
        elif name == "FROZENSET":
            stack.append(self.pop_to_mark())
        elif name in {"APPEND", "APPENDS", "ADDITEMS"}:
            items = [self.pop()] if name == "APPEND" else self.pop_to_mark()
            target = stack[-1]
            if isinstance(target, list):
                target.extend(items)
            elif not isinstance(target, Opaque):
                raise ValueError("append to something that is not a list")
        elif name in {"SETITEM", "SETITEMS"}:
            self._set_items([self.pop(), self.pop()][::-1] if name == "SETITEM" else self.pop_to_mark())
        else:
            self._call(name, argument)

    def _set_items(self, items: list[object]) -> None:
        target = self.stack[-1]
        if isinstance(target, dict):
            target.update((plain_key(items[i]), items[i + 1]) for i in range(0, len(items), 2))
        elif not isinstance(target, Opaque):
            raise ValueError("item assignment on something that is not a dict")

    def _call(self, name: str, argument: Any) -> None:
        if name == "GLOBAL":
            module, _, attribute = str(argument).partition(" ")
            self.global_(module, attribute)
        elif name == "STACK_GLOBAL":
            called, home = self.pop(), self.pop()
            if not isinstance(called, str) or not isinstance(home, str):
                raise ValueError("a global without a name")
            self.global_(home, called)
        elif name == "INST":
            module, _, attribute = str(argument).partition(" ")
            raise refusals.pickled_code(f"{module}.{attribute}")
        elif name == "OBJ":
            head = self.pop_to_mark()[0]
            raise refusals.pickled_code(head.path if isinstance(head, Global) else "an object")
        elif name in {"REDUCE", "NEWOBJ", "NEWOBJ_EX"}:
            if name == "NEWOBJ_EX" and self.pop():
                raise refusals.pickled_code("a constructor with keywords")
            arguments, function = self.pop(), self.pop()
            if not isinstance(arguments, tuple):
                raise ValueError("arguments are no tuple")
            made = construct(function, arguments, self.limits)
            self._count(made)
            self.stack.append(made)
        elif name == "BUILD":
            state = self.pop()
            self.stack[-1] = set_state(self.stack[-1], state)
        elif name == "BINPERSID" and self.persistent_load is not None:
            self.stack.append(self.persistent_load(self.pop()))
        else:
            raise refusals.pickled_code(_REFUSED.get(name, "an outside object"))
