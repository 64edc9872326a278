"""Near-duplicates of a job's table: `metaeol duplicates`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from metaeol_udf.config import GivenConfig, JobConfig, as_config
from metaeol_udf.delta.tables.refs import parse_table
from metaeol_udf.errors import InputError
from metaeol_udf.search.distinct import TEXT_DIGEST, text_digest
from metaeol_udf.search.duplicates import near_duplicates
from metaeol_udf.search.open_job import OpenJob, open_job, texts_of, worker_errors
from metaeol_udf.spark.columns import quoted

_MORE = "metaeol_more"  # other pairs of the same texts; no user's table may have such a column


@dataclass(frozen=True)
class DuplicatePair:
    """Holds two rows whose vectors are nearly the same.

    Attributes:
        keys: Key columns by name, of both rows, the smaller key first.
        texts: Of both rows, as they stand in the source now.
        score: Cosine of their vectors.
        more_pairs: Of distinct pairs: how many other pairs of rows have these two texts.
    """

    keys: tuple[dict[str, Any], dict[str, Any]]
    texts: tuple[str | None, str | None]
    score: float
    more_pairs: int = 0


def find_duplicates(
    config: GivenConfig,
    *,
    threshold: float,
    k: int = 20,
    where: str | None = None,
    method: str = "lsh",
    recall: float = 0.95,
    distinct: bool = False,
    spark: SparkSession | None = None,
) -> list[DuplicatePair]:
    """Find the most similar pairs of rows of an embedded table, by cosine.

    Args:
        config: The job whose table is looked at.
        threshold: Minimum cosine similarity of a pair, above 0 and up to 1.
        k: Pairs at most.
        where: A condition over the source's columns that both rows must meet.
        method: As for `near_duplicates`.
        recall: As for `near_duplicates`.
        distinct: Give each pair of texts once, and a text that stands in several rows as one pair. A text is known by the hash in the row's
            fingerprint.
        spark: The session; None takes the active one or starts one.

    Returns:
        Most similar first; pairs of equal score in the order of their keys.

    Raises:
        InputError: As for `search_table`, or the table's rows are passages.
        ConfigError: A setting is out of range.
    """
    config = _of_whole_texts(config)
    job = open_job(config, where, spark)
    pairs = _pairs(job, config, threshold, method, recall)
    names = config.source.key
    pairs = _one_of_each(pairs, job, config) if distinct else pairs.withColumn(_MORE, F.lit(0))
    order = [F.col(quoted(f"{name}{number}")) for number in (1, 2) for name in names]
    with worker_errors():
        best = pairs.orderBy(F.col("score").desc(), *order).limit(k).collect()
    both = [tuple({name: row[f"{name}{number}"] for name in names} for number in (1, 2)) for row in best]
    texts = texts_of(job, config, [tuple(key.values()) for pair in both for key in pair])
    return [
        DuplicatePair((one, other), (texts.get(tuple(one.values())), texts.get(tuple(other.values()))), float(row["score"]), row[_MORE])
        for row, (one, other) in zip(best, both, strict=True)
    ]


def write_duplicates(
    config: GivenConfig,
    out: str,
    *,
    threshold: float,
    where: str | None = None,
    method: str = "lsh",
    recall: float = 0.95,
    spark: SparkSession | None = None,
) -> int:
    """Write all near-duplicate pairs of an embedded table, without texts: `<key>1`, `<key>2` and `score`; return their number.

    Args and errors are as for `find_duplicates`, but for `out`: a path that ends in `.parquet`, or a Delta table by path or name, where
    nothing may be yet (`InputError`).
    """
    config = _of_whole_texts(config)
    is_parquet = out.endswith(".parquet")
    ref = parse_table(f"./{out}" if is_parquet and "/" not in out else out, "--out")
    job = open_job(config, where, spark)
    writer = _pairs(job, config, threshold, method, recall).write.mode("error")
    kind = "parquet" if is_parquet else "delta"
    try:
        with worker_errors():
            if ref.is_path:
                writer.format(kind).save(ref.name)
            else:
                writer.format("delta").saveAsTable(ref.identifier)
    except AnalysisException as error:
        raise InputError(
            f"--out: {out} cannot be written ({error.getCondition() or type(error).__name__}): name one that is not there"
        ) from None
    written = job.spark.read.format(kind).load(ref.name) if ref.is_path else job.spark.table(ref.identifier)
    return written.count()


def _of_whole_texts(config: GivenConfig) -> JobConfig:
    """Read the settings of a table whose rows are whole texts: neighbouring passages are alike because they overlap."""
    config = as_config(config)
    if config.makes_passages:
        raise InputError(
            "embedding.long_texts: duplicates compares whole texts, not passages: near_duplicates of metaeol_udf.search takes such a table "
            "with any key"
        )
    return config


def _one_of_each(pairs: DataFrame, job: OpenJob, config: JobConfig) -> DataFrame:
    """Keep, of the pairs that have the same two texts, the nearest, of equal ones that of the smallest keys; _MORE counts the others."""
    names = config.source.key
    keys = [f"{name}{side}" for side in (1, 2) for name in names]
    own = F.coalesce(
        F.col(TEXT_DIGEST), F.to_json(F.struct(*[F.col(quoted(name)) for name in names]))
    )  # without a fingerprint: its own text
    texts = job.target.withColumn(TEXT_DIGEST, text_digest(config)).withColumn(TEXT_DIGEST, own)
    for side in (1, 2):
        named = [F.col(quoted(name)).alias(f"{name}{side}") for name in names]
        pairs = pairs.join(texts.select(*named, F.col(TEXT_DIGEST).alias(f"{TEXT_DIGEST}{side}")), on=[f"{name}{side}" for name in names])
    both = [F.col(f"{TEXT_DIGEST}{side}") for side in (1, 2)]
    nearest = F.min(F.struct((-F.col("score")).alias("score"), *[F.col(quoted(key)) for key in keys])).alias("metaeol_nearest")
    count = (F.count(F.lit(1)) - 1).alias(_MORE)
    grouped = pairs.groupBy(F.least(*both).alias("one"), F.greatest(*both).alias("other")).agg(nearest, count)
    nearest_keys = [F.col("metaeol_nearest")[key].alias(key) for key in keys]
    return grouped.select(*nearest_keys, (-F.col("metaeol_nearest.score")).alias("score"), _MORE)


def _pairs(job: OpenJob, config: JobConfig, threshold: float, method: str, recall: float) -> DataFrame:
    with worker_errors():
        return near_duplicates(
            job.target, threshold=threshold, key=list(config.source.key), vector=config.column, method=method, recall=recall
        )
