"""Pandas UDFs, iterator form: text in, embedding out, one model a Python worker."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import pandas_udf
from pyspark.sql.types import ArrayType, BooleanType, FloatType, LongType, StringType, StructField, StructType

from metaeol_udf.encoder.checkpoint.manifest import deciding_files
from metaeol_udf.errors import ConfigError, InputError
from metaeol_udf.spark.cluster.connect import resolve_on_worker, session_with_model
from metaeol_udf.spark.columns import quoted
from metaeol_udf.spark.worker.encoder_cache import EncoderRequest, go_offline
from metaeol_udf.spark.worker.model_staging import driver_folder, resolve
from metaeol_udf.spec import EmbeddingSpec

VECTOR_TYPE = ArrayType(FloatType())

#: What becomes of one text.
RESULT_TYPE = StructType(
    [
        StructField("vector", VECTOR_TYPE),
        StructField("error", StringType()),
        StructField("trimmed", BooleanType()),
        StructField("tokens_computed", LongType()),
        StructField("tokens_saved", LongType()),
        StructField("load_id", StringType()),
    ]
)


def embed_udf(spec: EmbeddingSpec, device: str = "auto", max_batch_tokens: int | str = "auto") -> Callable[..., Column]:
    """A Pandas UDF from text to embedding.

    It is marked non-deterministic: not because values vary, but so that Spark never evaluates it twice for one row.

    Args:
        spec: What an embedding is; checked and pinned here, on the driver.
        device: `auto` (the task's GPU, else the first, else the CPU), `cpu`, `cuda` or `cuda:N`.
        max_batch_tokens: Tokens of one forward pass, or `auto`.

    Returns:
        A function of one string column that gives ``array<float>``, NULL where a text has no embedding (NULL, blank or
        failed). No row raises. `with_embeddings` tells the reason too.

    Raises:
        ConfigError: The spec names a model, layer or template set that does not exist.
        ModelFilesError: The model's files are not whole.
    """
    return _on_valid_text(vector_udf(make_request(spec, device, max_batch_tokens)))


def vector_udf(request: EncoderRequest) -> Any:
    """The Pandas UDF itself, for registration by name; it takes valid UTF-8 only. `request.spec` is pinned already."""

    def embed(batches: Iterator[pd.Series]) -> Iterator[pd.Series]:
        for frame in result_frames(request, batches):
            yield frame["vector"]

    return _pandas_udf(embed, VECTOR_TYPE)


def result_udf(request: EncoderRequest) -> Callable[..., Column]:
    """A Pandas UDF from text to `RESULT_TYPE`: the vector with its error and counts. `request.spec` is pinned already."""

    def embed(batches: Iterator[pd.Series]) -> Iterator[pd.DataFrame]:
        return result_frames(request, batches)

    return _on_valid_text(_pandas_udf(embed, RESULT_TYPE))


def result_frames(request: EncoderRequest, batches: Iterator[pd.Series]) -> Iterator[pd.DataFrame]:
    """What a worker makes of texts: frames with the columns of `RESULT_TYPE`, rows in the order of the texts."""
    go_offline()  # before the next line imports transformers
    from metaeol_udf.spark.worker.rebatching import encode_windows

    return encode_windows(request, batches)


def with_embeddings(
    df: DataFrame,
    spec: EmbeddingSpec,
    text: str = "text",
    output: str = "embedding",
    device: str = "auto",
    max_batch_tokens: int | str = "auto",
) -> DataFrame:
    """Add an embedding and its error to every row; starts no Spark work by itself, but to find a model that a Connect client lacks.

    Args:
        df: Any DataFrame.
        spec: What an embedding is.
        text: Name of the string column.
        output: Name of the new ``array<float>`` column; `<output>_error`, a string that is NULL where all is well, stands beside it.
        device: As in `embed_udf`.
        max_batch_tokens: As in `embed_udf`.

    Raises:
        InputError: There is no such column, it holds no strings, or an output column exists already.
        ConfigError: The spec names a model, layer or template set that does not exist.
    """
    check_schema(df.schema, text, output)
    request = make_request(spec, device, max_batch_tokens)
    # One column of structs, so that the plan holds one model: two columns would be two UDFs.
    result = f"{output}_result"
    embedded = df.withColumn(result, result_udf(request)(F.col(quoted(text))))
    fields = embedded.withColumns({output: F.col(quoted(result))["vector"], f"{output}_error": F.col(quoted(result))["error"]})
    return fields.drop(result)


def make_request(
    spec: EmbeddingSpec, device: str = "auto", max_batch_tokens: int | str = "auto", origin: str = "", model_cache: str | None = None
) -> EncoderRequest:
    """Resolve a spec on the driver and say what workers load; see `EncoderRequest`.

    Raises:
        ConfigError: The spec names something that does not exist.
        ModelFilesError: The model's files are not whole.
    """
    session = session_with_model(spec)
    if session is not None:
        pinned, files = resolve_on_worker(session, spec)
    else:
        pinned = pin(spec)
        files = deciding_files(driver_folder(pinned.model, pinned.revision))
    return EncoderRequest(pinned, device, max_batch_tokens, origin, files, model_cache)


def resolve_anywhere(spec: EmbeddingSpec) -> EmbeddingSpec:
    """Resolve a spec where its model is: on the driver, or on a worker where a Connect client has no copy.

    Raises:
        ConfigError: The spec names something that does not exist.
        ModelFilesError: The model's files are not whole.
    """
    session = session_with_model(spec)
    if session is not None:
        return resolve_on_worker(session, spec)[0]
    return resolve(spec, _active_session)[0]


def pin(spec: EmbeddingSpec) -> EmbeddingSpec:
    """Resolve a spec on the driver, and give workers the absolute path of a model folder: their working folder is another.

    Raises:
        ConfigError: The spec names something that does not exist.
        ModelFilesError: The model's files are not whole.
    """
    resolved = spec if spec.is_resolved else resolve(spec, _active_session)[0]
    folder = Path(resolved.model)
    return dataclasses.replace(resolved, model=str(folder.resolve())) if folder.is_dir() else resolved


def _active_session() -> SparkSession:
    session = SparkSession.getActiveSession()
    if session is None:
        raise ConfigError("embedding.model is a place that only a running Spark session reaches, and none is running: start one first")
    return session


def _pandas_udf(function: Callable[..., Any], return_type: ArrayType | StructType) -> Any:
    # The iterator form is read off the function's type hints.
    udf: Any = pandas_udf(function, return_type)  # type: ignore[call-overload]  # its overloads name one hint each
    return udf.asNondeterministic()


def _on_valid_text(udf: Any) -> Callable[..., Column]:
    """Repair invalid UTF-8 in Spark: Arrow would refuse the whole batch, and quote the text in its message."""

    def embed(text: Column | str) -> Column:
        column = F.col(text) if isinstance(text, str) else text
        embedded: Column = udf(F.make_valid_utf8(column))
        return embedded

    return embed


def check_schema(schema: StructType, text: str, output: str) -> None:
    """See that a DataFrame's column of texts is there and the new columns' names are free; upper and lower case are one.

    Raises:
        InputError: They are not.
    """
    known = {field.name.casefold(): field for field in schema.fields}
    field = known.get(text.casefold())
    if field is None:
        raise InputError(f"column {text!r} is not in the DataFrame (columns: {', '.join(schema.names)})")
    if not isinstance(field.dataType, StringType):
        raise InputError(f"column {text!r} must be a string, found {field.dataType.simpleString()}")
    for name in (output, f"{output}_error", f"{output}_result"):
        if name.casefold() in known:
            raise InputError(f"column {name!r} is in the DataFrame already: choose another output name")
