"""One file of the corpus, and what must come of it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

Files = Mapping[str, bytes]
"""Name → content; the first is the one to open. A content that begins with ``LINK`` becomes a symbolic link."""

LINK = b"link to "


@dataclass(frozen=True)
class Case:
    """A file and its expected outcome.

    Attributes:
        name: Unique in the corpus.
        group: What it is about.
        make: From the marker file that a payload would create to the bytes, or to several files of one folder.
        code: Code of the expected refusal; empty where the file is valid.
        tensors: The exact tensors of a valid file.
        armed: Loaded without care (``torch.load(weights_only=False)``, ``pickle.load``, ``numpy.load`` with
            pickles), it creates the marker.
        several: The tensors belong to several checkpoints, under ``member/name``.
    """

    name: str
    group: str
    make: Callable[[Path], bytes | Files]
    code: str = ""
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    armed: bool = False
    several: bool = False

    def write(self, folder: Path) -> Path:
        """Write the file, or the files, into a folder of its own; returns the path to open."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch calls some kinds of tensors deprecated, or beta
            content = self.make(folder / "it-ran")
        files = {"file.pt": content} if isinstance(content, bytes) else content
        home = folder / "files"
        home.mkdir(parents=True)
        for name, data in files.items():
            if data.startswith(LINK):
                (home / name).symlink_to(data.removeprefix(LINK).decode())
            else:
                (home / name).write_bytes(data)
        return home / next(iter(files))


def plain(data: bytes) -> Callable[[Path], bytes]:
    """A maker of always the same bytes."""
    return lambda _marker: data
