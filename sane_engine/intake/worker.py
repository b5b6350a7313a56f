"""The child: reads files it does not trust, under limits it sets for itself before it opens the first.

``python -m sane_engine.intake`` takes one JSON request on stdin and answers with JSON lines on stdout, one a
source, in order. Tensors do not travel through the pipe: the answer says in which file, at which offset they lie.
Nothing here imports torch.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
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


def _peak_bytes() -> int:
    """Largest resident memory of this process, or 0 where the system does not say."""
    # Not getrusage: after fork and exec its maximum still counts the parent's pages.
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return 0
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found.group(1)) * 1024 if found else 0


def _answer(model: Model, files: Files, limits: Limits) -> dict[str, Any]:
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
        "tensors": rows(found.tensors, files, limits),
    }


def read(path: Path, folder: Path, limits: Limits, *, alone: bool) -> dict[str, Any]:
    """Read one source; every failure becomes a refusal.

    Returns:
        ``{"models": […], "files": […]}`` or ``{"refusal": [code, message, hint]}``.
    """
    files = Files(folder, limits)
    try:
        models = [_answer(model, files, limits) for model in parse(path, files, limits, alone=alone)]
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


def main() -> None:
    """Answer the request on stdin."""
    request = json.load(sys.stdin)
    limits = Limits(**request["limits"])
    confine(limits, request["seconds"])
    for number, path in enumerate(request["sources"]):
        folder = Path(request["folder"], str(number))
        folder.mkdir(mode=0o700)
        answer = read(Path(path), folder, limits, alone=request["alone"])
        answer["peak_bytes"] = _peak_bytes()
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def request(sources: list[Path], folder: Path, limits: Limits, seconds: float, *, alone: bool) -> bytes:
    """The JSON that :func:`main` reads."""
    return json.dumps(
        {
            "sources": [str(path.absolute()) for path in sources],
            "folder": str(folder),
            "limits": dataclasses.asdict(limits),
            "seconds": seconds,
            "alone": alone,
        }
    ).encode()
