"""Networks written out compactly, each with the number of units that are known to be exchangeable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Case:
    """A network, an input for it, and what is known: neurons, blocks of them, neurons that may flip."""

    make: Callable[[], nn.Module]
    example: Callable[[], Tensor]
    neurons: int
    blocks: int = 0
    flippable: int = 0


def images(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(2, *shape, generator=torch.Generator().manual_seed(1))


def tokens(length: int, vocabulary: int) -> Callable[[], Tensor]:
    return lambda: torch.randint(0, vocabulary, (2, length), generator=torch.Generator().manual_seed(1))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4))


def small_cnn() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 5, 2), nn.Tanh(), nn.Conv2d(8, 6, 3), nn.Tanh(), nn.Conv2d(6, 4, 2), nn.Tanh()),
        *(nn.Flatten(), nn.Linear(16, 20), nn.Tanh(), nn.Linear(20, 10)),
    )


def lenet5() -> nn.Module:
    return nn.Sequential(
        *(
            nn.Conv2d(1, 6, 5, padding=2),
            nn.Tanh(),
            nn.AvgPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.Tanh(),
            nn.AvgPool2d(2),
        ),
        *(nn.Flatten(), nn.Linear(400, 120), nn.Tanh(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, 10)),
    )


class Residual(nn.Module):
    """A basic (two 3×3) or bottleneck (1×1, 3×3, 1×1) block with a projection where the shape changes."""

    def __init__(self, width_in: int, width: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        out = 4 * width if bottleneck else width
        sizes = [(width_in, width, 1), (width, width, 3), (width, out, 1)] if bottleneck else []
        sizes = sizes or [(width_in, width, 3), (width, width, 3)]
        strided = 1 if bottleneck else 0
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, k, stride if i == strided else 1, k // 2, bias=False)
            for i, (a, b, k) in enumerate(sizes)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(b) for _, b, _ in sizes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride > 1 or width_in != out:
            self.downsample = nn.Sequential(nn.Conv2d(width_in, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            y = norm(conv(y))
            y = self.relu(y) if i + 1 < len(self.convs) else y
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


class ResNet(nn.Module):
    def __init__(self, width: int, depths: tuple[int, ...], bottleneck: bool, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        blocks, channels = [], width
        for stage, depth in enumerate(depths):
            for i in range(depth):
                blocks.append(Residual(channels, width * 2**stage, 2 if stage and i == 0 else 1, bottleneck))
                channels = width * 2**stage * (4 if bottleneck else 1)
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.pool(self.blocks(self.stem(x))), 1))


def resnet18(width: int = 16) -> nn.Module:
    return ResNet(width, (2, 2, 2, 2), bottleneck=False)


def resnet50(width: int = 8) -> nn.Module:
    return ResNet(width, (3, 4, 6, 3), bottleneck=True)


def vgg16_bn(width: int = 8, hidden: int = 48) -> nn.Module:
    layers: list[nn.Module] = []
    channels = 3
    for stage in ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8)):
        for factor in stage:
            out = factor * width
            layers += [nn.Conv2d(channels, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
            channels = out
        layers.append(nn.MaxPool2d(2))
    head = [nn.Flatten(), nn.Linear(4 * channels, hidden), nn.ReLU(), nn.Dropout(), nn.Linear(hidden, hidden)]
    return nn.Sequential(*layers, *head, nn.ReLU(), nn.Dropout(), nn.Linear(hidden, 10))


class DenseLayer(nn.Module):
    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(channels), nn.Conv2d(channels, 4 * growth, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(4 * growth), nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv2(F.relu(self.norm2(self.conv1(F.relu(self.norm1(x))))))], 1)


def densenet121(growth: int = 4) -> nn.Module:
    channels = 2 * growth
    layers: list[nn.Module] = [nn.Conv2d(3, channels, 7, 2, 3, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
    for stage, depth in enumerate((6, 12, 24, 16)):
        for _ in range(depth):
            layers.append(DenseLayer(channels, growth))
            channels += growth
        layers += [nn.BatchNorm2d(channels), nn.ReLU()]
        if stage < 3:
            layers += [nn.Conv2d(channels, channels // 2, 1, bias=False), nn.AvgPool2d(2)]
            channels //= 2
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


class Inverted(nn.Module):
    def __init__(self, channels: int, out: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = channels * expand
        layers: list[nn.Module] = []
        if expand > 1:
            layers += [nn.Conv2d(channels, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6()]
        layers += [nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False), nn.BatchNorm2d(hidden)]
        self.body = nn.Sequential(*layers, nn.ReLU6(), nn.Conv2d(hidden, out, 1, bias=False), nn.BatchNorm2d(out))
        self.residual = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


def mobilenet_v2(scale: int = 4) -> nn.Module:
    channels = 32 // scale
    layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, 2, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU6()]
    table = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )
    for expand, out, count, stride in table:
        for i in range(count):
            layers.append(Inverted(channels, out // scale, stride if i == 0 else 1, expand))
            channels = out // scale
    head = 1280 // scale
    layers += [nn.Conv2d(channels, head, 1, bias=False), nn.BatchNorm2d(head), nn.ReLU6(), nn.AdaptiveAvgPool2d(1)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(head, 10))


class Attention(nn.Module):
    """As in timm: one projection for queries, keys and values, viewed as (3, heads, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2 = nn.LayerNorm(width), Attention(width, heads), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    def __init__(self, width: int = 48, heads: int = 3, depth: int = 12) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, 8)
        self.cls_token = nn.Parameter(torch.randn(1, 1, width) / 10)
        self.pos_embed = nn.Parameter(torch.randn(1, 17, width) / 10)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        return self.head(self.norm(self.blocks(x))[:, 0])


