"""Texts a second of the encoder against what people would run instead, side by side in one process.

    python -m benchmarks.encode [--texts-from short|12|30|100|500|mixed] [--contenders all|KEY,...] [--texts N] [--rounds N]

Every round runs every contender once on the same texts, in turn, so that a machine that drifts drifts for all of them.
Ratios are taken round by round against the published script's loop and given as median, least and greatest. Slow contenders
run on a part of the texts with the same spread of lengths; their rate is put on all texts by the tokens of their prompts.
Each timed call follows a short untimed one.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer

from benchmarks.baselines import Encode
from benchmarks.contenders import BASE, Contender, all_contenders, pick
from benchmarks.gemm import flops_per_token, gemm_rate
from benchmarks.results import Row, command_parser, describe_machine, show, significant, write_results
from benchmarks.texts import NAMES, TextSet, load_texts
from metaeol_udf import TemplateSet
from metaeol_udf.encoder.generic.reference import encode_plainly
from metaeol_udf.prompts.tokenizer import PromptTokenizer

#: Texts for this engine and for slow contenders. A job's windows hold thousands of texts, so this engine gets enough for its batches to
#: be like theirs; the others take their batches one after the other whatever their number, and a part that ends in a minute or two.
SIZES = {"short": (384, 16), "12": (256, 8), "30": (128, 8), "100": (48, 8), "500": (12, 2), "mixed": (160, 16)}


def run(texts: TextSet, contenders: Sequence[Contender], n_slow: int, n_rounds: int) -> None:
    """Time all contenders; rates and roofs are left in them."""
    part = texts.sample(n_slow)
    made = [(contender, contender.make(contender)) for contender in contenders]
    for _ in range(n_rounds):
        for contender, encode in made:
            contender.rows = part if contender.encoder is None else np.arange(len(texts.texts))
            before = _roof(contender)
            contender.rates.append(_rate(contender, encode, texts))
            contender.roofs.append(statistics.mean([before, _roof(contender)]))


def _roof(contender: Contender) -> float:
    """Operations a second of the matrix products of this package's model; 0 for others."""
    return gemm_rate(contender.encoder.engine.runner.decoder) if contender.encoder is not None else 0.0


def _rate(contender: Contender, encode: Encode, texts: TextSet) -> float:
    """Texts a second, of texts as long as the set's are on average."""
    rows = contender.rows
    chosen = [texts.texts[row] for row in rows]
    encode(chosen[:2])  # pays for lazy set-up, and wakes a worker that idled away
    started = time.perf_counter()
    contender.vectors = encode(chosen)
    seconds = time.perf_counter() - started
    constant = _constant_tokens(contender.templates)
    work = float((texts.n_tokens[rows] + constant).mean() / (texts.n_tokens + constant).mean())
    return len(rows) * work / seconds


def _constant_tokens(templates: str) -> float:
    """Tokens of an average prompt beside its text, about."""
    prompts = [template.prompt for template in TemplateSet.load(templates).templates]
    return statistics.mean(len(prompt) / 4.5 for prompt in prompts)


def tabulate(texts: TextSet, contenders: Sequence[Contender], model: Path, n_reference: int) -> list[Row]:
    """One row a contender, with its worst cosine to one prompt at a time on `n_reference` of the texts."""
    base = next(contender for contender in contenders if contender.key == BASE)
    rows = base.rows[:: max(1, len(base.rows) // n_reference)][:n_reference]
    chosen = [texts.texts[row] for row in rows]
    found = []
    plain: dict[str, NDArray[np.float32]] = {}
    for contender in contenders:
        if contender.templates not in plain:
            plain[contender.templates] = plainly(model, contender.templates, chosen)
        vectors = contender.vectors[np.searchsorted(contender.rows, rows)]
        found.append({**_row(contender, base), "worst_cosine": round(worst_cosine(vectors, plain[contender.templates]), 6)})
    return found


def _row(contender: Contender, base: Contender) -> Row:
    row: Row = {"contender": contender.name, "templates": contender.templates, "key": contender.key}
    ratios = [rate / other for rate, other in zip(contender.rates, base.rates, strict=True)]
    row |= {"texts_per_second": significant(statistics.median(contender.rates)), **spread(ratios)}
    if contender.encoder is not None:
        flops = contender.tokens_per_text * flops_per_token(contender.encoder.engine.runner.decoder)
        shares = [rate * flops / roof for rate, roof in zip(contender.rates, contender.roofs, strict=True)]
        row |= {"tokens_per_text": round(contender.tokens_per_text, 1), "share_of_gemm_rate": round(statistics.median(shares), 3)}
    return row


def spread(ratios: Sequence[float]) -> Row:
    """Median, least and greatest of the rounds."""
    named = {"ratio": statistics.median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios)}
    return {name: significant(value) for name, value in named.items()}


def worst_cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """The least cosine between rows."""
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


def plainly(model: Path, templates: str, texts: Sequence[str]) -> NDArray[np.float32]:
    """The mean over templates, one prompt at a time without padding, in float32."""
    bare = AutoModel.from_pretrained(model, dtype=torch.float32).eval()
    tokenizer = PromptTokenizer(AutoTokenizer.from_pretrained(model))
    mean: NDArray[np.float32] = encode_plainly(bare, tokenizer, TemplateSet.load(templates), texts, [bare.config.num_hidden_layers]).mean(
        (1, 2)
    )
    return mean


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("--texts-from", choices=NAMES, default="short")
    parser.add_argument("--contenders", default="all")
    parser.add_argument("--texts", type=int, help="texts for this engine")
    parser.add_argument("--slow-texts", type=int, help="texts for the other contenders")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    n_texts, n_slow = SIZES[arguments.texts_from]
    n_texts, n_slow = arguments.texts or n_texts, arguments.slow_texts or n_slow
    texts = load_texts(arguments.texts_from, n_texts, arguments.model)
    contenders = pick(all_contenders(arguments.model), arguments.contenders)
    run(texts, contenders, n_slow, arguments.rounds)
    rows = tabulate(texts, contenders, arguments.model, min(8 if texts.n_tokens.mean() < 60 else 4, n_slow))
    note = (
        f"{len(texts.texts)} texts of {texts.n_tokens.mean():.0f} tokens on average ({arguments.texts_from}), {n_slow} of them for others"
    )
    print(f"{describe_machine()}\n{note}, {arguments.rounds} rounds")
    show(rows)
    if arguments.json:
        write_results(arguments.json, rows, [note], texts_from=arguments.texts_from, n_rounds=arguments.rounds)


if __name__ == "__main__":
    main()
