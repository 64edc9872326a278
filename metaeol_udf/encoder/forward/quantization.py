"""Quantization of linear layers: integer weights for memory, 8-bit floating point for speed.

`int8` and `int4` keep the weights in 8 or 4 bits and widen them when they run: a model takes a half or a quarter of the memory, and large
batches hide the widening behind their matrix products. `fp8` rounds weights and activations to 8-bit floating point, which GPUs from Ada
and Hopper on multiply at twice the rate of bfloat16. Norms, attention and token embeddings stay as they are.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from metaeol_udf.encoder.forward.decoder import Layer, Linear

_FLOAT8 = torch.float8_e4m3fn
_MOST = torch.finfo(_FLOAT8).max
_FLOAT8_ROW = 16  # numbers that a kernel takes at a time: it needs rows and columns of whole ones

_GROUP = 32  # weights of a row that share a scale in 4 bits; rows that it does not divide are one group


@dataclass(frozen=True, kw_only=True, eq=False)  # as `Linear`
class QuantizedLinear(Linear):
    """Works as `Linear`, with integer weights.

    Attributes:
        weight: int8, shape ``(n_out, n_in)``; or in 4 bits uint8, shape ``(n_out, n_in / 2)``, the first half of a row in the low bits.
        scale: What one step is worth, shape ``(n_out, n_groups, 1)``.
    """

    scale: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Map shape ``(..., n_in)`` to ``(..., n_out)``."""
        if self.scale.shape[1] == 1 and x.dtype != torch.float16:  # one pass over the weights less; sums of steps may leave float16's range
            out = F.linear(x, self._steps().to(x.dtype)).mul_(self.scale.view(-1))
            return out if self.bias is None else out.add_(self.bias)
        return F.linear(x, self.wide(x.dtype), self.bias)

    def wide(self, dtype: torch.dtype) -> Tensor:
        """Return the weights in floating point, shape ``(n_out, n_in)``."""
        steps = self._steps()
        return steps.view(*self.scale.shape[:2], -1).to(dtype).mul_(self.scale).view(len(steps), -1)

    def _steps(self) -> Tensor:
        if self.weight.dtype != torch.uint8:
            return self.weight
        return torch.cat([self.weight & 15, self.weight >> 4], dim=1).to(torch.int8) - 8

    def rows(self, start: int, stop: int) -> QuantizedLinear:
        """Return a part, as `Linear.rows` does."""
        bias = None if self.bias is None else self.bias[start:stop]
        return QuantizedLinear(self.weight[start:stop], bias, scale=self.scale[start:stop])


@dataclass(frozen=True, kw_only=True, eq=False)  # as `Linear`
class Float8Linear(Linear):
    """Works as `Linear`, with 8-bit floating point weights and activations, a scale for each output and each token.

    Sums are made in float32 and rounded to bfloat16. A CPU multiplies the same rounded numbers in bfloat16.

    Attributes:
        weight: float8_e4m3fn, shape ``(n_out, n_in)``.
        scale: What a weight is multiplied by, float32, shape ``(n_out, 1)``.
    """

    scale: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Map shape ``(n_tokens, n_in)`` to ``(n_tokens, n_out)``."""
        rounded, x_scale = to_float8(x)
        if x.is_cuda:
            out = torch._scaled_mm(rounded, self.weight.t(), x_scale, self.scale.t(), out_dtype=torch.bfloat16, use_fast_accum=True)
        else:
            wide = F.linear(rounded.to(torch.bfloat16), self.weight.to(torch.bfloat16))  # no number of either is rounded by that
            out = (wide * x_scale * self.scale.t()).to(torch.bfloat16)
        out = out.to(x.dtype)
        return out if self.bias is None else out + self.bias

    def wide(self, dtype: torch.dtype) -> Tensor:
        """Return the weights in floating point, shape ``(n_out, n_in)``."""
        return self.weight.to(dtype) * self.scale.to(dtype)

    def rows(self, start: int, stop: int) -> Float8Linear:
        """Return a part, as `Linear.rows` does."""
        bias = None if self.bias is None else self.bias[start:stop]
        return Float8Linear(self.weight[start:stop], bias, scale=self.scale[start:stop])


def has_float8(device: torch.device) -> bool:
    """Tell whether a device multiplies 8-bit floating point numbers."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)


def to_float8(x: Tensor) -> tuple[Tensor, Tensor]:
    """Round rows to 8-bit floating point.

    Args:
        x: Shape ``(n_rows, n)``.

    Returns:
        Values of float8_e4m3fn, shape ``(n_rows, n)``, and what each row is to be multiplied by, float32, shape ``(n_rows, 1)``.
    """
    scale = (x.abs().amax(1, keepdim=True).float() / _MOST).clamp(min=torch.finfo(torch.float32).tiny)
    return (x.float() / scale).clamp(-_MOST, _MOST).to(_FLOAT8), scale


def quantize(layer: Layer, kind: str) -> Layer:
    """Quantize a layer's linear layers.

    Args:
        layer: In floating point, with plain weights.
        kind: `fp8` or `int8`, a scale an output; or `int4`, a scale for 32 weights.
    """
    mlp = dataclasses.replace(layer.mlp, into=quantize_linear(layer.mlp.into, kind), out=quantize_linear(layer.mlp.out, kind))
    return dataclasses.replace(
        layer, qkv=quantize_linear(layer.qkv, kind), attention_out=quantize_linear(layer.attention_out, kind), mlp=mlp
    )


def quantize_linear(linear: Linear, kind: str) -> QuantizedLinear | Float8Linear:
    """Quantize a linear layer; `kind` as `quantize` takes it.

    Raises:
        TypeError: Its sizes do not fit the kind.
    """
    n_out, n_in = linear.weight.shape
    if kind == "fp8":
        if n_out % _FLOAT8_ROW or n_in % _FLOAT8_ROW:
            raise TypeError(f"fp8 needs linear layers of a multiple of {_FLOAT8_ROW} inputs and outputs, found {n_in} and {n_out}")
        rounded, per_output = to_float8(linear.weight)
        return Float8Linear(rounded, linear.bias, scale=per_output)
    fits = kind == "int4" and n_in % _GROUP == 0
    groups = linear.weight.float().view(n_out, n_in // _GROUP if fits else 1, -1)
    most = 127 if kind == "int8" else 7
    scale = (groups.abs().amax(2, keepdim=True) / most).clamp(min=torch.finfo(torch.float32).tiny)
    steps = (groups / scale).round().clamp(-most, most).view(n_out, n_in).to(torch.int8)
    if kind == "int4":
        if n_in % 2:
            raise TypeError(f"4-bit weights come in pairs, found rows of {n_in}")
        low, high = (steps + 8).to(torch.uint8).chunk(2, dim=1)
        steps = low | (high << 4)
    return QuantizedLinear(steps, linear.bias, scale=scale.to(linear.weight.dtype))
