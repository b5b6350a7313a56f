"""Running statistics of batch norm for networks that were made and not trained.

A sampled running mean belongs to no data: it was drawn as if it were a weight, and a network whose norms divide by
the wrong variance computes nothing of use. So the statistics are measured again, on images without labels, or on
noise that looks a little like images where there are none (as in REPAIR, Jordan et al. 2022, arXiv:2211.08403).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sane_engine.progress import CancelCheck, stop_if
from sane_engine.sampling.draws import generator_of
from sane_engine.sampling.spaces import Space, decode_models
from sane_engine.sampling.task import Task, evenly_spaced

if TYPE_CHECKING:
    from sane_engine.zoo import Zoo

Condition = Literal["auto", "images", "noise", "none"]
CONDITIONS: tuple[Condition, ...] = ("auto", "images", "noise", "none")

IMAGES = 512
"""Images that statistics are measured on."""

_BATCH = 128


def has_batch_norm(names: Iterable[str]) -> bool:
    """Whether tensors, by their names, hold running statistics."""
    return any(name.endswith("running_mean") for name in names)


def module_of(task: Task) -> nn.Module | None:
    """One network of the task as a module, where the task says how to build it."""
    if task.module is not None:
        return task.module
    if task.architecture is None:
        return None
    from sane_engine.zoo.architectures import build

    return build(task.architecture)


def noise_like_images(shape: tuple[int, ...], n: int = IMAGES, *, seed: int = 0) -> Tensor:
    """Standardised noise ``[n, c, h, w]``, blurred so that neighbouring pixels are alike, as in images."""
    noise = torch.randn(n, *shape, generator=generator_of(seed, "noise images"))
    blurred = F.avg_pool2d(F.pad(noise, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    mean = blurred.mean(dim=(0, 2, 3), keepdim=True)
    return (blurred - mean) / blurred.std(dim=(0, 2, 3), keepdim=True).clamp_min(1e-6)


@torch.no_grad()
def condition(
    module: nn.Module, stacked: Mapping[str, Tensor], images: Tensor, *, cancelled: CancelCheck | None = None
) -> dict[str, Tensor]:
    """The same networks with their running statistics measured on some images.

    Norms see the mean and variance of these images, averaged over batches; dropout is off; nothing else changes.

    Args:
        module: One network of the layout; not changed.
        stacked: Tensor name → ``[m, …]``.
        images: ``[b, c, h, w]``, without labels.
        cancelled: Asked before each network.
    """
    network = copy.deepcopy(module).eval()
    norms = {
        name: layer for name, layer in network.named_modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)
    }
    measured = {f"{name}.{leaf}" for name in norms for leaf in ("running_mean", "running_var")}
    result = {name: tensor.clone() if name in measured else tensor for name, tensor in stacked.items()}
    for number in range(len(next(iter(stacked.values())))):
        stop_if(cancelled)
        network.load_state_dict({name: tensor[number] for name, tensor in stacked.items()}, strict=False)
        for norm in norms.values():
            norm.reset_running_stats()
            # Without a momentum the running statistics are the plain average over batches.
            norm.momentum = None
            norm.train()
        for batch in torch.split(images, _BATCH):
            if len(batch) > 1:
                network(batch)
        for name, norm in norms.items():
            for leaf in ("running_mean", "running_var"):
                statistic = getattr(norm, leaf)
                if statistic is not None and f"{name}.{leaf}" in result:
                    result[f"{name}.{leaf}"][number] = statistic
    return result


def conditioning(
    zoo: Zoo, *, activation: str | None = None, cancelled: CancelCheck | None = None
) -> Callable[[Mapping[str, Tensor]], dict[str, Tensor]] | None:
    """How :func:`condition` treats networks like those of a zoo: on images that the zoo was trained on.

    Args:
        zoo: The zoo.
        activation: In place of the architecture's own, for a zoo that varies it.
        cancelled: Asked before each network.

    Returns:
        Takes tensor name → ``[m, …]``; ``None`` where the networks have no batch norm.

    Raises:
        Refusal: The zoo does not say how to run its networks, or the images are not at hand.
    """
    from sane_engine.zoo.architectures import as_architecture, build
    from sane_engine.zoo.task import data_of_zoo

    if zoo.architecture is not None and not as_architecture(zoo.architecture).norms:
        return None
    architecture, dataset = data_of_zoo(zoo)
    module = build(architecture if activation is None else replace(architecture, activation=activation))
    some = evenly_spaced(len(dataset.train_images), IMAGES)
    return partial(condition, module, images=dataset.train_images[some], cancelled=cancelled)


def condition_for(
    task: Task,
    stacked: Mapping[str, Tensor],
    how: Condition,
    *,
    seed: int = 0,
    cancelled: CancelCheck | None = None,
) -> tuple[dict[str, Tensor], str]:
    """Networks ready to be run, and what was done, in words for the record.

    Args:
        task: Whose images to fit serve, without their labels.
        stacked: Tensor name → ``[m, …]``.
        how: ``"auto"`` takes the task's images, ``"noise"`` none of them, ``"none"`` leaves the sampled statistics.
        seed: Of the noise.
        cancelled: Asked before each network that is measured.
    """
    module = module_of(task) if has_batch_norm(stacked) and how != "none" else None
    if module is None:
        return dict(stacked), "as sampled" if has_batch_norm(stacked) else "no batch norm"
    if how == "noise":
        images = noise_like_images(tuple(task.fit.images.shape[1:]), seed=seed)
        measured = condition(module, stacked, images, cancelled=cancelled)
        return measured, f"measured on {len(images)} images of noise"
    images = task.fit.images[evenly_spaced(len(task.fit), IMAGES)]
    measured = condition(module, stacked, images, cancelled=cancelled)
    return measured, f"measured on {len(images)} images of {task.name}, without labels"


def networks(
    space: Space,
    vectors: Tensor,
    task: Task | None,
    how: Condition,
    *,
    seed: int = 0,
    cancelled: CancelCheck | None = None,
) -> tuple[dict[str, Tensor], str]:
    """Vectors ``[m, n, k]`` as networks that can be run, and what was done for their batch norm, in words."""
    stacked = decode_models(space, vectors)
    if task is None:
        return stacked, "as sampled" if has_batch_norm(stacked) else "no batch norm"
    return condition_for(task, stacked, how, seed=seed, cancelled=cancelled)
