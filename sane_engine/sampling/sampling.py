"""Draw new models: anchors → space → method → vectors → networks, with a record of all of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sane_engine.checkpoint import Refusal
from sane_engine.progress import CancelCheck, Progress, no_progress, stop_if
from sane_engine.revision import commit
from sane_engine.sampling.anchors import Anchors, choose_anchors, in_order_of
from sane_engine.sampling.batch_norm import CONDITIONS, Condition, networks
from sane_engine.sampling.draws import Context, Method, Sampler, generator_of
from sane_engine.sampling.frame import Align, Frame, frame_of, unstack
from sane_engine.sampling.methods import described, method_of, name_of
from sane_engine.sampling.query import by_test_images
from sane_engine.sampling.spaces import Space, SpaceName, encode_models, space_of
from sane_engine.sampling.task import Task, task_of

if TYPE_CHECKING:
    from sane_engine.sane import Sane
    from sane_engine.zoo import Zoo

LARGEST_N = 10_000
"""Samples in one call; each is a whole network in memory."""

_NAMED_ANCHORS = 1000

# Asking git takes longer than a draw, and what runs is what was loaded first.
_commit = lru_cache(maxsize=1)(commit)


@dataclass(frozen=True, eq=False)
class Sample:
    """A new model.

    Attributes:
        name: Method, space, seed and number.
        tensors: Its weights, in the order of a state dict; tied tensors are one object.
        provenance: What it takes to draw it again, as plain JSON values: seed and number, method and parameters,
            space, anchors and their digest, zoo, digest of the encoder, alignment, commit.
        scores: What was measured of it.
    """

    name: str
    tensors: Mapping[str, Tensor]
    provenance: Mapping[str, Any]
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Prepared:
    """Everything that is the same for all samples of one request.

    Attributes:
        anchors: As they were chosen.
        space: Fitted.
        vectors: Of the anchors: ``[m, n, k]``.
        task: What the networks are for, where the zoo says it.
        method: With its parameters.
        sampler: The method, fitted to the anchors.
        condition: What running statistics of batch norm are measured on.
        record: The provenance without the sample's number.
        row: A row of the zoo that has the anchors' layout.
    """

    anchors: Anchors
    space: Space
    vectors: Tensor
    task: Task | None
    method: Method
    sampler: Sampler
    condition: Condition
    record: Mapping[str, Any]
    row: int = 0


def sample(
    encoder: Sane | None,
    zoo: Zoo,
    *,
    anchors: Any = "top 10 %",
    n: int = 10,
    method: str | Method = "kde-token",
    seed: int = 0,
    space: SpaceName = "latents",
    parameters: Mapping[str, Any] | None = None,
    align: Align = "auto",
    condition: Condition = "auto",
    task: Task | None = None,
    progress: Progress = no_progress,
    cancelled: CancelCheck | None = None,
) -> list[Sample]:
    """Draw new models around chosen ones.

    Args:
        encoder: Trained on the anchors' layout; ``None`` will do for the spaces ``"weights"`` and ``"pca"``.
        zoo: Where anchors are looked up and spaces are fitted, on its training rows.
        anchors: Row numbers, a Boolean mask, a query such as ``"top 10 %"`` or
            ``'test_accuracy > 0.9 and activation == "tanh"'``, or loaded checkpoints.
        n: How many.
        method: A name in :data:`~sane_engine.sampling.methods.METHODS`, or a method.
        seed: Every draw follows from it. Draw number k is the same to the bit whatever ``n`` is.
        space: ``"latents"``, ``"pca"`` or ``"weights"``.
        parameters: Of the method, by name.
        align: Whether models are brought into the order of a reference first; ``"auto"`` does so unless the zoo's
            models share their initialisation.
        condition: What the running statistics of batch norm are measured on: ``"auto"`` or ``"images"`` takes the
            task's images without their labels, ``"noise"`` no images at all, ``"none"`` keeps what was sampled.
        task: How to run the models and on what; by default the zoo's own, where it says so.
        progress: Called with the work done.
        cancelled: Asked between draws.

    Returns:
        The samples in the order of their numbers.

    Raises:
        Refusal: The anchors, the method, a parameter or the space cannot be used; the message says which.
        Cancelled: The caller asked to stop.
    """
    if not isinstance(n, int) or isinstance(n, bool) or not 1 <= n <= LARGEST_N:
        raise Refusal("bad-number", f"{n} samples cannot be drawn.", f"Ask for 1 to {LARGEST_N:,}.")
    prepared = prepare(
        encoder, zoo, anchors=anchors, method=method, seed=seed, space=space, parameters=parameters, align=align,
        condition=condition, task=task, progress=progress, cancelled=cancelled,
    )  # fmt: skip
    return draw_samples(prepared, n, progress=progress, cancelled=cancelled)


def prepare(
    encoder: Sane | None,
    zoo: Zoo,
    *,
    anchors: Any = "top 10 %",
    method: str | Method = "kde-token",
    seed: int = 0,
    space: SpaceName = "latents",
    parameters: Mapping[str, Any] | None = None,
    align: Align = "auto",
    condition: Condition = "auto",
    task: Task | None = None,
    frame: Frame | None = None,
    fitted: Space | None = None,
    progress: Progress = no_progress,
    cancelled: CancelCheck | None = None,
) -> Prepared:
    """Everything up to the first draw; see :func:`sample`, whose arguments these are.

    Args:
        encoder: As for :func:`sample`; so are the others that are not named here.
        zoo: The zoo.
        anchors: The anchors.
        method: The method.
        seed: The seed.
        space: Its name.
        parameters: Of the method.
        align: Whether to align.
        condition: Of batch norm.
        task: The task.
        frame: One that was made before, to save the time.
        fitted: A space that was fitted before.
        progress: Called while a method is fitted.
        cancelled: Asked between steps.
    """
    chosen = choose_anchors(zoo, anchors)
    row = int(chosen.rows[0]) if chosen.rows is not None else _row_like(zoo, chosen)
    if chosen.rows is None:
        chosen = in_order_of(chosen, zoo.signature(row))
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise Refusal("bad-seed", f"{seed} is no seed.", "Give a whole number of at least 0.")
    if condition not in CONDITIONS:
        raise Refusal("bad-condition", f"{condition!r} is unknown.", f"Choose from {', '.join(CONDITIONS)}.")
    made = method_of(method, parameters) if isinstance(method, str) else method
    stop_if(cancelled)
    if fitted is None:
        frame = frame or frame_of(zoo, row, encoder=encoder, align=align, cancelled=cancelled)
        fitted = space_of(space, frame, encoder=encoder, zoo=zoo, row=row, cancelled=cancelled)
    vectors = encode_models(fitted, chosen.stacked)
    if task is None:
        task = _known_task(zoo, chosen)
    context = Context(vectors, fitted, task, seed, zoo, row, condition, progress, cancelled)
    sampler = made.fit(context)
    record = {
        "method": method if isinstance(method, str) else name_of(made),
        "parameters": described(made),
        "space": fitted.name,
        "seed": seed,
        "anchors": {
            "chosen": chosen.description,
            "count": len(chosen),
            "names": list(chosen.names[:_NAMED_ANCHORS]),
            "rows": None if chosen.rows is None else chosen.rows[:_NAMED_ANCHORS].tolist(),
            "digest": chosen.digest,
            "chosen_on_test_images": isinstance(anchors, str) and by_test_images(anchors),
        },
        "alignment": "; ".join(fitted.frame.notes),
        "zoo": {"name": zoo.name, "weights_digest": zoo.weights_digest},
        "encoder": None if encoder is None else encoder.digest,
        "commit": _commit(),
    }
    return Prepared(chosen, fitted, vectors, task, made, sampler, condition, record, row)


def draw_vectors(
    prepared: Prepared, n: int, *, progress: Progress = no_progress, cancelled: CancelCheck | None = None
) -> Tensor:
    """The first ``n`` draws as vectors ``[n, tokens, k]``."""
    vectors = []
    for number in range(n):
        stop_if(cancelled)
        vectors.append(prepared.sampler.draw(generator_of(prepared.record["seed"], "draw", number)))
        progress(number + 1, n, "drawing samples")
    return torch.stack(vectors)


def draw_samples(
    prepared: Prepared, n: int, *, progress: Progress = no_progress, cancelled: CancelCheck | None = None
) -> list[Sample]:
    """The first ``n`` draws as models with their record."""
    vectors = draw_vectors(prepared, n, progress=progress, cancelled=cancelled)
    seed = int(prepared.record["seed"])
    how = prepared.condition
    stacked, note = networks(prepared.space, vectors, prepared.task, how, seed=seed, cancelled=cancelled)
    return samples_of({**prepared.record, "batch_norm": note}, stacked)


def samples_of(record: Mapping[str, Any], stacked: Mapping[str, Tensor]) -> list[Sample]:
    """A stack of networks as samples, numbered from 0."""
    count = len(next(iter(stacked.values())))
    stem = f"{record['method']}-{record['space']}-seed{record['seed']}"
    return [
        Sample(f"{stem}-{number:04d}", unstack(stacked, number), {**record, "number": number})
        for number in range(count)
    ]


def _known_task(zoo: Zoo, anchors: Anchors) -> Task | None:
    """The zoo's own task, or ``None`` where it does not say or cannot be had here.

    Raises:
        Refusal: The anchors compute with several activations (``mixed-activations``).
    """
    try:
        return task_of(zoo, anchors.rows)
    except ValueError as error:
        # Of files nobody knows the activation; rows of several give samples that belong to none.
        if anchors.rows is not None and isinstance(error, Refusal) and error.code == "mixed-activations":
            raise
        return None


def _row_like(zoo: Zoo, anchors: Anchors) -> int:
    """A row of the layout that loaded checkpoints have.

    Raises:
        Refusal: The zoo has none of it (``foreign-anchors``).
    """
    stacked = anchors.stacked
    wanted = {name: tuple(tensor.shape[1:]) for name, tensor in stacked.items()}
    for rows in zoo.layout_groups():
        signature = zoo.signature(int(rows[0]))
        # A file may hold what is tied in the zoo twice over: alike, or it is another network.
        if {p.name: p.shape for p in signature} == wanted and all(
            torch.equal(stacked[p.name], stacked[p.tied_to]) for p in signature if p.tied_to is not None
        ):
            return int(rows[0])
    raise Refusal(
        "foreign-anchors",
        "The checkpoints are of an architecture that the zoo does not have.",
        "Choose checkpoints of the zoo's own architecture, or open their zoo.",
    )
