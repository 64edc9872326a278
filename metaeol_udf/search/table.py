"""Exact nearest rows of a job's table: every vector is compared with the query, where the vectors are.

A query is embedded by the same Pandas UDF as the table, so the driver loads no model. Only keys and scores of each Arrow
batch's best rows travel; texts are looked up for the final rows alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.errors import PythonException
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import LongType, StringType, StructField, StructType

from metaeol_udf.config import GivenConfig, JobConfig, as_config
from metaeol_udf.cosine import unit_rows
from metaeol_udf.delta.sources.source import Source
from metaeol_udf.delta.sources.text import text_of
from metaeol_udf.delta.tables.columns import VectorColumns, require_field
from metaeol_udf.delta.tables.fingerprint import of_spec
from metaeol_udf.delta.tables.metadata import differences, label_of, vector_properties
from metaeol_udf.delta.tables.refs import open_table, parse_table, read
from metaeol_udf.delta.tables.where_clause import filtered
from metaeol_udf.encoder.checkpoint.resolve import ResolvedSpec
from metaeol_udf.errors import InputError, MetaEOLError
from metaeol_udf.prompts.cleanup import is_blank, read_strings
from metaeol_udf.search.blocks import Metric, Side
from metaeol_udf.search.vectors import against_queries, with_vectors
from metaeol_udf.spark.cluster.resolve import resolve
from metaeol_udf.spark.cluster.session import get_session
from metaeol_udf.spark.columns import find_field, quoted
from metaeol_udf.spark.udf import with_embeddings

#: Columns beside the key in results; no user's table may have them.
_QUERY, _TEXT = "metaeol_asked", "metaeol_text"


@dataclass(frozen=True)
class Hit:
    """Holds a row near a query.

    Attributes:
        key: Key columns by name.
        text: The row's text as it stands in the source now.
        score: Cosine of the row's and the query's vectors, -1 to 1.
    """

    key: dict[str, Any]
    text: str | None
    score: float


def search_table(
    config: GivenConfig, queries: str | Iterable[str], *, k: int = 5, where: str | None = None, spark: SparkSession | None = None
) -> list[list[Hit]]:
    """Find the rows that are nearest to each query by cosine, over all rows that have a vector.

    Args:
        config: The job whose table is searched.
        queries: What to look for; in any language that the model knows. A single string is one query.
        k: Rows for each query.
        where: A condition over the source's columns, such as ``"lang = 'de'"``, that rows must meet to be compared at all.
        spark: The session; None takes the active one or starts one.

    Returns:
        One list a query, in their order, best row first; rows of equal score in the order of their keys.

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
    vectors = _embed_queries(job.spark, job.resolved, config, queries)
    numbers = pa.table({_QUERY: pa.array(range(len(queries)), pa.int64())})
    side = Side(numbers, unit_rows(vectors), np.arange(len(queries)))
    rows = with_vectors(job.target, config.source.key, config.column, f"the table {config.target_table}")
    with worker_errors():
        best = against_queries(rows, side, k, Metric.COSINE, config.column).collect()
    return _with_texts(job, config, best, len(queries))


@dataclass(frozen=True)
class OpenJob:
    """Holds an embedded table, found to be what its configuration says.

    Attributes:
        spark: The session.
        resolved: What the vectors are.
        source: The rows that hold the texts.
        target: The rows that hold the vectors; the same where there is no table of their own. Only those that meet the condition.
    """

    spark: SparkSession
    resolved: ResolvedSpec
    source: DataFrame
    target: DataFrame


def open_job(config: JobConfig, where: str | None, spark: SparkSession | None) -> OpenJob:
    """Open the tables of a job and check that all vectors are of its spec.

    Raises:
        InputError: They are not, a table or column is missing, or the condition over the source's columns is none.
        ConfigError: The configuration names a model, layer or template set that does not exist.
    """
    resolved = resolve(config.embedding, lambda: get_session(config.spark, spark))
    spark = get_session(config.spark, spark)
    source, target = _open(spark, config)
    _check_vectors(spark, target, config, resolved)
    if where is not None:
        kept = filtered(source, where, "--where")
        keys = [quoted(name) for name in config.source.key]
        target = kept if config.target.table is None else target.join(kept.select(*keys), on=list(config.source.key), how="left_semi")
    return OpenJob(spark, resolved, source, target)


