"""The rate that this machine's matrix products reach at a model's shapes: the roof that an encoder's rate is held against."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import torch

from metaeol_udf.encoder.forward.decoder import Decoder, Layer, Linear
from metaeol_udf.encoder.forward.onednn import OneDnnMlp
from metaeol_udf.encoder.forward.threads import one_per_core, start_threads


def gemm_rate(decoder: Decoder, n_tokens: int = 1024, seconds: float = 1.0) -> float:
    """Floating point operations a second over passes through all linear layers.

    A mean over `seconds`, as an encoder's rate is one over all its batches: the best of a few passes would find moments of a shared machine
    that the encoder does not get. With all cores on one pass or with one pass a core, side by side, as the encoder runs its batches:
    whichever is faster.
    """
    linears = [linear for layer in decoder.layers for linear in _linears(layer)]
    dtype = decoder.token_table.dtype
    inputs = {linear.weight.shape[1]: torch.randn(n_tokens, linear.weight.shape[1], dtype=dtype) for linear in linears}
    n_threads = one_per_core()
    threads = start_threads(n_threads)

    def passes_a_second(n_side: int, seconds: float) -> float:
        started, n_done = time.perf_counter(), 0
        while not n_done or time.perf_counter() - started < seconds:
            if n_side == 1:
                _run_pass(linears, inputs)
            else:
                for running in [threads.submit(_run_pass, linears, inputs) for _ in range(n_side)]:
                    running.result()
            n_done += n_side
        return n_done / (time.perf_counter() - started)

    n_side = max(dict.fromkeys((1, n_threads)), key=lambda n_side: passes_a_second(n_side, 0.0))
    return n_tokens * flops_per_token(decoder) * passes_a_second(n_side, seconds)


def flops_per_token(decoder: Decoder) -> int:
    """Operations of the linear layers for one token."""
    shapes = [linear.weight.shape for layer in decoder.layers for linear in _linears(layer)]
    return 2 * sum(n_out * n_in for n_out, n_in in shapes)


@torch.inference_mode()
def _run_pass(linears: Sequence[Linear], inputs: Mapping[int, torch.Tensor]) -> None:
    for linear in linears:
        linear(inputs[linear.weight.shape[1]])


def _linears(layer: Layer) -> list[Linear]:
    gate = [layer.mlp.gate] if isinstance(layer.mlp, OneDnnMlp) and layer.mlp.gate is not None else []
    return [layer.qkv, layer.attention_out, *gate, layer.mlp.into, layer.mlp.out]
