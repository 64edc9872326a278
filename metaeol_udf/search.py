"""Exact nearest rows of an embedded table: every vector is compared with the query, where the vectors are.

A query is embedded by the same Pandas UDF as the table, so the driver loads no model. Only keys and scores of each Arrow
batch's best rows travel; texts are looked up for the final rows alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F
from pyspark.sql.types import FloatType, IntegerType, LongType, StringType, StructField, StructType

from metaeol_udf.config import JobConfig
from metaeol_udf.delta.columns import VectorColumns, check_source_columns, find_field, require_field
from metaeol_udf.delta.fingerprint import of_spec
from metaeol_udf.delta.tables import TableRef, open_table, parse_table, read
from metaeol_udf.errors import InputError, MetaEOLError
from metaeol_udf.spark.session import get_session
from metaeol_udf.spark.staging import resolve
from metaeol_udf.spark.udf import pin, quoted, with_embeddings
from metaeol_udf.spec import EmbeddingSpec

#: Columns beside the key while rows compete; no user's table may have them.
_QUERY, _SCORE, _RANK, _TEXT = "metaeol_query", "metaeol_score", "metaeol_rank", "metaeol_text"


@dataclass(frozen=True)
class Hit:
    """A row near a query.

    Attributes:
        key: Key columns by name.
        text: The row's text as it stands in the source now.
        score: Cosine of the row's and the query's vectors, -1 to 1.
    """

    key: dict[str, Any]
    text: str | None
    score: float


def search_table(config: JobConfig, queries: Sequence[str], *, k: int = 5, spark: SparkSession | None = None) -> list[list[Hit]]:
    """Find the rows that are nearest to each query by cosine, over all rows that have a vector.

    Args:
        config: The job whose table is searched.
        queries: What to look for; in any language that the model knows.
        k: Rows for each query.
        spark: The session; None takes the active one or starts one.

    Returns:
        One list a query, in their order, best row first; rows of equal score in the order of their keys.

    Raises:
        InputError: A query is blank, the table or a column is missing, no row has a vector, or some vectors were made by
            another model or other settings than the configuration's.
        ConfigError: The configuration names a model, layer or template set that does not exist.
    """
    for query in queries:
        if not query.strip():
            raise InputError("the query is blank: it has no embedding")
    spec = pin(resolve(config.embedding, lambda: get_session(config.spark, spark))[0])
    spark = get_session(config.spark, spark)
    source, target = _open(spark, config)
    _check_vectors(target, config, spec)
    vectors = _embed_queries(spark, spec, config, queries)
    best = _nearest(target, config, vectors, k)
    return _with_texts(spark, source, best, config, len(queries))


def _open(spark: SparkSession, config: JobConfig) -> tuple[DataFrame, DataFrame]:
    """The table that holds the texts and the one that holds the vectors; they may be one."""
    refs: list[TableRef] = []
    for name, setting in ((config.source.table, "source.table"), (config.target_table, "target.table")):
        ref = parse_table(name, setting)
        open_table(spark, ref, setting)
        refs.append(ref)
    source, target = (read(spark, ref) for ref in refs)
    check_source_columns(source.schema, config.source.key, config.source.text, refs[0])
    for name in config.source.key:
        require_field(target.schema, name, "source.key", refs[1])
    for field in VectorColumns(config.column).fields:
        if find_field(target.schema, field.name) is None:
            raise InputError(f"{refs[1]} has no column {field.name!r}: run `metaeol embed` with this configuration first")
    return source, target


def _check_vectors(target: DataFrame, config: JobConfig, spec: EmbeddingSpec) -> None:
    """Refuse to compare vectors that different models or settings made: their cosines mean nothing."""
    columns = VectorColumns(config.column)
    has_vector = F.col(quoted(columns.vector)).isNotNull()
    ours = of_spec(spec.fingerprint(), F.col(quoted(columns.fingerprint)))
    counts = target.where(has_vector).agg(F.count(F.lit(1)).alias("all"), F.count(F.when(ours, True)).alias("ours")).collect()[0]
    if counts["all"] == 0:
        raise InputError(f"no row of {config.target_table} has a vector in column {columns.vector!r}: run `metaeol embed` first")
    if counts["ours"] < counts["all"]:
        raise InputError(
            f"{counts['all'] - counts['ours']} of {counts['all']} vectors in column {columns.vector!r} of {config.target_table} were made "
            f"by another model or other settings than this configuration's (fingerprint {spec.fingerprint()}): run `metaeol embed` first"
        )


def _embed_queries(spark: SparkSession, spec: EmbeddingSpec, config: JobConfig, queries: Sequence[str]) -> NDArray[np.float32]:
    """Vectors of the queries, shape ``(n_queries, dim)``, computed by one Python worker as the table's were."""
    schema = StructType([StructField("number", LongType()), StructField("query", StringType())])
    rows = spark.createDataFrame(list(enumerate(queries)), schema).coalesce(1)
    embedded = with_embeddings(rows, spec, "query", "vector", config.runtime.device, config.runtime.max_batch_tokens)
    found = sorted(embedded.collect(), key=lambda row: int(row["number"]))
    for row in found:
        if row["vector_error"] is not None:
            raise MetaEOLError(f"query {row['number'] + 1} cannot be embedded: {row['vector_error']}")
    return np.array([row["vector"] for row in found], np.float32)


