"""Pairs of rows whose vectors are nearly the same: candidates by locality-sensitive hashing, then their exact similarity.

Spark ML's `approxSimilarityJoin` takes a pair for a candidate as soon as *one* random projection puts both into the same bucket. In
hundreds of dimensions that is a large share of all pairs, however narrow the buckets. So the hash values are Spark ML's, and the join is
ours: a candidate must agree on all of `PROJECTIONS` values in at least one of `TABLES` tables.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
from pyspark.ml.feature import BucketedRandomProjectionLSH
from pyspark.ml.functions import array_to_vector, vector_to_array
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, DoubleType, FloatType, StructField, StructType

from metaeol_udf.cosine import unit_rows
from metaeol_udf.errors import ConfigError
from metaeol_udf.search.blocks import QUERY_BLOCK, ROW_BLOCK, Metric, Side, blocks, closeness, to_matrix
from metaeol_udf.search.vectors import VECTOR, collect_side, key_fields, names_of, with_vectors
from metaeol_udf.spark.columns import quoted

TABLES, PROJECTIONS = 16, 8

#: Cosine above which vectors are hashed as if it were this: buckets need a width.
_NEARLY_ONE = 1 - 1e-6


def near_duplicates(
    df: DataFrame,
    *,
    threshold: float,
    key: str | Sequence[str] = "id",
    vector: str = "embedding",
    metric: str = "cosine",
    method: str = "lsh",
    recall: float = 0.95,
    seed: int = 0,
) -> DataFrame:
    """Find all pairs of rows whose vectors are at least as similar as a threshold.

    With `method="lsh"`, `df` is read three times, so give it a table and not a UDF's result; one row is read at once, for the dimension.
    With `method="exact"` all pairs are compared in blocks, past one copy of `df` in every worker: right for tables of up to some
    100,000 rows (at most 1 GiB of vectors as float64), which are read at once.

    Args:
        df: Rows with vectors.
        threshold: For cosine the least similarity, over 0 to 1; for euclidean the largest distance, over 0.
        key: Key column, or columns: each row must have another one.
        vector: Column of vectors, ``array<float>`` or ``array<double>``; rows where it is NULL are left out.
        metric: `cosine` or `euclidean`.
        method: `lsh` or `exact`.
        recall: Of `lsh`: the chance, 0.5 to 0.999, that a pair exactly at the threshold is found; closer pairs are found more surely.
            Pairs that are found are never wrong: each one's similarity is computed.
        seed: Of the random projections.

    Returns:
        One row a pair: `<name>1` and `<name>2` for each key column, the smaller key first, and `score` float (the cosine or the distance).
        No row is paired with itself, and no pair appears twice.

    Raises:
        ConfigError: A setting is out of range.
        InputError: As for `search_vectors`.
    """
    measure = Metric.parse(metric, ("cosine", "euclidean"))
    _check_settings(measure, threshold, method, recall)
    names = names_of(key)
    rows = with_vectors(df, names, vector, "df")
    if method == "exact":
        return _exact_pairs(rows, names, measure, threshold, vector)
    first = rows.select(F.size(VECTOR)).first()
    dim = 0 if first is None else int(first[0])
    prepared = rows.mapInArrow(_prepare(measure, vector, dim), _as_double(rows.schema))
    candidates = _candidates(prepared, names, bucket_length(measure, threshold, dim, recall), seed)
    return _verified(candidates, prepared, names, measure, threshold)


def bucket_length(metric: Metric, threshold: float, dim: int, recall: float) -> float:
    """Compute the width of the projections' buckets with which a pair exactly at the threshold is a candidate with probability `recall`.

    The difference of such a pair, of length r, projected on a random direction in `dim` dimensions is nearly normal with deviation
    r / sqrt(dim), whatever the vectors; the pair falls into one bucket with the probability that Datar et al. (2004) give, must do so
    `PROJECTIONS` times in one table, and in one of `TABLES` tables.
    """
    radius = math.sqrt(2 - 2 * min(threshold, _NEARLY_ONE)) if metric is Metric.COSINE else threshold
    wanted = (1 - (1 - recall) ** (1 / TABLES)) ** (1 / PROJECTIONS)
    low, high = 1e-3, 1e3  # of the width in deviations
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if same_bucket(middle) < wanted else (low, middle)
    return high * radius / math.sqrt(max(dim, 1))


def same_bucket(width: float) -> float:
    """Compute the probability that two points fall into one bucket, whose width is given in standard deviations of their distance."""
    inside = math.erf(width / math.sqrt(2))
    return inside - 2 / (math.sqrt(2 * math.pi) * width) * (1 - math.exp(-(width**2) / 2))


def _check_settings(metric: Metric, threshold: float, method: str, recall: float) -> None:
    if metric is Metric.COSINE and not 0 < threshold <= 1:
        raise ConfigError(f"threshold must be a cosine over 0 and at most 1, found {threshold}")
    if not 0 < threshold < math.inf:
        raise ConfigError(f"threshold must be a distance over 0, found {threshold}")
    if method not in ("lsh", "exact"):
        raise ConfigError(f"method must be lsh or exact, found {method!r}")
    if not 0.5 <= recall <= 0.999:
        raise ConfigError(f"recall must be from 0.5 to 0.999, found {recall}: method exact finds all pairs")


def _as_double(schema: StructType) -> StructType:
    return StructType([field if field.name != VECTOR else StructField(VECTOR, ArrayType(DoubleType())) for field in schema.fields])


def _prepare(metric: Metric, vector: str, dim: int) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """Make a function for executors: check vectors, and for cosine scale them to length 1 and drop vectors of zeros, similar to nothing."""

    def prepare(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            column = batch.schema.get_field_index(VECTOR)
            matrix = to_matrix(batch.column(column), vector, dim)
            if metric is Metric.COSINE:
                matrix = unit_rows(matrix)
                kept = (matrix != 0).any(axis=1)
                batch, matrix = batch.filter(pa.array(kept)), matrix[kept]
            offsets = pa.array(np.arange(len(matrix) + 1) * dim, pa.int32())
            yield batch.set_column(column, VECTOR, pa.ListArray.from_arrays(offsets, pa.array(matrix.ravel())))

    return prepare


def _candidates(prepared: DataFrame, key: Sequence[str], length: float, seed: int) -> DataFrame:
    """Find the pairs of keys that share a bucket of at least one table, as structs `one` < `other`, each pair once."""
    model = BucketedRandomProjectionLSH(
        inputCol="metaeol_features", outputCol="metaeol_hashes", numHashTables=TABLES * PROJECTIONS, bucketLength=length, seed=seed
    ).fit(prepared.select(array_to_vector(F.col(VECTOR)).alias("metaeol_features")))
    hashed = model.transform(prepared.withColumn("metaeol_features", array_to_vector(F.col(VECTOR))))
    values = F.transform("metaeol_hashes", lambda one: vector_to_array(one)[0])
    buckets = F.array(*[F.xxhash64(F.slice("metaeol_values", 1 + i * PROJECTIONS, PROJECTIONS)) for i in range(TABLES)])
    rows = hashed.select(_key(key).alias("metaeol_key"), values.alias("metaeol_values"))
    bucketed = rows.select("metaeol_key", F.posexplode(buckets).alias("metaeol_table", "metaeol_bucket"))
    one, other = bucketed.withColumnRenamed("metaeol_key", "one"), bucketed.withColumnRenamed("metaeol_key", "other")
    shared = one.join(other, ["metaeol_table", "metaeol_bucket"]).where(F.col("one") < F.col("other"))
    return shared.select("one", "other").distinct()


def _verified(candidates: DataFrame, prepared: DataFrame, key: Sequence[str], metric: Metric, threshold: float) -> DataFrame:
    """Keep the candidates whose similarity, computed from both vectors, reaches the threshold."""
    rows = prepared.select(_key(key).alias("metaeol_key"), VECTOR)
    ones = rows.select(F.col("metaeol_key").alias("one"), F.col(VECTOR).alias("vector1"))
    others = rows.select(F.col("metaeol_key").alias("other"), F.col(VECTOR).alias("vector2"))
    both = candidates.join(ones, "one").join(others, "other").select("one", "other", "vector1", "vector2")
    schema = StructType([both.schema["one"], both.schema["other"], StructField("score", FloatType())])
    return _named(both.mapInArrow(_score(metric, threshold), schema), key)


def _score(metric: Metric, threshold: float) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """Make a function for executors: from pairs of vectors to the scores of those that are similar enough."""

    def score(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            if batch.num_rows == 0:
                continue
            one, other = to_matrix(batch.column(2), "vector1"), to_matrix(batch.column(3), "vector2")
            near = (one * other).sum(axis=1) if metric is Metric.COSINE else -np.sqrt(((one - other) ** 2).sum(axis=1))
            kept = _similar(near.astype(np.float32), metric, threshold)
            scores = np.abs(near) if metric is Metric.EUCLIDEAN else near
            scored = batch.select([0, 1]).append_column("score", pa.array(scores.astype(np.float32)))
            yield scored.filter(pa.array(kept))

    return score


def _similar(near: np.ndarray, metric: Metric, threshold: float) -> np.ndarray:
    """Compare as float32, as scores are written: equal vectors reach a cosine of 1, and a written score is never past the threshold."""
    return np.asarray(near >= np.float32(threshold if metric is Metric.COSINE else -threshold))


def _exact_pairs(rows: DataFrame, key: Sequence[str], metric: Metric, threshold: float, vector: str) -> DataFrame:
    """Find all pairs, by products of blocks of the streaming rows with a copy of all rows."""
    held = collect_side(rows, metric, vector, "df")
    key_type = key_fields(rows)
    schema = StructType([StructField("one", key_type, False), StructField("other", key_type, False), StructField("score", FloatType())])

    def compare(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            table = pa.Table.from_batches([batch])
            for some in blocks(len(table), QUERY_BLOCK):
                part = table.slice(some.start, some.stop - some.start)
                side = Side.of(part.drop_columns([VECTOR]), part[VECTOR], metric, vector, held.matrix.shape[1])
                for others in blocks(len(held.matrix), ROW_BLOCK):
                    near = closeness(side.matrix, held.matrix[others], metric)
                    one, other = np.nonzero(_similar(near, metric, threshold))
                    keys = side.keys.take(pa.array(one)), held.keys.take(pa.array(other + others.start))
                    scores = pa.array(np.abs(near[one, other]) if metric is Metric.EUCLIDEAN else near[one, other])
                    found = pa.table([*(each.to_struct_array() for each in keys), scores], names=schema.names)
                    yield from found.combine_chunks().to_batches()

    return _named(rows.mapInArrow(compare, schema).where(F.col("one") < F.col("other")), key)


def _key(key: Sequence[str]) -> Column:
    return F.struct(*[F.col(quoted(name)) for name in key])


def _named(pairs: DataFrame, key: Sequence[str]) -> DataFrame:
    ones, others = ([F.col(side)[name].alias(f"{name}{number}") for name in key] for side, number in (("one", 1), ("other", 2)))
    return pairs.select(*ones, *others, "score")
