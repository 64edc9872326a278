"""Texts a second on a GPU beside other people's loops, and the share of its matrix products' peak (MFU), for models of several sizes.

    python -m benchmarks.gpu [--shapes 135M,0.6B,1.5B,8B] [--lengths 12,30,100,500,mix] [--seconds S] [--json FILE]
    python -m benchmarks.gpu --device cpu --tiny        # the same on a CPU, to try it

Weights are random and made on the device, texts are random tokens, so nothing is downloaded. Prompts have as many tokens as `metaeol`
has with SmolLM2's tokenizer. What is timed is the forward pass of the engine, from planned batches to float32 vectors on the host; the
loops are timed on the first texts of the same ones. MFU counts the linear layers' operations for the tokens that are computed (in the last
layer the outputs alone), against the best rate of matrix products at the model's own shapes in the same run.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import gpu_loops
from benchmarks.gpu_shapes import (
    MAX_TEXTS,
    MIX,
    PUBLISHED,
    SHAPES,
    TEMPLATES,
    TINY,
    Shape,
    build_decoder,
    draw_lengths,
    draw_texts,
    make_groups,
    make_prepared,
    seconds_of,
)
from benchmarks.results import Row, show, significant
from metaeol_udf.cosine import unit_rows
from metaeol_udf.encoder.batch_runner import BatchRunner
from metaeol_udf.encoder.decoder_pass import run_on_its_device
from metaeol_udf.encoder.forward.decoder import Decoder
from metaeol_udf.encoder.forward.quantization import has_float8, quantize, to_float8
from metaeol_udf.encoder.gpu.packed_forward import PackedPass
from metaeol_udf.encoder.loading import Engine
from metaeol_udf.encoder.preparation import PreparedTexts

_LAYERS_OF_PEAK = 4  # so many that weights do not stay in a cache
_LARGE = 2048  # hidden size from which few batches are measured: they take seconds

Texts = dict[str, list[list[int]]]  # token ids by what their lengths are


def linears(decoder: Decoder) -> list[torch.Tensor]:
    """Weights of the linear layers, four a layer."""
    return [linear.weight for layer in decoder.layers for linear in (layer.qkv, layer.attention_out, layer.mlp.into, layer.mlp.out)]


def gemm_peak(weights: Sequence[torch.Tensor], n_tokens: int, device: torch.device, least: float) -> float:
    """Operations a second of the linear layers one after the other, in the weights' dtype; layers are alike, so one stands for all."""
    inputs = {n_in: torch.randn(n_tokens, n_in, dtype=weights[0].dtype, device=device) for n_in in {w.shape[1] for w in weights[:4]}}

    def multiply() -> None:
        for weight in weights[: 4 * _LAYERS_OF_PEAK]:
            torch.nn.functional.linear(inputs[weight.shape[1]], weight)

    return 2 * n_tokens * sum(w.numel() for w in weights[: 4 * _LAYERS_OF_PEAK]) / seconds_of(multiply, device, least)


def fp8_peak(weights: Sequence[torch.Tensor], n_tokens: int, device: torch.device, least: float) -> float | None:
    """The same in 8-bit floating point, both sides rounded before; None where there is none."""
    if not has_float8(device):
        return None
    narrow = [to_float8(weight) for weight in weights[: 4 * _LAYERS_OF_PEAK]]
    inputs = {n_in: to_float8(torch.randn(n_tokens, n_in, device=device)) for n_in in {w.shape[1] for w in weights[:4]}}

    def multiply() -> None:
        for weight, scale in narrow:
            x, x_scale = inputs[weight.shape[1]]
            torch._scaled_mm(x, weight.t(), x_scale, scale.t(), out_dtype=torch.bfloat16, use_fast_accum=True)

    return 2 * n_tokens * sum(w.numel() for w in weights[: 4 * _LAYERS_OF_PEAK]) / seconds_of(multiply, device, least)


