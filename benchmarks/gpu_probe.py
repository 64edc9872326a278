"""Two questions to one GPU: is each path exact, and which kernels take the time.

    python -m benchmarks.gpu_probe exact --out DIR [--cases llama,gemma2] [--budget SECONDS]
    python -m benchmarks.gpu_probe profile --out DIR [--shapes 8B,135M] [--length 12]
    python -m benchmarks.gpu_probe exact profile --out DIR --device cpu --tiny          # the same on a CPU, to try it

No Spark, no model files, no network. Each row is printed and written to DIR/PART.jsonl as it comes.

exact     Random checkpoints of four narrow layers with the head counts and widths of real models, in float32 and bfloat16: cells, compiled
          batches and replayed CUDA graphs, on two sets of texts in turn, against transformers in float32 one prompt at a time. Beside it
          stands transformers' own bfloat16. Wanted: 0.99999 in float32; in bfloat16 no less than transformers' own to within 0.001; the
          batches of each path are counted, so that a path that fell back shows.
profile   The engine's kernels by time (DIR/profiles.txt), its texts a second, and the GPU's busy share under the profiler.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers.utils import logging as hf_logging

from benchmarks.gpu import Ours
from benchmarks.gpu_shapes import SHAPES, TINY, draw_lengths, draw_texts, make_prepared, seconds_of, wait
from benchmarks.results import Row
from metaeol_udf import MetaEOLEncoder, TemplateSet
from metaeol_udf.encoder.batch_runner import BatchRunner
from metaeol_udf.encoder.forward.trie_forward import TriePass
from metaeol_udf.encoder.gpu.cuda_graphs import GraphCache
from metaeol_udf.encoder.gpu.flex_attention import compile_layer
from metaeol_udf.encoder.gpu.packed_forward import PackedPass
from tests import tiny_models
from tests.encoder import oracle

# Model kind, query heads, key-value heads, width of a head, as real models have them; the most telling come first.
CASES = (
    ("llama", 9, 3, 64),  # SmolLM2-135M
    ("gemma3", 4, 1, 256),  # Gemma 3 1B
    ("qwen3", 16, 8, 128),  # Qwen3-0.6B
    ("llama", 32, 8, 128),  # Llama 3.1 8B
    ("gemma2", 8, 4, 256),  # Gemma 2 2B
    ("gpt2", 12, 12, 64),  # GPT-2
    ("mistral", 8, 2, 96),
)
N_TEXTS = 12


def save_model(folder: Path, kind: str, n_heads: int, n_kv_heads: int, head_dim: int) -> Path:
    """Write a checkpoint in which attention, norms and biases all matter: scores spread by about 2, so that a wrong mask shows."""
    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    sizes: dict[str, Any] = {
        "vocab_size": 1024, "hidden_size": 16 * n_heads, "intermediate_size": 32 * n_heads, "num_hidden_layers": 4,
        "num_attention_heads": n_heads, "num_key_value_heads": n_kv_heads, "head_dim": head_dim, "max_position_embeddings": 1024, **ids,
    }  # fmt: skip
    gemma = {**sizes, "sliding_window": 24, "query_pre_attn_scalar": head_dim}  # windows are short so that they matter
    kinds: dict[str, Callable[[], Any]] = {
        "llama": lambda: transformers.LlamaConfig(**sizes),
        "qwen3": lambda: transformers.Qwen3Config(**sizes),
        "mistral": lambda: transformers.MistralConfig(**sizes, sliding_window=24),
        "gemma2": lambda: transformers.Gemma2Config(**gemma, attn_implementation="eager"),
        "gemma3": lambda: transformers.Gemma3TextConfig(**gemma, layer_types=["sliding_attention", "full_attention"] * 2),
        "gpt2": lambda: transformers.GPT2Config(
            vocab_size=1024, n_embd=n_heads * head_dim, n_layer=4, n_head=n_heads, n_positions=1024, **ids
        ),
    }
    torch.manual_seed(3)
    model = transformers.AutoModel.from_config(kinds[kind]())
    for name, weight in model.named_parameters():
        if weight.dim() == 1:
            is_scale = name.endswith("weight") and not kind.startswith("gemma")  # Gemma keeps weight - 1
            torch.nn.init.normal_(weight, float(is_scale), 0.1)
        elif any(part in name for part in ("embed_tokens", "wte", "wpe")):  # Gemma multiplies by the root of the width
            torch.nn.init.normal_(weight, 0.0, weight.shape[1] ** -0.5 if kind.startswith("gemma") else 1.0)
        else:
            torch.nn.init.normal_(weight, 0.0, 1.4 * weight.shape[0 if kind == "gpt2" else 1] ** -0.5)
    model.save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(tokenizer_object=tiny_models.byte_level()).save_pretrained(folder)
    return folder


def make_texts(seed: int) -> list[str]:
    """Draw texts of 3 to 40 words."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(tiny_models.WORDS, rng.integers(3, 40))) + f" {number}" for number in range(N_TEXTS)]


