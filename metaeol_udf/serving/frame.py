"""Vectors for a column of a pandas or Polars frame, without Spark."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from metaeol_udf.encoder import MetaEOLEncoder
from metaeol_udf.encoder.checkpoint.resolve import ResolvedSpec
from metaeol_udf.errors import InputError, did_you_mean
from metaeol_udf.prompts.cleanup import read_cells
from metaeol_udf.spec import EmbeddingSpec

if TYPE_CHECKING:
    from metaeol_udf.encoder import Encoded

Frame = TypeVar("Frame")


def embed_frame(
    frame: Frame,
    spec: MetaEOLEncoder | EmbeddingSpec | ResolvedSpec | Mapping[str, Any] | str | Path,
    text: str = "text",
    output: str = "embedding",
    *,
    device: str = "auto",
    max_batch_tokens: int | str = "auto",
) -> Frame:
    """Add an embedding and its error to every row of a frame: what `with_embeddings` does in Spark, for data that fits into memory.

    Args:
        frame: A pandas or Polars DataFrame. It stays as it is.
        spec: What an embedding is: a spec, a mapping of its settings, or the path of a spec file or of a job's configuration. Or an
            encoder, whose model is loaded already.
        text: Name of the column of strings.
        output: Name of the new column of float32 vectors; `<output>_error`, a string that is missing where all is well, stands beside it.
        device: `auto`, `cpu`, `cuda` or `cuda:N`; an encoder has its own.
        max_batch_tokens: Tokens of one forward pass, or `auto`; an encoder has its own.

    Returns:
        A frame of the same kind, with two columns more. Missing and blank texts have an error in place of a vector, and so has a text on
        which the model fails.

    Raises:
        InputError: The frame is of another kind, has no such column, holds something else than strings there, or has an output column.
        ConfigError: A setting of the spec is wrong.
        ModelFilesError: The model's files are not whole.
    """
    kind = type(frame).__module__.partition(".")[0]
    if type(frame).__name__ != "DataFrame" or kind not in ("pandas", "polars"):
        advice = {"LazyFrame": ": collect it first", "DataFrame": ": metaeol_udf.spark.with_embeddings takes it"}.get(
            type(frame).__name__, ""
        )
        raise InputError(f"frame must be a DataFrame of pandas or Polars, found a {type(frame).__name__} of {kind}{advice}")
    table: Any = frame
    names = [str(name) for name in table.columns]
    if text not in names:
        raise InputError(f"text: the frame has no column {text!r}; {did_you_mean(text, names)}")
    for name in (output, f"{output}_error"):
        if name in names:
            raise InputError(f"output: the frame has a column {name!r} already")
    if names.count(text) > 1:
        raise InputError(f"text: the frame has {names.count(text)} columns {text!r}")
    cells = read_cells(table[text], what=f"{text}: row")
    encoder = spec
    if not isinstance(encoder, MetaEOLEncoder):
        encoder = MetaEOLEncoder.from_spec(encoder, device=device, max_batch_tokens=max_batch_tokens)
    encoded = encoder.encode_rows(cells)
    added: Frame = (_in_polars if kind == "polars" else _in_pandas)(table, output, encoded)
    return added


def _in_pandas(frame: Any, output: str, encoded: Encoded) -> Any:
    vectors = np.empty(len(encoded.errors), dtype=object)  # rows are views: no number becomes a Python object
    for row, error in enumerate(encoded.errors):
        vectors[row] = encoded.vectors[row] if error is None else None
    return frame.assign(**{output: vectors, f"{output}_error": np.array(encoded.errors, dtype=object)})


def _in_polars(frame: Any, output: str, encoded: Encoded) -> Any:
    import polars  # here, for whoever has a frame of it

    vectors = polars.Series(output, encoded.vectors, dtype=polars.Array(polars.Float32, encoded.vectors.shape[1]))
    errors = polars.Series(f"{output}_error", encoded.errors, dtype=polars.String)
    made = frame.with_columns(vectors.cast(polars.List(polars.Float32)), errors)
    has_vector = polars.col(f"{output}_error").is_null()
    return made.with_columns(polars.when(has_vector).then(polars.col(output)).alias(output))
