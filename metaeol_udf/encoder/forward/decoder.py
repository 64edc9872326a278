"""A decoder-only transformer as plain tensors, and what its layers compute on a padding-free sequence of tokens.

One description covers the families of `checkpoint/families.py`, which differ in norms, positions, multipliers and activations.
`hf_weights.py` fills it from transformers' models; `trie_forward.py` and `gpu/flex_attention.py` run it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor

V = TypeVar("V")


# Compared by identity: the compiler of torch 2.11 hashes an object while it is made, before its fields are there.
@dataclass(frozen=True, eq=False)
class Linear:
    """Computes ``x @ weight.T + bias`` with `weight` of shape ``(n_out, n_in)``."""

    weight: Tensor
    bias: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Map shape ``(..., n_in)`` to ``(..., n_out)``."""
        return F.linear(x, self.weight, self.bias)

    def rows(self, start: int, stop: int) -> Linear:
        """Return the part that computes outputs `start` to `stop`, in shared memory."""
        return Linear(self.weight[start:stop], None if self.bias is None else self.bias[start:stop])


@dataclass(frozen=True)
class Norm:
    """Applies RMSNorm, or LayerNorm where `centers`, over the last axis.

    Attributes:
        weight: Shape ``(size,)``, float32 unless it `centers`; for Gemma already ``1 + weight``.
        bias: Shape ``(size,)`` or None.
        eps: Added to the variance.
        centers: Subtract the mean first (LayerNorm).
    """

    weight: Tensor
    bias: Tensor | None
    eps: float
    centers: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise the last axis; the result is a new tensor of the same shape and dtype."""
        if self.centers:
            return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)
        wide = x.float()
        scale = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(self.eps).rsqrt_()
        scaled = torch.mul(wide, scale) if wide is x else wide.mul_(scale)  # `wide` is a copy unless `x` is float32
        return scaled.mul_(self.weight).to(x.dtype)

    def of_heads(self, x: Tensor) -> Tensor:
        """Normalise heads, shape ``(..., n_heads, head_dim)``: each by itself, or all together where the weight is that long."""
        if len(self.weight) == x.shape[-1]:
            return self(x)
        return self(x.flatten(-2)).view(x.shape)


#: What MLPs apply, by the name that `Mlp.activation` gives it.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
}


@dataclass(frozen=True)
class Mlp:
    """Holds the feed-forward part of a layer.

    Attributes:
        into: First projection; where the MLP is gated, gate and up projections stacked.
        out: Last projection.
        activation: A key of `ACTIVATIONS`.
        is_gated: Whether the activated gate multiplies the up projection.
    """

    into: Linear
    out: Linear
    activation: str
    is_gated: bool

    def inner(self, x: Tensor) -> Tensor:
        """Compute what goes into the last projection, shape ``(n_tokens, intermediate_size)``."""
        activate = ACTIVATIONS[self.activation]
        if not self.is_gated:
            return activate(self.into(x))
        gate, up = self.into(x).chunk(2, dim=-1)
        return activate(gate).mul_(up)


@dataclass(frozen=True)
class Layer:
    """Holds one decoder layer. With norms after attention and after the MLP, sums cannot be fused."""

    attention_norm: Norm | None
    qkv: Linear  # queries of all heads, then keys, then values; of queries and keys, what is rotated together stands side by side
    q_norm: Norm | None
    k_norm: Norm | None
    attention_out: Linear
    after_attention_norm: Norm | None
    mlp_norm: Norm | None
    mlp: Mlp
    after_mlp_norm: Norm | None
    scaling: float  # of the attention scores
    window: int | None = None  # a token sees the `window` latest tokens, itself included
    rope: int = 0  # which of the decoder's rotary tables


@dataclass(frozen=True)
class Decoder:
    """Holds a whole decoder without its language-model head.

    Attributes:
        token_table: Shape ``(vocabulary, hidden_size)``.
        token_scale: Multiplies token embeddings (Gemma), else None.
        position_table: Learned positions, shape ``(n_positions, hidden_size)``, else None.
        ropes: Rotary tables: cosine + i sine, complex64, shape ``(n_positions, head_dim / 2)``, NaN where the model
            would rotate otherwise; empty where positions are learned.
        layers: In order.
        final_norm: Applied to the last hidden state; None where `layers` stops before it.
        softcap: Attention scores pass ``softcap * tanh(score / softcap)`` (Gemma 2), else None.
        n_heads, n_kv_heads, head_dim: Attention heads; each key-value head serves ``n_heads / n_kv_heads`` of them.
    """

    token_table: Tensor
    token_scale: Tensor | None
    position_table: Tensor | None
    ropes: tuple[Tensor, ...]
    layers: list[Layer]
    final_norm: Norm | None
    softcap: float | None
    n_heads: int
    n_kv_heads: int
    head_dim: int

    @property
    def hidden_size(self) -> int:
        """Return the length of a hidden state."""
        return self.token_table.shape[1]

    def embed(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Compute hidden state 0 of a sequence of tokens, shape ``(n_tokens, hidden_size)``."""
        x = F.embedding(ids, self.token_table)
        if self.token_scale is not None:
            x = x * self.token_scale
        return x if self.position_table is None else x + F.embedding(positions, self.position_table)


def map_tensors(value: V, function: Callable[[Tensor], Tensor]) -> V:
    """Return a dataclass, sequence or mapping, such as a decoder or a part of one, with `function` applied to each of its tensors."""
    result: Any = value
    if isinstance(value, Tensor):
        result = function(value)
    elif isinstance(value, (tuple, list)):
        result = type(value)(map_tensors(part, function) for part in value)
    elif isinstance(value, dict):
        result = {key: map_tensors(part, function) for key, part in value.items()}
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: map_tensors(getattr(value, field.name), function) for field in dataclasses.fields(value)}
        result = dataclasses.replace(value, **fields)
    return cast("V", result)
