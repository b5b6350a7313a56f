"""How much of a machine one untrusted file may use.

Every number is a ceiling for *one* file, high enough that no published checkpoint of a size this app is for meets
it, low enough that a hostile one is refused before it hurts. Whoever runs the app changes them without touching
this file: in the environment (``SANE_LIMITS="file_bytes=64GiB seconds=300"``), by ``inspect --limit NAME=VALUE``,
or by passing :class:`Limits` from Python.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

from sane_engine.checkpoint import Refusal

KIB, MIB, GIB = 2**10, 2**20, 2**30
ENVIRONMENT_VARIABLE = "SANE_LIMITS"


@dataclass(frozen=True)
class Limits:
    """Ceilings for reading one file; sizes in bytes, times in seconds.

    Attributes:
        file_bytes: Size of the file itself, and of all shards of a sharded checkpoint together.
        tensor_bytes: All tensors of one checkpoint together, as they will lie in memory.
        free_expansion_bytes: What tensors may hold beyond ``expansion`` times the file's size: a view with stride
            0 declares terabytes in a few bytes, but small honest files may hold small expanded views.
        expansion: How many times larger than the file its tensors may be. Shared storages (tied weights) are
            read once, so honest files stay near 1; compressed archives of zeros (pruned models) reach tens.
        tensors: Number of tensors in a checkpoint; the largest published mixtures of experts hold about 100,000.
        dimensions: Axes of a tensor; torch itself stops at 64 in most kernels.
        name_characters: Length of a tensor's name.
        header_bytes: JSON header of a safetensors file; the format's own limit.
        pickle_bytes: The pickle in a torch file, without the storages.
        pickle_opcodes: Steps of a pickle: about 30 a tensor, so this is far beyond 10⁵ tensors.
        literal_bytes: One string or bytes literal inside a pickle.
        tree_entries: Entries of dicts and lists that are looked at in search of the state dict.
        tree_depth: Nesting at which that search stops.
        properties: How many properties a checkpoint keeps.
        archive_members: Entries of a zip archive of checkpoints (a torch file or .npz may have 4 × ``tensors``).
        archive_bytes: Their uncompressed size together, and everything else that has to be unpacked or copied.
        archive_depth: How deep archives may lie in archives: one is the archive itself, two is what a download
            of a zipped folder of zips has. Every level multiplies what a bomb can reach.
        archive_ratio: Uncompressed over compressed size of one entry, and of all that is unpacked over the file
            (beyond ``free_expansion_bytes``); deflate itself reaches 1,032.
        sparse_bytes: One sparse tensor once it is dense; the child builds it in memory.
        onnx_fields: Fields of an ONNX file that are looked at; what belongs to the graph's nodes is jumped over,
            one step a node.
        memory_bytes: Address space of the child. It never imports torch: Python and numpy reserve 0.2 GiB, the
            rest is for one pickle or one strided tensor.
        seconds: Wall-clock and CPU time of the child, to which comes ``1 / bytes_per_second`` for every byte.
        bytes_per_second: Slowest disk and hash that are still waited for.
        reply_bytes: The child's answer.
    """

    file_bytes: int = 16 * GIB
    tensor_bytes: int = 16 * GIB
    free_expansion_bytes: int = 256 * MIB
    expansion: int = 8
    tensors: int = 200_000
    dimensions: int = 32
    name_characters: int = 1024
    header_bytes: int = 100_000_000
    pickle_bytes: int = 256 * MIB
    pickle_opcodes: int = 10_000_000
    literal_bytes: int = 64 * MIB
    tree_entries: int = 2_000_000
    tree_depth: int = 32
    properties: int = 200
    archive_members: int = 20_000
    archive_bytes: int = 16 * GIB
    archive_depth: int = 2
    archive_ratio: int = 200
    sparse_bytes: int = 512 * MIB
    onnx_fields: int = 2_000_000
    memory_bytes: int = 3 * GIB
    seconds: float = 60.0
    bytes_per_second: int = 20 * MIB
    reply_bytes: int = 256 * MIB

    def patience(self, size: int) -> float:
        """How long to wait for a file of ``size`` bytes, in seconds."""
        return self.seconds + size / self.bytes_per_second


DEFAULT_LIMITS = Limits()


_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": KIB, "mi": MIB, "gi": GIB, "ti": 2**40}
_AMOUNT = re.compile(r"(\d{1,15}(?:\.\d{1,6})?)\s*([kmgt]i?)?b?", re.IGNORECASE)


def _bad(text: str, why: str) -> Refusal:
    shown = "".join(c if c.isprintable() else "?" for c in text[:60])
    return Refusal("bad-limit", f"The limit “{shown}” {why}.", "Write NAME=VALUE, as in file_bytes=64GiB.")


def with_settings(limits: Limits, settings: Iterable[str]) -> Limits:
    """Limits with some of them replaced.

    Args:
        limits: Where to start.
        settings: ``NAME=VALUE`` each; the value is a positive number, with a unit such as ``MB`` or ``GiB``.

    Raises:
        Refusal: ``bad-limit`` for a name that there is not, or a value that is no positive number.
    """
    known = {field.name: field.type for field in fields(Limits)}
    changes: dict[str, float] = {}
    for text in settings:
        name, _, value = text.partition("=")
        amount = _AMOUNT.fullmatch(value.strip())
        if name.strip() not in known:
            raise _bad(text, "is not one of those there are")
        if amount is None or float(amount[1]) <= 0:
            raise _bad(text, "has no positive number")
        number = float(amount[1]) * _UNITS[(amount[2] or "").lower()]
        changes[name.strip()] = number if known[name.strip()] == "float" else max(1, int(number))
    return replace(limits, **changes)  # type: ignore[arg-type]  # whole numbers where the field is one


def configured_limits() -> Limits:
    """The defaults, changed by what ``$SANE_LIMITS`` says: settings with spaces, commas or semicolons between.

    Raises:
        Refusal: ``bad-limit``.
    """
    text = os.environ.get(ENVIRONMENT_VARIABLE, "")
    return with_settings(DEFAULT_LIMITS, filter(None, re.split(r"[\s,;]+", text)))
