"""The whole list, and one file of it through the intake, measured."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sane_engine.checkpoint import Checkpoint, Refusal
from sane_engine.intake.child import Request, answers
from sane_engine.intake.limits import DEFAULT_LIMITS

from . import hostile, payloads, refused, valid
from .case import Case


def corpus() -> list[Case]:
    """All cases, group by group."""
    cases = [*payloads.cases(), *refused.cases(), *hostile.cases(), *valid.cases()]
    assert len({case.name for case in cases}) == len(cases)
    return cases


def bits(tensor: Tensor) -> bytes:
    """Every bit of a tensor."""
    flat = tensor.detach().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """What differs, in words; nothing where names, order, types, shapes and every bit agree."""
    if list(found) != list(expected):
        return f"names {list(found)[:5]} instead of {list(expected)[:5]}"
    for name, tensor in expected.items():
        other = found[name]
        if (other.dtype, other.shape) != (tensor.dtype, tensor.shape):
            return f"{name}: {other.dtype} {tuple(other.shape)} instead of {tensor.dtype} {tuple(tensor.shape)}"
        if bits(other) != bits(tensor):
            return f"{name}: other values"
    return ""


def verdict(case: Case, outcome: list[Checkpoint] | Refusal) -> str:
    """Why an outcome is not the expected one; nothing where it is."""
    if isinstance(outcome, Refusal):
        line = outcome.line()
        if outcome.code != case.code:
            return f"{outcome.code or 'no code'} instead of {case.code or 'tensors'}: {line}"
        if not line.isprintable() or len(line) > 240 or "stumbled" in line or not outcome.hint:
            return f"a message that is not one clear line: {line!r}"
        return ""
    if case.code:
        return f"it was loaded instead of refused as {case.code}"
    if case.several:
        found = {f"{one.name}/{name}": tensor for one in outcome for name, tensor in one.tensors.items()}
        return same(found, case.tensors)
    return same(outcome[0].tensors, case.tensors) if len(outcome) == 1 else f"{len(outcome)} checkpoints"


@dataclass(frozen=True)
class Measured:
    """What one file cost a child of its own.

    Attributes:
        outcome: Code of the refusal, or ``"loaded"``.
        seconds: From the request to the answer, start of the child included.
        peak_bytes: Largest resident memory of the child; 0 where it ended without saying.
    """

    outcome: str
    seconds: float
    peak_bytes: int


def measure(path: Path) -> Measured:
    """Read one file in a child of its own."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        with closing(answers([path], Path(folder), Request(DEFAULT_LIMITS))) as replies:
            answer = next(replies)
        seconds = time.perf_counter() - started
    outcome = answer["refusal"][0] if "refusal" in answer else "loaded"
    return Measured(outcome, seconds, int(answer.get("peak_bytes", 0)))
