"""What a network does with noise: a baseline that needs the architecture and a forward pass, but no data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from sane_engine.checkpoint import Refusal
from sane_engine.progress import CancelCheck, Progress, no_progress, stop_if
from sane_engine.representations.protocol import Features, as_features

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from sane_engine.zoo import Zoo

INPUTS = 96
"""Images of each kind of noise, the same for all models."""

_SMOOTH = 1.5

_TINY = 1e-12
# Beyond this a tanh has all but stopped to answer.
_SATURATED = 2.0


class NoiseBehaviour:
    """Path norms, activations of each layer and the spread of the outputs on fixed noise, white and smooth.

    Of each layer: logarithms of the mean absolute pre-activation, of its standard deviation over units and over
    inputs, the share that is saturated and the share that is negative, and the log path norm up to there. Of the
    outputs: quantiles of the entropy, margin, spread over classes and inputs, how often the commonest class wins,
    and how many classes ever win.
    """

    name = "behaviour"

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def fit(self, train: Zoo, *, progress: Progress = no_progress, cancelled: CancelCheck | None = None) -> Self:
        """Nothing to learn; see that the architecture is known.

        Raises:
            Refusal: It is not (``unknown-architecture``).
        """
        _networks(train)
        return self

    def transform(
        self, zoo: Zoo, *, progress: Progress = no_progress, cancelled: CancelCheck | None = None
    ) -> Features:
        """``[len(zoo), layers + 2 · (5 · layers + 11)]``."""
        import torch

        networks = _networks(zoo)
        shape = tuple(zoo.architecture["input_shape"]) if zoo.architecture else ()
        noise = _noise(shape, self.seed)
        told = zoo.table["activation"].tolist() if "activation" in zoo.table else [None] * len(zoo)
        rows = []
        with torch.inference_mode():
            for row, activation in enumerate(told):
                stop_if(cancelled)
                network = networks.get(activation, networks[None])
                network.load_state_dict(zoo.tensors(row))
                rows.append(_behaviour(network, noise))
                if row % 64 == 63 or row + 1 == len(zoo):
                    progress(row + 1, len(zoo), "behaviour on noise")
        return as_features(np.stack(rows))


def _networks(zoo: Zoo) -> dict[Any, nn.Module]:
    """The network of each activation that the table names; under ``None``, the architecture's own."""
    from dataclasses import replace

    from sane_engine.zoo.architectures import as_architecture, build
    from sane_engine.zoo.spec import ACTIVATIONS, SpecError

    refusal = Refusal(
        "unknown-architecture",
        "Nothing is known of how to run these networks.",
        "Use a representation that needs the weights alone.",
    )
    if zoo.architecture is None:
        raise refusal
    try:
        architecture = as_architecture(zoo.architecture)
    except (SpecError, TypeError, ValueError) as error:
        raise refusal from error
    shapes = {p.name: p.shape for p in zoo.signature(0)} if len(zoo) else {}
    if len(zoo.layout_groups()) > 1 or shapes != dict(architecture.shapes):
        raise refusal
    names = set(zoo.table["activation"]) & set(ACTIVATIONS) if "activation" in zoo.table else set()
    return {None: build(architecture)} | {
        name: build(replace(architecture, activation=name)) for name in sorted(names)
    }


def _weighted(network: nn.Module) -> list[nn.Module]:
    return [m for m in network.modules() if isinstance(getattr(m, "weight", None), _tensor_type())]


def _tensor_type() -> type[Tensor]:
    import torch

    return torch.Tensor


def _noise(shape: tuple[int, ...], seed: int) -> tuple[Tensor, Tensor]:
    """White noise, and noise that is smooth as images are: a network answers to the two differently."""
    import torch
    from torch.nn import functional as F

    generator = torch.Generator().manual_seed(seed)
    white = torch.randn(INPUTS, *shape, generator=generator)
    coarse = torch.randn(INPUTS, shape[0], *(max(2, (side + 2) // 3) for side in shape[1:]), generator=generator)
    return white, _SMOOTH * F.interpolate(coarse, size=shape[1:], mode="bilinear")


def _behaviour(network: nn.Module, noises: tuple[Tensor, ...]) -> NDArray[np.float64]:
    """The features ``[k]`` of one network."""
    answers = [value for noise in noises for value in _answers(network, noise)]
    return np.asarray([*_path_norms(network), *answers])


def _answers(network: nn.Module, noise: Tensor) -> list[float]:
    """Activations of each layer, then the outputs."""
    seen: list[Tensor] = []
    hooks = [m.register_forward_hook(lambda _m, _i, out: seen.append(out)) for m in _weighted(network)]
    try:
        logits = network(noise)
    finally:
        for hook in hooks:
            hook.remove()
    return [*(value for out in seen for value in _layer(out)), *_outputs(logits)]


def _layer(out: Tensor) -> list[float]:
    units = out.flatten(2).mean(2) if out.dim() > 2 else out
    return [
        _log(out.abs().mean()),
        _log(units.mean(0).std()),
        _log(units.std(0).mean()),
        float((out.abs() > _SATURATED).float().mean()),
        float((out < 0).float().mean()),
    ]


def _log(value: Tensor | float) -> float:
    number = float(value)
    return float(np.log10(number + _TINY)) if np.isfinite(number) else 38.0


def _path_norms(network: nn.Module) -> list[float]:
    """log10 of the mean over units of the sum over paths of products of |w|, up to each layer, without biases."""
    import torch

    size = None
    values: list[float] = []
    for module in _weighted(network):
        weight: torch.Tensor = module.weight  # type: ignore[assignment]
        rows = (
            weight.detach().abs().double().flatten(2).sum(2) if weight.dim() > 2 else weight.detach().abs().double()
        )
        if size is None:
            size = torch.ones(rows.shape[1], dtype=torch.float64)
        if rows.shape[1] != len(size):
            # Flattened images: each channel stands for a run of inputs.
            rows = rows.reshape(len(rows), len(size), -1).sum(2)
        size = rows @ size
        values.append(_log(size.mean()))
    return values


def _outputs(logits: Tensor) -> list[float]:
    """Eleven numbers of the outputs ``[inputs, classes]``."""
    import torch

    finite = torch.nan_to_num(logits, nan=0.0, posinf=1e30, neginf=-1e30)
    chances = finite.softmax(1)
    entropy = -(chances * chances.clamp(min=_TINY).log()).sum(1)
    top = chances.topk(min(2, chances.shape[1]), dim=1).values
    winners = finite.argmax(1)
    counts = torch.bincount(winners, minlength=finite.shape[1]).float() / len(winners)
    quantiles = torch.quantile(entropy, torch.tensor([0.1, 0.5, 0.9])).tolist()
    return [
        float(entropy.mean()),
        float(entropy.std()),
        *quantiles,
        float(top[:, 0].mean()),
        float((top[:, 0] - top[:, -1]).mean()),
        _log(finite.std(1).mean()),
        _log(finite.std(0).mean()),
        float(counts.max()),
        float((counts > 0).float().mean()),
    ]