def exact(arguments: argparse.Namespace, device: torch.device) -> Iterator[Row]:
    """Compare each path with transformers."""
    torch.set_num_threads(1)  # the models are so small that threads would wait for each other
    templates, sets = TemplateSet.load("metaeol"), [make_texts(1), make_texts(2)]
    for kind, *heads in CASES:
        if arguments.cases and kind not in arguments.cases.split(","):
            continue
        name = f"{kind} {heads[0]}/{heads[1]} x {heads[2]}"
        with tempfile.TemporaryDirectory() as temporary:
            folder = save_model(Path(temporary), kind, *heads)
            prompts = [template.prompt for template in templates.templates]
            wanted = [oracle.one_at_a_time(folder, prompts, texts, -1).mean(1) for texts in sets]
            theirs = oracle.one_at_a_time(folder, prompts, sets[0][:4], -1, dtype=torch.bfloat16).mean(1)
            yield {
                "model": name, "dtype": "bfloat16", "path": "transformers, CPU",
                "worst cosine": round(oracle.worst_cosine(theirs, wanted[0][:4]), 7),
                "of one text to another": round(oracle.worst_cosine(wanted[0][:1], wanted[0][1:2]), 3),
            }  # fmt: skip
            for dtype in ("float32", "bfloat16"):
                torch._dynamo.reset()
                for path in ("cells",) if device.type == "cpu" else ("cells", "compiled", "graph"):
                    started = time.perf_counter()
                    row = {"model": name, "dtype": dtype, "path": path, **_compare(path, folder, templates, dtype, device, sets, wanted)}
                    yield {**row, "s": round(time.perf_counter() - started, 1)}


def _compare(
    path: str, folder: Path, templates: TemplateSet, dtype: str, device: torch.device, sets: Sequence[list[str]], wanted: Sequence[Any]
) -> Row:
    """Find the worst cosine of one path over both sets of texts, four rounds: compiled, recorded, proved, replayed."""
    try:
        ours = MetaEOLEncoder.from_pretrained(str(folder), templates=templates, dtype=dtype, device=str(device))
        runner = ours.engine.runner
        if not isinstance(runner, TriePass):
            return {"error": "the fast path was refused at load"}
        if isinstance(runner, PackedPass):
            packed = PackedPass(
                runner.decoder, ours.engine.trie.groups, layer_function=None if path == "cells" else compile_layer(), least_full=0.0
            )
            packed.graphs = GraphCache(device) if path == "graph" else None
            object.__setattr__(ours.engine, "runner", packed)
            ours.batch_runner = BatchRunner(ours.engine, 8192)
            packed.sizes = packed.sizes[-1:]  # each size is compiled
        worst = min(
            oracle.worst_cosine(ours.encode(texts), expected) for _ in range(4) for texts, expected in zip(sets, wanted, strict=True)
        )
    except Exception as error:  # noqa: BLE001 - a path that fails must not take the others along
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:600]}"}
    row: Row = {"worst cosine": round(worst, 7)}
    if isinstance(ours.engine.runner, PackedPass):
        packed = ours.engine.runner
        row |= {"batches": dict(packed.n_batches), "cosine to cells": packed.worst_proof, "refused": [*packed.refused.values()]}
    return row


