"""`metaeol fit`: fits post-processing on the texts of a job's source table in one pass of Spark.

Each partition sends its moments, which add up on the driver.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import BinaryType, LongType, StringType, StructField, StructType

from metaeol_udf.config import GivenConfig, JobConfig, as_config
from metaeol_udf.delta.sources.source import Source
from metaeol_udf.delta.sources.text import text_of
from metaeol_udf.delta.tables.where_clause import filtered
from metaeol_udf.encoder.vectors.output import PostProcessing
from metaeol_udf.encoder.vectors.postprocess import save_postprocess
from metaeol_udf.encoder.vectors.postprocess_fit import Moments, fit_postprocess
from metaeol_udf.errors import ConfigError, InputError
from metaeol_udf.spark.cluster.resolve import resolve
from metaeol_udf.spark.cluster.session import get_session, slot_count
from metaeol_udf.spark.columns import find_field, quoted
from metaeol_udf.spark.udf import with_embeddings
from metaeol_udf.spec import EmbeddingSpec, before_postprocess

_MOMENTS = StructType([StructField("n", LongType()), StructField("total", BinaryType()), StructField("products", BinaryType())])


def run_fit(config: GivenConfig, out: Path, method: str, *, spark: SparkSession | None = None, **options: Any) -> dict[str, Any]:
    """Fit on the source table and write the file; the table itself is only read.

    Args:
        config: The job whose source, condition and embedding are meant.
        out: The safetensors file; replaced whole, or not at all.
        method: As in `fit_on`.
        spark: The session; None takes the active one or starts one.
        **options: As in `fit_on`.

    Returns:
        What was written, for people.

    Raises:
        InputError: The table or its column is missing, or holds too few texts.
        ConfigError: A setting is out of range.
        EnvironmentFault: The file cannot be written.
    """
    config = as_config(config)
    runtime = config.runtime
    post = fit_on(
        _texts(config, spark),
        config.embedding,
        method,
        text="text",
        device=runtime.device,
        max_batch_tokens=runtime.max_batch_tokens,
        **options,
    )
    return save_postprocess(post, method, out)


def sample_texts(config: JobConfig, n_texts: int, spark: SparkSession | None = None) -> list[str]:
    """Different texts of a job's source, those of smallest hash, brought to the driver.

    Raises:
        InputError: The table or its column is missing.
    """
    return [row["text"] for row in chosen_texts(_texts(config, spark), "text", n_texts).collect()]


def sample_titles(config: JobConfig, title: str, n_rows: int, spark: SparkSession | None = None) -> tuple[list[str], list[str]]:
    """Read titles and texts of rows of a job's source, brought to the driver: those whose text has the smallest hash.

    Rows that lack either are left out.

    Raises:
        ConfigError: `title` is the text column itself.
        InputError: The table or a column is missing, or the titles are no strings.
    """
    source = _rows(config, spark)
    field = find_field(source.schema, title)
    if field is None or not isinstance(field.dataType, StringType):
        found = f"columns: {', '.join(source.columns)}" if field is None else f"found {field.dataType.simpleString()}"
        raise InputError(f"--title {title!r} must be a string column of {Source(config.source)} ({found})")
    if field.name.casefold() in {name.casefold() for name in config.source.text_columns}:
        raise ConfigError(f"--title {title!r} is source.text itself: name another column")
    parts = {"title": F.col(quoted(title)), "text": text_of(config.source, source.schema)}
    columns = [F.make_valid_utf8(part).alias(alias) for alias, part in parts.items()]
    rows = (
        source.select(*columns).where("trim(title) != '' AND trim(text) != ''").orderBy(F.xxhash64("text"), "text", "title").limit(n_rows)
    )
    taken = rows.collect()
    return [row["title"] for row in taken], [row["text"] for row in taken]


def _texts(config: JobConfig, spark: SparkSession | None) -> DataFrame:
    """Read the texts of the rows that the job would select, in one column `text`."""
    rows = _rows(config, spark)
    return rows.select(text_of(config.source, rows.schema).alias("text"))


def _rows(config: JobConfig, spark: SparkSession | None) -> DataFrame:
    """Read the rows that the job would select."""
    rows = Source(config.source).read_checked(get_session(config.spark, spark))
    return filtered(rows, config.source.where)


def fit_on(
    df: DataFrame, spec: EmbeddingSpec, method: str = "mean", *, text: str = "text", n_texts: int = 20_000,
    n_components: int | None = None, shrinkage: float = 0.1, device: str = "auto", max_batch_tokens: int | str = "auto",
) -> PostProcessing:  # fmt: skip
    """Fit post-processing on the texts of a DataFrame, which need no labels. Runs a Spark job.

    Args:
        df: Any DataFrame.
        spec: Its model, templates, layer and dtype; what it says of vectors after the mean hidden state does not count.
        method: See `fit_postprocess`.
        text: Name of the string column.
        n_texts: Different texts at most: those of smallest hash, so the same ones whatever the order and partitions.
        n_components: See `fit_postprocess`.
        shrinkage: See `fit_postprocess`.
        device: As in `embed_udf`.
        max_batch_tokens: As in `embed_udf`.

    Raises:
        InputError: Fewer than 100 texts could be embedded, or the column does not hold strings.
        ConfigError: A setting is out of range.
    """
    resolved = resolve(before_postprocess(spec))
    chosen = chosen_texts(df, text, n_texts).repartition(slot_count(df.sparkSession))
    embedded = with_embeddings(chosen, resolved, "text", "vector", device, max_batch_tokens).where("vector IS NOT NULL").select("vector")
    sums = [_read(row) for row in embedded.mapInArrow(_partial_moments, _MOMENTS).toLocalIterator()]
    if not sums:
        raise InputError("post-processing is fitted on at least 100 different texts, found 0")
    moments = sums[0]
    for other in sums[1:]:
        moments = moments + other
    return fit_postprocess(
        moments, method, n_components=n_components, shrinkage=shrinkage, fitted_for=resolved.made_with
    )  # fmt: skip


def chosen_texts(df: DataFrame, text: str, n_texts: int) -> DataFrame:
    """One column, `text`: at most so many different texts, those of smallest hash; NULL is none."""
    texts = df.select(F.make_valid_utf8(F.col(quoted(text))).alias("text")).where("text IS NOT NULL").distinct()
    return texts.orderBy(F.xxhash64("text"), "text").limit(n_texts)


def _partial_moments(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The moments of a partition's vectors, as one row; none for a partition without vectors."""
    moments = None
    for batch in batches:
        if batch.num_rows:
            column = batch.column("vector")
            found = Moments.of(column.flatten().to_numpy(zero_copy_only=False).reshape(batch.num_rows, -1))
            moments = found if moments is None else moments + found
    if moments is not None:
        values = {"n": [moments.n], "total": [moments.total.tobytes()], "products": [moments.products.tobytes()]}
        yield pa.RecordBatch.from_pydict(values, schema=pa.schema([("n", pa.int64()), ("total", pa.binary()), ("products", pa.binary())]))


def _read(row: tuple[int, bytes, bytes]) -> Moments:
    n, total, products = row
    sums = np.frombuffer(total, np.float64)
    return Moments(n, sums, np.frombuffer(products, np.float64).reshape(len(sums), -1))