@contextmanager
def worker_errors() -> Iterator[None]:
    """Raise again, as itself, what our code refused in a worker: Spark wraps it in the worker's whole stack trace.

    Raises:
        InputError: That.
    """
    try:
        yield
    except PythonException as error:
        ours = re.search(r"^metaeol_udf\.errors\.InputError: (.*)$", str(error), re.MULTILINE)
        if ours is None:
            raise
        raise InputError(ours.group(1)) from None


def _open(spark: SparkSession, config: JobConfig) -> tuple[DataFrame, DataFrame]:
    """Open the table that holds the texts and the one that holds the vectors; they may be one."""
    place, ref = Source(config.source), parse_table(config.target_table, "target.table")
    source = place.read_checked(spark)
    if ref != place.table:
        open_table(spark, ref, "target.table")
    target = read(spark, ref)
    for name in config.source.key:
        require_field(target.schema, name, "source.key", ref)
    for field in VectorColumns(config.column).fields:
        if find_field(target.schema, field.name) is None:
            raise InputError(f"{ref} has no column {field.name!r}: run `metaeol embed` with this configuration first")
    return source, target


def _check_vectors(spark: SparkSession, target: DataFrame, config: JobConfig, resolved: ResolvedSpec) -> None:
    """Refuse to compare vectors that different models or settings made: their cosines mean nothing."""
    columns = VectorColumns(config.column)
    has_vector = F.col(quoted(columns.vector)).isNotNull()
    ours = of_spec(resolved.fingerprint, F.col(quoted(columns.fingerprint_column)))
    counts = target.where(has_vector).agg(F.count(F.lit(1)).alias("all"), F.count(F.when(ours, True)).alias("ours")).collect()[0]
    if counts["all"] == 0:
        raise InputError(f"no row of {config.target_table} has a vector in column {columns.vector!r}: run `metaeol embed` first")
    if counts["ours"] < counts["all"]:
        raise InputError(
            f"{counts['all'] - counts['ours']} of {counts['all']} vectors in column {columns.vector!r} of {config.target_table} were made "
            f"by another model or other settings than this configuration's (fingerprint {resolved.fingerprint}): "
            f"{_difference(spark, config, resolved)}"
        )


def _difference(spark: SparkSession, config: JobConfig, resolved: ResolvedSpec) -> str:
    """Say in which settings the table's vectors differ from the configuration's, and what to do."""
    ref, column = parse_table(config.target_table, "target.table"), config.column
    stored = label_of(open_table(spark, ref, "target.table").detail().collect()[0]["properties"], column)
    now = label_of(vector_properties(column, resolved), column)
    either = "set these as in the table, or run `metaeol embed` to replace its vectors"
    if stored.get("fingerprint") == now["fingerprint"]:
        return "a migration to these settings is not at its end: run `metaeol embed` first"
    found = differences(stored, now) if stored else {}
    if not found:
        return f"they differ in a setting that the table's properties do not name, such as max_tokens or normalize; {either}"
    return (
        f"they differ in {', '.join(f'embedding.{name} ({old} in the table, {new} here)' for name, (old, new) in found.items())}; {either}"
    )


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


def _with_texts(job: OpenJob, config: JobConfig, best: Sequence[Row], n_queries: int) -> list[list[Hit]]:
    """Add the texts of the best rows; a row that left the source since has none."""
    names = list(config.source.key)
    text_of = texts_of(job, config, [tuple(row[name] for name in names) for row in best])
    hits: list[list[Hit]] = [[] for _ in range(n_queries)]
    for row in sorted(best, key=lambda row: (row[_QUERY], row["rank"])):
        key = {name: row[name] for name in names}
        hits[row[_QUERY]].append(Hit(key, text_of.get(tuple(key.values())), float(row["score"])))
    return hits


def texts_of(job: OpenJob, config: JobConfig, keys: Sequence[tuple[Any, ...]]) -> dict[tuple[Any, ...], str | None]:
    """Look up the texts of a few rows by their keys, in one pass over the source."""
    names = [quoted(name) for name in config.source.key]
    texts = job.source.select(*names, text_of(config.source, job.source.schema).alias(_TEXT))
    wanted = F.broadcast(job.spark.createDataFrame(sorted(set(keys), key=repr), texts.drop(_TEXT).schema))
    found = texts.join(wanted, on=list(config.source.key), how="left_semi").collect()
    return {tuple(row[name] for name in config.source.key): row[_TEXT] for row in found}
