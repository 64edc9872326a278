"""Texts and tokens a second on a GPU, and the share of its matrix products' peak (MFU), for models of several sizes.

    python -m benchmarks.gpu [--shapes 135M,0.5B,1.5B,8B] [--lengths 12,30,100,500] [--seconds S] [--json FILE]
    python -m benchmarks.gpu --device cpu --tiny        # the same on a CPU, to try it

Weights are random and made on the device, texts are random tokens, so nothing is downloaded: what is timed is the forward pass of
the engine with four prefixes of two suffixes each, from planned batches to float32 vectors on the host. MFU counts the linear layers'
operations for the tokens that are computed, against the best rate of matrix products at the model's own shapes in the same run.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.results import show
from metaeol_udf.encoder.batch_runner import BatchRunner
from metaeol_udf.encoder.forward.batching import plan_batches
from metaeol_udf.encoder.forward.decoder import Decoder, Layer, Linear, Mlp, Norm
from metaeol_udf.encoder.loading import Engine, choose_runner
from metaeol_udf.encoder.preparation import PreparedTexts
from metaeol_udf.prompts.trie import PrefixGroup


@dataclasses.dataclass(frozen=True)
class Shape:
    """A Llama: sizes without weights."""

    n_layers: int
    hidden_size: int
    intermediate_size: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocabulary: int = 49_152


SHAPES = {
    "135M": Shape(30, 576, 1536, 9, 3, 64),  # SmolLM2-135M
    "0.5B": Shape(24, 896, 4864, 14, 2, 64),
    "1.5B": Shape(28, 1536, 8960, 12, 2, 128),
    "8B": Shape(32, 4096, 14_336, 32, 8, 128),
}
TINY = {"tiny": Shape(2, 64, 128, 4, 2, 16, 512)}
PREFIXES, SUFFIXES = (52, 47, 55, 50), (9, 12)  # tokens of prefixes and of each prefix's two suffixes, about what `metaeol` has
MAX_TEXTS = 8192  # of a chunk, as the encoder plans


def build_decoder(shape: Shape, device: torch.device, dtype: torch.dtype) -> Decoder:
    """Random weights whose activations stay of the order of one."""

    def linear(n_out: int, n_in: int) -> Linear:
        return Linear(torch.randn(n_out, n_in, dtype=dtype, device=device) * n_in**-0.5)

    def norm() -> Norm:
        return Norm(torch.ones(shape.hidden_size, device=device), None, 1e-5)

    n_query, n_key, n_inner = shape.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim, shape.intermediate_size
    layers = [
        Layer(
            attention_norm=norm(), qkv=linear(n_query + 2 * n_key, shape.hidden_size), q_norm=None, k_norm=None,
            attention_out=linear(shape.hidden_size, n_query), after_attention_norm=None, mlp_norm=norm(),
            mlp=Mlp(linear(2 * n_inner, shape.hidden_size), linear(shape.hidden_size, n_inner), "silu", is_gated=True),
            after_mlp_norm=None, scaling=shape.head_dim**-0.5,
        )
        for _ in range(shape.n_layers)
    ]  # fmt: skip
    angles = torch.arange(2048)[:, None] * 10_000.0 ** -(torch.arange(shape.head_dim // 2) * 2 / shape.head_dim)
    rope = torch.polar(torch.ones_like(angles), angles).to(device)
    return Decoder(
        token_table=torch.randn(shape.vocabulary, shape.hidden_size, dtype=dtype, device=device), token_scale=None, position_table=None,
        ropes=(rope,), layers=layers, final_norm=norm(), softcap=None,
        n_heads=shape.n_heads, n_kv_heads=shape.n_kv_heads, head_dim=shape.head_dim,
    )  # fmt: skip


def make_groups(vocabulary: int) -> list[PrefixGroup]:
    """Prefix groups of random tokens: a prefix with two suffixes each."""
    rng = np.random.default_rng(5)
    n_suffix = sum(SUFFIXES)
    depths = tuple(depth for n in SUFFIXES for depth in range(1, n + 1))
    sees = np.zeros((n_suffix, n_suffix), bool)
    for start, n in zip(np.cumsum((0, *SUFFIXES)), SUFFIXES, strict=False):
        sees[start : start + n, start : start + n] = np.tri(n, dtype=bool)
    ends = tuple((np.cumsum(SUFFIXES) - 1).tolist())
    return [
        PrefixGroup(
            prefix_ids=tuple(rng.integers(vocabulary, size=n_prefix).tolist()), template_indices=(2 * index, 2 * index + 1),
            suffix_ids=tuple(rng.integers(vocabulary, size=n_suffix).tolist()), suffix_depths=depths, suffix_sees=sees, outputs=ends,
            prompt_lengths=tuple(n_prefix + n for n in SUFFIXES),
        )
        for index, n_prefix in enumerate(PREFIXES)
    ]  # fmt: skip


def make_prepared(groups: Sequence[PrefixGroup], n_texts: int, length: int, vocabulary: int, max_batch_tokens: int) -> PreparedTexts:
    """Texts of random tokens, planned as the encoder plans them."""
    ids = np.random.default_rng(length).integers(vocabulary, size=(n_texts, length)).tolist()
    text_ids = [dict(enumerate(ids)) for _ in groups]
    batches = plan_batches([dict.fromkeys(range(n_texts), length) for _ in groups], [len(g.suffix_ids) for g in groups], max_batch_tokens)
    n_computed = sum(length + len(group.suffix_ids) for group in groups)
    n_whole = sum(len(g.prompt_lengths) * length + sum(g.prompt_lengths) for g in groups)
    return PreparedTexts(
        groups, text_ids, batches, n_texts, np.arange(n_texts), np.zeros(n_texts, bool),
        np.full(n_texts, n_computed, np.int64), np.full(n_texts, n_whole, np.int64),
    )  # fmt: skip


def linears(decoder: Decoder) -> list[torch.Tensor]:
    return [linear.weight for layer in decoder.layers for linear in (layer.qkv, layer.attention_out, layer.mlp.into, layer.mlp.out)]


def seconds_of(work: Callable[[], object], device: torch.device, least: float) -> float:
    """Seconds of one call, after one that is not timed, over at least so many seconds."""
    work()
    _wait(device)
    n_calls, started = 0, time.perf_counter()
    while not n_calls or time.perf_counter() - started < least:
        work()
        _wait(device)
        n_calls += 1
    return (time.perf_counter() - started) / n_calls


def gemm_peak(weights: Sequence[torch.Tensor], n_tokens: int, device: torch.device, least: float) -> float:
    """Operations a second of all linear layers one after the other, in the weights' dtype."""
    inputs = {n_in: torch.randn(n_tokens, n_in, dtype=weights[0].dtype, device=device) for n_in in {w.shape[1] for w in weights}}
    seconds = seconds_of(lambda: [torch.nn.functional.linear(inputs[w.shape[1]], w) for w in weights], device, least)
    return 2 * n_tokens * sum(w.numel() for w in weights) / seconds


