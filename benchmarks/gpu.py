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
import functools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

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
from metaeol_udf.encoder.batch_runner import BatchRunner
from metaeol_udf.encoder.decoder_pass import run_on_its_device
from metaeol_udf.encoder.forward.decoder import Decoder
from metaeol_udf.encoder.gpu.packed_forward import PackedPass
from metaeol_udf.encoder.loading import Engine
from metaeol_udf.encoder.preparation import PreparedTexts

Texts = dict[str, list[list[int]]]  # token ids by what their lengths are


def linears(decoder: Decoder) -> list[torch.Tensor]:
    """Weights of the linear layers, four a layer."""
    return [linear.weight for layer in decoder.layers for linear in (layer.qkv, layer.attention_out, layer.mlp.into, layer.mlp.out)]


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


class Ours:
    """The engine over random weights."""

    def __init__(self, shape: Shape, device: torch.device, dtype: torch.dtype, max_batch_tokens: int) -> None:
        with torch.inference_mode():
            self.decoder = build_decoder(shape, device, dtype)
        self.groups = make_groups(TEMPLATES["metaeol"], shape.vocabulary)
        self.runner = run_on_its_device(self.decoder, self.groups, tokens_before=0)
        engine = Engine(None, self.runner, device, dtype, shape.hidden_size, shape.n_layers, 1)  # type: ignore[arg-type]  # nothing is tokenised
        self.batches = BatchRunner(engine, max_batch_tokens)

    def embed(self, prepared: PreparedTexts) -> None:
        """Compute the vectors of some texts."""
        _, errors = self.batches.run(prepared, sum(len(group.outputs) for group in self.groups))
        if found := {error for error in errors if error}:
            raise SystemExit(f"texts failed with {sorted(found)}")

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
    name: str, shape: Shape, lengths: Sequence[str], device: torch.device, least: float, max_batch_tokens: int, with_loops: bool
) -> Iterator[tuple[str, Row]]:
    """Measure one model: for each length of texts what is found out, as it comes."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    n_suffix = [len(group.suffix_ids) for group in make_groups(TEMPLATES["metaeol"], shape.vocabulary)]
    texts = {}
    for length in lengths:
        drawn = draw_lengths(length, MAX_TEXTS)
        n_texts = int(16 * max_batch_tokens / sum(sum(drawn) / len(drawn) + n for n in n_suffix))
        texts[length] = draw_texts(drawn[: max(1, n_texts)], shape.vocabulary)
    speeds = {}
    for length, row in our_rows(name, shape, texts, device, dtype, least, max_batch_tokens):
        speeds[length] = row["texts/s"]
        yield length, row
    if with_loops:
        for length, loop, speed in loop_rates(shape, texts, device, dtype, least, max_batch_tokens):
            yield length, {f"{loop}, texts/s": significant(speed), f"times {loop}": round(speeds[length] / speed, 1)}


def our_rows(
    name: str, shape: Shape, texts: Texts, device: torch.device, dtype: torch.dtype, least: float, max_batch_tokens: int
) -> Iterator[tuple[str, Row]]:
    """Measure the engine, a row a length of texts."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    ours = Ours(shape, device, dtype, max_batch_tokens)
    with torch.inference_mode():
        peak, narrow_peak = (rate(linears(ours.decoder), max_batch_tokens, device, least / 2) for rate in (gemm_peak, fp8_peak))
    for length, some in texts.items():
        prepared = make_prepared(ours.groups, some, max_batch_tokens)
        for _ in range(2):  # compiled and recorded; then replays are proved
            ours.embed(prepared)
        if isinstance(ours.runner, PackedPass):
            ours.runner.n_batches.clear()
        seconds = seconds_of(functools.partial(ours.embed, prepared), device, least)
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


def loop_rates(
    shape: Shape, texts: Texts, device: torch.device, dtype: torch.dtype, least: float, max_batch_tokens: int
) -> Iterator[tuple[str, str, float]]:
    """Measure the loops: a length of texts, a loop's name, and its texts a second."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    model = gpu_loops.make_model(shape, device, dtype)
    of_paper, of_ours = (gpu_loops.make_prompts(which, shape.vocabulary) for which in (PUBLISHED, TEMPLATES["metaeol"]))
    few = gpu_loops.PUBLISHED_TEXTS
    loops: dict[str, tuple[int, Callable[[list[list[int]]], object]]] = {
        "published loop": (few, lambda some: gpu_loops.run_published(model, of_paper, some)),
        "published loop, our prompts": (few, lambda some: gpu_loops.run_published(model, of_ours, some)),
        "careful loop": (256, lambda some: gpu_loops.run_careful(model, of_ours, some, max_batch_tokens)),
    }
    for length, all_texts in texts.items():
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
    for name, shape in shapes.items():
        for length, news in measure(name, shape, arguments.lengths.split(","), device, arguments.seconds, n_batch, not arguments.no_loops):
            found.setdefault((name, length), {}).update(news)
            print(f"{name}, {length} tokens: {json.dumps(news)}", flush=True)
            if arguments.json:  # as it comes, so that a run that is stopped leaves what it has
                arguments.json.parent.mkdir(parents=True, exist_ok=True)
                measured = {"machine": machine, "torch": torch.__version__, "rows": list(found.values())}
                arguments.json.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
    rows = list(found.values())
    show(rows)


if __name__ == "__main__":
    main()
