"""Checkpoints of the published SANE code, giving the latents that it gives.

The published code (github.com/HSG-AIML/SANE) has two kinds of transformer. ``"gpt2"``: pre-norm blocks without
biases and without a last norm. ``"pytorch"``: torch's own post-norm encoder layers, in their default arrangement
*sequence first*, to which it passes batches of sequences *batch first*: attention runs across the models of the
batch, for each token on its own. Latents of that kind depend on which models share a batch. Both are reproduced as
they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_DEFAULTS: dict[str, Any] = {
    "ae:i_dim": 201,
    "ae:d_model": 512,
    "ae:nhead": 8,
    "ae:num_layers": 6,
    "ae:lat_dim": 16,
    "ae:transformer_type": "pytorch",
    "training::windowsize": 16,
}
"""What the published code takes for a key that its config lacks."""

_PREFIXES = ("module.", "_orig_mod.", "model.", "state_dict.")
"""What its trainer, torch.compile and data-parallel wrappers put before the names."""

_PROJECTION_WIDTH = 30


class _GptBlock(nn.Module):
    """A block of the ``"gpt2"`` kind; its names are those of the checkpoints."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1 = nn.LayerNorm(width, bias=False)
        self.attn = nn.ModuleDict(
            {"c_attn": nn.Linear(width, 3 * width, bias=False), "c_proj": nn.Linear(width, width, bias=False)}
        )
        self.ln_2 = nn.LayerNorm(width, bias=False)
        self.mlp = nn.ModuleDict(
            {"c_fc": nn.Linear(width, 4 * width, bias=False), "c_proj": nn.Linear(4 * width, width, bias=False)}
        )

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        qkv = self.attn["c_attn"](self.ln_1(x)).unflatten(-1, (3, self.heads, -1))
        query, key, value = (part.transpose(1, 2) for part in qkv.unbind(dim=2))
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        x = x + self.attn["c_proj"](seen.transpose(1, 2).flatten(2))
        hidden: Tensor = self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](self.ln_2(x))))
        return x + hidden


class _GptStack(nn.Module):
    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.transformer = nn.ModuleList(_GptBlock(width, heads) for _ in range(layers))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for block in self.transformer:
            x = block(x, mask)
        return x