class Ours:
    """The engine over random weights."""

    def __init__(
        self, shape: Shape, device: torch.device, dtype: torch.dtype, max_batch_tokens: int, decoder: Decoder | None = None
    ) -> None:
        with torch.inference_mode():
            self.decoder = decoder or build_decoder(shape, device, dtype)
        self.groups = make_groups(TEMPLATES["metaeol"], shape.vocabulary)
        self.runner = run_on_its_device(self.decoder, self.groups, tokens_before=0)
        engine = Engine(None, self.runner, device, dtype, shape.hidden_size, shape.n_layers, 1)  # type: ignore[arg-type]  # nothing is tokenised
        self.batches = BatchRunner(engine, max_batch_tokens)

    def embed(self, prepared: PreparedTexts) -> NDArray[np.float32]:
        """Compute the vectors of some texts, shape ``(n_texts, hidden_size)``."""
        vectors, errors = self.batches.run(prepared, sum(len(group.outputs) for group in self.groups))
        if found := {error for error in errors if error}:
            raise SystemExit(f"texts failed with {sorted(found)}")
        return vectors

    def time(self, prepared: PreparedTexts, least: float) -> float:
        """Seconds that the vectors of some texts take, once all is compiled, recorded and proved."""
        for _ in range(2):
            self.embed(prepared)
        if isinstance(self.runner, PackedPass):
            self.runner.n_batches.clear()
        return seconds_of(functools.partial(self.embed, prepared), self.decoder.token_table.device, least)

    def operations(self, prepared: PreparedTexts) -> int:
        """Operations of the linear layers over some texts: in the last layer keys and values of all tokens, and the rest for outputs."""
        n_tokens, n_outputs = int(prepared.tokens_computed.sum()), prepared.n_unique * sum(len(group.outputs) for group in self.groups)
        last = linears(self.decoder)[-4:]
        n_keys = 2 * self.decoder.n_kv_heads * self.decoder.head_dim * self.decoder.hidden_size
        whole = sum(weight.numel() for weight in linears(self.decoder)[:-4])
        return 2 * (n_tokens * (whole + n_keys) + n_outputs * (sum(weight.numel() for weight in last) - n_keys))

    def paths(self) -> str:
        """Batches by the path that they took."""
        counts = self.runner.n_batches if isinstance(self.runner, PackedPass) else {"cells": "all"}
        return ", ".join(f"{path} {n}" for path, n in sorted(counts.items()))


def measure(
    name: str,
    shape: Shape,
    lengths: Sequence[str],
    device: torch.device,
    least: float,
    max_batch_tokens: int,
    with_loops: bool,
    with_fp8: bool,
) -> Iterator[tuple[str, Row]]:
    """Measure one model: for each length of texts what is found out, as it comes."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    n_suffix = [len(group.suffix_ids) for group in make_groups(TEMPLATES["metaeol"], shape.vocabulary)]
    n_batches = 16 if shape.hidden_size < _LARGE else 4
    texts = {}
    for length in lengths:
        drawn = draw_lengths(length, MAX_TEXTS)
        n_texts = int(n_batches * max_batch_tokens / sum(sum(drawn) / len(drawn) + n for n in n_suffix))
        texts[length] = draw_texts(drawn[: max(1, n_texts)], shape.vocabulary)
    speeds = {}
    for length, row in our_rows(name, shape, texts, device, dtype, least, max_batch_tokens, with_fp8):
        speeds.setdefault(length, row.get("texts/s"))
        yield length, row
    if with_loops:
        for length, loop, speed in loop_rates(shape, texts, device, dtype, least, max_batch_tokens):
            yield length, {f"{loop}, texts/s": significant(speed), f"times {loop}": round(speeds[length] / speed, 1)}


def our_rows(
    name: str, shape: Shape, texts: Texts, device: torch.device, dtype: torch.dtype, least: float, max_batch_tokens: int, with_fp8: bool
) -> Iterator[tuple[str, Row]]:
    """Measure the engine, a row a length of texts; then the same with weights and activations in 8-bit floating point."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    ours = Ours(shape, device, dtype, max_batch_tokens)
    with torch.inference_mode():
        peak, narrow_peak = (rate(linears(ours.decoder), max_batch_tokens, device, least / 2) for rate in (gemm_peak, fp8_peak))
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
    speeds, vectors = dict[str, float](), dict[str, NDArray[np.float32]]()
    for length, some in texts.items():
        prepared = make_prepared(ours.groups, some, max_batch_tokens)
        seconds = ours.time(prepared, least)
        row: Row = {
            "model": name, "text tokens": length if length == MIX else int(length), "path": ours.paths(),
            "texts/s": round(len(some) / seconds, 1),
            "tokens/s": round(int(prepared.tokens_computed.sum()) / seconds),
            "MFU": round(ours.operations(prepared) / seconds / peak, 3), "GEMM peak, TFLOP/s": round(peak / 1e12, 2),
        }  # fmt: skip
        if narrow_peak is not None:
            row["fp8 GEMM, TFLOP/s"] = round(narrow_peak / 1e12, 2)
        if device.type == "cuda":
            row["memory, GiB"] = round(torch.cuda.max_memory_allocated(device) / 2**30, 1)
        if isinstance(ours.runner, PackedPass):
            row["cosine to cells"] = round(ours.runner.worst_proof, 6)
        yield length, row
        speeds[length], vectors[length] = len(some) / seconds, ours.embed(prepared)
    if not with_fp8:
        return
    with torch.inference_mode():
        layers = [quantize(layer, "fp8") for layer in ours.decoder.layers]
    narrow = Ours(shape, device, dtype, max_batch_tokens, dataclasses.replace(ours.decoder, layers=layers))
    del ours
    for length, some in texts.items():
        prepared = make_prepared(narrow.groups, some, max_batch_tokens)
        speed = len(some) / narrow.time(prepared, least)
        news: Row = {
            "fp8, texts/s": round(speed, 1), "times bfloat16": round(speed / speeds[length], 2), "fp8 path": narrow.paths(),
            "fp8 cosine": round(float((unit_rows(narrow.embed(prepared)) * unit_rows(vectors[length])).sum(1).min()), 5),
        }  # fmt: skip
        if isinstance(narrow.runner, PackedPass):
            news["fp8 cosine to cells"] = round(narrow.runner.worst_proof, 6)
        yield length, news


