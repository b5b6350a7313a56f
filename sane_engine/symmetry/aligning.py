"""Align one network, or a whole zoo, to a reference."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from sane_engine.progress import CancelCheck, Progress, no_progress, stop_if
from sane_engine.symmetry.activations import match_activations
from sane_engine.symmetry.matching import Matcher
from sane_engine.symmetry.occurrences import permute_stacked
from sane_engine.symmetry.permutations import Permutations
from sane_engine.symmetry.spec import Symmetry

if TYPE_CHECKING:
    from sane_engine.symmetry.tracing import ExampleInput

_CHUNK = 32_000_000  # entries of models matched at once


def match(
    tensors: Mapping[str, Tensor], reference: Mapping[str, Tensor], symmetry: Symmetry, *, seed: int = 0
) -> Permutations:
    """The permutation that brings ``tensors`` closest to ``reference``, by weight matching.

    Args:
        tensors: The network to move.
        reference: The network that stays; same names and shapes.
        symmetry: Of both.
        seed: Order in which groups are visited after the first sweep.

    Returns:
        A permutation for ``symmetry.permute``.

    Raises:
        ValueError: A tensor is missing or has another shape.
    """
    symmetry.check(tensors)
    symmetry.check(reference)
    with torch.no_grad():
        matcher = Matcher(symmetry, reference, {name: tensors[name][None] for name in symmetry.tensors})
        matcher.run(seed)
    return matcher.permutations(0)


def align(
    tensors: Mapping[str, Tensor],
    reference: Mapping[str, Tensor],
    symmetry: Symmetry,
    *,
    seed: int = 0,
    method: Literal["weights", "activations"] = "weights",
    module: nn.Module | None = None,
    inputs: ExampleInput | None = None,
) -> dict[str, Tensor]:
    """The same network as ``tensors``, its hidden units in the order and with the signs closest to ``reference``.

    Args:
        tensors: The network to move.
        reference: The network that stays; same names and shapes.
        symmetry: Of both.
        seed: Order of the visits; the same seed gives the same result.
        method: What is compared: weights (:func:`match`), or what the units do on data (:func:`match_activations`).
        module: The network, for ``"activations"``.
        inputs: A batch of inputs, for ``"activations"``.

    Returns:
        New tensors that compute the same function as ``tensors``.

    Raises:
        ValueError: A tensor is missing or has another shape; activations without a module or inputs.
    """
    if method == "weights":
        return symmetry.permute(tensors, match(tensors, reference, symmetry, seed=seed))
    if method != "activations":
        raise ValueError(f"method {method!r} is unknown; choose from weights, activations")
    if module is None or inputs is None:
        raise ValueError("activations need the module and a batch of inputs")
    found = match_activations(module, tensors, reference, symmetry, inputs, seed=seed)
    return symmetry.permute(tensors, found.permutations)


def align_zoo(
    stacked: Mapping[str, Tensor],
    reference: Mapping[str, Tensor],
    symmetry: Symmetry,
    *,
    seed: int = 0,
    progress: Progress = no_progress,
    cancelled: CancelCheck | None = None,
) -> dict[str, Tensor]:
    """Align many models of one layout at once.

    Args:
        stacked: Tensor name → ``[m, …]``, m models.
        reference: The network that stays.
        symmetry: Of all of them.
        seed: As in :func:`align`; every model comes out as it would alone.
        progress: Called after each chunk of models.
        cancelled: Asked before each chunk.

    Returns:
        New stacked tensors.

    Raises:
        ValueError: A tensor is missing or has another shape.
        Cancelled: The caller asked to stop.
    """
    symmetry.check(reference)
    symmetry.check({name: tensor[0] for name, tensor in stacked.items() if tensor.ndim and len(tensor)})
    models = len(next(iter(stacked.values())))
    size = max(1, _CHUNK // max(1, sum(prod(symmetry.shape(name)) for name in symmetry.tensors)))
    pieces: list[dict[str, Tensor]] = []
    for start in range(0, models, size):
        stop_if(cancelled)
        chunk = {name: tensor[start : start + size] for name, tensor in stacked.items()}
        with torch.no_grad():
            matcher = Matcher(symmetry, reference, chunk)
            matcher.run(seed)
            pieces.append(permute_stacked(symmetry, chunk, matcher.orders, matcher.flips))
        progress(min(start + size, models), models, "aligning")
    if len(pieces) == 1:
        return pieces[0]
    return {name: torch.cat([piece[name] for piece in pieces]) for name in stacked}


def distance(tensors: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> float:
    """Relative distance ‖tensors − reference‖ / ‖reference‖ over all floating-point tensors, at unit RMS each.

    Scaling by the reference's root mean square is what :func:`match` minimises: every entry counts alike.
    """
    difference = total = 0.0
    for name, target in reference.items():
        if target.is_floating_point() and (scale := float(target.double().square().mean())) > 0:
            difference += float((tensors[name].double() - target.double()).square().sum()) / scale
            total += target.numel()
    return float((difference / max(total, 1.0)) ** 0.5)
