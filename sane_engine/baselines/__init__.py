"""What is known about each layer without training anything, and the same table from SANE.

Three kinds share one layer axis (:mod:`sane_engine.baselines.layer_axis`), so their curves can lie side by side:

- ``"weightwatcher"``: the spectrum of the weight matrix and its power-law fit (Martin & Mahoney 2021), by the
  ``weightwatcher`` package in child processes;
- ``"statistics"``: mean, variance and quantiles of weights and biases (Unterthiner et al. 2020);
- ``"sane"``: norm, spread, distance to the zoo and principal components of the layer's SANE embedding.

Importing this package loads neither torch nor weightwatcher.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from sane_engine.baselines.catalogue import FEATURES as FEATURES
from sane_engine.baselines.catalogue import Feature as Feature
from sane_engine.baselines.catalogue import feature as feature
from sane_engine.progress import CancelCheck, Progress, no_progress

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from sane_engine.baselines.sane_layers import SaneReference
    from sane_engine.baselines.spectral import Spectrum
    from sane_engine.sane import Embeddings, Sane
    from sane_engine.zoo import Zoo

LayerKind = Literal["weightwatcher", "statistics", "sane"]


def layer_features(
    tensors: Mapping[str, Tensor],
    kind: LayerKind = "weightwatcher",
    *,
    encoder: Sane | None = None,
    reference: SaneReference | None = None,
    progress: Progress = no_progress,
    cancelled: CancelCheck | None = None,
) -> pd.DataFrame:
    """One row a layer: what one view says about each layer of a network.

    Args:
        tensors: State dict, name → tensor, in file order.
        kind: Which view; the columns of each are described in :data:`FEATURES`.
        encoder: For ``kind="sane"``: the encoder to embed with.
        reference: For ``kind="sane"``: the zoo to compare with; without it distances and components are NaN.
        progress: Called as layers are finished.
        cancelled: Asked at least ten times a second; child processes are killed when it answers true.

    Returns:
        Columns ``layer`` (0-based index in file order), ``name``, the features, and ``reason``: empty, or one
        sentence why values are missing. Every layer has a row, whatever became of it. WeightWatcher's table also
        has ``warning`` (its verdict on alpha) and ``note`` (if it was shown a layer that it would have skipped).

    Raises:
        ValueError: Unknown kind, or ``kind="sane"`` without an encoder.
        Cancelled: ``cancelled`` answered true.
    """
    if kind == "weightwatcher":
        from sane_engine.baselines.spectral import spectral_features

        return spectral_features(tensors, progress=progress, cancelled=cancelled)
    if kind == "statistics":
        from sane_engine.baselines.statistics import weight_statistics

        return weight_statistics(tensors, progress=progress, cancelled=cancelled)
    if kind == "sane":
        from sane_engine.baselines.sane_layers import sane_features

        if encoder is None:
            raise ValueError("kind='sane' needs an encoder.")
        return sane_features(tensors, encoder, reference=reference, progress=progress, cancelled=cancelled)
    raise ValueError(f"Unknown kind {kind!r}: choose one of {', '.join(FEATURES)}.")


def zoo_layer_features(
    zoo: Zoo,
    rows: Sequence[int] | None = None,
    kind: LayerKind = "weightwatcher",
    *,
    encoder: Sane | None = None,
    embeddings: Embeddings | None = None,
    reference: SaneReference | None = None,
    progress: Progress = no_progress,
    cancelled: CancelCheck | None = None,
) -> pd.DataFrame:
    """The table of :func:`layer_features` for many checkpoints of a zoo, one below the other.

    Args:
        zoo: The zoo.
        rows: Row numbers of ``zoo.table``; all by default.
        kind: Which view.
        encoder: For ``kind="sane"``: the encoder, unless ``embeddings`` are given.
        embeddings: For ``kind="sane"``: embeddings of exactly these rows, in this order, if they exist already.
        reference: For ``kind="sane"``: the zoo to compare with; by default the given rows themselves.
        progress: Called with the number of finished checkpoints.
        cancelled: Asked at least ten times a second (between chunks of models for ``"statistics"``).

    Returns:
        Columns ``row`` (in ``zoo.table``), ``model`` and ``epoch`` where the table has them, then those of
        :func:`layer_features`. Sorted by the order of ``rows``, then by layer.

    Raises:
        ValueError: Unknown kind, or ``kind="sane"`` with neither encoder nor embeddings.
        Cancelled: ``cancelled`` answered true.
    """
    import pandas as pd

    numbers = list(range(len(zoo.table))) if rows is None else [int(row) for row in rows]
    if kind == "weightwatcher":
        from sane_engine.baselines.spectral import zoo_spectral_features

        frame = zoo_spectral_features(zoo, numbers, progress=progress, cancelled=cancelled)
    elif kind == "statistics":
        from sane_engine.baselines.statistics import zoo_weight_statistics

        frame = zoo_weight_statistics(zoo, numbers, progress=progress, cancelled=cancelled)
    elif kind == "sane":
        from sane_engine.baselines.sane_layers import zoo_sane_features

        frame = zoo_sane_features(
            zoo,
            numbers,
            encoder=encoder,
            embeddings=embeddings,
            reference=reference,
            progress=progress,
            cancelled=cancelled,
        )
    else:
        raise ValueError(f"Unknown kind {kind!r}: choose one of {', '.join(FEATURES)}.")
    identity = [column for column in ("model", "epoch") if column in zoo.table.columns]
    order = pd.Series(range(len(numbers)), index=numbers)
    frame = frame.iloc[order.loc[frame["row"]].to_numpy().argsort(kind="stable")].reset_index(drop=True)
    for position, column in enumerate(identity, start=1):
        frame.insert(position, column, zoo.table[column].to_numpy()[frame["row"].to_numpy()])
    return frame


def spectrum(tensors: Mapping[str, Tensor], layer_name: str, *, cancelled: CancelCheck | None = None) -> Spectrum:
    """The eigenvalue spectrum (ESD) of one layer with its power-law fit, for a plot.

    Raises:
        KeyError: No layer of that name.
        ValueError: The layer has no spectrum; the message is the reason.
        Cancelled: ``cancelled`` answered true.
    """
    from sane_engine.baselines.spectral import spectrum as layer_spectrum

    return layer_spectrum(tensors, layer_name, cancelled=cancelled)
