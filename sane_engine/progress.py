"""How long work talks to its caller: progress out, cancellation in.

The engine knows nothing of the screen. Whoever calls it may pass two callbacks and gets the same behaviour from
a page, a notebook and the command line.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Progress(Protocol):
    """A function called as ``progress(done, total, message)``."""

    def __call__(self, done: int, total: int, message: str, /) -> None:
        """Report that ``done`` of ``total`` steps are finished; ``done`` never goes back."""


CancelCheck = Callable[[], bool]


class Cancelled(Exception):
    """Raised when ``cancelled()`` answered true; what was finished before stays on disk and can be resumed."""


def no_progress(done: int, total: int, message: str, /) -> None:
    """Ignore a progress report: the default where the caller passed none."""


def stop_if(cancelled: CancelCheck | None) -> None:
    """Raise :class:`Cancelled` if the caller asked to stop.

    Raises:
        Cancelled: ``cancelled`` was given and returned true.
    """
    if cancelled is not None and cancelled():
        raise Cancelled("stopped on request")
