"""Exact nearest rows of a job's table: every vector is compared with the query, where the vectors are.

A query is embedded by the same Pandas UDF as the table, so the driver loads no model. Only keys and scores of each Arrow
batch's best rows travel; texts are looked up for the final rows alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import Row, SparkSession
from pyspark.sql.types import LongType, StringType, StructField, StructType

from metaeol_udf.config import GivenConfig, JobConfig, as_config
from metaeol_udf.cosine import unit_rows
from metaeol_udf.encoder.checkpoint.resolve import ResolvedSpec
from metaeol_udf.errors import InputError, MetaEOLError
from metaeol_udf.prompts.cleanup import is_blank, read_strings
from metaeol_udf.search.blocks import Metric, Side
from metaeol_udf.search.distinct import TEXT_DIGEST, count_rows, nearest_of_each, text_digest
from metaeol_udf.search.open_job import ASKED, Hit, OpenJob, open_job, texts_of, worker_errors
from metaeol_udf.search.passages import nearest_passages
from metaeol_udf.search.vectors import against_queries, with_vectors
from metaeol_udf.spark.udf import with_embeddings
from metaeol_udf.terminal import waiting

_BEYOND = 16  # rows that are looked at beside `k`, because some texts stand in several


def search_table(
    config: GivenConfig,
    queries: str | Iterable[str],
    *,
    k: int = 5,
    where: str | None = None,
    distinct: bool = False,
    spark: SparkSession | None = None,
) -> list[list[Hit]]:
    """Find the rows that are nearest to each query by cosine, over all rows that have a vector.

    Args:
        config: The job whose table is searched.
        queries: What to look for; in any language that the model knows. A single string is one query.
        k: Rows for each query.
        where: A condition over the source's columns, such as ``"lang = 'de'"``, that rows must meet to be compared at all.
        distinct: Give each text once, by the row with the smallest key, and go on until there are `k` texts. A text is known by the hash in
            the row's fingerprint: what the row's text was when it was embedded.
        spark: The session; None takes the active one or starts one.

    Returns:
        One list a query, in their order, best row first; rows of equal score in the order of their keys. Of a table of passages, each
        text stands there once, with the passage that is nearest.

    Raises:
        InputError: A query is blank, the table or a column is missing, the condition is none, no row has a vector, or some vectors were
            made by another model or other settings than the configuration's.
        ConfigError: The configuration names a model, layer or template set that does not exist.
    """
    config, queries = as_config(config), [queries] if isinstance(queries, str) else read_strings(queries, what="query")
    for number, query in enumerate(queries, 1):
        if is_blank(query):
            which = f"query {number} of {len(queries)}" if len(queries) > 1 else "the query"
            raise InputError(f"{which} is blank: it has no embedding")
    job = open_job(config, where, spark)
    with waiting("embedding the query" if len(queries) == 1 else f"embedding {len(queries):,} queries"):
        vectors = _embed_queries(job.spark, job.resolved, config, queries)
    numbers = pa.table({ASKED: pa.array(range(len(queries)), pa.int64())})
    with waiting("comparing all rows"):
        return _nearest(job, config, Side(numbers, unit_rows(vectors), np.arange(len(queries))), k, distinct)


def _nearest(job: OpenJob, config: JobConfig, side: Side, k: int, distinct: bool) -> list[list[Hit]]:
    """Find the rows that are nearest to each query; `side` numbers the queries in the column ASKED."""
    n_queries = len(side.matrix)
    if config.makes_passages:
        return nearest_passages(job, config, side, k, distinct)
    what = f"the table {config.target_table}"
    if distinct:
        rows = with_vectors(job.target.withColumn(TEXT_DIGEST, text_digest(config)), (*config.source.key, TEXT_DIGEST), config.column, what)
        lists = nearest_of_each(rows, side, k, config.column, [[TEXT_DIGEST]], k + _BEYOND, TEXT_DIGEST)
        best = [row for of_query in lists for row in of_query]
        return _with_texts(job, config, best, n_queries, count_rows(job, config, [row[TEXT_DIGEST] or "" for row in best]))
    rows = with_vectors(job.target, config.source.key, config.column, what)
    with worker_errors():
        best = against_queries(rows, side, k, Metric.COSINE, config.column).collect()
    return _with_texts(job, config, best, n_queries)


def _embed_queries(spark: SparkSession, resolved: ResolvedSpec, config: JobConfig, queries: Sequence[str]) -> NDArray[np.float32]:
    """Compute the vectors of the queries, shape ``(n_queries, dim)``, in one Python worker as the table's were."""
    schema = StructType([StructField("number", LongType()), StructField("query", StringType())])
    rows = spark.createDataFrame(list(enumerate(queries)), schema).coalesce(1)
    embedded = with_embeddings(rows, resolved, "query", "vector", config.runtime.device, config.runtime.max_batch_tokens)
    found = sorted(embedded.collect(), key=lambda row: int(row["number"]))
    for row in found:
        if row["vector_error"] is not None:
            raise MetaEOLError(f"query {row['number'] + 1} cannot be embedded: {row['vector_error']}")
    return np.array([row["vector"] for row in found], np.float32)


def _with_texts(
    job: OpenJob, config: JobConfig, best: Sequence[Row], n_queries: int, n_rows: Mapping[str, int] | None = None
) -> list[list[Hit]]:
    """Add the texts of the best rows; a row that left the source since has none. `n_rows`: how many rows have the text of each digest."""
    names = list(config.source.key)
    text_of = texts_of(job, config, [tuple(row[name] for name in names) for row in best])
    hits: list[list[Hit]] = [[] for _ in range(n_queries)]
    for row in sorted(best, key=lambda row: (row[ASKED], row["rank"])):
        key = {name: row[name] for name in names}
        more = 0 if n_rows is None else max(0, n_rows.get(row[TEXT_DIGEST], 1) - 1)
        hits[row[ASKED]].append(Hit(key, text_of.get(tuple(key.values())), float(row["score"]), more_rows=more))
    return hits
