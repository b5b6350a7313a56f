"""Samples for another architecture than the anchors': deeper, wider, or with a new head.

A token's vector says what a row of weights does, and the autoencoder knows where it stands from its position, which
can be any. So every token of the target takes the draw of the token that stands at the same place of the same kind
of layer; where the target has more rows or more layers, it takes further draws of the same token, so that no two
rows are copies. Weights keep the scale that their fan-in asks for. A layer too many begins as the identity where
its shape allows (Net2Net, Chen et al. 2016, arXiv:1511.05641). What has no counterpart is initialised.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sane_engine.checkpoint import Refusal
from sane_engine.progress import CancelCheck, Progress, no_progress, stop_if
from sane_engine.sampling.batch_norm import condition_for, has_batch_norm
from sane_engine.sampling.draws import generator_of
from sane_engine.sampling.frame import Frame
from sane_engine.sampling.sampling import Prepared, Sample, samples_of
from sane_engine.sampling.spaces import decode_models
from sane_engine.tokens import Layout, layout_of
from sane_engine.tokens.layout import LayerSlot
from sane_engine.zoo.architectures import as_architecture
from sane_engine.zoo.hyperparameters import derived_seed
from sane_engine.zoo.initialisation import initialise


@dataclass(frozen=True, eq=False)
class Correspondence:
    """Which token of a source each token of a target takes after.

    Attributes:
        token: Number of the source's token: int64 ``[n]``.
        draw: How many tokens of the target before it take the same one: int64 ``[n]``.
        tensor: Target tensor → source tensor.
        added: Layers of the target that the source has no layer of its own for, and that can be the identity.
    """

    token: Tensor
    draw: Tensor
    tensor: Mapping[str, str]
    added: tuple[LayerSlot, ...] = ()


def correspondence(source: Layout, target: Layout) -> Correspondence:
    """Match layers of one kind (tensors of equal rank) by their relative depth, first to first and last to last.

    Raises:
        Refusal: The target has a kind of layer that the source lacks (``foreign-target``).
    """
    of_source, of_target = _by_kind(source), _by_kind(target)
    partner: dict[str, LayerSlot] = {}
    for kind, layers in of_target.items():
        if kind not in of_source:
            raise Refusal("foreign-target", "The target has layers of a kind the anchors lack.", "Choose another.")
        known = of_source[kind]
        for number, layer in enumerate(layers):
            # From the end for the last layer of all, so that a head takes after a head.
            depth = number / (len(layers) - 1) if len(layers) > 1 else 1.0
            partner[layer.name] = known[round(depth * (len(known) - 1))]
    token = torch.empty(target.n_tokens, dtype=torch.int64)
    tensors: dict[str, str] = {}
    for layer in target.layers:
        other = partner[layer.name]
        row, chunk = torch.arange(layer.n_tokens) // layer.chunks, torch.arange(layer.n_tokens) % layer.chunks
        token[layer.start : layer.stop] = other.start + (row % other.rows) * other.chunks + chunk % other.chunks
        for number, member in enumerate(layer.members):
            tensors[member] = other.members[min(number, len(other.members) - 1)]
    seen: Counter[int] = Counter()
    draw = torch.empty_like(token)
    for place, index in enumerate(token.tolist()):
        draw[place] = seen[index]
        seen[index] += 1
    return Correspondence(token, draw, tensors, _added(source, target, partner))


def _added(source: Layout, target: Layout, partner: Mapping[str, LayerSlot]) -> tuple[LayerSlot, ...]:
    """Of the layers that take after one and the same, those of another shape whose inputs are their outputs."""
    of_source = {slot.name: slot.shape for slot in source.slots}
    count = Counter(layer.name for layer in partner.values())
    added = []
    for layer in target.layers:
        shape = next(slot.shape for slot in target.slots if slot.name == layer.members[0])
        square = len(shape) > 1 and shape[0] == shape[1] and all(side % 2 for side in shape[2:])
        if count[partner[layer.name].name] > 1 and square and shape != of_source[partner[layer.name].members[0]]:
            added.append(layer)
    return tuple(added)


def _as_identity(tensor: Tensor) -> Tensor:
    """A square weight ``[c, c, …]`` that passes its input on: ones in the middle of the diagonal."""
    result = torch.zeros_like(tensor)
    middle = result.flatten(2)[..., tensor[0, 0].numel() // 2] if tensor.dim() > 2 else result
    middle.fill_diagonal_(1)
    return result


def _by_kind(layout: Layout) -> dict[int, list[LayerSlot]]:
    ranks = {slot.name: len(slot.shape) for slot in layout.slots}
    kinds: dict[int, list[LayerSlot]] = {}
    for layer in layout.layers:
        kinds.setdefault(ranks[layer.members[0]], []).append(layer)
    return kinds


def target_frame(source: Frame, target: Layout, same: Correspondence, like: Mapping[str, Tensor]) -> Frame:
    """The frame of a target: the source's statistics, matrices by the root of the ratio of their fan-ins."""
    shapes = {slot.name: slot.shape for slot in source.layout.slots}
    statistics = _statistics(source)
    mean, std = torch.zeros(len(target.slots) + 1), torch.ones(len(target.slots) + 1)
    for number, slot in enumerate(target.slots):
        if not slot.view:
            continue
        theirs = same.tensor[slot.name]
        scale = 1.0
        if len(slot.shape) > 1 and len(shapes[theirs]) > 1:
            fan_in = [torch.Size(shape[1:]).numel() for shape in (shapes[theirs], slot.shape)]
            scale = (fan_in[0] / max(1, fan_in[1])) ** 0.5
        mean[number], std[number] = scale * statistics[theirs][0], scale * statistics[theirs][1]
    component = target.component_of_entry()
    carried = {slot.name: like[slot.name] for slot in target.slots if slot.role == "carried"}
    return Frame(target, mean[component], std[component], carried, None, {}, ("drawn for another architecture",))


