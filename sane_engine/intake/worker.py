"""The child: reads files it does not trust, under limits it sets for itself before it opens the first.

``python -m sane_engine.intake`` takes one JSON request on stdin and answers with JSON lines on stdout, one a
source, in order. Tensors do not travel through the pipe: the answer says in which file, at which offset they lie.
Between them come lines ``{"progress": [done, total]}``. Nothing here imports torch.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from sane_engine.checkpoint import Refusal
from sane_engine.intake import refusals
from sane_engine.intake.limits import Limits
from sane_engine.intake.materialise import rows, scalar
from sane_engine.intake.parse import Model, parse
from sane_engine.intake.sources import Files


def confine(limits: Limits, seconds: float) -> None:
    """Set the ceilings of this process, as far as the system knows them."""
    try:
        import resource
    except ImportError:  # Windows: the parent's clock is all there is
        return
    bounds = {
        "RLIMIT_AS": limits.memory_bytes,
        "RLIMIT_CPU": int(seconds) + 1,
        "RLIMIT_FSIZE": limits.archive_bytes,
        "RLIMIT_CORE": 0,
    }
    for name, bound in bounds.items():
        number = getattr(resource, name, None)
        if number is not None:
            _, hard = resource.getrlimit(number)
            ceiling = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
            resource.setrlimit(number, (ceiling, ceiling))


def _end_with_the_parent(parent: int) -> None:
    """Make sure that nothing goes on once the process that asked is gone, even if it was killed outright.

    Two ways, since each has a gap. Linux sends a signal when the parent's thread ends, at once and whatever this
    process is doing. And everywhere the request's pipe, which the parent never closes before it has its answers,
    ends with the parent; but other children of the parent may hold copies of it, and watching it takes a turn of
    this interpreter.
    """
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG of <linux/prctl.h>
        with contextlib.suppress(OSError, AttributeError):  # a C library without it
            ctypes.CDLL(None, use_errno=True).prctl(set_parent_death_signal, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)  # it ended before the signal was asked for

    def watch() -> None:
        while os.read(0, 4096):
            pass
        os._exit(1)

    threading.stack_size(256 * 1024)  # the address space is counted
    threading.Thread(target=watch, daemon=True).start()


def _peak_bytes() -> int:
    """Largest resident memory of this process, or 0 where the system does not say."""
    # Not getrusage: after fork and exec its maximum still counts the parent's pages.
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return 0
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found.group(1)) * 1024 if found else 0


def _answer(model: Model, files: Files, limits: Limits, *, header: bool) -> dict[str, Any]:
    found = model.found
    properties = dict(found.properties)
    for name, tensor in found.values.items():
        value = scalar(tensor, files)
        if value is not None:
            properties.setdefault(name, value)
    return {
        "member": model.member,
        "container": model.container,
        "sha256": model.sha256,
        "size": model.size,
        "key_path": found.key_path,
        "prefixes": found.prefixes,
        "ignored": found.ignored,
        "properties": properties,
        "tensors": rows(found.tensors, files, limits, header=header),
    }


def read(path: Path, files: Files, *, alone: bool, header: bool) -> dict[str, Any]:
    """Read one source; every failure becomes a refusal.

    Returns:
        ``{"models": […], "files": […]}`` or ``{"refusal": [code, message, hint]}``.
    """
    limits = files.limits
    try:
        parsed = parse(path, files, limits, alone=alone, header=header)
        models = [_answer(model, files, limits, header=header) for model in parsed]
        return {"models": models, "files": files.names}
    except Refusal as refusal:
        return _refused(refusal)
    except MemoryError:
        return _refused(refusals.too_large("it needs more memory than the reader may use"))
    except OSError:
        return _refused(refusals.too_large("it does not fit on the disk once unpacked"))
    except Exception as error:
        # A defect here, found by this file. The type helps a report; the text could quote the file or a path.
        return _refused(refusals.damaged(f"the reader stumbled over it ({type(error).__name__})"))
    finally:
        files.close()


def _refused(refusal: Refusal) -> dict[str, Any]:
    return {"refusal": [refusal.code, str(refusal), refusal.hint]}


def _say(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


class _Report:
    """Progress, at most ten lines a second."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._last > 0.1:
            self._last = now
            _say({"progress": [done, total]})


def main() -> None:
    """Answer the request on stdin: one line, after which the pipe stays open as long as the answer is wanted."""
    request = json.loads(sys.stdin.buffer.readline())
    limits = Limits(**request["limits"])
    _end_with_the_parent(request["parent"])
    confine(limits, request["seconds"])
    below = Path(request["below"]) if request["below"] is not None else None
    for number, path in enumerate(request["sources"]):
        folder = Path(request["folder"], str(number))
        folder.mkdir(mode=0o700)
        files = Files(folder, limits, below, _Report())
        answer = read(Path(path), files, alone=request["alone"], header=request["header"])
        answer["peak_bytes"] = _peak_bytes()
        _say(answer)
    sys.stdout.close()
    # Not by returning: the thread that waits for the parent need not be waited for.
    os._exit(0)


def request(
    sources: list[Path],
    folder: Path,
    limits: Limits,
    seconds: float,
    *,
    alone: bool,
    header: bool = False,
    below: Path | None = None,
) -> bytes:
    """The line that :func:`main` reads."""
    content = {
        "sources": [str(path.absolute()) for path in sources],
        "folder": str(folder),
        "limits": dataclasses.asdict(limits),
        "seconds": seconds,
        "alone": alone,
        "header": header,
        "below": None if below is None else str(below.absolute()),
        "parent": os.getpid(),
    }
    return json.dumps(content).encode() + b"\n"
