"""What the commands say and where: JSON on standard output, progress and refusals on standard error."""

from __future__ import annotations

import json
import math
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from sane_engine.progress_log import INTERVAL, append
from sane_engine.workspace import atomic_file

# Seconds between two progress reports: on a terminal, where a line is overwritten, and in a log.
_TERMINAL_INTERVAL, _LOG_INTERVAL = 0.2, 5.0
_WIDTH = 100


def plain(value: Any) -> Any:
    """A value as strict JSON has it: no NaN, no infinity, no numpy scalars, no paths."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        return plain(value.item())
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    # pandas.NA and everything unforeseen
    return None if type(value).__name__ in {"NAType", "NaTType"} else str(value)


def printable(text: str) -> str:
    """One line without control characters: names come from other people's files and go to a terminal."""
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))


class Console:
    """Where a command reports.

    Attributes:
        compact: JSON on one line instead of indented.
        stopped: Whether the user asked to stop.
    """

    def __init__(
        self, *, compact: bool = False, quiet: bool = False, out: TextIO | None = None, log: Path | None = None
    ) -> None:
        self.compact = compact
        self.stopped = False
        self._quiet = quiet
        self._out = out
        self._log = log
        self._last = self._last_logged = -math.inf
        self._line_open = False
        self._lock = threading.Lock()

    def emit(self, value: Any, path: Path | None = None) -> None:
        """Write JSON to standard output, or to a file, atomically."""
        text = json.dumps(plain(value), ensure_ascii=False, allow_nan=False, indent=None if self.compact else 1)
        self._close_line()
        if path is not None:
            with atomic_file(path) as temporary:
                temporary.write_text(text + "\n", encoding="utf-8")
        else:
            print(text, file=self._out or sys.stdout, flush=True)

    def error(self, message: str) -> None:
        """One line on standard error."""
        self._close_line()
        print(f"sane_engine: {printable(message)}", file=sys.stderr, flush=True)

    def progress(self, done: int, total: int, message: str, /) -> None:
        """A :class:`~sane_engine.progress.Progress` that writes one line, not too often."""
        terminal = sys.stderr.isatty()
        with self._lock:
            now = time.monotonic()
            if self._log is not None and (done >= total or now - self._last_logged >= INTERVAL):
                self._last_logged = now
                append(self._log, done, total, message)
            if self._quiet:
                return
            if done < total and now - self._last < (_TERMINAL_INTERVAL if terminal else _LOG_INTERVAL):
                return
            self._last = now
            share = f"{100 * done / total:3.0f} %" if total else "     "
            line = printable(f"{share}  {done}/{total}  {message}")[:_WIDTH]
            if terminal:
                print(f"\r{line:<{_WIDTH}}", end="", file=sys.stderr, flush=True)
                self._line_open = True
            else:
                print(line, file=sys.stderr, flush=True)

    def cancelled(self) -> bool:
        """A :data:`~sane_engine.progress.CancelCheck`: true after Ctrl-C."""
        return self.stopped

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """The first Ctrl-C asks the work to stop, so that its state is kept; the second stops at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, frame: FrameType | None) -> None:
            if self.stopped:
                raise KeyboardInterrupt
            self.stopped = True
            self.error("stopping; press Ctrl-C again to stop at once")

        previous = signal.signal(signal.SIGINT, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)

    def _close_line(self) -> None:
        if self._line_open:
            print(file=sys.stderr, flush=True)
            self._line_open = False