class Conv1D(nn.Module):
    """GPT-2's linear layer, weight ``[in, out]``."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs) / 8)
        self.bias = nn.Parameter(torch.randn(outputs) / 8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.reshape(-1, x.shape[-1]), self.weight).view(*x.shape[:-1], len(self.bias))


class GPTBlock(nn.Module):
    def __init__(self, width: int, heads: int, length: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.c_attn, self.c_proj = Conv1D(width, 3 * width), Conv1D(width, width)
        self.c_fc, self.c_out = Conv1D(width, 4 * width), Conv1D(4 * width, width)
        self.register_buffer("bias", torch.tril(torch.ones(length, length, dtype=torch.bool))[None, None])

    def split_heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).permute(0, 2, 1, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self.split_heads(part) for part in self.c_attn(self.ln_1(x)).split(x.shape[-1], dim=2))
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        scores = torch.where(self.bias[:, :, : x.shape[1], : x.shape[1]], scores, torch.finfo(scores.dtype).min)
        y = (scores.softmax(-1) @ v).permute(0, 2, 1, 3).contiguous()
        x = x + self.c_proj(y.view(*x.shape))
        return x + self.c_out(F.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))


class GPT(nn.Module):
    def __init__(
        self, width: int = 32, heads: int = 4, depth: int = 2, vocabulary: int = 50, length: int = 12
    ) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.h = nn.ModuleList(GPTBlock(width, heads, length) for _ in range(depth))
        self.ln_f = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, vocabulary, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1], device=ids.device))
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x))


CASES = {
    "mlp": Case(mlp, images(10), neurons=32 + 16, flippable=32),
    "small-cnn": Case(small_cnn, images(1, 14, 14), neurons=8 + 6 + 4 + 20, flippable=38),
    "lenet-5": Case(lenet5, images(1, 28, 28), neurons=6 + 16 + 120 + 84, flippable=226),
    # four streams (1 + 2 + 4 + 8 widths) and the inside of two blocks in each stage
    "resnet-18": Case(resnet18, images(3, 32, 32), neurons=16 * (15 + 2 * 15)),
    # the stem, four streams of 4 widths each, and two layers inside each of 3, 4, 6, 3 bottlenecks
    "resnet-50": Case(resnet50, images(3, 32, 32), neurons=8 * (1 + 4 * 15 + 2 * (3 + 4 * 2 + 6 * 4 + 3 * 8))),
    "vgg16-bn": Case(vgg16_bn, images(3, 64, 64), neurons=8 * (2 + 4 + 12 + 48) + 2 * 48),
    # the stem, bottleneck (4) and growth (1) of 58 layers, three transitions
    "densenet-121": Case(densenet121, images(3, 32, 32), neurons=4 * (2 + 58 * 5 + 4 + 8 + 16)),
    # the stem, seven streams, the inside of every expanded block, the head; the (linear) streams may flip
    "mobilenet-v2": Case(mobilenet_v2, images(3, 32, 32), (32 + 712 + 7104 + 1280) // 4, flippable=712 // 4),
    # the stream; in each block 3 heads, queries with keys, values, the MLP; queries, keys and values may flip
    "vit-tiny": Case(ViT, images(3, 32, 32), 48 + 12 * (48 + 48 + 192), blocks=12 * 3, flippable=12 * 96),
    "gpt-2": Case(GPT, tokens(9, 50), 32 + 2 * (32 + 32 + 128), blocks=2 * 4, flippable=2 * 64),
}
