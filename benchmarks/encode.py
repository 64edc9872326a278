"""Texts a second of the encoder against what people would run instead, side by side in one process.

    python -m benchmarks.encode [--model DIR] [--texts N] [--rounds N] [--json FILE]

Every round runs every contender once on the same texts, in turn, so that a machine that drifts drifts for all of them.
Ratios are taken round by round against the published script's loop and printed with their spread. Short texts are STS-B
dev sentences where `../shared/data` stands beside the repository, else first lines of the standard library's docstrings.
"""

from __future__ import annotations

import argparse
import gzip
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.utils import logging as hf_logging

from benchmarks.baselines import PublishedLoop, SortedBatches
from benchmarks.gemm import flops_per_token, gemm_rate
from metaeol_udf import MetaEOLEncoder, TemplateSet
from metaeol_udf.encoder.window import prepare_window

STS = Path("../shared/data/sts/stsb_dev.tsv.gz")


@dataclass
class Contender:
    """One way to embed, and what it took."""

    name: str
    encode: Callable[[Sequence[str]], NDArray[np.float32]]
    n_texts: int
    rates: list[float]
    vectors: NDArray[np.float32] | None = None
    encoder: MetaEOLEncoder | None = None
    templates: str = ""


def short_texts(n: int) -> list[str]:
    """`n` real short texts."""
    if STS.is_file():
        with gzip.open(STS, "rt", encoding="utf-8", newline="\n") as file:
            return [line.split("\t")[1] for line in file][1 : n + 1]
    from metaeol_udf.demo import collect_docstrings

    return [text.splitlines()[0] for text in collect_docstrings().values()][:n]


def contenders(model: Path, n_texts: int) -> list[Contender]:
    separate = TemplateSet.load("metaeol-separate")
    published, careful = PublishedLoop(model), SortedBatches(model)
    found = [
        Contender("published loop, fp32, 8 heads", lambda texts: published.encode(texts, separate), min(n_texts, 16), []),
        Contender("sorted batches, fp32, 8 heads", lambda texts: careful.encode(texts, separate), min(n_texts, 32), []),
    ]
    dtypes = ("float32", "bfloat16") if torch.cpu._is_avx512_bf16_supported() else ("float32",)
    for dtype in dtypes:
        for name in ("metaeol-separate", "metaeol", "metaeol-fast"):
            encoder = MetaEOLEncoder.from_pretrained(str(model), templates=TemplateSet.load(name), dtype=dtype, device="cpu")
            found.append(Contender(f"ours, {dtype}, {name}", encoder.encode, n_texts, [], encoder=encoder, templates=name))
    return found


def run(model: Path, n_texts: int, n_rounds: int) -> list[dict[str, object]]:
    texts = short_texts(n_texts)
    everyone = contenders(model, len(texts))
    roofs: dict[str, list[float]] = {}
    for contender in everyone:
        contender.encode(texts[:4])  # the first call pays for lazy set-up
    for _ in range(n_rounds):
        for contender in everyone:
            started = time.perf_counter()
            contender.vectors = contender.encode(texts[: contender.n_texts])
            contender.rates.append(contender.n_texts / (time.perf_counter() - started))
            if contender.encoder is not None:
                roofs.setdefault(contender.name, []).append(gemm_rate(contender.encoder.engine.runner.decoder))
    base = everyone[0]
    return [_row(contender, base, texts, roofs.get(contender.name)) for contender in everyone]


def _row(contender: Contender, base: Contender, texts: Sequence[str], roofs: Sequence[float] | None) -> dict[str, object]:
    ratios = [rate / other for rate, other in zip(contender.rates, base.rates, strict=True)]
    row: dict[str, object] = {
        "contender": contender.name,
        "texts_per_second": round(statistics.median(contender.rates), 2),
        "ratio": round(statistics.median(ratios), 2),
        "ratio_min": round(min(ratios), 2),
        "ratio_max": round(max(ratios), 2),
    }
    if contender.encoder is not None and roofs:
        decoder = contender.encoder.engine.runner.decoder
        engine, templates = contender.encoder.engine, contender.encoder.templates
        window = prepare_window(texts, engine.trie, templates, contender.encoder.spec.max_tokens, 1024, shares_starts=True)
        tokens_per_text = float(window.tokens_computed.sum()) / len(texts)
        row["tokens_per_text"] = round(tokens_per_text, 1)
        flops = tokens_per_text * flops_per_token(decoder)
        shares = [rate * flops / roof for rate, roof in zip(contender.rates, roofs, strict=True)]
        row["share_of_gemm_rate"] = round(statistics.median(shares), 3)
    if contender.vectors is not None and base.vectors is not None and contender.templates in ("", "metaeol-separate"):
        row["worst_cosine_to_base"] = round(_worst_cosine(contender.vectors[: base.n_texts], base.vectors), 6)
    return row


def _worst_cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


def show(rows: Sequence[dict[str, object]]) -> None:
    """Print rows as a Markdown table."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    print("| " + " | ".join(columns) + " |")
    print("|" + " --- |" * len(columns))
    for row in rows:
        print("| " + " | ".join(str(row.get(column, "")) for column in columns) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models/smollm2-135m-instruct"))
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    rows = run(arguments.model, arguments.texts, arguments.rounds)
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    print(f"{machine}, {arguments.rounds} rounds of {arguments.texts} texts")
    show(rows)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
