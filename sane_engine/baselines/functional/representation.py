"""Universal neural functionals as a representation: trained to predict properties, used as features."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sane_engine.baselines.functional.network import Functional
from sane_engine.checkpoint import Refusal
from sane_engine.progress import CancelCheck, Progress, no_progress, stop_if
from sane_engine.symmetry import symmetry_of_zoo
from sane_engine.zoo.splits import split_by_group

if TYPE_CHECKING:
    from sane_engine.zoo import Zoo

DEFAULT_TARGETS = ("test_accuracy", "epoch", "generalisation_gap")
_HELD = 250_000_000  # entries of weights kept in memory; beyond it they are read again for each batch
_AT_ONCE = 20_000_000  # entries of weights in a batch
_CHECKS = 40  # validations in a training
_SCALED_BY = 256  # training models the inputs' scales are taken from


@dataclass(frozen=True)
class FunctionalConfig:
    """Shape and training of a functional.

    Attributes:
        channels, depth, hops, features, dropout, rank: See :class:`Functional`.
        members: Functionals trained beside each other, each with validation models of its own.
        steps: Updates of the parameters, so that cost does not grow with the zoo.
        batch: Models a step.
        learning_rate: The largest, of a one-cycle schedule.
        weight_decay: AdamW's.
        noise: Standard deviation of the factor 1 + noise that every weight is multiplied by while training.
        average: How much of the running mean of the parameters is kept at each step; the mean is what is used.
        validation: Share of the training models that is held out to choose the step, for each target.
        seed: Of everything random.
    """

    channels: int = 32
    depth: int = 3
    hops: int = 2
    features: int = 64
    dropout: float = 0.1
    rank: int = 256
    members: int = 3
    steps: int = 600
    batch: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    noise: float = 0.0
    average: float = 0.99
    validation: float = 0.15
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


class FunctionalRepresentation:
    """Functionals trained on the properties of the training models; their last hidden layers are the vector.

    Unlike other representations it looks at labels, those of the training models: what a supervised encoder that
    respects the symmetries makes of the same data. It is invariant to permutations of the networks' units, and to
    their sign flips where the activation is odd.

    Attributes:
        targets: The columns it is trained to predict, all at once, each at unit variance.
        chosen: After fitting, for each member and target the step that was kept and its validation R². Some targets
            are learnt long after others are learnt by heart, so each keeps its own step.
    """

    name = "functional"

    def __init__(
        self, targets: Sequence[str] | str | None = None, *, config: FunctionalConfig | None = None
    ) -> None:
        """Choose what to predict.

        Args:
            targets: Numeric columns of the table; by default those of :data:`DEFAULT_TARGETS` that are there.
            config: Shape and training.
        """
        self.config = config or FunctionalConfig()
        self.targets: tuple[str, ...] = (targets,) if isinstance(targets, str) else tuple(targets or ())
        self.chosen: list[dict[str, tuple[int, float]]] = []
        self._members: list[list[Functional]] = []
        self._centre = self._spread = np.zeros(0)

    def fit(self, train: Zoo, *, progress: Progress = no_progress, cancelled: CancelCheck | None = None) -> Self:
        """Train on labelled models.

        Args:
            train: The training rows only; some of its models are held out to choose the step.
            progress: Called after each validation.
            cancelled: Asked before each step.

        Raises:
            Refusal: The models differ in layout (``mixed-layouts``), a weight is not finite (``not-finite``),
                there is no target (``no-target``), there are too few models (``too-few-models``), or nothing is
                known to be permutable (``no-symmetry``).
            Cancelled: The caller asked to stop.
        """
        config = self.config
        if not self.targets:
            self.targets = tuple(t for t in DEFAULT_TARGETS if t in train.table and train.kind(t) == "numeric")
        labels = _labels(train, self.targets)
        models = _Models(train)
        models.check_finite(cancelled)
        self._centre, spread = np.nanmean(labels, axis=0), np.nanstd(labels, axis=0)
        self._spread = np.where(spread > 0, spread, 1.0)
        known = torch.from_numpy((labels - self._centre) / self._spread).float()
        self._members, self.chosen = [], []
        groups = train.table[train.group_column].to_numpy()
        if len(set(groups.tolist())) < 3:
            raise Refusal("too-few-models", "A functional needs at least three training models.", "Add models.")
        with torch.random.fork_rng(devices=[]):  # rebuilding a module to trace draws random weights
            symmetry = symmetry_of_zoo(train)
        if symmetry.is_trivial:
            raise Refusal(
                "no-symmetry",
                f"Nothing is known to change places in these networks: {'; '.join(symmetry.notes) or 'no units'}.",
                "Give the zoo an architecture or a symmetry.json.",
            )
        for member in range(config.members):
            seed = 1000 * config.seed + member
            fractions = (1 - config.validation, config.validation, 0.0)
            split = split_by_group(groups, fractions=fractions, seed=seed)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                functional = Functional(
                    symmetry,
                    models.shapes,
                    channels=config.channels,
                    depth=config.depth,
                    hops=config.hops,
                    features=config.features,
                    outputs=len(self.targets),
                    dropout=config.dropout,
                    rank=config.rank,
                )
                own = np.flatnonzero(split == "train")
                sample = np.random.default_rng(seed).permutation(own)[: min(_SCALED_BY, models.at_once)]
                functional.standardise(models.stacked(sample))
                course = _Course(functional, models, known, own, np.flatnonzero(split == "validation"), config)
                best = course.run(member, progress, cancelled)
            self._members.append([kept.functional for kept in best])
            self.chosen.append(
                {target: (kept.step, kept.score) for target, kept in zip(self.targets, best, strict=True)}
            )
        return self

    def transform(
        self, zoo: Zoo, *, progress: Progress = no_progress, cancelled: CancelCheck | None = None
    ) -> NDArray[np.float32]:
        """Invariant features ``[len(zoo), members · targets · features]``, those of each kept step side by side.

        Raises:
            Refusal: The models are not of the layout trained on (``mixed-layouts``), or not finite.
            Cancelled: The caller asked to stop.
        """
        return self._apply(zoo, True, progress, cancelled).numpy()

    def predict(
        self, zoo: Zoo, *, progress: Progress = no_progress, cancelled: CancelCheck | None = None
    ) -> NDArray[np.float64]:
        """Predictions ``[len(zoo), targets]`` in the units of the table, the mean of the members.

        Raises:
            Refusal: As :meth:`transform`.
            Cancelled: The caller asked to stop.
        """
        scaled = self._apply(zoo, False, progress, cancelled).numpy().astype(np.float64)
        return np.asarray(scaled * self._spread + self._centre)

    @torch.no_grad()
    def _apply(self, zoo: Zoo, features: bool, progress: Progress, cancelled: CancelCheck | None) -> Tensor:
        if not self._members:
            raise Refusal("not-fitted", "This functional has not been trained.", "Call fit first.")
        models = _Models(zoo)
        if models.shapes != self._members[0][0].places.shapes:
            raise Refusal(
                "mixed-layouts",
                "These networks have other tensors than those the functional was trained on.",
                "A functional reads one architecture.",
            )
        models.check_finite(cancelled)
        parts = []
        for start in range(0, len(zoo), models.at_once):
            stop_if(cancelled)
            stacked = models.stacked(np.arange(start, min(start + models.at_once, len(zoo))))
            if features:
                kept = [functional.features(stacked) for member in self._members for functional in member]
                parts.append(torch.cat(kept, dim=1))
            else:
                answers = [
                    torch.stack([functional(stacked)[:, t] for t, functional in enumerate(member)], dim=1)
                    for member in self._members
                ]
                parts.append(torch.stack(answers).mean(dim=0))
            progress(min(start + models.at_once, len(zoo)), len(zoo), "Functional")
        return torch.cat(parts)


class _Models:
    """The floating-point tensors of a zoo, kept in memory if they are not too many."""

    def __init__(self, zoo: Zoo) -> None:
        if len(zoo.layout_groups()) != 1:
            raise Refusal(
                "mixed-layouts",
                "A functional reads one architecture, and these models differ in names or shapes of tensors.",
                "Take the rows of one layout.",
            )
        self.zoo = zoo
        first = zoo.tensors(0)
        self.shapes = {name: tuple(t.shape) for name, t in first.items() if t.is_floating_point()}
        entries = sum(first[name].numel() for name in self.shapes)
        self.at_once = max(1, min(256, _AT_ONCE // max(entries, 1)))
        self._kept = self._read(np.arange(len(zoo))) if entries * len(zoo) <= _HELD else None

    def _read(self, rows: NDArray[np.int64]) -> dict[str, Tensor]:
        stacked = self.zoo.stacked(rows)
        return {name: stacked[name].float() for name in self.shapes}

    def stacked(self, rows: NDArray[np.int64]) -> dict[str, Tensor]:
        """Name → ``[len(rows), …]``."""
        if self._kept is None:
            return self._read(rows)
        index = torch.from_numpy(np.asarray(rows))
        return {name: tensor[index] for name, tensor in self._kept.items()}

    def check_finite(self, cancelled: CancelCheck | None) -> None:
        """Refuse NaN and infinite weights."""
        for start in range(0, len(self.zoo), self.at_once):
            stop_if(cancelled)
            rows = np.arange(start, min(start + self.at_once, len(self.zoo)))
            for name, tensor in self.stacked(rows).items():
                bad = (~tensor.flatten(1).isfinite().all(dim=1)).nonzero()
                if len(bad):
                    model = self.zoo.table["model"].iloc[int(rows[int(bad[0])])]
                    raise Refusal("not-finite", f"{name} of {model} is NaN or infinite.", "Leave such models out.")


def _labels(train: Zoo, targets: Sequence[str]) -> NDArray[np.float64]:
    missing = [t for t in targets if t not in train.table or train.kind(t) != "numeric"]
    if missing or not targets:
        what = f"{missing[0]!r} is not a numeric column." if missing else "There is no numeric property to learn."
        raise Refusal("no-target", what, "Name numeric columns of the zoo's table as targets.")
    labels = train.table[list(targets)].to_numpy(dtype=np.float64, na_value=np.nan)
    labels = np.where(np.isfinite(labels), labels, np.nan)
    if np.isnan(labels).all(axis=0).any():
        raise Refusal("no-target", "A target is missing in every training row.", "Choose another column.")
    return labels


@dataclass(frozen=True)
class _Kept:
    functional: Functional
    step: int
    score: float


@dataclass
class _Course:
    """The training of one member."""

    functional: Functional
    models: _Models
    labels: Tensor
    own: NDArray[np.int64]
    validation: NDArray[np.int64]
    config: FunctionalConfig

    def run(self, member: int, progress: Progress, cancelled: CancelCheck | None) -> list[_Kept]:
        """The averaged functional at the best step for each target."""
        config = self.config
        averaged = copy.deepcopy(self.functional).eval()
        optimiser = torch.optim.AdamW(
            self.functional.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser,
            config.learning_rate,
            total_steps=config.steps,
            pct_start=max(0.1, min(1.0, 2 / config.steps)),
        )
        checks = np.unique(np.linspace(0, config.steps, _CHECKS + 1).round().astype(int)[1:])
        best: list[_Kept] = []
        batches = self._batches()
        for step in range(1, config.steps + 1):
            stop_if(cancelled)
            self.functional.train()
            loss = self._loss(next(batches))
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            torch.nn.utils.clip_grad_norm_(self.functional.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            self._average(averaged, step)
            if step not in checks:
                continue
            scores = self._validate(averaged)
            best = best or [_Kept(averaged, 0, -np.inf) for _ in scores]
            better = [t for t, score in enumerate(scores) if score > best[t].score]
            if better:
                frozen = copy.deepcopy(averaged)
                for target in better:
                    best[target] = _Kept(frozen, step, scores[target])
            told = ", ".join(f"{score:.2f}" for score in scores)
            done = member * config.steps + step
            progress(done, config.members * config.steps, f"Functional: validation R² {told}")
        return best

    def _batches(self) -> Iterator[NDArray[np.int64]]:
        """Rows of one batch after another, each model once before any comes again."""
        size = min(self.config.batch, self.models.at_once)
        while True:
            order = self.own[torch.randperm(len(self.own)).numpy()]
            yield from np.array_split(order, max(1, len(order) // size))

    def _loss(self, rows: NDArray[np.int64]) -> Tensor:
        stacked = self.models.stacked(rows)
        if self.config.noise:
            stacked = {k: t * (1 + self.config.noise * torch.randn_like(t)) for k, t in stacked.items()}
        return _error(self.functional(stacked), self.labels[torch.from_numpy(rows)]).mean()

    @torch.no_grad()
    def _average(self, averaged: Functional, steps: int) -> None:
        # At first over fewer steps, so that the start is forgotten.
        keep = min(self.config.average, steps / (steps + 10))
        for mean, now in zip(averaged.parameters(), self.functional.parameters(), strict=True):
            mean.lerp_(now, 1 - keep)

    @torch.no_grad()
    def _validate(self, averaged: Functional) -> list[float]:
        """R² of each target on the held-out models."""
        rows, size = self.validation, self.models.at_once
        parts = [averaged(self.models.stacked(rows[i : i + size])) for i in range(0, len(rows), size)]
        known = self.labels[torch.from_numpy(rows)]
        spread = _error(known.nanmean(dim=0).nan_to_num().expand_as(known), known)
        return [float(score) for score in 1 - _error(torch.cat(parts), known) / spread.clamp_min(1e-12)]


def _error(predicted: Tensor, known: Tensor) -> Tensor:
    """Mean squared error of each target ``[t]`` over the rows where it is known."""
    there = known.isfinite()
    squares = torch.where(there, predicted - known.nan_to_num(), torch.zeros(())).square()
    return squares.sum(dim=0) / there.sum(dim=0).clamp_min(1)
