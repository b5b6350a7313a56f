"""Intake: untrusted bytes in, :class:`~sane_engine.checkpoint.Checkpoint` or a named refusal out.

The way of a file: :mod:`load` starts a child (:mod:`child`, :mod:`worker`), which looks at the content
(:mod:`sniff`), reads the container (:mod:`containers`), finds the state dict (:mod:`unwrap`) and answers where the
bytes of each tensor lie (:mod:`materialise`); the parent reads exactly those bytes (:mod:`tensors`).
"""

from __future__ import annotations

from sane_engine.intake.limits import DEFAULT_LIMITS, Limits, configured_limits, with_settings
from sane_engine.intake.load import (
    is_large,
    list_checkpoints,
    list_tensors,
    load_checkpoint,
    load_checkpoints,
    load_each,
    load_tensors,
)
from sane_engine.intake.paths import open_below, refuse_links_outside, resolve_below
from sane_engine.intake.save import save_checkpoint

__all__ = [
    "DEFAULT_LIMITS",
    "Limits",
    "configured_limits",
    "is_large",
    "list_checkpoints",
    "list_tensors",
    "load_checkpoint",
    "load_checkpoints",
    "load_each",
    "load_tensors",
    "open_below",
    "refuse_links_outside",
    "resolve_below",
    "save_checkpoint",
    "with_settings",
]
