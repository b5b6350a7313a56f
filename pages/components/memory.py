"""Things that are costly to load or compute, shared by all sessions of the server, a bounded number at a time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Memory(Generic[Value]):
    """A least-recently-used store whose values are made once, however many sessions ask at the same time.

    Streamlit's own caches forbid drawing from inside the cached function, so they cannot show progress. Keys must
    hold a digest of everything the value depends on. A value whose making fails or is cancelled is not kept.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: OrderedDict[Hashable, Value] = OrderedDict()
        self._makers: dict[Hashable, threading.Lock] = {}
        self._lock = threading.Lock()

    def peek(self, key: Hashable) -> Value | None:
        """The value if it is there."""
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key]

    def put(self, key: Hashable, value: Value) -> None:
        """Remember a value; the least recently used one goes when there are too many."""
        with self._lock:
            self._values[key] = value
            self._values.move_to_end(key)
            while len(self._values) > self._size:
                self._values.popitem(last=False)

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value, made by ``make()`` if it is not there; a second asker waits for the first."""
        with self._lock:
            maker = self._makers.setdefault(key, threading.Lock())
        try:
            with maker:
                with self._lock:
                    if key in self._values:
                        self._values.move_to_end(key)
                        return self._values[key]
                value = make()
                self.put(key, value)
                return value
        finally:
            with self._lock:
                self._makers.pop(key, None)
