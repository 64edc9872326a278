"""The rate that this machine's matrix products reach at a model's shapes: the roof that an encoder's rate is held against."""

from __future__ import annotations

import time

import torch

from metaeol_udf.encoder.decoder import Decoder, Layer, Linear
from metaeol_udf.encoder.packed import PackedMlp


def gemm_rate(decoder: Decoder, n_tokens: int = 1024, repeats: int = 3) -> float:
    """Floating point operations a second over one pass through all linear layers, the best of `repeats`."""
    linears = [linear for layer in decoder.layers for linear in _linears(layer)]
    dtype = decoder.token_table.dtype
    inputs = {linear.weight.shape[1]: torch.randn(n_tokens, linear.weight.shape[1], dtype=dtype) for linear in linears}
    best = float("inf")
    with torch.inference_mode():
        for _ in range(repeats + 1):
            started = time.perf_counter()
            for linear in linears:
                linear(inputs[linear.weight.shape[1]])
            best = min(best, time.perf_counter() - started)
    return n_tokens * flops_per_token(decoder) / best


def flops_per_token(decoder: Decoder) -> int:
    """Operations of the linear layers for one token."""
    shapes = [linear.weight.shape for layer in decoder.layers for linear in _linears(layer)]
    return 2 * sum(n_out * n_in for n_out, n_in in shapes)


def _linears(layer: Layer) -> list[Linear]:
    gate = [layer.mlp.gate] if isinstance(layer.mlp, PackedMlp) and layer.mlp.gate is not None else []
    return [layer.qkv, layer.attention_out, *gate, layer.mlp.into, layer.mlp.out]