def _nearest(target: DataFrame, config: JobConfig, vectors: NDArray[np.float32], k: int) -> DataFrame:
    """Keys, query number, score and rank of the best `k` rows for each query."""
    vector = quoted(config.column)
    key = [F.col(quoted(name)) for name in config.source.key]
    rows = target.where(F.col(vector).isNotNull()).select(*key, F.col(vector).alias(_SCORE))
    schema = StructType(
        [field for field in rows.schema.fields if field.name != _SCORE]
        + [StructField(_QUERY, IntegerType()), StructField(_SCORE, FloatType())]
    )
    candidates = rows.mapInArrow(_best_of_batches(vectors, k), schema)
    order = Window.partitionBy(_QUERY).orderBy(F.col(_SCORE).desc(), *key)
    return candidates.withColumn(_RANK, F.row_number().over(order)).where(F.col(_RANK) <= k)


def _best_of_batches(vectors: NDArray[np.float32], k: int) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """A function for executors: from Arrow batches of keys and vectors to the keys and scores of each batch's best rows."""
    queries = _unit(vectors)

    def best(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            if batch.num_rows == 0:
                continue
            stored = batch.column(_SCORE).flatten().to_numpy(zero_copy_only=False).reshape(batch.num_rows, queries.shape[1])
            scores = _unit(stored) @ queries.T  # (n_rows, n_queries)
            for number in range(len(queries)):
                rows = np.argsort(-scores[:, number], kind="stable")[:k]
                yield _candidates(batch, rows, number, scores[rows, number])

    return best


def _candidates(batch: pa.RecordBatch, rows: NDArray[np.int64], number: int, scores: NDArray[np.float32]) -> pa.RecordBatch:
    taken = batch.take(pa.array(rows))
    names = [name for name in batch.schema.names if name != _SCORE]
    arrays = [taken.column(name) for name in names]
    return pa.RecordBatch.from_arrays(
        [*arrays, pa.array(np.full(len(rows), number, np.int32)), pa.array(scores.astype(np.float32))], names=[*names, _QUERY, _SCORE]
    )


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale each row to length 1; a row of zeros stays as it is."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def _with_texts(spark: SparkSession, source: DataFrame, best: DataFrame, config: JobConfig, n_queries: int) -> list[list[Hit]]:
    """Look up the texts of the best rows; a row that left the source since has none."""
    names = list(config.source.key)
    found = sorted(best.collect(), key=lambda row: (row[_QUERY], row[_RANK]))
    keys = F.broadcast(spark.createDataFrame(found, best.schema).select(*map(quoted, names)).distinct())
    texts = source.select(*map(quoted, names), F.col(quoted(config.source.text)).alias(_TEXT)).join(keys, on=names, how="left_semi")
    text_of = {tuple(row[name] for name in names): row[_TEXT] for row in texts.collect()}
    hits: list[list[Hit]] = [[] for _ in range(n_queries)]
    for row in found:
        key = {name: row[name] for name in names}
        hits[row[_QUERY]].append(Hit(key, text_of.get(tuple(key.values())), float(row[_SCORE])))
    return hits
