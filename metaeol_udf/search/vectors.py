"""Exact nearest rows for a batch of queries: one side is read into memory and goes to every worker, the other streams by.

The plan holds one scan of the streaming side, one MapInArrow and one window; there is no cross join and no shuffle of vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, DoubleType, FloatType, IntegerType, LongType, StructField, StructType

from metaeol_udf.delta.tables.where_clause import filtered
from metaeol_udf.errors import ConfigError, InputError
from metaeol_udf.search.blocks import QUERY_BLOCK, ROW_BLOCK, Metric, Side, best_pairs, blocks, closeness, first_of_each
from metaeol_udf.spark.columns import find_field, quoted

#: Columns beside the keys while rows compete; no user's table may have them.
NUMBER, NEAR, VECTOR = "metaeol_query", "metaeol_near", "metaeol_vector"

#: Bytes of vectors, as float64, that one side may take in the driver and in every worker.
MAX_SIDE_BYTES = 2**30


def search_vectors(
    vectors_df: DataFrame,
    queries_df: DataFrame,
    *,
    k: int,
    key: str | Sequence[str] = "id",
    query_key: str | Sequence[str] = "id",
    vector: str = "embedding",
    query_vector: str = "embedding",
    metric: str = "cosine",
    where: str | None = None,
    broadcast: str = "queries",
) -> DataFrame:
    """Find the `k` rows nearest to each query, exactly: every vector is compared with every query, in blocks.

    The broadcast side is read at once, by one Spark job; the rest happens when the result is used. A worker holds that side as float64
    (at most 1 GiB), an Arrow batch of the other, and products of at most 1,024 queries by 2,048 rows (about 50 MB).

    Args:
        vectors_df: Rows to find.
        queries_df: Rows to find them for.
        k: Rows for each query, 1 to 10,000; fewer where there are fewer.
        key: Key column, or columns, of the rows.
        query_key: The same of the queries; they need not be unique.
        vector: Column of the rows' vectors, ``array<float>`` or ``array<double>``; rows where it is NULL are left out.
        query_vector: The same of the queries; a query without a vector has no result.
        metric: `cosine` (0 for a vector of zeros), `dot`, or `euclidean`.
        where: A condition over `vectors_df`, such as ``"lang = 'de'"``, that rows must meet to be compared at all.
        broadcast: The smaller side: `queries`, or `vectors` where queries are the many. Equal results.

    Returns:
        One row a query and hit: `query_<name>` for each query key, the row's key columns, `score` float (cosine and dot: larger is
        nearer; euclidean: the distance) and `rank` int from 1. Equal scores are ranked in the order of the keys.

    Raises:
        ConfigError: `k`, `metric` or `broadcast` is out of range.
        InputError: A column is missing or of another type, the condition is none, the broadcast side takes more than 1 GiB, or vectors
            differ in length or hold NaN, NULL or infinity. What is wrong on the streaming side is raised by Spark with the same
            message, when the result is used.
    """
    measure = Metric.parse(metric)
    if isinstance(k, bool) or not 1 <= k <= 10_000:
        raise ConfigError(f"k must be an integer from 1 to 10000, found {k!r}")
    if broadcast not in ("queries", "vectors"):
        raise ConfigError(f"broadcast must be queries or vectors, found {broadcast!r}")
    rows = with_vectors(filtered(vectors_df, where, "where"), names_of(key), vector, "vectors_df")
    queries = with_vectors(queries_df, names_of(query_key), query_vector, "queries_df", prefix="query_")
    shared = {name.casefold() for name in rows.columns} & {name.casefold() for name in queries.columns} - {VECTOR}
    if shared:
        raise InputError(f"key: {', '.join(sorted(shared))} is what the query's key is called in the result: rename the column first")
    if broadcast == "queries":
        return against_queries(rows, collect_side(queries, measure, query_vector, "queries_df"), k, measure, vector)
    return _against_rows(queries, collect_side(rows, measure, vector, "vectors_df"), key_fields(rows), k, measure, query_vector)


def names_of(key: str | Sequence[str]) -> list[str]:
    """Return one name or several as a list."""
    return [key] if isinstance(key, str) else list(key)


def with_vectors(df: DataFrame, key: Sequence[str], vector: str, what: str, prefix: str = "") -> DataFrame:
    """Select the key columns and the vector of the rows that have a vector, the vector as VECTOR.

    Raises:
        InputError: A column is missing, the vector is no array of floats, or a key column has a name of ours.
    """
    for name in (*key, vector):
        if find_field(df.schema, name) is None:
            raise InputError(f"column {name!r} is not in {what} (columns: {', '.join(df.columns)})")
    field = find_field(df.schema, vector)
    kind = None if field is None else field.dataType
    if not isinstance(kind, ArrayType) or not isinstance(kind.elementType, (FloatType, DoubleType)):
        found = "" if kind is None else kind.simpleString()
        raise InputError(f"column {vector!r} of {what} must be array<float> or array<double>, found {found}")
    taken = {name.casefold() for name in (NUMBER, NEAR, VECTOR, "score", "rank")} & {name.casefold() for name in key}
    if taken or not key:
        raise InputError(f"the key of {what} must name columns, none of them {', '.join(sorted(taken)) or 'missing'}: rename it first")
    columns = [F.col(quoted(name)).alias(prefix + name) for name in key]
    return df.where(F.col(quoted(vector)).isNotNull()).select(*columns, F.col(quoted(vector)).alias(VECTOR))


def key_fields(rows: DataFrame) -> StructType:
    """Return the key columns of rows that `with_vectors` made."""
    return StructType([field for field in rows.schema.fields if field.name != VECTOR])


def collect_side(df: DataFrame, metric: Metric, vector: str, what: str) -> Side:
    """Read one side into the driver, as Arrow.

    Raises:
        InputError: It takes too much memory, or its vectors cannot be compared.
    """
    table = df.toArrow()
    n_bytes = 8 * len(table) * (len(table[VECTOR][0]) if len(table) else 0)
    if n_bytes > MAX_SIDE_BYTES:
        raise InputError(
            f"{what}: {len(table)} vectors take {n_bytes / 2**30:.1f} GiB in every worker, more than {MAX_SIDE_BYTES / 2**30:.0f}: "
            "broadcast the other side if it is smaller, or search in several calls"
        )
    return Side.of(table.drop_columns([VECTOR]), table[VECTOR], metric, vector)


def against_queries(rows: DataFrame, queries: Side, k: int, metric: Metric, vector: str, digest: str | None = None) -> DataFrame:
    """Stream rows, as `with_vectors` makes them, past queries that every worker holds; the result as `search_vectors` gives it.

    Keys of the queries already have the names they are to have in the result; `vector` names the rows' column in messages. Of rows of one
    block that are equal in the key column `digest` only the first competes; rows of different blocks all do.
    """
    keys = key_fields(rows)
    query_keys = queries.keys
    numbered = Side(pa.table({NUMBER: pa.array(np.arange(len(query_keys)), pa.int64())}), queries.matrix, queries.order)
    candidates = rows.mapInArrow(_stream(numbered, k, metric, vector, False, digest), _candidate_schema(StructType(), keys))
    ranked = _ranked(candidates, keys.names, k)
    named = rows.sparkSession.createDataFrame(query_keys.append_column(NUMBER, numbered.keys[NUMBER]))
    # Query keys are joined to the final rows alone, by number: candidates need not carry them.
    return _result(ranked.join(F.broadcast(named), NUMBER), query_keys.column_names, keys.names, metric)


def _against_rows(queries: DataFrame, rows: Side, keys: StructType, k: int, metric: Metric, vector: str) -> DataFrame:
    """Stream queries past rows that every worker holds."""
    query_keys = key_fields(queries)
    numbered = queries.withColumn(NUMBER, F.monotonically_increasing_id())
    candidates = numbered.mapInArrow(_stream(rows, k, metric, vector, True), _candidate_schema(query_keys, keys))
    return _result(_ranked(candidates, keys.names, k), query_keys.names, keys.names, metric)


def _candidate_schema(query_keys: StructType, keys: StructType) -> StructType:
    return StructType([*query_keys.fields, StructField(NUMBER, LongType()), *keys.fields, StructField(NEAR, FloatType())])


def _ranked(candidates: DataFrame, key: Sequence[str], k: int) -> DataFrame:
    order = Window.partitionBy(NUMBER).orderBy(F.col(NEAR).desc(), *[F.col(quoted(name)) for name in key])
    return candidates.withColumn("rank", F.row_number().over(order).cast(IntegerType())).where(F.col("rank") <= k)


def _result(ranked: DataFrame, query_key: Sequence[str], key: Sequence[str], metric: Metric) -> DataFrame:
    score = -F.col(NEAR) if metric is Metric.EUCLIDEAN else F.col(NEAR)
    return ranked.select(*[F.col(quoted(name)) for name in (*query_key, *key)], score.alias("score"), "rank")


def _stream(
    held: Side, k: int, metric: Metric, vector: str, streams_queries: bool, digest: str | None = None
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """Make a function for executors, once a task: from Arrow batches of the streaming side to the pairs that may be among the best."""

    def candidates(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        # Of a task's rows so far; a row that is farther than the k-th of these cannot be among the best of all.
        best = np.full((0 if streams_queries else len(held.matrix), k), -np.inf, np.float32)
        for batch in batches:
            for some in blocks(batch.num_rows, QUERY_BLOCK if streams_queries else ROW_BLOCK):
                table = pa.Table.from_batches([batch]).slice(some.start, some.stop - some.start)
                if digest is not None:
                    table = first_of_each(table, digest, [VECTOR])
                side = Side.of(
                    table.drop_columns([VECTOR]), table[VECTOR], metric, vector, held.matrix.shape[1] if len(held.matrix) else None
                )
                if streams_queries:
                    yield from _pairs(side, held, np.full((len(side.matrix), k), -np.inf, np.float32), metric)
                else:
                    yield from _pairs(held, side, best, metric)

    return candidates


def _pairs(queries: Side, rows: Side, best: np.ndarray, metric: Metric) -> Iterator[pa.RecordBatch]:
    for some in blocks(len(queries.matrix), QUERY_BLOCK):
        for others in blocks(len(rows.matrix), ROW_BLOCK):
            near = closeness(queries.matrix[some], rows.matrix[others], metric)
            of_queries, of_rows = best_pairs(near, best[some], rows.order[others])
            taken = [
                *queries.keys.take(pa.array(of_queries + some.start)).columns,
                *rows.keys.take(pa.array(of_rows + others.start)).columns,
                pa.array(near[of_queries, of_rows]),
            ]
            names = [*queries.keys.column_names, *rows.keys.column_names, NEAR]
            yield from pa.table(taken, names=names).combine_chunks().to_batches()
