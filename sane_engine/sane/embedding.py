"""Models in, embeddings out: any architecture, any length, any number of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sane_engine.checkpoint import Refusal
from sane_engine.progress import CancelCheck, Progress, no_progress, stop_if
from sane_engine.sane.embeddings import Embeddings
from sane_engine.sane.model import Sane
from sane_engine.sane.pooling import Pooled, Selection, pool, select_tokens
from sane_engine.sane.positions import positions_for
from sane_engine.sane.summary_tokens import encode_windows, layer_places
from sane_engine.sane.training_set import Rows
from sane_engine.sane.windows import map_windows, plan_windows
from sane_engine.tokens import Layout, TokenBatch, layout_of, tokenize_batch

if TYPE_CHECKING:
    from sane_engine.zoo import Zoo

    Models = Zoo | TokenBatch | Sequence[Mapping[str, Tensor]] | Mapping[str, Tensor]

TICKS = 100
"""Progress counts this many ticks a model, so that one huge model moves it too."""


CHUNK_BYTES = 12 * 1024**2
"""Tokens of as many models as fit are embedded at a time; what is made of them on the way takes ten times this."""

FEW_LATENTS = 1 << 22
"""Latents of tokens are kept unasked up to this many numbers (16 MB); those of a large zoo only on request."""


def embed(
    encoder: Sane,
    models: Models,
    *,
    keep_tokens: bool | None = None,
    batch_size: int = 64,
    window: int | None = None,
    halo: int | None = None,
    max_tokens_per_layer: int | None = None,
    progress: Progress = no_progress,
    cancelled: CancelCheck | None = None,
) -> Embeddings:
    """Embed models with an encoder.

    Models of a layout the encoder has a reference for are aligned to it first, so that networks that differ only in
    the order of their hidden units are embedded alike.
    Sequences longer than a window go through several, each with a halo of context (see ``windows.py``).
    Of a layout the encoder was not trained on, tensors are standardised by their own mean and standard deviation,
    and positions are rescaled (``positions.py``); ``notes`` says for how many models that was so. A universal
    encoder was trained like that, and knows every layout.

    Args:
        encoder: What :func:`pretrain` or :func:`load_encoder` gave.
        models: A zoo, a token batch, several state dicts, or a single one.
        keep_tokens: Keep the latent of every token too; the models must share a layout. By default, they are kept
            where the models do and all latents together are at most :data:`FEW_LATENTS` numbers.
        batch_size: Windows encoded at once. The result does not depend on it.
        window: Tokens encoded at once; by default the encoder's.
        halo: Tokens of context on either side of a window; by default the encoder's, or a tenth of the window.
        max_tokens_per_layer: Of larger layers, encode this many tokens, evenly spaced; ``notes`` says so.
        progress: Called with the work done and the work in all, in parts of a model.
        cancelled: Asked between batches.

    Raises:
        Cancelled: ``cancelled()`` answered true.
        Refusal: There are no models (``no-models``), or a weight is infinite or not a number
            (``non-finite-weights``).
        ValueError: ``keep_tokens=True`` with models of several layouts, or a number below 1.
    """
    for name, value in (("batch_size", batch_size), ("max_tokens_per_layer", max_tokens_per_layer)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    config = encoder.config
    window = config.window if window is None else window
    halo = config.halo if halo is None and window == config.window else halo
    total, zoo_digest, batches = _batches(models, config.token_size)
    pooled: dict[int, Pooled] = {}
    layouts: dict[int, Layout] = {}
    kept: dict[int, Tensor] = {}
    summaries: dict[int, Tensor] = {}
    reactions: dict[int, Tensor] = {}
    notes: dict[str, int] = {}
    done = 0
    for rows, batch in batches:
        _refuse_non_finite(rows, batch)
        if encoder.reactions is not None and (found := encoder.reactions.apply(batch)) is not None:
            reactions.update(zip(rows.tolist(), found, strict=True))
        batch = encoder.aligner.align(batch, cancelled=cancelled)
        selection = select_tokens(batch.layout, max_tokens_per_layer)
        ticks, of = done * TICKS, len(rows) * len(selection.index)

        def between(tokens: int, ticks: int = ticks, share: float = len(rows) * TICKS / of) -> None:
            stop_if(cancelled)
            progress(ticks + int(tokens * share), total * TICKS, "embedding")

        latents, beside = _encode(encoder, batch, selection, window, halo, batch_size, between)
        means_and_stds = pool(latents, selection)
        for i, row in enumerate(rows.tolist()):
            pooled[row], layouts[row] = means_and_stds[i], batch.layout
            if keep_tokens or (keep_tokens is None and total * latents[i].numel() <= FEW_LATENTS):
                kept[row] = latents[i]
            if beside is not None:
                summaries[row] = beside[i]
        _take_note(notes, encoder, batch.layout, selection, len(rows))
        done += len(rows)
        progress(done * TICKS, total * TICKS, "embedding")
    if keep_tokens is None and (len(kept) < len(pooled) or len(set(layouts.values())) > 1):
        kept = {}
    return _collect(encoder, zoo_digest, pooled, layouts, kept, summaries, reactions, notes)


@torch.no_grad()
def encode_tokens(encoder: Sane, tokens: Tensor, models: TokenBatch, *, batch_size: int = 64) -> Tensor:
    """Latents ``[m, n, z]`` of standardised tokens, in the company they have in training: summaries, windows, halo.

    Args:
        encoder: The encoder.
        tokens: Standardised ``[m, n, d]``, of aligned models.
        models: The same models in their own scale, which summary tokens are made of.
        batch_size: Windows encoded at once. The result does not depend on it.
    """
    selection, config = select_tokens(models.layout, None), encoder.config
    return _latents(encoder, tokens, models, selection, config.window, config.halo, batch_size, lambda _: None)[0]


@torch.inference_mode()
def _encode(
    encoder: Sane,
    batch: TokenBatch,
    selection: Selection,
    window: int,
    halo: int | None,
    batch_size: int,
    between: Callable[[int], None],
) -> tuple[Tensor, Tensor | None]:
    """Latents ``[m, n, z]`` of the selected tokens of a batch, and of summary tokens ``[m, L, z + s]``."""
    tokens, _ = encoder.normalizer.normalise(batch.tokens, batch.layout)
    return _latents(encoder, tokens, batch, selection, window, halo, batch_size, between)


def _latents(
    encoder: Sane,
    tokens: Tensor,
    batch: TokenBatch,
    selection: Selection,
    window: int,
    halo: int | None,
    batch_size: int,
    between: Callable[[int], None],
) -> tuple[Tensor, Tensor | None]:
    """What :func:`_encode` gives, of tokens ``[m, n, d]`` that are standardised already."""
    device, was_training = encoder.device, encoder.training
    encoder.eval()

    def window_latents(inputs: Tensor, positions: Tensor) -> Tensor:
        return encoder.encode(inputs.to(device), positions.to(device)).float().cpu()

    tokens = tokens[:, selection.index] if selection.subsampled else tokens
    every = positions_for(encoder, batch.layout)
    positions, plan = every[selection.index], plan_windows(len(selection.index), window, halo)
    try:
        if encoder.has_summaries:
            summaries = encoder.summariser.summaries(batch)
            places = layer_places(batch.layout, every)
            latents, beside = encode_windows(
                encoder, tokens, positions, summaries, places, plan, batch_size=batch_size, between=between
            )
            return latents, torch.cat((beside, summaries), dim=2)
        return map_windows(window_latents, tokens, positions, plan, batch_size=batch_size, between=between), None
    finally:
        encoder.train(was_training)


def _batches(models: Models, token_size: int) -> tuple[int, str, Iterator[tuple[Rows, TokenBatch]]]:
    """How many models there are, the digest of their zoo, and their tokens by layout, some at a time."""
    if isinstance(models, TokenBatch):
        if models.layout.token_size != token_size:
            raise ValueError(f"these tokens are {models.layout.token_size} wide; this encoder takes {token_size}")
        return len(models), "", iter([(np.arange(len(models)), models)])
    if isinstance(models, Mapping):
        return _batches([models], token_size)
    if isinstance(models, Sequence):
        dicts = models
        alike: dict[Layout, list[int]] = {}
        for i, tensors in enumerate(dicts):
            alike.setdefault(layout_of(tensors, token_size), []).append(i)
        groups = [(layout, np.array(rows, dtype=np.int64)) for layout, rows in alike.items()]

        def stacked(rows: Rows) -> TokenBatch:
            return tokenize_batch([dicts[i] for i in rows.tolist()], token_size)

        digest = ""
    else:
        zoo = models
        groups = [(layout_of(zoo.tensors(int(rows[0])), token_size), rows) for rows in zoo.layout_groups()]

        def stacked(rows: Rows) -> TokenBatch:
            return tokenize_batch(zoo.stacked(rows), token_size)

        digest = zoo.digest
    if not groups:
        raise Refusal("no-models", "There are no models to embed.", "Select at least one.")

    def generate() -> Iterator[tuple[Rows, TokenBatch]]:
        for layout, rows in groups:
            chunk = max(1, CHUNK_BYTES // (layout.n_tokens * token_size * 4))
            for first in range(0, len(rows), chunk):
                yield rows[first : first + chunk], stacked(rows[first : first + chunk])

    return sum(len(rows) for _, rows in groups), digest, generate()


def _refuse_non_finite(rows: Rows, batch: TokenBatch) -> None:
    finite = batch.tokens.isfinite()
    if finite.all():
        return
    i = int((~finite.flatten(1).all(dim=1)).nonzero()[0, 0])
    name = batch.layout.slots[int(batch.layout.component_of_entry()[~finite[i]][0])].name
    raise Refusal(
        "non-finite-weights",
        f"Model {int(rows[i])} has weights that are infinite or not a number (in {name!r}).",
        "Leave it out: nothing can be said of such weights.",
    )


def _take_note(notes: dict[str, int], encoder: Sane, layout: Layout, selection: Selection, count: int) -> None:
    """Count the models that each remark applies to."""
    if not encoder.knows(layout):
        remark = (
            "another layout than the encoder was trained on, so tensors are standardised by their own mean and "
            "standard deviation, and positions rescaled to the trained depth"
        )
        notes[remark] = notes.get(remark, 0) + count
    if selection.limit is not None and selection.subsampled:
        remark = f"of every layer with more tokens, only {selection.limit:,} evenly spaced ones are encoded"
        notes[remark] = notes.get(remark, 0) + count


def _collect(
    encoder: Sane,
    zoo_digest: str,
    pooled: dict[int, Pooled],
    layouts: dict[int, Layout],
    kept: dict[int, Tensor],
    summaries: dict[int, Tensor],
    reactions: dict[int, Tensor],
    notes: dict[str, int],
) -> Embeddings:
    m = len(pooled)
    counts = np.array([len(pooled[i].layers) for i in range(m)], dtype=np.int64)
    layers = np.full((m, counts.max(), 2 * encoder.config.latent), np.nan, dtype=np.float32)
    for i in range(m):
        layers[i, : counts[i]] = pooled[i].layers
    summary = None
    if summaries:
        summary = np.full((m, counts.max(), summaries[0].shape[1]), np.nan, dtype=np.float32)
        for i in range(m):
            summary[i, : counts[i]] = summaries[i].numpy()
    reacted = None
    if reactions:
        unknown = torch.full_like(next(iter(reactions.values())), torch.nan)
        reacted = torch.stack([reactions.get(i, unknown) for i in range(m)]).numpy()
    if kept and len(set(layouts.values())) > 1:
        raise ValueError("keep_tokens needs models that share a layout")
    names = tuple(layouts[i].layer_names for i in range(m))
    found = Embeddings(
        models=np.stack([pooled[i].model for i in range(m)]),
        layers=layers,
        layer_count=counts,
        layer_names=names[:1] if len(set(names)) == 1 else names,
        foreign=np.array([not encoder.knows(layouts[i]) for i in range(m)]),
        summaries=summary,
        reactions=reacted,
        tokens=torch.stack([kept[i] for i in range(m)]).numpy() if kept else None,
        encoder_digest=encoder.digest,
        zoo_digest=zoo_digest,
        notes=tuple(f"{count} of {m} models: {remark}." for remark, count in notes.items()),
    )
    return found if encoder.readout is None else replace(found, readout=encoder.readout.apply(found))
