"""Re-batching: Arrow batches are cut by rows and bytes, forward passes want tokens. Runs inside a Python worker."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from metaeol_udf.encoder import Encoded
from metaeol_udf.prompts import TemplateSet
from metaeol_udf.spark.worker.encoder_cache import EncoderRequest, get_encoder
from metaeol_udf.spark.worker.shared_encoder import OwnerLostError

WINDOW_TOKENS = 65_536  # estimated prompt tokens: enough to sort by length and fill many forward passes
WINDOW_ROWS = 4_096  # bounds the vectors that are held at a time
CHARACTERS_PER_TOKEN = 4  # of English; an estimate is enough, the encoder plans with true counts


def encode_windows(request: EncoderRequest, batches: Iterator[pd.Series]) -> Iterator[pd.DataFrame]:
    """Encode texts in windows that may span many Arrow batches, or be a part of one.

    The encoder is taken, and at first loaded, only when there is a row: Spark calls this for empty partitions too.

    Args:
        request: What to encode with.
        batches: Texts; NULL is None or NaN.

    Yields:
        One frame a window, with the columns of `RESULT_TYPE`, rows in the order of the texts.
    """
    windows = cut_windows(request, batches)
    first = next(windows, None)
    if first is None:
        return
    waiting: Iterator[Sequence[str | None]] = itertools.chain([first], windows)
    while True:
        loaded = get_encoder(request)
        try:
            for encoded in loaded.encoder.encode_stream(waiting):
                yield _frame(encoded, loaded.load_id)
        except OwnerLostError as lost:
            waiting = itertools.chain([lost.texts] if lost.texts else [], waiting)
        else:
            return


def cut_windows(request: EncoderRequest, batches: Iterator[pd.Series], window_tokens: int = WINDOW_TOKENS) -> Iterator[list[str | None]]:
    """Cut texts into windows of about so many prompt tokens, whatever the Arrow batches they come in."""
    window: list[str | None] = []
    tokens = 0
    cost = _Cost(request)
    for batch in batches:
        for value in batch:
            text = value if isinstance(value, str) else None
            window.append(text)
            tokens += cost.of(text)
            if tokens >= window_tokens or len(window) >= WINDOW_ROWS:
                yield window
                window, tokens = [], 0
    if window:
        yield window


class _Cost:
    """Estimates how many tokens a text brings: its own, once for each prompt template."""

    def __init__(self, request: EncoderRequest) -> None:
        self._max_tokens = request.spec.max_tokens
        self._n_templates = len(TemplateSet.from_spec(request.spec).templates)

    def of(self, text: str | None) -> int:
        n_tokens = 0 if text is None else min(self._max_tokens, len(text) // CHARACTERS_PER_TOKEN + 1)
        return n_tokens * self._n_templates


def _frame(encoded: Encoded, load_id: str) -> pd.DataFrame:
    n_texts = len(encoded.errors)
    errors = _checked_errors(encoded, n_texts)
    return pd.DataFrame(
        {
            "vector": vector_column(encoded.vectors, errors),
            "error": pd.Series(errors, dtype=object),
            "trimmed": encoded.trimmed,
            "tokens_computed": encoded.tokens_computed,
            "tokens_saved": encoded.tokens_saved,
            "load_id": pd.Series([load_id] * n_texts, dtype=object),
        }
    )


def _checked_errors(encoded: Encoded, n_texts: int) -> list[str | None]:
    """The encoder's errors, and `non_finite` for a vector that Spark would store with NaN or infinity in it."""
    shape = encoded.vectors.shape
    if len(shape) != 2 or shape[0] != n_texts or len(encoded.errors) != n_texts:
        raise RuntimeError(f"the encoder returned vectors of shape {shape} for {n_texts} texts")
    finite: Any = np.isfinite(encoded.vectors).all(axis=1).tolist()
    return [error if error is not None or ok else "non_finite" for error, ok in zip(encoded.errors, finite, strict=True)]


def vector_column(vectors: NDArray[np.float32], errors: Sequence[str | None]) -> pd.Series:
    """A column of float32 arrays, None where there is an error. Rows are views: no number becomes a Python object."""
    rows = np.empty(len(errors), dtype=object)
    for i, error in enumerate(errors):
        rows[i] = vectors[i] if error is None else None
    return pd.Series(rows)