def fp8_peak(weights: Sequence[torch.Tensor], n_tokens: int, device: torch.device, least: float) -> float | None:
    """The same with float8 weights and activations, a scale a row, activations scaled as they come; None where there is no float8."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 9):
        return None
    narrow = [to_fp8(weight) for weight in weights[:4]]  # layers are alike, so one stands for all
    inputs = {w.shape[1]: torch.randn(n_tokens, w.shape[1], dtype=torch.bfloat16, device=device) for w in weights[:4]}

    def multiply() -> None:
        for weight, scale in narrow:
            x, x_scale = to_fp8(inputs[weight.shape[1]])
            torch._scaled_mm(x, weight.t(), x_scale, scale.t(), out_dtype=torch.bfloat16, use_fast_accum=True)

    return 2 * n_tokens * sum(w.numel() for w in weights[:4]) / seconds_of(multiply, device, least)


def to_fp8(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Values of float8 and the scale of each row, shape ``(n_rows, 1)``."""
    scale = (x.abs().amax(1, keepdim=True).float() / torch.finfo(torch.float8_e4m3fn).max).clamp(min=1e-12)
    return (x.float() / scale).to(torch.float8_e4m3fn), scale


def measure(
    name: str, shape: Shape, lengths: Sequence[int], device: torch.device, least: float, max_batch_tokens: int
) -> list[dict[str, object]]:
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    with torch.inference_mode():
        decoder = build_decoder(shape, device, dtype)
        weights = linears(decoder)
        peak, narrow_peak = (rate(weights, max_batch_tokens, device, least) for rate in (gemm_peak, fp8_peak))
    groups = make_groups(shape.vocabulary)
    runner = choose_runner(decoder, groups, tokens_before=0)
    engine = Engine(None, runner, device, dtype, shape.hidden_size, len(decoder.layers), 1, True)  # type: ignore[arg-type]  # nothing is tokenised here
    batches = BatchRunner(engine, max_batch_tokens)
    rows: list[dict[str, object]] = []
    for length in lengths:
        n_texts = min(MAX_TEXTS, max(1, 16 * max_batch_tokens // sum(length + len(group.suffix_ids) for group in groups)))

        prepared = make_prepared(groups, n_texts, length, shape.vocabulary, max_batch_tokens)

        def embed(prepared: PreparedTexts = prepared, length: int = length) -> None:
            _, errors = batches.run(prepared, 2 * len(groups), False)
            if any(errors):
                raise SystemExit(f"{name}, {length} tokens: texts failed with {sorted({e for e in errors if e})}")

        embed()  # compiles, and records graphs at the second batch of a shape
        seconds = seconds_of(embed, device, least)
        n_tokens = n_texts * sum(length + len(group.suffix_ids) for group in groups)
        row: dict[str, object] = {
            "model": name, "text tokens": length, "path": "streams" if getattr(runner, "sizes", ()) else "cells",
            "texts/s": round(n_texts / seconds, 1), "tokens/s": round(n_tokens / seconds),
            "MFU": round(2 * sum(w.numel() for w in weights) * n_tokens / seconds / peak, 3),
            "GEMM peak, TFLOP/s": round(peak / 1e12, 2),
        }  # fmt: skip
        if narrow_peak is not None:
            row["fp8 GEMM, TFLOP/s"] = round(narrow_peak / 1e12, 2)
        if device.type == "cuda":
            row["memory, GiB"] = round(torch.cuda.max_memory_allocated(device) / 2**30, 1)
        rows.append(row)
    return rows


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default=",".join(SHAPES), help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--lengths", default="12,30,100,500", help="tokens of a text")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a model of two narrow layers and small batches")
    parser.add_argument("--seconds", type=float, default=3.0, help="that each figure is measured for")
    parser.add_argument("--batch-tokens", type=int, default=None)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print(
            "benchmarks.gpu needs a CUDA device and torch sees none: run it on a GPU, or try it with --device cpu --tiny", file=sys.stderr
        )
        raise SystemExit(5)
    if unknown := set(arguments.shapes.split(",")) - set(SHAPES):
        parser.error(f"unknown shapes {', '.join(sorted(unknown))}; known: {', '.join(SHAPES)}")
    shapes = TINY if arguments.tiny else {name: SHAPES[name] for name in arguments.shapes.split(",")}
    n_batch = arguments.batch_tokens or (1024 if arguments.tiny else 16_384)
    rows = []
    for name, shape in shapes.items():
        rows += measure(name, shape, [int(length) for length in arguments.lengths.split(",")], device, arguments.seconds, n_batch)
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{machine}, torch {torch.__version__}, {n_batch:,} tokens a batch")
    show(rows)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps({"machine": machine, "torch": torch.__version__, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
