"""Long token sequences in windows, each with a halo of context that is computed and thrown away.

A token near the edge of a window sees only half its neighbours. So a window keeps the latents of its *core* and
drops those of the halo on either side. The published code gives every window two halos of half the window's size
(twice the work) and fails on lengths that do not fit. Here the cores are cut to equal size, so that any length
fits, and a halo of a tenth of the window costs at most 1.25 times the tokens.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

HALO_SHARE = 10
"""The default halo is this part of the window: 2·halo / (window − 2·halo) is then at most a quarter."""


@dataclass(frozen=True)
class Window:
    """Tokens ``start`` to ``stop`` are computed, ``core_start`` to ``core_stop`` of them are kept."""

    start: int
    stop: int
    core_start: int
    core_stop: int


def plan_windows(n: int, window: int, halo: int | None = None) -> tuple[Window, ...]:
    """Cut a sequence into windows whose cores cover it without overlap.

    A sequence that fits into one window is one window without a halo. A longer one gets the fewest cores of at
    most ``window − 2·halo`` tokens, their sizes equal to within one token; the halo ends where the sequence does.

    Args:
        n: Length of the sequence in tokens; 0 gives no window.
        window: Most tokens computed at once, halo included.
        halo: Tokens of context on either side; ``None`` is ``window // 10``.

    Raises:
        ValueError: ``n`` is negative, ``window`` not positive, or the halos leave no room for a core.
    """
    if n < 0 or window < 1:
        raise ValueError(f"cannot cut {n} tokens into windows of {window}")
    halo = window // HALO_SHARE if halo is None else halo
    if halo < 0 or 2 * halo >= window:
        raise ValueError(f"halo is {halo}; it must be at least 0 and less than half the window ({window})")
    if n == 0:
        return ()
    if n <= window:
        return (Window(0, n, 0, n),)
    count = -(-n // (window - 2 * halo))
    edges = [i * n // count for i in range(count + 1)]
    return tuple(Window(max(0, start - halo), min(n, stop + halo), start, stop) for start, stop in pairwise(edges))


def overhead(plan: tuple[Window, ...]) -> float:
    """Tokens computed for every token kept; 1.0 is no overhead."""
    kept = sum(w.core_stop - w.core_start for w in plan)
    return sum(w.stop - w.start for w in plan) / kept if kept else 1.0


def map_windows(
    function: Callable[[Tensor, Tensor], Tensor],
    sequences: Tensor,
    positions: Tensor,
    plan: tuple[Window, ...],
    *,
    batch_size: int,
    between: Callable[[int], None] | None = None,
) -> Tensor:
    """Apply ``function`` to every window of every sequence and put the cores together.

    Windows of one shape are computed together and never padded, so the result does not depend on ``batch_size``.

    Args:
        function: Takes windows ``[b, w, c]`` and their positions ``[w, 3]`` or ``[b, w, 3]``, gives ``[b, w, e]``.
        sequences: ``[m, n, c]``.
        positions: ``[n, 3]``, shared by the sequences.
        plan: What :func:`plan_windows` gave for ``n``.
        batch_size: Most windows in one call of ``function``.
        between: Called before each of these calls with the number of tokens kept so far.

    Returns:
        ``[m, n, e]``.
    """
    import torch

    m, n, _ = sequences.shape
    alike: dict[tuple[int, int, int], list[Window]] = defaultdict(list)
    for window in plan:
        core = window.core_stop - window.core_start
        alike[window.stop - window.start, window.core_start - window.start, core].append(window)
    result: Tensor | None = None
    kept = 0
    for (length, offset, core), windows in alike.items():
        starts = torch.tensor([w.start for w in windows], device=sequences.device)
        inside = starts[:, None] + torch.arange(length, device=sequences.device)
        # Every (sequence, window) pair is one row of work; a batch may end anywhere among them.
        for first in range(0, m * len(windows), batch_size):
            if between is not None:
                between(kept)
            pairs = torch.arange(first, min(first + batch_size, m * len(windows)), device=sequences.device)
            which, where = pairs // len(windows), inside[pairs % len(windows)]
            shared = len(windows) == 1
            output = function(sequences[which[:, None], where], positions[where[0]] if shared else positions[where])
            if result is None:
                result = output.new_empty(m, n, output.shape[-1])
            result[which[:, None], where[:, offset : offset + core]] = output[:, offset : offset + core]
            kept += len(pairs) * core
    if result is None:
        raise ValueError("there are no tokens to encode")
    return result
