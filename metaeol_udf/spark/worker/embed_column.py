"""What a Python worker does with a column of texts, from Arrow to Arrow.

The way of a cell: the column's cells -> chunks (here) -> cleaned texts -> tokens -> batches (`encoder/preparation`) -> hidden
states (`encoder/forward`) -> mean over templates -> post-processing (`encoder/vectors`) -> Arrow (here).
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pyspark import TaskContext

from metaeol_udf.encoder.checkpoint.resolve import ResolvedSpec
from metaeol_udf.encoder.preparation import cut_chunks
from metaeol_udf.errors import MetaEOLError, without_message
from metaeol_udf.spark.worker.encoder_cache import EncoderRequest, get_encoder, go_offline
from metaeol_udf.spark.worker.shared_encoder import OwnerLostError
from metaeol_udf.spark.worker.task_progress import PROGRESS_FOLDER, count_texts
from metaeol_udf.versions import has_cuda

if TYPE_CHECKING:
    from metaeol_udf.encoder import Encoded


@dataclass(frozen=True)
class ChunkLimits:
    """Says where a chunk ends.

    Attributes:
        tokens: Estimated prompt tokens: enough to sort by length and fill many forward passes.
        rows: Bounds the vectors that are held at a time.
    """

    tokens: int
    rows: int


ON_CPU = ChunkLimits(65_536, 4_096)
ON_GPU = ChunkLimits(1_048_576, 8_192)  # about half a million tokens that are computed: a GPU takes 16,384 in a forward pass
CHARACTERS_PER_TOKEN = 4  # of English; an estimate is enough, the encoder plans with true counts


def column_function(request: EncoderRequest) -> Callable[[Iterator[pd.Series]], Iterator[pd.DataFrame]]:
    """Make the function behind a Pandas UDF from texts to the columns of `RESULT_TYPE`."""

    def embed(batches: Iterator[pd.Series]) -> Iterator[pd.DataFrame]:
        return embed_column(request, batches)

    return embed


def vector_function(request: EncoderRequest) -> Callable[[Iterator[pd.Series]], Iterator[pd.Series]]:
    """Make the function behind a Pandas UDF from texts to vectors alone."""

    def embed(batches: Iterator[pd.Series]) -> Iterator[pd.Series]:
        return (frame["vector"] for frame in embed_column(request, batches))

    return embed


def embed_column(request: EncoderRequest, batches: Iterator[pd.Series]) -> Iterator[pd.DataFrame]:
    """Embed the cells of a column, in chunks that may span many Arrow batches, or be a part of one.

    The encoder is taken, and at first loaded, only when there is a row: Spark calls this for empty partitions too.

    Args:
        request: What to encode with.
        batches: Texts; NULL is None or NaN.

    Yields:
        One frame a chunk, with the columns of `RESULT_TYPE`, rows in the order of the texts.
    """
    go_offline()  # before anything imports transformers
    chunks = column_chunks(request.resolved, batches, chunk_limits(request.device))
    first = next(chunks, None)
    if first is None:
        return
    progress = _progress_file()
    waiting: Iterator[Sequence[str | None]] = itertools.chain([first], chunks)
    while True:
        try:
            loaded = get_encoder(request)
            results = loaded.encoder.encode_batches(waiting)
            for encoded in results if progress is None else count_texts(loaded.encoder, results, progress):
                yield _encoded_frame(encoded, loaded.load_id)
        except OwnerLostError as lost:
            waiting = itertools.chain([lost.texts] if lost.texts else [], waiting)
        except Exception as error:  # noqa: BLE001 - raised again, without what it may quote
            raise without_message(error) from None
        else:
            return


def _progress_file() -> Path | None:
    """Name the file in which the running task counts its texts; None where nobody reads it."""
    context = TaskContext.get()
    folder = None if context is None else context.getLocalProperty(PROGRESS_FOLDER)
    return None if context is None or not folder else Path(folder) / str(context.partitionId())


@functools.cache
def chunk_limits(device: str) -> ChunkLimits:
    """Choose the limits of chunks for `runtime.device` on this machine. Starts nothing on a GPU."""
    return ON_GPU if device.startswith("cuda") or (device == "auto" and has_cuda()) else ON_CPU


def column_chunks(resolved: ResolvedSpec, batches: Iterator[pd.Series], limits: ChunkLimits) -> Iterator[list[str | None]]:
    """Cut a column's cells into chunks, whatever the Arrow batches they come in."""
    cells = (cell if isinstance(cell, str) else None for batch in batches for cell in batch)
    max_tokens = resolved.spec.max_tokens if resolved.spec.long_texts == "trim" else None
    return cut_chunks(cells, limits.rows, limits.tokens, functools.partial(_estimate_tokens, max_tokens, resolved.n_templates))


