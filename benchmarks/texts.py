"""The texts that benchmarks run on: real ones, of the lengths that make a difference.

They come from `../shared/data` where that stands beside the repository (STS-B sentences and a corpus of reviews, news and
questions), else from the docstrings of Python's standard library, which every machine has.
"""

from __future__ import annotations

import gzip
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from transformers import AutoTokenizer

from metaeol_udf.cli.demo import collect_docstrings

DATA = Path("../shared/data")
LENGTHS = (12, 30, 100, 500)
NAMES = ("short", *map(str, LENGTHS), "mixed")
MAX_SHORT_CHARACTERS = 80
MAX_TOKENS = 512  # of a text of the mix; the encoder keeps so many by default, so nothing is cut for anyone
_SEED = 20260  # of the sample and the cuts


@dataclass(frozen=True)
class TextSet:
    """Texts to embed.

    Attributes:
        name: One of `NAMES`.
        texts: Distinct, in random order.
        n_tokens: Tokens of each by itself, shape ``(n_texts,)``.
    """

    name: str
    texts: list[str]
    n_tokens: NDArray[np.int64]

    def sample(self, n_texts: int) -> NDArray[np.int64]:
        """Positions of `n_texts` texts whose lengths are spread as all texts' lengths are, in the set's order.

        A slow contender gets a part of the texts; it must be neither the short nor the long part.
        """
        if n_texts >= len(self.texts):
            return np.arange(len(self.texts))
        by_length = np.argsort(self.n_tokens, kind="stable")
        places = ((np.arange(n_texts) + 0.5) * len(self.texts) / n_texts).astype(np.int64)
        return np.sort(by_length[places])


def load_texts(name: str, n_texts: int, model: Path, data: Path = DATA) -> TextSet:
    """Load a set of texts.

    Args:
        name: `short` (one sentence), a number of tokens from `LENGTHS`, or `mixed` (the corpus's own lengths).
        n_texts: How many; fewer where there are no more.
        model: Folder whose tokenizer counts.
        data: Folder of the evaluation data; where it is missing, docstrings are used.

    Raises:
        ValueError: There is no such set.
    """
    if name not in NAMES:
        raise ValueError(f"texts must be one of {', '.join(NAMES)}, found {name!r}")
    tokenizer = AutoTokenizer.from_pretrained(model)
    if name == "short":
        texts = short_texts(n_texts, data)
    elif name == "mixed":
        texts = mixed_texts(n_texts, tokenizer, data)
    else:
        texts = cut_texts(n_texts, int(name), tokenizer, data)
    return TextSet(name, texts, _count(tokenizer, texts))


def short_texts(n_texts: int, data: Path = DATA) -> list[str]:
    """Real sentences of up to 80 characters, 11 tokens on average: STS-B dev, else first lines of docstrings."""
    path = data / "sts" / "stsb_dev.tsv.gz"
    if path.is_file():
        with gzip.open(path, "rt", encoding="utf-8", newline="\n") as file:
            _, *rows = (line.rstrip("\n").split("\t") for line in file)
        texts = [row[1] for row in rows] + [row[2] for row in rows]
    else:
        texts = [text.splitlines()[0] for text in collect_docstrings().values()]
    texts = [text for text in dict.fromkeys(texts) if len(text) <= MAX_SHORT_CHARACTERS]
    random.Random(_SEED).shuffle(texts)  # STS-B is sorted by source, and its first pages are all about men on guitars
    return texts[:n_texts]


def mixed_texts(n_texts: int, tokenizer: Any, data: Path = DATA) -> list[str]:
    """A random sample of the corpus as it is, of the texts up to `MAX_TOKENS` tokens."""
    texts = list(dict.fromkeys(corpus_texts(data)))
    random.Random(_SEED).shuffle(texts)
    kept: list[str] = []
    for text in texts:
        if len(kept) == n_texts:
            break
        # No token is longer than a hundred characters; much longer texts need not be tokenised to be known as too long.
        if len(text) < 100 * MAX_TOKENS and len(tokenizer(text)["input_ids"]) <= MAX_TOKENS:
            kept.append(text)
    return kept


def cut_texts(n_texts: int, length: int, tokenizer: Any, data: Path = DATA) -> list[str]:
    """Beginnings of the corpus's texts, each cut to `length` tokens."""
    cut: dict[str, None] = {}
    for text in _at_least(corpus_texts(data), 2 * length):
        offsets = tokenizer(text[: 100 * length], return_offsets_mapping=True)["offset_mapping"]
        if len(offsets) > length:
            cut[text[: offsets[length - 1][1]]] = None
        if len(cut) == n_texts:
            break
    return list(cut)


def _at_least(texts: Sequence[str], n_characters: int) -> list[str]:
    """Texts of so many characters; where there is none, short texts are put together until they are long enough."""
    long_enough = [text for text in texts if len(text) >= n_characters]
    if long_enough:
        return long_enough
    joined: list[str] = []
    for start in range(len(texts)):
        whole = ""
        for text in (*texts[start:], *texts[:start]):
            whole += f"{text} "
            if len(whole) >= 4 * n_characters:
                break
        joined.append(whole)
    return joined


def corpus_texts(data: Path = DATA) -> list[str]:
    """Texts of the corpus, in random order; docstrings where it is missing."""
    path = data / "corpus" / "corpus.parquet"
    if not path.is_file():
        return list(collect_docstrings().values())
    # Rows were shuffled once when the corpus was made: the first group is a sample of all.
    texts: list[str] = pq.ParquetFile(path).read_row_group(0, columns=["text"])["text"].to_pylist()
    return texts


def _count(tokenizer: Any, texts: Sequence[str]) -> NDArray[np.int64]:
    return np.array([len(ids) for ids in tokenizer(list(texts))["input_ids"]], np.int64)
