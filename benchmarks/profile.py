"""Where the time of a chunk goes: matrix products, attention, element-wise work, copies, tokeniser, planning, Arrow.

    python -m benchmarks.profile [--model DIR] [--templates NAME] [--dtype DTYPE] [--texts N] [--texts-from SET]

A chunk's time and page faults are measured first. Then the forward pass is measured by torch's profiler, each operation by its own time
without what it calls; the rest by a clock around it. Shares are of their sum.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch.profiler import ProfilerActivity, profile
from transformers.utils import logging as hf_logging

from benchmarks.results import show
from benchmarks.texts import NAMES, load_texts
from metaeol_udf import MetaEOLEncoder, TemplateSet
from metaeol_udf.encoder.preparation import prepare_texts
from metaeol_udf.prompts import clean_text

_KINDS = {
    "GEMM": ("aten::mm", "aten::addmm", "aten::linear", "mkldnn::"),
    "attention": ("aten::bmm", "aten::baddbmm", "aten::_softmax", "aten::softmax", "aten::_scaled_dot_product"),
    "copies": ("aten::copy_", "aten::cat", "aten::index", "aten::clone", "aten::embedding", "aten::index_select", "aten::_to_copy"),
}


def profile_chunk(encoder: MetaEOLEncoder, texts: list[str], show_operations: bool) -> dict[str, float]:
    """Measure the seconds of each kind of work, for one chunk of texts."""
    seconds: dict[str, float] = defaultdict(float)
    engine = encoder.engine
    encoder.encode(texts)  # lays out, warms caches
    pa.array(np.zeros(1, np.float32))  # Arrow imports what it needs
    n_tokens, n_batch = encoder.spec.max_tokens, encoder.batch_runner.max_batch_tokens
    started = time.perf_counter()
    n_threads = encoder.batch_runner.n_threads
    prepared = prepare_texts(texts, engine.trie, encoder.templates, n_tokens, n_batch, engine.runner.has_prefixes, n_threads)
    spent = time.perf_counter() - started
    started = time.perf_counter()
    engine.trie.tokenize([clean_text(text, encoder.templates.text_cleanup) for text in texts])
    seconds["tokeniser"] = time.perf_counter() - started
    seconds["planning"] = max(0.0, spent - seconds["tokeniser"])
    # Batches run in threads of their own, which the profiler leaves out unless told so. Times are those of all threads together.
    everywhere = torch._C._profiler._ExperimentalConfig(profile_all_threads=True)
    with profile(activities=[ProfilerActivity.CPU], experimental_config=everywhere) as profiler:
        states, _ = encoder.batch_runner.run(prepared, len(encoder.templates.templates), False)
    if show_operations:
        print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=16, max_name_column_width=40))
    for event in profiler.key_averages():
        kind = next((kind for kind, names in _KINDS.items() if event.key.startswith(names)), "element-wise and other")
        seconds[kind] += event.self_cpu_time_total / 1e6
    started = time.perf_counter()
    pa.ListArray.from_arrays(pa.array(range(0, states.size + 1, states.shape[1]), pa.int32()), pa.array(states.reshape(-1)))
    seconds["Arrow"] = time.perf_counter() - started
    return dict(seconds)


def time_chunk(encoder: MetaEOLEncoder, texts: list[str]) -> str:
    """Time of a warm chunk, what the system had of it, and page faults."""
    encoder.encode(texts)
    before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    encoder.encode(texts)
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    of_system, faults = after.ru_stime - before.ru_stime, after.ru_minflt - before.ru_minflt
    return f"{seconds:.2f} s, {processor:.2f} s of processors, {of_system:.2f} s of them the system's, {faults:,} page faults"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models/smollm2-135m-instruct"))
    parser.add_argument("--templates", default="metaeol-separate")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--texts", type=int, default=128)
    parser.add_argument("--texts-from", choices=NAMES, default="short", help="a set of benchmarks.texts")
    parser.add_argument("--operations", action="store_true", help="also list single operations")
    arguments = parser.parse_args()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    templates = TemplateSet.load(arguments.templates)
    encoder = MetaEOLEncoder.from_pretrained(str(arguments.model), templates=templates, dtype=arguments.dtype, device="cpu")
    texts = load_texts(arguments.texts_from, arguments.texts, arguments.model).texts
    print(f"{arguments.templates}, {arguments.dtype}, {len(texts)} texts ({arguments.texts_from}), {torch.get_num_threads()} threads")
    print(f"a chunk: {time_chunk(encoder, texts)}")
    seconds = profile_chunk(encoder, texts, arguments.operations)
    total = sum(seconds.values())
    print(f"the same in the profiler, all threads together: {total:.2f} s")
    rows = sorted(seconds.items(), key=lambda item: -item[1])
    show([{"work": kind, "ms": round(1000 * spent, 1), "share": f"{spent / total:.1%}"} for kind, spent in rows])


if __name__ == "__main__":
    main()
