"""Forward and backward passes of many small networks at once, without allocating.

A convolution becomes a matrix product over gathered patches, one batched product for all models. The images of a
batch are the *last* axis everywhere (``[m, c, h, w, b]``): gathering patches then copies long runs of memory, and
flattening for the fully connected layers is free. All buffers are made once: for these small networks fresh pages
for every intermediate result cost more than the arithmetic. So the passes are written out rather than left to
autograd, and the tests hold them to autograd's gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sane_engine.zoo.architecture_families import Architecture
from sane_engine.zoo.architecture_spec import ArchitectureSpec, ConvSpec

aten: Any = torch.ops.aten


@dataclass(frozen=True)
class _Activation:
    """``forward(x, out)`` and ``backward(gradient, x, y, out)``, both writing into ``out``."""

    forward: Callable[[Tensor, Tensor], Any]
    backward: Callable[[Tensor, Tensor, Tensor, Tensor], Any]


_SLOPE = 0.01  # torch's default for a leaky ReLU

_ACTIVATIONS: Mapping[str, _Activation] = {
    "tanh": _Activation(
        lambda x, out: torch.tanh(x, out=out),
        lambda g, x, y, out: aten.tanh_backward.grad_input(g, y, grad_input=out),
    ),
    "sigmoid": _Activation(
        lambda x, out: torch.sigmoid(x, out=out),
        lambda g, x, y, out: aten.sigmoid_backward.grad_input(g, y, grad_input=out),
    ),
    "relu": _Activation(
        lambda x, out: torch.clamp_min(x, 0, out=out),
        lambda g, x, y, out: aten.threshold_backward.grad_input(g, y, 0, grad_input=out),
    ),
    "leaky_relu": _Activation(
        lambda x, out: aten.leaky_relu.out(x, _SLOPE, out=out),
        lambda g, x, y, out: aten.leaky_relu_backward.grad_input(g, x, _SLOPE, False, grad_input=out),
    ),
    "gelu": _Activation(
        # Into a strided output (one with a padded border) torch's own kernel for GELU writes wrong values.
        lambda x, out: aten.gelu.out(x, out=out) if out.is_contiguous() else out.copy_(F.gelu(x)),
        lambda g, x, y, out: aten.gelu_backward.grad_input(g, x, grad_input=out),
    ),
    "silu": _Activation(
        lambda x, out: aten.silu.out(x, out=out),
        lambda g, x, y, out: aten.silu_backward.grad_input(g, x, grad_input=out),
    ),
}


class _Convolution:
    """One stacked convolution with its pooling and activation, and the buffers of all three."""

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        input_size: tuple[int, int],
        spec: ConvSpec,
        next_padding: int,
        batch: int,
        activation: _Activation,
    ) -> None:
        n_models, out, channels, kernel, _ = weight.shape
        self.weight = weight.flatten(2)
        self.bias = bias.unsqueeze(2)
        self.activation = activation
        self.kernel, self.stride, self.pool = kernel, spec.stride, spec.pool
        height, width = self.size = (spec.convolved_size(input_size[0]), spec.convolved_size(input_size[1]))
        self.columns = torch.empty(n_models, channels, kernel, kernel, height, width, batch)
        self.linear = torch.empty(n_models, out, height, width, batch)
        height, width = spec.output_size(input_size[0]), spec.output_size(input_size[1])
        # What the activation sees: the convolution's own output where nothing is pooled.
        self.pooled = self.linear if self.pool == 1 else torch.empty(n_models, out, height, width, batch)
        # The border that the next convolution pads with is part of this output, zero from the start.
        padded = (n_models, out, height + 2 * next_padding, width + 2 * next_padding, batch)
        self.output = torch.zeros(padded)
        rows, columns = slice(next_padding, next_padding + height), slice(next_padding, next_padding + width)
        self.inner = (..., rows, columns, slice(None))
        self.gradients: tuple[Tensor, Tensor] | None = None
        self.pool_gradients: tuple[Tensor, Tensor] | None = None

    def forward(self, image: Tensor) -> Tensor:
        """Map ``[m, c, h, w, b]``, already padded, to this layer's output, padded for the next."""
        height, width = self.size
        strides = image.stride()
        windows = image.as_strided(
            self.columns.shape,
            (*strides[:4], strides[2] * self.stride, strides[3] * self.stride, strides[4]),
            image.storage_offset(),
        )
        self.columns.copy_(windows)
        models, out = self.linear.shape[:2]
        columns = self.columns.view(models, -1, height * width * self.columns.shape[-1])
        torch.baddbmm(self.bias, self.weight, columns, out=self.linear.view(models, out, -1))
        if self.pool > 1:
            first, *others = self._pooling_windows(self.linear)
            self.pooled.copy_(first)
            for other in others:
                torch.maximum(self.pooled, other, out=self.pooled)
        self.activation.forward(self.pooled, self.output[self.inner])
        return self.output

    def _pooling_windows(self, image: Tensor) -> list[Tensor]:
        """Views ``[m, out, h, w, b]``: the first entry of every pooling window, the second, and so on by rows."""
        step = self.pool
        height, width = self.pooled.shape[2] * step, self.pooled.shape[3] * step
        return [image[:, :, i:height:step, j:width:step] for i in range(step) for j in range(step)]

    def _unpool(self, gradient: Tensor, rest: Tensor, inputs: Tensor) -> None:
        """Give each pooled gradient to the first of its window that has the maximum, as torch does.

        Args:
            gradient: By the pooled output; overwritten.
            rest: A buffer of the same shape.
            inputs: Written with the gradient by the convolution's output.
        """
        if any(size % self.pool for size in self.size):
            inputs.zero_()
        *firsts, last = zip(self._pooling_windows(self.linear), self._pooling_windows(inputs), strict=True)
        for values, target in firsts:
            torch.eq(values, self.pooled, out=rest)
            torch.mul(gradient, rest, out=target)
            gradient.sub_(target)
        last[1].copy_(gradient)

    def backward(
        self, gradient: Tensor, weight_gradient: Tensor, bias_gradient: Tensor, inputs: Tensor | None
    ) -> None:
        """Write the gradients.

        Args:
            gradient: Of the loss by this layer's padded output.
            weight_gradient: ``[m, out, k]``, written.
            bias_gradient: ``[m, out]``, written.
            inputs: Written with the gradient by the padded input; ``None`` where nobody asks for it.
        """
        models, out = self.linear.shape[:2]
        if self.gradients is None:
            self.gradients = torch.empty_like(self.linear), torch.empty_like(self.columns)
        local, columns = self.gradients
        if self.pool == 1:
            self.activation.backward(gradient[self.inner], self.linear, self.output[self.inner], local)
        else:
            if self.pool_gradients is None:
                self.pool_gradients = torch.empty_like(self.pooled), torch.empty_like(self.pooled)
            pooled, rest = self.pool_gradients
            self.activation.backward(gradient[self.inner], self.pooled, self.output[self.inner], pooled)
            self._unpool(pooled, rest, local)
        flat = local.view(models, out, -1)
        torch.bmm(flat, self.columns.view(models, self.weight.shape[2], -1).transpose(1, 2), out=weight_gradient)
        torch.sum(flat, 2, out=bias_gradient)
        if inputs is None:
            return
        torch.bmm(self.weight.transpose(1, 2), flat, out=columns.view(models, self.weight.shape[2], -1))
        inputs.zero_()
        height, width = (self.stride * (size - 1) + 1 for size in self.size)
        for row in range(self.kernel):
            for column in range(self.kernel):
                target = inputs[:, :, row : row + height : self.stride, column : column + width : self.stride]
                target.add_(columns[:, :, row, column])


