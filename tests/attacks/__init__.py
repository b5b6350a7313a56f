"""Files made to hurt, and files that are not what they seem, each with what must come of it.

:data:`CORPUS` is the whole list; ``python -m tests.attacks`` runs it and prints the table of ``docs/attacks.md``.
Payloads are benign: each creates one marker file, and a positive control proves that it would under unsafe loading.
"""

from __future__ import annotations

from .case import Case
from .makers import (
    Payload,
    encrypted_zip,
    endless,
    global_call,
    npy,
    overlapping_zip,
    rewritten,
    safetensors_bytes,
    torch_bytes,
    with_pickle,
    zip_bytes,
)

__all__ = [
    "Case",
    "Payload",
    "encrypted_zip",
    "endless",
    "global_call",
    "npy",
    "overlapping_zip",
    "rewritten",
    "safetensors_bytes",
    "torch_bytes",
    "with_pickle",
    "zip_bytes",
]