def _estimate_tokens(max_tokens: int | None, n_templates: int, cell: str | None) -> int:
    """Estimate the prompt tokens of a cell: the text's own, once for each prompt template; None: long texts are not trimmed."""
    n_tokens = 0 if cell is None else len(cell) // CHARACTERS_PER_TOKEN + 1
    return min(n_tokens, max_tokens or n_tokens) * n_templates


def _encoded_frame(encoded: Encoded, load_id: str) -> pd.DataFrame:
    errors = _checked_errors(encoded)
    return result_frame(
        encoded.vectors, errors, load_id, encoded.trimmed, encoded.tokens_computed, encoded.tokens_saved,
        json.dumps([vars(work) for work in encoded.work]),
    )  # fmt: skip


def result_frame(
    vectors: NDArray[np.float32], errors: Sequence[str | None], load_id: str, trimmed: NDArray[np.bool_] | None = None,
    tokens_computed: NDArray[np.int64] | None = None, tokens_saved: NDArray[np.int64] | None = None, work: str | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Make the frame that a worker gives back for a chunk, with the columns of `RESULT_TYPE`.

    Args:
        vectors: Shape ``(n_texts, dim)``.
        errors: None, or the code of the error, for each text.
        load_id: Which load of a model embedded them.
        trimmed: Whether each text was cut, by default not.
        tokens_computed: Tokens of each text that went through the model, by default 0.
        tokens_saved: Tokens of each text that did not have to, by default 0.
        work: `DeviceWork` of the chunk as JSON. The first row carries it.
    """
    n_texts = len(errors)
    zeros = np.zeros(n_texts, np.int64)
    return pd.DataFrame(
        {
            "vector": vector_column(vectors, errors),
            "error": pd.Series(list(errors), dtype=object),
            "trimmed": np.zeros(n_texts, bool) if trimmed is None else trimmed,
            "tokens_computed": zeros if tokens_computed is None else tokens_computed,
            "tokens_saved": zeros if tokens_saved is None else tokens_saved,
            "load_id": pd.Series([load_id] * n_texts, dtype=object),
            "work": pd.Series([work, *[None] * n_texts][:n_texts], dtype=object),
        }
    )


def _checked_errors(encoded: Encoded) -> list[str | None]:
    """Add `non_finite` to the encoder's errors, for a vector that Spark would store with NaN or infinity in it."""
    shape, n_texts = encoded.vectors.shape, len(encoded.errors)
    if len(shape) != 2 or shape[0] != n_texts:
        raise MetaEOLError(f"the encoder returned vectors of shape {shape} for {n_texts} texts")
    finite: Any = np.isfinite(encoded.vectors).all(axis=1).tolist()
    return [error if error is not None or ok else "non_finite" for error, ok in zip(encoded.errors, finite, strict=True)]


def vector_column(vectors: NDArray[np.float32], errors: Sequence[str | None]) -> pd.Series:
    """Make a column of float32 arrays, None where there is an error. Rows are views: no number becomes a Python object."""
    rows = np.empty(len(errors), dtype=object)
    for i, error in enumerate(errors):
        rows[i] = vectors[i] if error is None else None
    return pd.Series(rows)
