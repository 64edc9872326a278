"""Weight-only quantization: linear layers keep their weights in 8 or 4 bits and widen them when they run.

It is for memory: a model takes a half or a quarter of it, and large batches hide the widening behind their matrix products.
Activations, norms and token embeddings stay as they are.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from metaeol_udf.encoder.forward.decoder import Layer, Linear

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
        steps = self.weight
        if steps.dtype == torch.uint8:
            steps = torch.cat([steps & 15, steps >> 4], dim=1).to(torch.int8) - 8
        if self.scale.shape[1] == 1 and x.dtype != torch.float16:  # one pass over the weights less; sums of steps may leave float16's range
            out = F.linear(x, steps.to(x.dtype)).mul_(self.scale.view(-1))
            return out if self.bias is None else out.add_(self.bias)
        wide = steps.view(*self.scale.shape[:2], -1).to(x.dtype).mul_(self.scale)
        return F.linear(x, wide.view(len(steps), -1), self.bias)

    def rows(self, start: int, stop: int) -> QuantizedLinear:
        """Return a part, as `Linear.rows` does."""
        bias = None if self.bias is None else self.bias[start:stop]
        return QuantizedLinear(self.weight[start:stop], bias, scale=self.scale[start:stop])


def quantize(layer: Layer, kind: str) -> Layer:
    """Quantize a layer's linear layers.

    Args:
        layer: In floating point, with plain weights.
        kind: `int8`, a scale an output; or `int4`, a scale for 32 weights.
    """
    mlp = dataclasses.replace(layer.mlp, into=_quantize(layer.mlp.into, kind), out=_quantize(layer.mlp.out, kind))
    return dataclasses.replace(layer, qkv=_quantize(layer.qkv, kind), attention_out=_quantize(layer.attention_out, kind), mlp=mlp)


def _quantize(linear: Linear, kind: str) -> QuantizedLinear:
    n_out, n_in = linear.weight.shape
    fits = kind == "int4" and n_in % _GROUP == 0
    groups = linear.weight.float().view(n_out, n_in // _GROUP if fits else 1, -1)
    most = 127 if kind == "int8" else 7
    scale = (groups.abs().amax(2, keepdim=True) / most).clamp(min=torch.finfo(torch.float32).tiny)
    steps = (groups / scale).round().clamp(-most, most).view(n_out, n_in).to(torch.int8)
    if kind == "int4":
        if n_in % 2:
            raise ValueError(f"4-bit weights come in pairs, found rows of {n_in}")
        low, high = (steps + 8).to(torch.uint8).chunk(2, dim=1)
        steps = low | (high << 4)
    return QuantizedLinear(steps, linear.bias, scale=scale.to(linear.weight.dtype))
