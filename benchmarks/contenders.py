"""The contenders: each way to embed, with the prompts it runs, made only when it is asked for."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.baselines import Encode, MeanOfCalls, PublishedLoop, SortedBatches, Vectors, load_causal_model
from metaeol_udf import MetaEOLEncoder, TemplateSet

BASE = "published"
SETS = ("metaeol-separate", "metaeol", "metaeol-fast")
_SHORT = {"float32": "fp32", "bfloat16": "bf16"}


@dataclass
class Contender:
    """One way to embed.

    Attributes:
        key: For `--contenders`.
        name: For people.
        templates: Template set it runs.
        make: Loads what it needs.
        encoder: This package's encoder, once made, where it is one; the others get a part of the texts only.
        rates: Texts a second, one for each round.
        roofs: Operations a second of the model's matrix products just before and after, one for each round; 0 for others.
        tokens_per_text: Tokens that went through the model for a text of the last call; the first call also has the prefixes'.
        rows: Positions of the texts that it is timed on, ascending.
        vectors: Of those texts, from the last round.
    """

    key: str
    name: str
    templates: str
    make: Callable[[Contender], Encode]
    encoder: MetaEOLEncoder | None = None
    rates: list[float] = field(default_factory=list)
    roofs: list[float] = field(default_factory=list)
    tokens_per_text: float = 0.0
    rows: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    vectors: Vectors = field(default_factory=lambda: np.empty((0, 0), np.float32))


def all_contenders(model: Path) -> list[Contender]:
    """Every contender, the published loop first; none is loaded yet."""
    shared = functools.cache(lambda: load_causal_model(model))

    def plain(key: str, name: str, kind: type[PublishedLoop] | type[SortedBatches] | type[MeanOfCalls]) -> Contender:
        separate = TemplateSet.load(SETS[0])
        return Contender(key, name, SETS[0], lambda _: functools.partial(kind(model, shared()).encode, templates=separate))

    return [
        plain(BASE, "the published script's loop, fp32", PublishedLoop),
        plain("sorted", "bare model, prompts sorted by length, fp32", SortedBatches),
        plain("calls", "sentence-transformers style mean of 8 calls, fp32", MeanOfCalls),
        *(_ours(model, dtype, name) for dtype in cpu_dtypes() for name in SETS),
    ]


def cpu_dtypes() -> list[str]:
    """The dtypes that this processor computes in, the quickest last."""
    has_bfloat16 = torch.cpu._is_avx512_bf16_supported()
    return ["float32", *(["bfloat16"] if has_bfloat16 else [])]


def best_dtype() -> str:
    """The quickest of them."""
    return cpu_dtypes()[-1]


def pick(contenders: list[Contender], keys: str) -> list[Contender]:
    """Those named by a comma-separated list of keys; the published loop is always among them.

    Args:
        contenders: All.
        keys: `all` means every contender; `ours` this engine with separate prefixes in each dtype, and with the other sets in bfloat16.

    Raises:
        ValueError: There is no such contender.
    """
    wanted = {BASE, *keys.split(",")}
    if "ours" in wanted:
        best = _SHORT[best_dtype()]
        wanted = wanted - {"ours"} | {f"{_SHORT[dtype]}-separate" for dtype in cpu_dtypes()} | {f"{best}-metaeol", f"{best}-fast"}
    unknown = wanted - {"all"} - {contender.key for contender in contenders}
    if unknown:
        raise ValueError(f"no contender {', '.join(sorted(unknown))}; known: all, ours, {', '.join(c.key for c in contenders)}")
    return [contender for contender in contenders if "all" in wanted or contender.key in wanted]


def _ours(model: Path, dtype: str, templates: str) -> Contender:
    def load(contender: Contender) -> Encode:
        encoder = MetaEOLEncoder.from_pretrained(str(model), templates=TemplateSet.load(templates), dtype=dtype, device="cpu")
        contender.encoder = encoder

        def encode(texts: Sequence[str]) -> Vectors:
            encoded = encoder.encode_rows(texts)
            contender.tokens_per_text = float(encoded.tokens_computed.sum()) / len(texts)
            return encoded.vectors

        return encode

    short = _SHORT[dtype]
    return Contender(f"{short}-{templates.removeprefix('metaeol').strip('-') or 'metaeol'}", f"this engine, {short}", templates, load)