def loop_rates(
    shape: Shape, texts: Texts, device: torch.device, dtype: torch.dtype, least: float, max_batch_tokens: int
) -> Iterator[tuple[str, str, float]]:
    """Measure the loops: a length of texts, a loop's name, and its texts a second."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    model = gpu_loops.make_model(shape, device, dtype)
    of_paper, of_ours = (gpu_loops.make_prompts(which, shape.vocabulary) for which in (PUBLISHED, TEMPLATES["metaeol"]))
    few = gpu_loops.PUBLISHED_TEXTS
    for length, all_texts in texts.items():
        full = min(256, max(few, max_batch_tokens // max(map(len, all_texts))))  # as many as fill a batch of the careful loop, or 256
        loops: dict[str, tuple[int, Callable[[list[list[int]]], object]]] = {
            "published loop": (few, lambda some: gpu_loops.run_published(model, of_paper, some)),
            "published loop, our prompts": (few, lambda some: gpu_loops.run_published(model, of_ours, some)),
            "careful loop": (full, lambda some: gpu_loops.run_careful(model, of_ours, some, max_batch_tokens)),
        }
        for loop, (n_texts, run) in loops.items():
            some = all_texts[:n_texts]
            yield length, loop, len(some) / seconds_of(functools.partial(run, some), device, least / 2)


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default=",".join(SHAPES), help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--lengths", default="12,30,100,500,mix", help="tokens of a text; mix: of many lengths")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a model of two narrow layers and small batches")
    parser.add_argument("--seconds", type=float, default=3.0, help="that each figure is measured for")
    parser.add_argument("--batch-tokens", type=int, default=None)
    parser.add_argument("--no-fp8", action="store_true", help="do not measure 8-bit floating point")
    parser.add_argument("--no-loops", action="store_true", help="measure the engine alone")
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
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{machine}, torch {torch.__version__}, {n_batch:,} tokens a batch")
    found: dict[tuple[str, str], Row] = {}
    started = time.perf_counter()
    for name, shape in shapes.items():
        for length, news in measure(
            name, shape, arguments.lengths.split(","), device, arguments.seconds, n_batch, not arguments.no_loops, not arguments.no_fp8
        ):
            found.setdefault((name, length), {}).update(news)
            print(f"{time.perf_counter() - started:.0f} s: {name}, {length} tokens: {json.dumps(news)}", flush=True)
            if arguments.json:  # as it comes, so that a run that is stopped leaves what it has
                arguments.json.parent.mkdir(parents=True, exist_ok=True)
                measured = {"machine": machine, "torch": torch.__version__, "rows": list(found.values())}
                arguments.json.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
    rows = list(found.values())
    show(rows)


if __name__ == "__main__":
    main()
