"""Minibatches of standardised tokens from a zoo, in an order that depends on the seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from sane_engine.behaviour.networks import runnable
from sane_engine.checkpoint import Refusal
from sane_engine.progress import CancelCheck, stop_if
from sane_engine.sane.alignment import Aligner
from sane_engine.sane.augmentation import View
from sane_engine.sane.config import SaneConfig
from sane_engine.sane.loss import entry_weights
from sane_engine.sane.normalisation import Normalizer, Statistics, fit_statistics, own_statistics, structure
from sane_engine.sane.positions import rescaled_positions
from sane_engine.sane.summariser import Summariser, fit_summariser
from sane_engine.sane.token_permutations import TokenPermutations, draw_permutations
from sane_engine.tokens import Layout, TokenBatch, tokenize_batch

if TYPE_CHECKING:
    from sane_engine.symmetry import Symmetry
    from sane_engine.zoo import Zoo

Rows = NDArray[np.int64]

CACHE_BYTES = 2 * 1024**3
"""Zoos whose tokens fit into this stay in memory; larger ones are read again for every minibatch."""

CHUNK_BYTES = 256 * 1024**2
"""Tokens of at most this size are made at a time."""


def step_seed(*path: int) -> int:
    """A seed for one purpose of a run; the purposes do not share any."""
    return int(np.random.SeedSequence(path).generate_state(1, np.uint64)[0] >> np.uint64(1))


def rows_of_split(zoo: Zoo, split: str) -> Rows:
    """Row numbers of one split of a zoo."""
    return np.flatnonzero((zoo.table["split"] == split).to_numpy()).astype(np.int64)


def token_batch(zoo: Zoo, rows: Rows, token_size: int, aligner: Aligner | None = None) -> TokenBatch:
    """The tokens of some checkpoints that share a layout, aligned where there is a reference for it.

    Raises:
        Refusal: A weight is infinite or not a number (``non-finite-weights``).
    """
    batch = tokenize_batch(zoo.stacked(rows), token_size)
    finite = batch.tokens.isfinite().flatten(1).all(dim=1)
    if not finite.all():
        bad = ", ".join(str(zoo.table["model"].iloc[int(rows[i])]) for i in (~finite).nonzero().flatten()[:3])
        raise Refusal(
            "non-finite-weights",
            f"{int((~finite).sum())} checkpoints have weights that are infinite or not a number (first: {bad}).",
            "Leave these models out of the zoo.",
        )
    return batch if aligner is None else aligner.align(batch)


def chunk_length(layout_bytes: int) -> int:
    """How many models of this many bytes of tokens to hold at a time."""
    return max(1, CHUNK_BYTES // max(1, layout_bytes))


@dataclass(frozen=True)
class Group:
    """The rows of one layout, the training run each is of, and what of the layout every minibatch needs."""

    rows: Rows
    runs: Rows
    layout: Layout
    positions: Tensor
    statistics: Statistics | None
    weight: Tensor
    tokens: Tensor | None
    permutations: TokenPermutations | None
    summaries: Tensor | None
    targets: Tensor | None


def standardise(batch: TokenBatch, statistics: Statistics | None) -> Tensor:
    """By what was fitted, or every model by its own."""
    found = statistics or own_statistics(batch.tokens, batch.layout)
    return found.apply(batch.tokens, batch.layout)


class TrainingSet:
    """The rows of one split, by layout.

    Attributes:
        normalizer: Fitted on these rows (aligned, where there is a reference), or the one that was given.
        summariser: What makes the summaries, fitted on these rows or given.
        position_range: Largest position of any of the layouts, or the one that was given; a universal encoder's
            positions are rescaled to it.
        batches_per_epoch: Minibatches until every row has been seen.
    """

    def __init__(
        self,
        zoo: Zoo,
        rows: Rows,
        config: SaneConfig,
        *,
        normalizer: Normalizer | None = None,
        aligner: Aligner | None = None,
        summariser: Summariser | None = None,
        symmetries: Mapping[str, Symmetry] | None = None,
        position_range: tuple[float, float, float] | None = None,
        cancelled: CancelCheck | None = None,
    ) -> None:
        if not len(rows):
            raise Refusal("no-models", "The zoo has no models in this split.", "Split it again, or add models.")
        self._zoo, self._config, self._aligner = zoo, config, aligner
        self.groups: list[Group] = []
        self._architectures: dict[str, Mapping[str, Any]] = {}
        statistics: dict[str, Statistics] = {}
        limits = np.zeros(3)
        wanted = set(rows.tolist())
        for members in zoo.layout_groups():
            own = np.array([row for row in members if int(row) in wanted], dtype=np.int64)
            if not len(own):
                continue
            layout = token_batch(zoo, own[:1], config.token_size).layout
            key = structure(layout)
            chunk = chunk_length(layout.n_tokens * config.token_size * 4)
            chunks = [own[first : first + chunk] for first in range(0, len(own), chunk)]
            fitted: Statistics | None = None
            if not config.universal:
                if normalizer is None and key not in statistics:
                    # A layout that comes in two precisions has the statistics of the first that is met.
                    statistics[key] = fit_statistics(self._batches(chunks, cancelled))
                fitted = statistics[key] if normalizer is None else normalizer.statistics[key]
            limits = np.maximum(limits, layout.positions().amax(dim=0).numpy())
            tokens = None
            if len(own) * layout.n_tokens * config.token_size * 4 <= CACHE_BYTES:
                tokens = torch.cat([standardise(b, fitted) for b in self._batches(chunks, cancelled)])
            weight = entry_weights(layout, config.loss_normalisation)
            permutations = None
            if config.permute > 0 and symmetries and key in symmetries:
                generator = torch.Generator().manual_seed(step_seed(config.seed, 5, len(self.groups)))
                # A tensor's own mean and standard deviation stay what they are when its entries change places.
                about = fitted or Statistics(torch.zeros(len(layout.slots)), torch.ones(len(layout.slots)))
                permutations = draw_permutations(symmetries[key], layout, about, generator)
            summaries = None
            if config.summary_weight > 0 or config.auxiliary_weight > 0:
                maker = summariser or Summariser(
                    architectures=self._architecture(key, own), universal=config.universal
                )
                summaries = torch.cat([maker.raw(b) for b in self._batches(chunks, cancelled)])
                self._architectures.update(maker.architectures)
            positions = layout.positions().float()
            runs = pd.factorize(zoo.table[zoo.group_column].to_numpy()[own])[0].astype(np.int64)
            self.groups.append(
                Group(own, runs, layout, positions, fitted, weight, tokens, permutations, summaries, None)
            )
        self.normalizer = normalizer or Normalizer(statistics)
        self.summariser = self._standardise_summaries(summariser)
        self.position_range = position_range or (float(limits[0]), float(limits[1]), float(limits[2]))
        if config.universal:
            self.groups = [
                replace(group, positions=rescaled_positions(group.layout.positions(), self.position_range))
                for group in self.groups
            ]
        self._sizes = [max(1, len(group.rows) // config.batch_size) for group in self.groups]
        self.batches_per_epoch = sum(self._sizes)
        self._order: tuple[int, list[tuple[int, Any]]] | None = None

    def _architecture(self, key: str, rows: Rows) -> dict[str, Mapping[str, Any]]:
        """How to run these models, by structure, if it is to be used and known."""
        found = runnable(self._zoo, rows) if self._config.noise_behaviour else None
        return {} if found is None else {key: found}

    def _standardise_summaries(self, given: Summariser | None) -> Summariser:
        found = [(structure(g.layout), g.summaries) for g in self.groups if g.summaries is not None]
        if not found:
            return Summariser()
        summariser = given or fit_summariser(found, self._architectures, universal=self._config.universal)
        for number, group in enumerate(self.groups):
            assert group.summaries is not None
            summaries = summariser.standardise(group.summaries, group.layout)
            targets = summaries.flatten(1) if self._config.auxiliary_weight > 0 else None
            self.groups[number] = replace(group, summaries=summaries, targets=targets)
        return summariser

    def _batches(self, chunks: list[Rows], cancelled: CancelCheck | None) -> Any:
        for chunk in chunks:
            stop_if(cancelled)
            yield token_batch(self._zoo, chunk, self._config.token_size, self._aligner)

    def minibatch(self, step: int) -> View:
        """The clean view of the minibatch of a step; the same whenever and in whatever order it is asked for."""
        return self.view(*self._members(step))

    def siblings(self, step: int) -> View:
        """Of each checkpoint of that minibatch another one of the same run; itself where there is no other."""
        number, members = self._members(step)
        runs = self.groups[number].runs
        random = np.random.default_rng([self._config.seed, 9, step])

        def sibling(member: int) -> int:
            others = np.flatnonzero(runs == runs[member])
            others = others[others != member]
            return int(random.choice(others)) if len(others) else member

        return self.view(number, np.array([sibling(int(member)) for member in members], dtype=np.int64))

    def _members(self, step: int) -> tuple[int, Any]:
        """Which group the minibatch of a step is of, and which of its members it has."""
        epoch, place = divmod(step, self.batches_per_epoch)
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, self._shuffle(epoch))
        return self._order[1][place]

    def _shuffle(self, epoch: int) -> list[tuple[int, Any]]:
        """Which rows of which group each minibatch of an epoch takes; rows beyond whole minibatches sit out."""
        random = np.random.default_rng([self._config.seed, 1, epoch])
        batches: list[tuple[int, Any]] = []
        for number, (group, count) in enumerate(zip(self.groups, self._sizes, strict=True)):
            order = random.permutation(len(group.rows))
            size = min(self._config.batch_size, len(order))
            batches.extend((number, order[i * size : (i + 1) * size]) for i in range(count))
        return [batches[i] for i in random.permutation(len(batches))]

    def second_moment(self, limit: int = 2048) -> Tensor:
        """Sum of x·xᵀ over the tokens of up to ``limit`` models a layout, to trace 1: ``[d, d]``, float64."""
        total = torch.zeros(self._config.token_size, self._config.token_size, dtype=torch.float64)
        for number, group in enumerate(self.groups):
            members = np.linspace(0, len(group.rows) - 1, min(limit, len(group.rows))).astype(np.int64)
            for first in range(0, len(members), self._config.batch_size):
                tokens = self.view(number, members[first : first + self._config.batch_size]).tokens.double()
                total += torch.einsum("mnd,mne->de", tokens, tokens)
        return total / total.trace()

    def view(self, number: int, members: Rows) -> View:
        """The clean view of some members (by place in the group) of a group."""
        group = self.groups[number]
        if group.tokens is not None:
            tokens = group.tokens[torch.from_numpy(members)]
        else:
            batch = token_batch(self._zoo, group.rows[members], self._config.token_size, self._aligner)
            tokens = standardise(batch, group.statistics)
        shape = tokens.shape
        return View(
            tokens,
            tokens,
            group.layout.mask().expand(shape),
            group.weight.expand(shape),
            group.positions.expand(shape[0], -1, -1),
            group.layout.layer_of_token().expand(shape[0], -1),
            group.permutations,
            number,
            None if group.summaries is None else group.summaries[torch.from_numpy(members)],
            None if group.targets is None else group.targets[torch.from_numpy(members)],
        )