def profile(arguments: argparse.Namespace, device: torch.device) -> Iterator[Row]:
    """List kernels by time."""
    dtype, n_batch = torch.bfloat16 if device.type == "cuda" else torch.float32, 1024 if arguments.tiny else 16_384
    activities = [torch.profiler.ProfilerActivity.CPU, *([torch.profiler.ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    for name, shape in (TINY if arguments.tiny else {name: SHAPES[name] for name in arguments.shapes.split(",")}).items():
        if device.type == "cuda":
            torch.cuda.empty_cache()
        ours = Ours(shape, device, dtype, n_batch)
        lengths = draw_lengths(arguments.length, 8192)
        n_texts = int(6 * n_batch / sum(sum(lengths) / len(lengths) + len(group.suffix_ids) for group in ours.groups))
        prepared = make_prepared(ours.groups, draw_texts(lengths[:n_texts], shape.vocabulary), n_batch)
        for _ in range(3):  # compiled, recorded, proved
            ours.embed(prepared)
        seconds = seconds_of(lambda ours=ours, prepared=prepared: ours.embed(prepared), device, arguments.seconds)  # type: ignore[misc]
        # The engine's lane is a thread of its own, which the profiler does not look at by default.
        every_thread = torch._C._profiler._ExperimentalConfig(profile_all_threads=True)
        with torch.profiler.profile(activities=activities, experimental_config=every_thread, acc_events=True) as recorded:
            started = time.perf_counter()
            ours.embed(prepared)
            wait(device)
            profiled = time.perf_counter() - started
        averages = recorded.key_averages()
        row: Row = {"model": name, "text tokens": arguments.length, "path": ours.paths(), "texts/s": round(n_texts / seconds, 1)}
        if device.type == "cuda":
            busy = sum(kernel.self_device_time_total for kernel in averages if "CUDA" in str(kernel.device_type)) / 1e6
            row |= {"GPU busy": round(busy / profiled, 3), "GPU busy, without the profiler": round(busy / seconds, 3)}
        with (arguments.out / "profiles.txt").open("a", encoding="utf-8") as file:
            order = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
            table = averages.table(sort_by=order, row_limit=30, max_name_column_width=90)
            file.write(f"{name}, {arguments.length} tokens, {profiled:.3f} s under the profiler, {seconds:.3f} s without\n{table}\n\n")
        yield row


PARTS: dict[str, Callable[[argparse.Namespace, torch.device], Iterator[Row]]] = {"exact": exact, "profile": profile}


def main() -> None:
    """Answer what the command line asks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=list(PARTS), metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--out", type=Path, required=True, help="folder for PART.jsonl and profiles.txt")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="profile: a model of two narrow layers")
    parser.add_argument("--cases", default="", help=f"exact: of {', '.join(dict.fromkeys(case[0] for case in CASES))}; default: all")
    parser.add_argument("--shapes", default="8B,135M", help=f"profile: of {', '.join(SHAPES)}")
    parser.add_argument("--length", default="12", help="profile: tokens of a text, or mix")
    parser.add_argument("--seconds", type=float, default=2.0, help="profile: that the rate is measured for")
    parser.add_argument("--budget", type=float, default=float("inf"), help="seconds after which a part ends with the row that it is at")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("benchmarks.gpu_probe needs a CUDA device and torch sees none: try it with --device cpu --tiny", file=sys.stderr)
        raise SystemExit(5)
    hf_logging.disable_progress_bar()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for part in arguments.parts:
        started = time.perf_counter()
        for row in PARTS[part](arguments, device):
            print(part, json.dumps(row), flush=True)
            with (arguments.out / f"{part}.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            if time.perf_counter() - started > arguments.budget:
                print(f"{part}: its {arguments.budget:.0f} s are over", flush=True)
                break


if __name__ == "__main__":
    main()
