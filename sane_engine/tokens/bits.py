"""Casts between floating-point formats that keep every bit of every NaN.

A cast to a wider format and back is exact for numbers, infinities and signed zeros, but processors quieten a
signalling NaN and torch replaces the payload of a bfloat16 NaN. Weights that diverged hold NaNs, and a round trip
that changes them is not bit-exact; so NaNs are moved as integers, payload aligned to the top of the mantissa
(IEEE 754-2019, §6.2.1).
"""

from __future__ import annotations

import torch
from torch import Tensor

TOKENIZED_DTYPES = frozenset(
    getattr(torch, name)
    for name in (
        "float64",
        "float32",
        "float16",
        "bfloat16",
        "float8_e4m3fn",
        "float8_e4m3fnuz",
        "float8_e5m2",
        "float8_e5m2fnuz",
        "float8_e8m0fnu",
    )
    if hasattr(torch, name)
)
"""Formats that float32 or float64 hold exactly. Packed four-bit floats are carried: torch cannot cast them."""

# Integer type of the same size, bits, bits of the mantissa. The other eight-bit formats have one NaN a sign, which
# torch's casts keep.
_NAN_PAYLOADS = {
    torch.float64: (torch.int64, 64, 52),
    torch.float32: (torch.int32, 32, 23),
    torch.float16: (torch.int16, 16, 10),
    torch.bfloat16: (torch.int16, 16, 7),
    torch.float8_e5m2: (torch.uint8, 8, 2),
}


def copy_of(tensor: Tensor) -> Tensor:
    """``tensor`` as new contiguous memory, outside autograd; a sparse one stays sparse."""
    if tensor.layout is not torch.strided:
        return tensor.detach().clone()
    return tensor.detach().clone(memory_format=torch.contiguous_format)


def copy_exact(target: Tensor, source: Tensor) -> None:
    """Copy ``source`` into ``target`` of the same shape and another format, NaNs bit by bit."""
    target.copy_(source)
    if source.dtype == target.dtype or source.dtype not in _NAN_PAYLOADS:
        return
    nan = source.isnan()
    if nan.any():
        integer = _NAN_PAYLOADS[target.dtype][0]
        target.view(integer)[nan] = _nan_bits(source[nan], target.dtype)


def cast_exact(source: Tensor, dtype: torch.dtype) -> Tensor:
    """``source`` in another format as new contiguous memory, NaNs bit by bit; differentiable."""
    target = source.to(dtype, copy=True, memory_format=torch.contiguous_format)
    if source.dtype == dtype or dtype not in _NAN_PAYLOADS or (source.requires_grad and torch.is_grad_enabled()):
        return target
    nan = source.isnan()
    if nan.any():
        target.view(_NAN_PAYLOADS[dtype][0])[nan] = _nan_bits(source[nan], dtype)
    return target


def _nan_bits(nans: Tensor, dtype: torch.dtype) -> Tensor:
    """The bit patterns of ``nans`` [n] in format ``dtype``, as integers of that format's size."""
    integer, bits, mantissa = _NAN_PAYLOADS[nans.dtype]
    target_integer, target_bits, target_mantissa = _NAN_PAYLOADS[dtype]
    pattern = nans.view(integer).to(torch.int64)
    sign = (pattern >> (bits - 1)) & 1
    payload = pattern & ((1 << mantissa) - 1)
    shift = target_mantissa - mantissa
    payload = payload << shift if shift >= 0 else payload >> -shift
    # A payload that only had low bits would turn into an infinity: keep it a NaN, a quiet one.
    payload = torch.where(payload == 0, 1 << (target_mantissa - 1), payload)
    exponent = ((1 << (target_bits - 1 - target_mantissa)) - 1) << target_mantissa
    result = sign << (target_bits - 1) | exponent | payload
    # torch wraps integers that are too large, which is what a bit pattern with its sign bit set needs.
    return result.to(target_integer)
