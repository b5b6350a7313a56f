"""How much of a network survives the way through the latents, beside principal components of the same size."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sane_engine.checkpoint import Refusal
from sane_engine.progress import CancelCheck, Progress, no_progress, stop_if
from sane_engine.sane.embedding import encode_tokens
from sane_engine.sane.model import Sane
from sane_engine.sane.positions import positions_for
from sane_engine.sane.training_set import Rows, chunk_length, rows_of_split, token_batch
from sane_engine.sane.windows import map_windows, plan_windows
from sane_engine.tokens import Layout, TokenBatch, detokenize_batch

if TYPE_CHECKING:
    import pandas as pd

    from sane_engine.zoo import Zoo

Reconstruct = Callable[[Tensor, TokenBatch], Tensor]
"""Standardised tokens ``[m, n, d]``, and the models they are of, to tokens."""

PROJECTION_ENTRIES = 1 << 27
"""Principal components by token position are left out where their matrices have more entries than this."""


@torch.inference_mode()
def reconstruct_tokens(encoder: Sane, tokens: Tensor, models: TokenBatch, *, batch_size: int = 64) -> Tensor:
    """Encode and decode standardised tokens ``[m, n, d]``, in windows with halo where they are longer than one.

    Args:
        encoder: The encoder.
        tokens: Standardised, of aligned models.
        models: The same models in their own scale: an encoder with summary tokens encodes beside these.
        batch_size: Windows at once.
    """
    config, device = encoder.config, encoder.device
    positions = positions_for(encoder, models.layout)
    plan = plan_windows(models.layout.n_tokens, config.window, config.halo)
    latents = encode_tokens(encoder, tokens, models, batch_size=batch_size)
    was_training = encoder.training
    encoder.eval()

    def decode(inputs: Tensor, where: Tensor) -> Tensor:
        return encoder.decode(inputs.to(device), where.to(device)).float().cpu()

    try:
        return map_windows(decode, latents, positions, plan, batch_size=batch_size)
    finally:
        encoder.train(was_training)


def decode_models(encoder: Sane, batch: TokenBatch, *, batch_size: int = 64) -> dict[str, Tensor]:
    """The models of a batch after the way through the latents: name → ``[m, …]``, in their own scale and dtypes.

    Models of a layout the encoder has a reference for come out aligned to it; what they compute is the same.
    Tensors that are not tokenised (integer buffers) are those of the batch.
    """
    batch = encoder.aligner.align(batch)
    tokens, statistics = encoder.normalizer.normalise(batch.tokens, batch.layout)
    decoded = statistics.undo(reconstruct_tokens(encoder, tokens, batch, batch_size=batch_size), batch.layout)
    return detokenize_batch(replace(batch, tokens=decoded.to(batch.tokens.dtype)))


def reconstruction(
    encoder: Sane,
    zoo: Zoo,
    rows: Rows | None = None,
    *,
    progress: Progress = no_progress,
    cancelled: CancelCheck | None = None,
) -> pd.DataFrame:
    """R² of the reconstructed weights of a zoo, by split and layer, beside per-token PCA with as many components.

    The principal components are fitted on the training rows: one basis for all tokens (``"pca"``), one for each
    layer (``"pca-layer"``), one for each token position (``"pca-position"``, the strongest linear control). A
    layout without training rows has nothing to fit them on: wherever its models are scored there are no controls,
    and ``r2_weight`` is missing. All scores are over true entries of tokens standardised by the encoder's
    statistics, of models aligned to its reference where it has one.

    Args:
        encoder: Trained on this zoo's layout, or one of them.
        zoo: Rows of layouts the encoder does not know are left out.
        rows: Row numbers to score; by default all.
        progress: Called with the checkpoints done.
        cancelled: Asked between chunks.

    Returns:
        Columns ``method``, ``split``, ``layer`` (a name, or ``"all"``), ``r2`` (about the mean of each tensor: what
        all models share counts as explained), ``r2_weight`` (about the mean of each weight over the training
        models: only what sets models apart counts), ``models``.

    Raises:
        Refusal: None of the rows has a layout the encoder knows (``foreign-zoo``).
    """
    import pandas as pd

    rows = np.arange(len(zoo), dtype=np.int64) if rows is None else np.asarray(rows, dtype=np.int64)
    train = set(rows_of_split(zoo, "train").tolist())
    splits = zoo.table["split"].to_numpy()
    sums: dict[tuple[str, str, str], np.ndarray] = defaultdict(lambda: np.zeros(4))
    done = 0
    for members in zoo.layout_groups():
        wanted = np.intersect1d(members, rows)
        if not len(wanted):
            continue
        layout = token_batch(zoo, wanted[:1], encoder.config.token_size).layout
        if not encoder.knows(layout):
            done += len(wanted)
            continue
        fit = np.array([row for row in members if int(row) in train], dtype=np.int64)
        methods: dict[str, Reconstruct] = {}
        centre = torch.full((layout.n_tokens, layout.token_size), torch.nan)
        if len(fit):
            methods, centre = _controls(encoder, zoo, fit, cancelled)
        methods["sane"] = partial(reconstruct_tokens, encoder)
        for split in dict.fromkeys(splits[wanted].tolist()):
            for tokens, batch in _standardised(encoder, zoo, wanted[splits[wanted] == split]):
                stop_if(cancelled)
                variance = torch.stack((_by_token(tokens, layout), _by_token(tokens - centre, layout)))
                for method, apply in methods.items():
                    found = torch.cat((_by_token(apply(tokens, batch) - tokens, layout)[None], variance)).numpy()
                    sums[method, split, "all"] += np.array([*found.sum(axis=1), len(batch)])
                    for layer in layout.layers:
                        part = found[:, layer.start : layer.stop].sum(axis=1)
                        sums[method, split, layer.name] += np.array([*part, len(batch)])
                done += len(batch)
                progress(done, len(rows), "reconstructing")
    if not sums:
        raise Refusal(
            "foreign-zoo",
            "The encoder was trained on none of this zoo's architectures.",
            "Pretrain one on this zoo.",
        )
    table = [
        {
            "method": method,
            "split": split,
            "layer": layer,
            "r2": 1.0 - error / total if total else np.nan,
            "r2_weight": 1.0 - error / apart if apart else np.nan,
            "models": int(count),
        }
        for (method, split, layer), (error, total, apart, count) in sums.items()
        # A control that could not be fitted for all layouts is of other models than what it would stand beside.
        if count == sums["sane", split, layer][3]
    ]
    return pd.DataFrame(table)


def _standardised(encoder: Sane, zoo: Zoo, rows: Rows) -> Iterator[tuple[Tensor, TokenBatch]]:
    """The tokens of some rows of one layout at a time: standardised, and as they are."""
    size = encoder.config.token_size
    chunk = 1
    first = 0
    while first < len(rows):
        part = rows[first : first + chunk]
        batch = token_batch(zoo, part, size, encoder.aligner)
        first += len(part)
        chunk = chunk_length(batch.layout.n_tokens * size * 4)
        yield encoder.normalizer.normalise(batch.tokens, batch.layout)[0], batch


def _by_token(values: Tensor, layout: Layout) -> Tensor:
    """Sum of squares over models and true entries: ``[n]`` from ``[m, n, d]``."""
    return (values.double().square() * layout.mask()).sum(dim=(0, 2))


def _controls(
    encoder: Sane, zoo: Zoo, rows: Rows, cancelled: CancelCheck | None
) -> tuple[dict[str, Reconstruct], Tensor]:
    """PCA reconstructions fitted on some rows of one layout, and the mean of each of their entries ``[n, d]``."""
    size, components = encoder.config.token_size, min(encoder.config.latent, encoder.config.token_size)
    layout = token_batch(zoo, rows[:1], size).layout
    by_position = layout.n_tokens * size * size <= PROJECTION_ENTRIES
    groupings = {"pca": torch.zeros(layout.n_tokens, dtype=torch.int64), "pca-layer": layout.layer_of_token()}
    if by_position:
        groupings["pca-position"] = torch.arange(layout.n_tokens)
    total = torch.zeros(layout.n_tokens, size, dtype=torch.float64)
    squares = {
        name: torch.zeros(int(group.max()) + 1, size, size, dtype=torch.float64)
        for name, group in groupings.items()
    }
    finest = "pca-position" if by_position else "pca-layer"
    count = 0
    for tokens, _ in _standardised(encoder, zoo, rows):
        stop_if(cancelled)
        values = tokens.double()
        total += values.sum(dim=0)
        for first in range(0, layout.n_tokens, 4096):
            block = values[:, first : first + 4096]
            outer = torch.einsum("mnd,mne->nde", block, block)
            squares[finest].index_add_(0, groupings[finest][first : first + 4096], outer)
        count += len(tokens)
    layer = groupings["pca-layer"]
    if by_position:
        squares["pca-layer"].index_add_(0, layer, squares["pca-position"])
    squares["pca"][0] = squares["pca-layer"].sum(dim=0)
    methods = {}
    for name, group in groupings.items():
        members = torch.bincount(group).double()[:, None] * count
        mean = torch.zeros(len(members), size, dtype=torch.float64).index_add_(0, group, total) / members
        covariance = squares[name] / members[..., None] - mean[:, :, None] * mean[:, None, :]
        basis = torch.linalg.eigh(covariance).eigenvectors[..., -components:]
        methods[name] = _linear(group, mean.float(), (basis @ basis.mT).float())
    return methods, (total / count).float()


def _linear(group: Tensor, mean: Tensor, projection: Tensor) -> Reconstruct:
    def apply(tokens: Tensor, _: TokenBatch) -> Tensor:
        result = torch.empty_like(tokens)
        for number in range(len(mean)):
            where = (group == number).nonzero().flatten()
            result[:, where] = (tokens[:, where] - mean[number]) @ projection[number] + mean[number]
        return result

    return apply


def decoded_accuracy(
    encoder: Sane,
    zoo: Zoo,
    images: Tensor,
    labels: Tensor,
    rows: Rows | None = None,
    *,
    progress: Progress = no_progress,
    cancelled: CancelCheck | None = None,
) -> pd.DataFrame:
    """Accuracy of checkpoints as they are and after the way through the latents.

    Args:
        encoder: Trained on the zoo's layout.
        zoo: With an architecture the engine can rebuild; where activations vary, the table has them. A row without
            one has the architecture's own.
        images: ``[n, c, h, w]``.
        labels: ``[n]``.
        rows: Row numbers, of one layout; by default those of split ``"test"``.
        progress: Called with the checkpoints done.
        cancelled: Asked between groups.

    Returns:
        Columns ``row``, ``original`` and ``decoded`` (fractions correct).

    Raises:
        Refusal: The zoo does not say what its architecture is (``no-architecture``).
    """
    import pandas as pd

    from sane_engine.behaviour.networks import by_activation
    from sane_engine.zoo.architectures import as_architecture, evaluate

    if zoo.architecture is None:
        raise Refusal("no-architecture", "The zoo does not say how to run its models.", "Add its architecture.")
    rows = rows_of_split(zoo, "test") if rows is None else np.asarray(rows, dtype=np.int64)
    parts = []
    done = 0
    for known, own in by_activation(zoo.select(rows), as_architecture(zoo.architecture)):
        stop_if(cancelled)
        members = rows[own]
        batch = token_batch(zoo, members, encoder.config.token_size)
        found = [
            evaluate(zoo.architecture, stacked, images, labels, activation=known.activation, cancelled=cancelled)[
                0
            ].numpy()
            for stacked in (zoo.stacked(members), decode_models(encoder, batch))
        ]
        parts.append(pd.DataFrame({"row": members, "original": found[0], "decoded": found[1]}))
        done += len(members)
        progress(done, len(rows), "evaluating decoded models")
    return pd.concat(parts, ignore_index=True).sort_values("row", ignore_index=True)
