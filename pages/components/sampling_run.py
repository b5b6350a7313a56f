"""Sampling on the page: a request, what came out of it, and where it is remembered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pages.components.current import Current
from pages.components.library import digest_of, get_encoder
from pages.components.memory import Memory
from sane_engine.demo import Precomputed
from sane_engine.progress import Progress
from sane_engine.projection import Placement, place

if TYPE_CHECKING:
    from sane_engine.sampling import Evaluation, Sample
    from sane_engine.sampling.batch_norm import Condition
    from sane_engine.sampling.download import Format
    from sane_engine.sampling.placing import Placed
    from sane_engine.sampling.sampling import Prepared
    from sane_engine.sampling.spaces import SpaceName
    from sane_engine.sampling.tracing import Trace


@dataclass(frozen=True)
class Request:
    """Everything that decides what is drawn; equal requests have equal results.

    Attributes:
        zoo: Digest of the zoo.
        encoder: Name of the encoder, or None.
        anchors: Row numbers, or a query.
        method: Its name.
        parameters: Of the method.
        space: Its name.
        n: How many.
        seed: Of every draw.
        epochs: Of fine-tuning; none leaves it out.
        condition: What running statistics of batch norm are measured on.
    """

    zoo: str
    encoder: str | None
    anchors: tuple[int, ...] | str
    method: str
    parameters: tuple[tuple[str, float | str], ...]
    space: SpaceName
    n: int
    seed: int
    epochs: tuple[int, ...]
    condition: Condition = "auto"


@dataclass(frozen=True, eq=False)
class Drawn:
    """What a request gave; ``evaluation`` is None where the zoo does not say how to run its models."""

    request: Request
    prepared: Prepared
    samples: list[Sample]
    evaluation: Evaluation | None


_DRAWN: Memory[Drawn] = Memory(6)
_TRACES: Memory[Trace] = Memory(24)
_PLACES: Memory[Placed] = Memory(200)


def remembered(request: Request) -> Drawn | None:
    """The result, if this was drawn before."""
    return _DRAWN.peek(request)


def draw(now: Current, request: Request, progress: Progress) -> Drawn:
    """Draw and score."""
    # On two threads these small products take five times the processor's time.
    from sane_engine.zoo.training import one_thread

    with one_thread():
        return _draw(now, request, progress)


def _draw(now: Current, request: Request, progress: Progress) -> Drawn:
    from sane_engine.sampling import draw_samples, evaluate_samples, prepare

    encoder = get_encoder(request.encoder) if request.encoder is not None else None
    anchors: Any = request.anchors if isinstance(request.anchors, str) else list(request.anchors)
    prepared = prepare(
        encoder, now.zoo, anchors=anchors, method=request.method, seed=request.seed, space=request.space,
        parameters=dict(request.parameters), condition=request.condition, progress=progress,
    )  # fmt: skip
    samples = draw_samples(prepared, request.n, progress=progress)
    evaluation = None
    if prepared.task is not None:
        evaluation = evaluate_samples(
            samples, prepared, now.zoo, encoder=encoder, epochs=request.epochs, progress=progress
        )
        samples = evaluation.of_samples(samples)
    drawn = Drawn(request, prepared, samples, evaluation)
    _DRAWN.put(request, drawn)
    return drawn


def landing(known: Precomputed, drawn: Drawn, encoder: str, method: str) -> Placement | None:
    """Where samples land on the map of the models, or None where the map's encoder cannot see them."""
    from sane_engine.sane import embed

    found = embed(get_encoder(encoder), [each.tensors for each in drawn.samples], keep_tokens=False)
    try:
        return place(known.projections["models", method], known.embeddings.models, found.models)
    except ValueError:
        return None


def traced(now: Current, encoder: str | None, space: SpaceName, rows: tuple[int, int], progress: Progress) -> Trace:
    """The line between two models of the zoo."""
    from sane_engine.sampling.frame import frame_of
    from sane_engine.sampling.spaces import space_of
    from sane_engine.sampling.task import task_of
    from sane_engine.sampling.tracing import trace
    from sane_engine.zoo.training import one_thread

    @one_thread()
    def make() -> Trace:
        network = get_encoder(encoder) if encoder is not None else None
        frame = frame_of(now.zoo, rows[0], encoder=network)
        found = space_of(space, frame, encoder=network, zoo=now.zoo, row=rows[0])
        try:
            task = task_of(now.zoo, np.array(rows))
        except ValueError:
            task = None
        return trace(found, now.zoo.stacked(list(rows)), task, progress=progress)

    return _TRACES.get((digest_of(now.zoo), encoder, space, rows), make)


def placed(
    now: Current, encoder: str, space: SpaceName, coordinates: NDArray[Any], place: tuple[float, float]
) -> Placed:
    """A place on the map, decoded; models of the layout that is nearest to it are mixed."""
    from sane_engine.sampling.frame import frame_of
    from sane_engine.sampling.placing import decode_place, shares_at
    from sane_engine.sampling.spaces import space_of
    from sane_engine.sampling.task import task_of
    from sane_engine.zoo.training import one_thread

    @one_thread()
    def make() -> Placed:
        nearest = int(shares_at(coordinates, place)[0][0])
        members = next(group for group in now.zoo.layout_groups() if nearest in group)
        network = get_encoder(encoder)
        frame = frame_of(now.zoo, nearest, encoder=network)
        found = space_of(space, frame, encoder=network, zoo=now.zoo, row=nearest)
        try:
            task = task_of(now.zoo, np.array([nearest]))
        except ValueError:
            task = None
        return decode_place(found, now.zoo, members, coordinates[members], place, task)

    return _PLACES.get((digest_of(now.zoo), encoder, space, place), make)


def files(drawn: Drawn, chosen: list[int], format: Format) -> Mapping[str, bytes]:
    """The files of some samples, by place in the list; of all where none is chosen."""
    from sane_engine.sampling.download import bundle

    samples = [drawn.samples[i] for i in chosen] or drawn.samples
    task = drawn.prepared.task
    architecture = task.architecture if task is not None else None
    return bundle(samples, architecture=architecture, format=format)