class StackedNetwork:
    """``n_models`` networks of one architecture and activation; every buffer fits batches of ``batch`` images.

    Attributes:
        parameters: ``[n_models, p]`` float32, one model a row; the named parameters are views of it.
        gradients: As ``parameters``; filled by :meth:`backward`.
    """

    def __init__(
        self, architecture: ArchitectureSpec, n_models: int, batch: int, *, activation: str | None = None
    ) -> None:
        self.architecture, self.n_models, self.batch = architecture, n_models, batch
        self.activation = _ACTIVATIONS[activation or architecture.activation]
        size = sum(prod(shape) for shape in architecture.shapes.values())
        self.parameters = torch.zeros(n_models, size)
        self.gradients = torch.zeros(n_models, size)
        self.named = unflatten(self.parameters, architecture)
        self._named_gradients = unflatten(self.gradients, architecture)
        self._image = self._input_buffer()
        self._convolutions = self._build_convolutions()
        widths = [inputs for inputs, _ in architecture.fully_connected] + [architecture.classes]
        # Per fully connected layer: input after dropout, and output before and after the activation.
        self._dropped = [torch.empty(n_models, width, batch) for width in widths[:-1]]
        # What each layer saw last: one of the above, or without dropout the buffer of the layer before.
        self._inputs = list(self._dropped)
        self._linear = [torch.empty(n_models, width, batch) for width in widths[1:]]
        self._active = [torch.empty(n_models, width, batch) for width in widths[1:-1]]
        self._image_gradients: list[Tensor] | None = None

    def _input_buffer(self) -> Tensor:
        channels, height, width = self.architecture.input_shape
        pad = self.architecture.convolutions[0].padding if self.architecture.convolutions else 0
        return torch.zeros(self.n_models, channels, height + 2 * pad, width + 2 * pad, self.batch)

    def _build_convolutions(self) -> list[_Convolution]:
        layers: list[_Convolution] = []
        specs = self.architecture.convolutions
        size = self.architecture.input_shape[1:]
        for number, spec in enumerate(specs, start=1):
            layer = _Convolution(
                weight=self.named[f"conv{number}.weight"],
                bias=self.named[f"conv{number}.bias"],
                input_size=size,
                spec=spec,
                next_padding=specs[number].padding if number < len(specs) else 0,
                batch=self.batch,
                activation=self.activation,
            )
            layers.append(layer)
            size = (spec.output_size(size[0]), spec.output_size(size[1]))
        return layers

    def load(self, stacked: Mapping[str, Tensor]) -> None:
        """Copy parameters, name → ``[n_models, …]``, into this network."""
        for name, view in self.named.items():
            view.copy_(stacked[name])

    def forward(self, images: Tensor, masks: Tensor | None = None) -> Tensor:
        """Compute logits.

        Args:
            images: ``[n_models, batch, c·h·w]``, or with 1 in place of ``n_models`` where all see the same.
            masks: Dropout factors ``[n_models, units, batch]`` for the inputs of all fully connected layers, one
                after the other.

        Returns:
            Logits ``[n_models, classes, batch]``: a buffer, valid until the next call.
        """
        channels, height, width = self.architecture.input_shape
        pad = (self._image.shape[2] - height) // 2
        target = self._image[:, :, pad : pad + height, pad : pad + width]
        target.copy_(images.transpose(1, 2).view(-1, channels, height, width, self.batch))
        hidden = self._image
        for layer in self._convolutions:
            hidden = layer.forward(hidden)
        hidden = hidden.flatten(1, 3)
        offset, last = 0, len(self._linear) - 1
        for number, linear in enumerate(self._linear):
            if masks is not None:
                units = hidden.shape[1]
                hidden = torch.mul(hidden, masks[:, offset : offset + units], out=self._dropped[number])
                offset += units
            self._inputs[number] = hidden
            weight, bias = self.named[f"fc{number + 1}.weight"], self.named[f"fc{number + 1}.bias"]
            torch.baddbmm(bias.unsqueeze(2), weight, hidden, out=linear)
            if number < last:
                self.activation.forward(linear, self._active[number])
                hidden = self._active[number]
        return self._linear[last]

    def backward(self, gradient: Tensor, masks: Tensor | None = None) -> None:
        """Fill :attr:`gradients` from the loss's gradient ``[n_models, classes, batch]`` by the last logits."""
        offset = sum(inputs.shape[1] for inputs in self._inputs)
        for number in range(len(self._linear), 0, -1):
            inputs = self._inputs[number - 1]
            grads = self._named_gradients
            torch.bmm(gradient, inputs.transpose(1, 2), out=grads[f"fc{number}.weight"])
            torch.sum(gradient, 2, out=grads[f"fc{number}.bias"])
            gradient = torch.bmm(self.named[f"fc{number}.weight"].transpose(1, 2), gradient)
            if masks is not None:
                offset -= inputs.shape[1]
                gradient.mul_(masks[:, offset : offset + inputs.shape[1]])
            if number > 1:
                self.activation.backward(gradient, self._linear[number - 2], self._active[number - 2], gradient)
        if not self._convolutions:
            return
        if self._image_gradients is None:
            self._image_gradients = [torch.empty_like(layer.output) for layer in self._convolutions[:-1]]
        current = gradient.view_as(self._convolutions[-1].output)
        for number in range(len(self._convolutions), 0, -1):
            below = self._image_gradients[number - 2] if number > 1 else None
            weight_gradient = self._named_gradients[f"conv{number}.weight"].flatten(2)
            bias_gradient = self._named_gradients[f"conv{number}.bias"]
            self._convolutions[number - 1].backward(current, weight_gradient, bias_gradient, below)
            if below is not None:
                current = below

    def score(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Accuracy and mean cross-entropy, each ``[n_models]``, on images ``[n, c, h, w]`` that all models see."""
        correct, loss = torch.zeros(self.n_models), torch.zeros(self.n_models)
        for start in range(0, len(labels), self.batch):
            part, truth = images[start : start + self.batch].flatten(1), labels[start : start + self.batch]
            used = len(truth)
            # The last part is filled up, because every buffer has its fixed size.
            part = F.pad(part, (0, 0, 0, self.batch - used)).unsqueeze(0)
            logits = self.forward(part)[:, :, :used]
            index = truth.expand(self.n_models, 1, used)
            loss += (logits.logsumexp(1) - logits.gather(1, index).squeeze(1)).sum(1)
            correct += (logits.argmax(1) == truth).sum(1)
        return correct / len(labels), loss / len(labels)


def unflatten(flat: Tensor, architecture: Architecture) -> dict[str, Tensor]:
    """Views of ``flat`` ``[…, p]`` as named parameters ``[…, *shape]``, in the order of the state dict."""
    shapes = architecture.shapes
    parts = torch.split(flat, [prod(shape) for shape in shapes.values()], dim=-1)
    return {
        name: part.view(*part.shape[:-1], *shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }
