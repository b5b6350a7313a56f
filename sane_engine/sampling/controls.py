"""What samples must be compared with: random initialisations, and the plain mean of the anchors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sane_engine.sampling.draws import generator_of
from sane_engine.sampling.spaces import Space
from sane_engine.sampling.task import Task
from sane_engine.ties import once_each
from sane_engine.zoo.hyperparameters import derived_seed

SCHEMES = ("kaiming_uniform", "xavier_uniform")
"""Two standard initialisations (He et al. 2015; Glorot and Bengio 2010)."""


def random_networks(task: Task, like: Mapping[str, Tensor], scheme: str, n: int, *, seed: int) -> dict[str, Tensor]:
    """Untrained networks ``[n, …]`` a tensor.

    Args:
        task: Whose architecture's own initialiser is used, where there is one.
        like: Tensor name → ``[m, …]``: names, shapes and dtypes.
        scheme: One of :data:`SCHEMES`.
        n: How many.
        seed: Of all of them.
    """
    if task.architecture is not None:
        from sane_engine.zoo.architectures import as_architecture
        from sane_engine.zoo.initialisation import initialise

        spec = as_architecture(task.architecture)
        drawn = [initialise(spec, scheme, derived_seed(seed, scheme, number)) for number in range(n)]
        return {name: torch.stack([one[name] for one in drawn]) for name in drawn[0]}

    def start(name: str, tensor: Tensor) -> Tensor:
        stack = torch.zeros(n, *tensor.shape[1:], dtype=tensor.dtype)
        if tensor.dim() > 2:
            for number in range(n):
                generator = generator_of(seed, scheme, name, number)
                if scheme == "kaiming_uniform":
                    nn.init.kaiming_uniform_(stack[number], generator=generator)
                else:
                    nn.init.xavier_uniform_(stack[number], generator=generator)
        elif name.endswith("running_var") or (name.endswith("weight") and tensor.dim() == 2):
            # A norm starts as the identity.
            stack.fill_(1)
        return stack

    return once_each(like, start)


def mean_network(space: Space, stacked: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The mean of networks after alignment, as a stack of one."""
    frame = space.frame
    return frame.models(frame.tokens(frame.align(stacked)).mean(dim=0, keepdim=True))
