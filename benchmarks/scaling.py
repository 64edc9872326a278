"""What the cost of embedding grows with: text length, templates, rows, partitions; and what one very long text does to the others.

    python -m benchmarks.scaling [--only rows,long,length,templates,partitions] [--texts N]

Cost should be proportional to tokens and to rows, and a text of 200,000 characters should cost what its first 512 tokens do.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import AutoTokenizer

from benchmarks.contenders import SETS, best_dtype
from benchmarks.results import Row, command_parser, describe_machine, show, significant, write_results
from benchmarks.texts import cut_texts, load_texts, short_texts
from metaeol_udf import EmbeddingSpec, MetaEOLEncoder, TemplateSet

LENGTHS = (8, 16, 32, 64, 128, 256, 512)
LONG_CHARACTERS = 200_000
PARTITIONS = (1, 2, 4, 8)
TEMPLATES = (1, 2, 4, 8)


def time_call(call: Callable[[], object], rounds: int = 3) -> float:
    """Seconds, the median of some calls."""
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def _encoder(model: Path, templates: TemplateSet, dtype: str) -> MetaEOLEncoder:
    encoder = MetaEOLEncoder.from_pretrained(str(model), templates=templates, dtype=dtype, device="cpu")
    encoder.encode(["a short text", "another one"])
    return encoder


def measure_lengths(model: Path, dtype: str, n_tokens: int) -> list[Row]:
    """Milliseconds for a text of so many tokens, by template set; `n_tokens` of text at each length, and at least two texts."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    encoders = {name: _encoder(model, TemplateSet.load(name), dtype) for name in SETS}
    rows: list[Row] = []
    for length in LENGTHS:
        texts = cut_texts(min(64, max(2, n_tokens // length)), length, tokenizer)
        for name, encoder in encoders.items():
            started = time.perf_counter()
            encoded = encoder.encode_rows(texts)
            seconds = time.perf_counter() - started
            rows.append(
                {
                    "templates": name,
                    "tokens": length,
                    "texts": len(texts),
                    "ms_per_text": significant(1000 * seconds / len(texts)),
                    "tokens_computed": round(float(encoded.tokens_computed.sum()) / len(texts), 1),
                }
            )
    return rows


def measure_templates(model: Path, dtype: str, texts: Sequence[str]) -> list[Row]:
    """Milliseconds for a text with the first so many templates of each set."""
    rows: list[Row] = []
    for name in SETS:
        whole = TemplateSet.load(name)
        for n_templates in TEMPLATES:
            part = dataclasses.replace(whole, name=f"{name}-{n_templates}", templates=whole.templates[:n_templates])
            encoder = _encoder(model, part, dtype)
            seconds = time_call(lambda encoder=encoder: encoder.encode(texts), 1)  # type: ignore[misc]
            rows.append({"templates": name, "n_templates": n_templates, "ms_per_text": significant(1000 * seconds / len(texts))})
    return rows


def measure_rows(encoder: MetaEOLEncoder, texts: Sequence[str]) -> list[Row]:
    """Seconds for a tenth, a third and all of the texts: ten times the rows should take nine to eleven times as long."""
    sizes = [len(texts) // 10, len(texts) // 3, len(texts)]
    encoder.encode(texts)  # the first time lays out every length
    seconds = [time_call(lambda n=n: encoder.encode(texts[:n]), 3 if n < len(texts) else 1) for n in sizes]  # type: ignore[misc]
    return [
        {"rows": n, "seconds": significant(s), "rows_factor": significant(n / sizes[0]), "time_factor": significant(s / seconds[0])}
        for n, s in zip(sizes, seconds, strict=True)
    ]


def measure_long(encoder: MetaEOLEncoder, texts: Sequence[str]) -> list[Row]:
    """Seconds for ordinary texts alone, with one of 512 tokens, and with one of 200,000 characters among them."""
    (page,) = cut_texts(1, 512, AutoTokenizer.from_pretrained(encoder.spec.model))
    giant = (page + " ") * (LONG_CHARACTERS // len(page) + 1)
    added = {"nothing": [], "a text of 512 tokens": [page], "a text of 200,000 characters": [giant[:LONG_CHARACTERS]]}
    middle = len(texts) // 2
    rows: list[Row] = []
    for what, more in added.items():
        seconds = time_call(lambda more=more: encoder.encode([*texts[:middle], *more, *texts[middle:]]))  # type: ignore[misc]
        extra = seconds - (rows[0]["seconds"] if rows else seconds)
        rows.append({"ordinary_texts": len(texts), "added": what, "seconds": round(seconds, 3), "extra_seconds": round(extra, 3)})
    return rows


def measure_partitions(model: Path, dtype: str, texts: Sequence[str]) -> list[Row]:
    """Seconds through Spark with as many task slots as threads, one thread each, by partitions; and with the long text in one of eight."""
    from pyspark.sql import functions as F

    from benchmarks.job import start_session
    from metaeol_udf.spark import with_embeddings

    session = start_session(torch.get_num_threads(), 1)
    spec = EmbeddingSpec(model=str(model.resolve()), templates="metaeol", dtype=dtype)
    giant = " ".join(texts)
    giant = (giant * (LONG_CHARACTERS // len(giant) + 1))[:LONG_CHARACTERS]

    def run(rows: Sequence[str], n_partitions: int) -> None:
        frame = session.createDataFrame(list(enumerate(rows)), "id long, text string")
        spread = frame.repartitionByRange(n_partitions, "id")
        with_embeddings(spread, spec, device="cpu").agg(F.count("embedding_error"), F.sum(F.size("embedding"))).collect()

    run(texts[:16], torch.get_num_threads() * 4)  # every worker loads its model
    runs = [(n_partitions, texts, {}) for n_partitions in PARTITIONS] + [(PARTITIONS[-1], [*texts, giant], {"with_long_text": True})]
    rows: list[Row] = []
    for n_partitions, chosen, more in runs:
        started = time.perf_counter()
        run(chosen, n_partitions)
        seconds = significant(time.perf_counter() - started)
        rows.append({"partitions": n_partitions, "rows": len(chosen), "seconds": seconds, **more})
    session.stop()
    return rows


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("--dtype", default=best_dtype(), help="float32 or bfloat16; by default the quickest that is no approximation")
    parser.add_argument("--texts", type=int, default=320, help="texts of the largest measurement")
    parser.add_argument("--only", default="rows,long,length,templates,partitions")
    arguments = parser.parse_args()
    model, dtype, short = arguments.model, arguments.dtype, short_texts(arguments.texts)
    encoder = _encoder(model, TemplateSet.load("metaeol"), dtype)
    measures: dict[str, Callable[[], list[Row]]] = {
        "rows": lambda: measure_rows(encoder, short),
        "long": lambda: measure_long(encoder, load_texts("mixed", len(short) // 5, model).texts),
        "length": lambda: measure_lengths(model, dtype, 4 * len(short)),
        "templates": lambda: measure_templates(model, dtype, short[: len(short) // 8]),
        "partitions": lambda: measure_partitions(model, dtype, short),
    }
    print(f"{describe_machine()}, {dtype}")
    rows: list[Row] = []
    for kind in arguments.only.split(","):
        found = measures[kind]()
        print()
        show(found)
        rows += [{"kind": kind, **row} for row in found]
        if arguments.json:  # after each, so that what was measured stays if the rest is stopped
            write_results(arguments.json, rows, dtype=dtype)


if __name__ == "__main__":
    main()
