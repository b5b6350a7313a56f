"""Kill a fork of this process in the middle of a write."""

from __future__ import annotations

import os
import random
import select
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# What the interpreter tells before it does it; what libraries in other languages do is met by the clock.
_OPERATIONS = ("open", "os.", "shutil.", "sqlite3.")
_SLOWEST = 30.0


@dataclass
class Outcome:
    """What a killed fork had acknowledged (name → last version), and the last version it may have begun."""

    said: dict[str, int]
    acknowledged: int
    last: int


def _forked(work: Callable[[Callable[[str, int], None]], None]) -> tuple[int, int]:
    """Start ``work(say)`` in a fork; its pid and the end of the pipe that hears it."""
    hearing, speaking = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            work(lambda name, version: os.write(speaking, f"{name}\t{version}\n".encode()) and None)
        except BaseException as error:
            os.write(speaking, f"!{type(error).__name__}: {error}\t0\n".encode())
        os._exit(1)
    os.close(speaking)
    return child, hearing


def _counting(act: Callable[[int], None]) -> None:
    """Call ``act(n)`` right before the file operation number n of this process; there is no way back."""
    count = [0]

    def hook(event: str, _: tuple[Any, ...]) -> None:
        if event.startswith(_OPERATIONS):
            count[0] += 1
            act(count[0])

    sys.addaudithook(hook)


def usual(path: Any, version: int) -> tuple[float, int]:
    """Seconds and file operations of one write, measured in a fork that is left alone."""

    def work(say: Callable[[str, int], None]) -> None:
        path.write(version, lambda name, v: None)  # what is imported and made once
        operations = [0]
        _counting(lambda number: operations.__setitem__(0, number))
        started = time.monotonic()
        path.write(version + 1, lambda name, v: None)
        say(f"{time.monotonic() - started}", operations[0])

    child, hearing = _forked(work)
    with os.fdopen(hearing, "rb") as stream:
        seconds, _, operations = stream.read().decode().partition("\t")
    os.waitpid(child, 0)
    return max(0.005, float(seconds)), int(operations)


def kill_while_writing(path: Any, version: int, chance: random.Random, seconds: float, operations: int) -> Outcome:
    """Write until killed: at a random moment, or before a random file operation."""
    by_clock = chance.random() < 0.5
    # The first write of a fork is slower: up to two are let pass, then the kill hits the next.
    passed = chance.choice((0, 1, 2))
    fatal = passed * operations + chance.randint(1, max(1, operations))

    def work(say: Callable[[str, int], None]) -> None:
        if not by_clock:
            _counting(lambda number: os.kill(os.getpid(), signal.SIGKILL) if number == fatal else None)
        for number in range(version, version + 10_000):
            path.write(number, say)

    child, hearing = _forked(work)
    said, heard = b"", True
    patience = time.monotonic() + _SLOWEST
    while heard and time.monotonic() < patience and (not by_clock or said.count(b"\n") < passed):
        heard = bool(select.select([hearing], [], [], patience - time.monotonic())[0])
        piece = os.read(hearing, 4096) if heard else b""
        heard, said = bool(piece), said + piece
    if by_clock:
        time.sleep(chance.uniform(0.0, 1.2) * seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(hearing, "rb") as stream:
        said += stream.read()
    lines = [line.partition("\t") for line in said.decode().splitlines()]
    for name, _, _ in lines:
        assert not name.startswith("!"), name
    found = {name: int(number) for name, _, number in lines}
    return Outcome(found, len(lines), max([version, *found.values()]) + 2)
