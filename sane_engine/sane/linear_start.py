"""The autoencoder's first weights: its residual stream carries the principal components of the tokens.

Principal components reconstruct weights well, and a transformer that starts from noise needs most of its training
to get as far. So training starts there: enter and leave are set so that latents are the leading components and the
decoder puts them back, and whatever else writes into the residual stream (positions, attention, perceptrons) starts
in directions that do not disturb this path. What is learnt is what position and context add to it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sane_engine.sane.model import Block, Sane, Stack


@torch.no_grad()
def start_from_principal_components(model: Sane, second_moment: Tensor) -> None:
    """Set the weights of an untrained autoencoder so that it reconstructs as per-token PCA does.

    Does nothing where the residual stream is narrower than a token, or the latent is wider.

    Args:
        model: Fresh from its constructor.
        second_moment: Of the standardised training tokens x, the mean of x·xᵀ to any scale: ``[token_size,
            token_size]``. Their mean is zero, so this is their covariance.
    """
    config = model.config
    if config.d_model < config.token_size or config.latent > config.token_size:
        return
    basis = torch.linalg.eigh(second_moment.double()).eigenvectors[:, -config.latent :].flip(1)
    # The sign of an eigenvector is arbitrary and differs between linear algebra libraries: the largest entry is +.
    basis = basis * basis.gather(0, basis.abs().argmax(dim=0, keepdim=True)).sign()
    _carry(model.encoder, basis.T)
    _carry(model.decoder, basis)


def _carry(stack: Stack, matrix: Tensor) -> None:
    """Make a stack compute ``x → matrix·x``, until its other parts learn otherwise."""
    inward = torch.linalg.qr(stack.enter.weight.double()).Q
    stack.enter.weight.copy_(inward)
    stack.leave.weight.copy_(matrix @ inward.T)
    beside = torch.eye(len(inward), dtype=torch.float64) - inward @ inward.T
    writers: list[nn.Linear] = [stack.positions.out]
    writers += [port for port in (stack.enter_scale, stack.enter_summary) if port is not None]
    for module in stack.modules():
        if isinstance(module, Block):
            writers += [module.attention_out, module.feedforward_out]
    for writer in writers:
        writer.weight.copy_(beside @ writer.weight.double())
