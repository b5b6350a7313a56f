"""Pretraining: a zoo in, an autoencoder out; interruptible, and the same for the same seed."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sane_engine.checkpoint import Refusal
from sane_engine.progress import CancelCheck, Cancelled, Progress, no_progress, stop_if
from sane_engine.sane.alignment import Aligner, fit_aligner, symmetries_of
from sane_engine.sane.augmentation import RandomWindow, View, views
from sane_engine.sane.auxiliary import AuxiliaryHead
from sane_engine.sane.config import SaneConfig
from sane_engine.sane.embedding import embed
from sane_engine.sane.encoder_file import ENCODER_JSON, load_encoder
from sane_engine.sane.layer_cloud import fit_cloud
from sane_engine.sane.linear_start import start_from_principal_components
from sane_engine.sane.loss import masked_mean_squared_error, nt_xent
from sane_engine.sane.model import Sane
from sane_engine.sane.perturbation import FunctionMatch, perturbed
from sane_engine.sane.reactions import fit_reactions
from sane_engine.sane.readout import fit_readout
from sane_engine.sane.summary_tokens import layer_places
from sane_engine.sane.training_set import TrainingSet, rows_of_split, step_seed
from sane_engine.workspace import atomic_file

if TYPE_CHECKING:
    from sane_engine.zoo import Zoo

STATE_FILE = "pretraining.safetensors"
REPORTS = 50
"""How many times in a run the loss and the validation score are recorded."""

SAVES = 10
"""How many times in a run its state is written."""


def pretrain(
    zoo: Zoo,
    config: SaneConfig,
    *,
    folder: str | Path | None = None,
    device: str | None = None,
    progress: Progress = no_progress,
    cancelled: CancelCheck | None = None,
) -> Sane:
    """Train an autoencoder on the training split of a zoo.

    AdamW with a one-cycle learning rate and clipped gradients; bfloat16 where a CUDA device has it. Every random
    choice comes from ``config.seed`` and the number of the step, so a run on one CPU thread is repeated bit for
    bit, also after an interruption.

    Args:
        zoo: Its rows of split ``"train"`` are trained on, those of ``"validation"`` watched.
        config: Shape and course.
        folder: Where to keep the state of the run. An interrupted run goes on from there; a finished one leaves
            its encoder there, which a second call gives back.
        device: ``"cpu"``, ``"cuda"`` …; by default CUDA where there is one.
        progress: Called with the step, the number of steps, and the loss.
        cancelled: Asked before each step.

    Raises:
        Cancelled: ``cancelled()`` answered true; with a folder, its state was kept.
        Refusal: The folder belongs to another run, the zoo has no training rows, or a weight is not finite.
    """
    folder = None if folder is None else Path(folder)
    if folder is not None and (folder / ENCODER_JSON).exists():
        finished = load_encoder(folder)
        if finished.config != config or finished.provenance.get("zoo_digest") != zoo.digest:
            raise _other_run(folder)
        return finished
    progress(0, config.steps, "reading the zoo")
    rows = rows_of_split(zoo, "train")
    symmetries = symmetries_of(zoo, rows, config.token_size) if config.align or config.permute > 0 else {}
    aligner = (
        fit_aligner(zoo, rows, config.token_size, symmetries, cancelled=cancelled) if config.align else Aligner()
    )
    training = TrainingSet(zoo, rows, config, aligner=aligner, symmetries=symmetries, cancelled=cancelled)
    model = Sane(
        config,
        normalizer=training.normalizer,
        aligner=aligner,
        summariser=training.summariser,
        position_range=training.position_range,
    )
    start_from_principal_components(model, training.second_moment())
    match = FunctionMatch(zoo, training, config) if config.function_weight > 0 else None
    run = _Run(model, training, _validation_views(zoo, config, training, aligner), device, match)
    if folder is not None and (folder / STATE_FILE).exists():
        run.restore(folder / STATE_FILE, zoo.digest)
    every = max(1, config.steps // SAVES)
    try:
        while run.step < config.steps:
            stop_if(cancelled)
            loss = run.advance()
            progress(run.step, config.steps, f"loss {loss:.4f}{run.validation}")
            if folder is not None and run.step % every == 0 and run.step < config.steps:
                run.keep(folder / STATE_FILE, zoo.digest)
    except Cancelled:
        if folder is not None:
            run.keep(folder / STATE_FILE, zoo.digest)
        raise
    model = model.cpu().eval()
    fit_prediction(model, zoo, rows, cancelled=cancelled)
    if config.universal:
        # Networks of any architecture have no zoo to be compared with: the encoder carries its own.
        model.cloud = fit_cloud(embed(model, zoo.select(rows), keep_tokens=False, cancelled=cancelled))
    model.provenance.update(
        zoo=zoo.name,
        zoo_digest=zoo.digest,
        rows={name: len(rows_of_split(zoo, name)) for name in ("train", "validation", "test")},
        command=f"python -m sane_engine pretrain {zoo.name} --config CONFIG.json --out FOLDER",
        aligned=bool(aligner.alignments),
        history=run.history,
        versions={"python": platform.python_version(), "torch": torch.__version__},
        device=run.device.type,
    )
    if folder is not None:
        model.save(folder)
    return model


def fit_prediction(model: Sane, zoo: Zoo, rows: NDArray[np.int64], *, cancelled: CancelCheck | None = None) -> None:
    """Give a trained encoder the reactions and the readout that its config asks for; no label is looked at."""
    if model.config.readout > 0:
        model.reactions = fit_reactions(zoo, rows, model.config, cancelled=cancelled)
        found = embed(model, zoo.select(rows), keep_tokens=False, cancelled=cancelled)
        model.readout = fit_readout(found, model.config.readout, step_seed(model.config.seed, 7))


def learning_rate(step: int, config: SaneConfig) -> float:
    """One cycle (Smith and Topin 2018, arXiv:1708.07120): up from a 25th of the peak, down to almost nothing.

    A function of the step alone, so that a resumed run needs no state of it.
    """
    rise = max(1.0, config.warm_up * config.steps)
    if step < rise:
        low, high, part = config.learning_rate / 25.0, config.learning_rate, step / rise
    else:
        low, high = config.learning_rate, config.learning_rate / 1e4
        part = (step - rise) / max(1.0, config.steps - rise)
    return low + (high - low) * (1.0 - math.cos(math.pi * part)) / 2.0


class _Run:
    """A training run between two steps: weights, moments, step and history."""

    def __init__(
        self,
        model: Sane,
        training: TrainingSet,
        validation: list[View],
        device: str | None,
        match: FunctionMatch | None = None,
    ) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model = model.to(self.device)
        self.config = model.config
        self._head = None
        if self.config.auxiliary_weight > 0:
            width = self.config.latent * (2 if model.has_summaries else 1)
            head = AuxiliaryHead(training, width, step_seed(self.config.seed, 6))
            self._head = head.to(self.device)
        self._parts = nn.ModuleDict(
            {"model": model} if self._head is None else {"model": model, "head": self._head}
        )
        self._places = [layer_places(group.layout, group.positions).to(self.device) for group in training.groups]
        self._training, self._validation, self._match = training, validation, match
        matrices = [p for p in self._parts.parameters() if p.ndim > 1]
        others = [p for p in self._parts.parameters() if p.ndim <= 1]
        self._optimiser = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": self.config.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=self.config.learning_rate,
            betas=(0.9, 0.98),
        )
        self.step = 0
        self.history: list[dict[str, float]] = []
        self._sum = np.zeros(3)

    def advance(self) -> float:
        """Take one step and return its loss."""
        config = self.config
        generator = torch.Generator().manual_seed(step_seed(config.seed, 2, self.step))
        compares = config.gamma > 0 and config.positives == "checkpoints"
        siblings = self._training.siblings(self.step) if compares else None
        seen = views(self._training.minibatch(self.step), config, generator, siblings)
        for group in self._optimiser.param_groups:
            group["lr"] = learning_rate(self.step, config)
        self.model.train()
        with self._random_state(), self._precision():
            reconstruction, contrast, beside = self._losses(seen)
        loss = (1.0 - config.gamma) * reconstruction + config.gamma * contrast + beside
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch gives Tensor.backward no types
        nn.utils.clip_grad_norm_(self._parts.parameters(), config.clip_norm)
        self._optimiser.step()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise Refusal(
                "training-diverged",
                f"The loss is {value} at step {self.step}.",
                "Lower the learning rate or the noise.",
            )
        self.step += 1
        self._sum += (1.0, float(reconstruction.detach()), float(contrast.detach()))
        if self.step % max(1, config.steps // REPORTS) == 0 or self.step == config.steps:
            self._record()
        return value

    def _losses(self, views: list[View]) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction of the clean target from each view, contrast between the two, and what stands beside."""
        projections = []
        reconstruction = beside = torch.zeros((), device=self.device)
        for view in views:
            positions = view.positions.to(self.device)
            latents, summary_latents, output = self._through(view, positions)
            if len(views) > 1:
                projections.append(self.model.project(latents))
            target, weight = view.target.to(self.device), view.weight.to(self.device)
            reconstruction = reconstruction + masked_mean_squared_error(output.float(), target, weight) / len(views)
            if summary_latents is not None and view.summaries is not None:
                found = self.model.summary_out(summary_latents).float()
                missed = (found - view.summaries.to(self.device)).square().mean()
                beside = beside + self.config.summary_weight * missed / len(views)
            if self._head is not None and view.targets is not None:
                layer, wanted = view.layer.to(self.device), view.targets.to(self.device)
                missed = self._head.loss(view.group, latents, layer, summary_latents, wanted)
                beside = beside + self.config.auxiliary_weight * missed / len(views)
            if view is views[0] and (self.config.perturbation_weight > 0 or self._match is not None):
                beside = beside + self._perturbed(view, latents, positions, target, weight)
        if len(views) < 2:
            return reconstruction, torch.zeros((), device=self.device), beside
        return reconstruction, nt_xent(projections[0], projections[1], self.config.temperature), beside

    def _perturbed(self, view: View, latents: Tensor, positions: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """What is decoded from latents moved as samplers move them: its weights, and what it does."""
        config = self.config
        generator = torch.Generator().manual_seed(step_seed(config.seed, 8, self.step))
        moved, wanted = perturbed(latents, target, config, generator)
        output = self.model.decode(moved, positions).float()
        loss = config.perturbation_weight * masked_mean_squared_error(output, wanted, weight)
        if self._match is not None:
            loss = loss + config.function_weight * self._match.loss(view, output, generator).to(loss.device)
        return loss

    def _through(self, view: View, positions: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Latents of the tokens, those of the summary tokens if there are any, and the reconstruction."""
        tokens = view.tokens.to(self.device)
        summary_latents: Tensor | None = None
        if view.summaries is not None and self.model.has_summaries:
            summaries, places = view.summaries.to(self.device), self._places[view.group]
            latents, summary_latents = self.model.encode_with_summaries(tokens, positions, summaries, places)
        else:
            latents = self.model.encode(tokens, positions)
        return latents, summary_latents, self.model.decode(latents, positions)

    @property
    def validation(self) -> str:
        """The latest score on unseen models, as a report of progress says it."""
        latest = self.history[-1].get("validation_r2") if self.history else None
        return "" if latest is None else f" · validation R² {latest:.4f}"

    def _record(self) -> None:
        count, reconstruction, contrast = self._sum.tolist()
        entry = {
            "step": float(self.step),
            "learning_rate": learning_rate(self.step - 1, self.config),
            "reconstruction": reconstruction / count,
            "contrast": contrast / count,
        }
        if self._validation:
            entry["validation_r2"] = self._score()
        self.history.append(entry)
        self._sum = np.zeros(3)

    @torch.inference_mode()
    def _score(self) -> float:
        """R² of the reconstruction of unseen models over true entries; a mean of 0 is what normalisation made."""
        self.model.eval()
        error = total = 0.0
        for view in self._validation:
            with self._precision():
                _, _, output = self._through(view, view.positions.to(self.device))
            target, mask = view.target.to(self.device), view.mask.to(self.device)
            error += float(((output.float() - target).square() * mask).sum())
            total += float((target.square() * mask).sum())
        return 1.0 - error / total if total else math.nan

    def _precision(self) -> AbstractContextManager[Any]:
        if self.device.type == "cuda" and torch.cuda.is_bf16_supported():
            return torch.autocast("cuda", dtype=torch.bfloat16)
        return nullcontext()

    def _random_state(self) -> AbstractContextManager[Any]:
        """Dropout draws from the global generator: seed it for this step only, and put it back."""
        if self.config.dropout == 0.0:
            return nullcontext()
        return _seeded(step_seed(self.config.seed, 3, self.step), self.device)

    def keep(self, path: Path, zoo_digest: str) -> None:
        """Write what :meth:`restore` needs, in one file."""
        tensors = {name: tensor.detach().cpu() for name, tensor in self._parts.state_dict().items()}
        for number, state in self._optimiser.state_dict()["state"].items():
            tensors.update({f"moment.{number}.{name}": tensor.cpu() for name, tensor in state.items()})
        metadata = {
            "step": self.step,
            "history": self.history,
            "sum": self._sum.tolist(),
            "config": self.config.to_json(),
            "zoo_digest": zoo_digest,
        }
        with atomic_file(path) as temporary:
            save_file(tensors, temporary, metadata={key: json.dumps(value) for key, value in metadata.items()})

    def restore(self, path: Path, zoo_digest: str) -> None:
        """Go on from what :meth:`keep` wrote.

        Raises:
            Refusal: It belongs to another config or another zoo.
        """
        with safe_open(path, framework="pt") as file:
            metadata = {key: json.loads(value) for key, value in file.metadata().items()}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        if metadata["config"] != self.config.to_json() or metadata["zoo_digest"] != zoo_digest:
            raise _other_run(path.parent)
        self._parts.load_state_dict({n: t for n, t in tensors.items() if not n.startswith("moment.")})
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("moment."):
                _, number, key = name.split(".")
                moments.setdefault(int(number), {})[key] = tensor
        self._optimiser.load_state_dict({**self._optimiser.state_dict(), "state": moments})
        self.step, self.history = metadata["step"], metadata["history"]
        self._sum = np.array(metadata["sum"])


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _validation_views(
    zoo: Zoo, config: SaneConfig, training: TrainingSet, aligner: Aligner, limit: int = 256
) -> list[View]:
    """Up to ``limit`` unseen models of the layouts trained on, in windows drawn once, to score the training by."""
    rows = rows_of_split(zoo, "validation")
    trained = np.concatenate([group.rows for group in training.groups])
    layouts = [set(members.tolist()) for members in zoo.layout_groups() if np.isin(members, trained).any()]
    rows = np.array([row for row in rows if any(int(row) in members for members in layouts)], dtype=np.int64)
    if not len(rows):
        return []
    rows = rows[np.linspace(0, len(rows) - 1, min(limit, len(rows))).astype(np.int64)]
    held_out = TrainingSet(
        zoo, rows, config, normalizer=training.normalizer, aligner=aligner, summariser=training.summariser,
        position_range=training.position_range,
    )  # fmt: skip
    window, generator = RandomWindow(config.window), torch.Generator().manual_seed(step_seed(config.seed, 4))
    views = []
    for number, group in enumerate(held_out.groups):
        for first in range(0, len(group.rows), config.batch_size):
            members = np.arange(first, min(first + config.batch_size, len(group.rows)))
            views.append(window(held_out.view(number, members), generator))
    return views


def _other_run(folder: Path) -> Refusal:
    return Refusal(
        "another-run",
        f"The folder {folder.name} holds a pretraining with another config or another zoo.",
        "Choose an empty folder, or remove that one.",
    )