class _Positions(nn.Module):
    """Learned tables: two concatenated halves, or of three the sum of the first two beside the third."""

    def __init__(self, sizes: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.sizes = sizes
        for number, size in enumerate(sizes, start=1):
            self.add_module(f"pe{number}", nn.Embedding(size, width // 2))

    def forward(self, positions: Tensor) -> Tensor:
        parts = [self.get_submodule(f"pe{i}")(positions[..., i - 1]) for i in range(1, len(self.sizes) + 1)]
        first = parts[0] + parts[1] if len(parts) == 3 else parts[0]
        return torch.cat((first, parts[-1]), dim=-1)


class ReferenceEncoder(nn.Module):
    """An autoencoder of the published code.

    Attributes:
        config: The published config it was built from, defaults filled in.
        token_size: Width of its tokens.
        latent: Width of its latents.
        window: Tokens of a window in training.
        max_positions: One more than the largest position of each coordinate.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.config = {**_DEFAULTS, **config}
        width, heads, layers = (int(self.config[f"ae:{key}"]) for key in ("d_model", "nhead", "num_layers"))
        self.token_size, self.latent = int(self.config["ae:i_dim"]), int(self.config["ae:lat_dim"])
        self.window = int(self.config["training::windowsize"])
        self.max_positions = tuple(int(size) for size in self.config.get("ae:max_positions") or (48, width))
        kind = self.config["ae:transformer_type"]
        if kind not in {"gpt2", "pytorch"}:
            raise ValueError(f'ae:transformer_type is {kind!r}; the published code knows "gpt2" and "pytorch"')
        if width % heads or width % 2:
            raise ValueError(f"ae:d_model is {width}; it must be even and a multiple of ae:nhead ({heads})")
        if len(self.max_positions) not in {2, 3}:
            raise ValueError(f"ae:max_positions has {len(self.max_positions)} sizes; there must be 2 or 3")

        def stack() -> nn.Module:
            if kind == "gpt2":
                return _GptStack(width, heads, layers)
            return nn.TransformerEncoder(
                nn.TransformerEncoderLayer(width, heads), layers, enable_nested_tensor=False
            )

        self.tokenizer = nn.Linear(self.token_size, width)
        self.transformer_encoder = stack()
        self.encoder_comp = nn.Linear(width, self.latent)
        self.decoder_comp = nn.Linear(self.latent, width)
        self.transformer_decoder = stack()
        self.detokenizer = nn.Linear(width, self.token_size)
        self.pe = _Positions(self.max_positions, width)
        out = _PROJECTION_WIDTH
        self.projection_head: nn.Module | None = nn.ModuleDict(
            {
                "head": nn.Sequential(
                    nn.Linear(self.latent * self.window, out, bias=False),
                    nn.LayerNorm(out),
                    nn.ReLU(),
                    nn.Linear(out, out, bias=False),
                    nn.LayerNorm(out),
                    nn.ReLU(),
                )
            }
        )

    def encode(self, tokens: Tensor, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        """Latents ``[b, n, latent]`` of tokens ``[b, n, token_size]``.

        Args:
            tokens: One window of tokens, standardised as they were in its training.
            positions: Integers ``[b, n, c]`` or ``[n, c]``, with as many coordinates as ``ae:max_positions``.
            mask: Attention mask, passed on to the transformer as the published code does.

        Raises:
            ValueError: Wrong shapes, or a position the checkpoint has no embedding for.
        """
        return self._through(tokens, positions, mask, "encoder", self.token_size)

    def decode(self, z: Tensor, positions: Tensor, mask: Tensor | None = None) -> Tensor:
        """Tokens ``[b, n, token_size]`` of latents ``[b, n, latent]``; arguments as for :meth:`encode`.

        Raises:
            ValueError: Wrong shapes, or a position the checkpoint has no embedding for.
        """
        return self._through(z, positions, mask, "decoder", self.latent)

    def project(self, z: Tensor) -> Tensor:
        """What its contrastive loss compares: ``[b, 30]`` from the latents of exactly one training window.

        Raises:
            ValueError: The checkpoint has no projection head, or ``z`` is not one window long.
        """
        if self.projection_head is None:
            raise ValueError("this checkpoint has no projection head")
        if z.shape[1] != self.window:
            raise ValueError(f"the projection head takes {self.window} tokens, not {z.shape[1]}")
        head: nn.Module = self.projection_head.get_submodule("head")
        projected: Tensor = head(z.flatten(1))
        return projected

    def _through(self, x: Tensor, positions: Tensor, mask: Tensor | None, way: str, width: int) -> Tensor:
        if x.ndim != 3 or x.shape[-1] != width:
            raise ValueError(f"the {way} takes [batch, tokens, {width}], not {list(x.shape)}")
        positions = positions.expand(*x.shape[:2], -1)
        if positions.shape[-1] != len(self.max_positions):
            raise ValueError(
                f"positions have {positions.shape[-1]} coordinates; this encoder takes {len(self.max_positions)}"
            )
        limits = torch.tensor(self.max_positions, device=positions.device)
        if bool(((positions < 0) | (positions >= limits)).any()):
            raise ValueError(f"a position is not below {list(self.max_positions)}, where its tables end")
        into, out = (
            (self.tokenizer, self.encoder_comp) if way == "encoder" else (self.decoder_comp, self.detokenizer)
        )
        stack = self.transformer_encoder if way == "encoder" else self.transformer_decoder
        result: Tensor = out(stack(into(x) + self.pe(positions.long()), mask))
        return result


def load_reference_encoder(state_dict: Mapping[str, Any], config: Mapping[str, Any]) -> ReferenceEncoder:
    """Rebuild an autoencoder of the published code.

    Args:
        state_dict: Its weights, bare or under ``state_dict`` or ``model``; wrappers' prefixes are taken off.
            The projection head may be missing; entries of a training loss are ignored.
        config: Its config with keys ``ae:i_dim``, ``ae:d_model``, ``ae:nhead``, ``ae:num_layers``, ``ae:lat_dim``,
            ``ae:max_positions``, ``ae:transformer_type`` and ``training::windowsize``; missing keys get the
            published defaults.

    Returns:
        Ready to encode (in evaluation mode, without gradients), float32 on the CPU.

    Raises:
        ValueError: A tensor is missing, unknown, or of another shape than the config says.
    """
    tensors = _bare_names(state_dict)
    with torch.device("meta"):
        model = ReferenceEncoder(config)
    if not any(name.startswith("projection_head.") for name in tensors):
        model.projection_head = None
    expected = model.state_dict()
    missing = [name for name in expected if name not in tensors]
    if missing:
        raise ValueError(f"the state dict lacks {len(missing)} tensors this config needs, first {missing[0]!r}")
    unknown = [name for name in tensors if name not in expected]
    if unknown:
        raise ValueError(f"the state dict has {len(unknown)} tensors this config does not, first {unknown[0]!r}")
    for name, tensor in expected.items():
        if tensor.shape != tensors[name].shape:
            raise ValueError(
                f"{name!r} has the shape {list(tensors[name].shape)}; this config makes it {list(tensor.shape)}"
            )
    model.load_state_dict({name: tensors[name].detach().float().cpu() for name in expected}, assign=True)
    return model.requires_grad_(False).eval()


def _bare_names(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """The autoencoder's tensors by their own names."""
    for key in ("state_dict", "model"):
        inner = state_dict.get(key)
        if isinstance(inner, Mapping):
            return _bare_names(inner)
    tensors: dict[str, Tensor] = {}
    for name, value in state_dict.items():
        bare = name
        while any(bare.startswith(prefix) for prefix in _PREFIXES):
            bare = next(bare.removeprefix(prefix) for prefix in _PREFIXES if bare.startswith(prefix))
        # The training module keeps its loss beside the model.
        if isinstance(value, Tensor) and not bare.startswith("criterion."):
            tensors[bare] = value
    return tensors
