"""Pandas UDFs, iterator form: text in, embedding out, one model a Python worker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import pandas_udf
from pyspark.sql.types import ArrayType, BooleanType, FloatType, IntegerType, LongType, StringType, StructField, StructType

from metaeol_udf.errors import InputError
from metaeol_udf.spark.cluster.resolve import GivenSpec, resolve
from metaeol_udf.spark.columns import find_field, quoted
from metaeol_udf.spark.worker.embed_column import column_function, vector_function
from metaeol_udf.spark.worker.encoder_cache import EncoderRequest
from metaeol_udf.spark.worker.passages import passages_function
from metaeol_udf.spec import Passage

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
        StructField("work", StringType()),  # `DeviceWork` of a chunk, with its first text
    ]
)

#: The passages of one text: where each begins and ends, in characters of the text, and what it says.
PASSAGES_TYPE = StructType(
    [
        StructField("starts", ArrayType(IntegerType())),
        StructField("ends", ArrayType(IntegerType())),
        StructField("texts", ArrayType(StringType())),
    ]
)


def embed_udf(spec: GivenSpec, device: str = "auto", max_batch_tokens: int | str = "auto") -> Callable[..., Column]:
    """Make a Pandas UDF from text to embedding.

    It is marked non-deterministic: not because values vary, but so that Spark never evaluates it twice for one row.

    Args:
        spec: What an embedding is: an `EmbeddingSpec`, a mapping of its settings, or the path of a file; resolved here, on the driver.
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
    """Make the Pandas UDF itself, for registration by name; it takes valid UTF-8 only."""
    return _pandas_udf(vector_function(request), VECTOR_TYPE)


def result_udf(request: EncoderRequest) -> Callable[..., Column]:
    """Make a Pandas UDF from text to `RESULT_TYPE`: the vector with its error and counts."""
    return _on_valid_text(_pandas_udf(column_function(request), RESULT_TYPE))


def passages_udf(request: EncoderRequest, by: Passage) -> Callable[..., Column]:
    """Make a Pandas UDF from text to `PASSAGES_TYPE`; places are those in the text with invalid UTF-8 repaired."""
    return _on_valid_text(_pandas_udf(passages_function(request, by), PASSAGES_TYPE))


def with_embeddings(
    df: DataFrame,
    spec: GivenSpec,
    text: str = "text",
    output: str = "embedding",
    device: str = "auto",
    max_batch_tokens: int | str = "auto",
) -> DataFrame:
    """Add an embedding and its error to every row. Lazy, except that a Connect client without the model runs one small job to inspect it.

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


def make_request(spec: GivenSpec, device: str = "auto", max_batch_tokens: int | str = "auto") -> EncoderRequest:
    """Make the request for what workers load, with the spec resolved on the driver.

    Raises:
        ConfigError: The spec names what does not exist, or no worker could take the device or the budget.
    """
    from metaeol_udf.config import RuntimeConfig  # which no worker needs

    RuntimeConfig(device=str(device).partition(",")[0], max_batch_tokens=max_batch_tokens)  # refuses what is wrong
    return EncoderRequest(resolve(spec), device, max_batch_tokens)


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
    field = find_field(schema, text)
    if field is None:
        raise InputError(f"column {text!r} is not in the DataFrame (columns: {', '.join(schema.names)})")
    if not isinstance(field.dataType, StringType):
        raise InputError(f"column {text!r} must be a string, found {field.dataType.simpleString()}")
    for name in (output, f"{output}_error", f"{output}_result"):
        if find_field(schema, name) is not None:
            raise InputError(f"column {name!r} is in the DataFrame already: choose another output name")