def _statistics(frame: Frame) -> dict[str, tuple[float, float]]:
    component = frame.layout.component_of_entry()
    found = {}
    for number, slot in enumerate(frame.layout.slots):
        if slot.view:
            where = (component == number).nonzero()[0]
            found[slot.name] = (float(frame.mean[tuple(where)]), float(frame.std[tuple(where)]))
    return found


def sample_target(
    prepared: Prepared,
    architecture: Mapping[str, Any],
    n: int,
    *,
    new_head: bool = False,
    progress: Progress = no_progress,
    cancelled: CancelCheck | None = None,
) -> list[Sample]:
    """Draw models of another architecture.

    Args:
        prepared: A request on the anchors' own architecture.
        architecture: The target's, as JSON.
        n: How many.
        new_head: Initialise the last layer instead of sampling it: for other classes. It is initialised anyway
            where the number of classes is another one.
        progress: Called with the draws done.
        cancelled: Asked between draws.

    Raises:
        Refusal: The target has a kind of layer that the anchors lack (``foreign-target``).
    """
    spec = as_architecture(architecture)
    seed = int(prepared.record["seed"])
    frame = prepared.space.frame
    template = initialise(spec, "kaiming_uniform", derived_seed(seed, "target", 0))
    layout = layout_of(template, frame.layout.token_size)
    same = correspondence(frame.layout, layout)
    space = prepared.space.rearranged(target_frame(frame, layout, same, template), same.token)
    vectors = []
    for number in range(n):
        stop_if(cancelled)
        generator = generator_of(seed, "draw", number)
        draws = torch.stack([prepared.sampler.draw(generator) for _ in range(int(same.draw.max()) + 1)])
        vectors.append(draws[same.draw, same.token])
        progress(number + 1, n, "drawing samples")
    stacked = decode_models(space, torch.stack(vectors))
    for layer in same.added:
        for name in layer.members:
            own = stacked[name]
            stacked[name] = torch.stack(
                [_as_identity(each) if each.dim() > 1 else torch.zeros_like(each) for each in own]
            )
    head = layout.layers[-1]
    if new_head or head.rows != frame.layout.layers[-1].rows:
        for number in range(n):
            fresh = initialise(spec, "kaiming_uniform", derived_seed(seed, "target", number))
            for name in head.members:
                stacked[name][number] = fresh[name]
    task, note = prepared.task, "as sampled" if has_batch_norm(stacked) else "no batch norm"
    if task is not None and tuple(task.fit.images.shape[1:]) == tuple(spec.input_shape):
        own_task = replace(task, architecture=architecture, module=None)
        stacked, note = condition_for(own_task, stacked, prepared.condition, seed=seed, cancelled=cancelled)
    record = {**prepared.record, "target": dict(architecture), "new_head": new_head, "batch_norm": note}
    return samples_of(record, stacked)
