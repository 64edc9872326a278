"""Rows without an embedding: by key, with the reason and how often they were tried. Never the text."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import IntegerType, StringType, StructField, StructType

from metaeol_udf.delta.base.context import Job
from metaeol_udf.delta.select.selection import FINGERPRINT, OUTCOME
from metaeol_udf.delta.select.snapshot import Tables
from metaeol_udf.delta.tables.fingerprint import text_part
from metaeol_udf.delta.tables.refs import TableRef, create, exists, open_table, read
from metaeol_udf.spark.columns import quoted, same_key

FIELDS = [
    StructField("text_hash", StringType()),
    StructField("fingerprint", StringType()),
    StructField("reason", StringType()),
    StructField("attempts", IntegerType()),
    StructField("last_run_id", StringType()),
]


def update_quarantine(spark: SparkSession, ref: TableRef, results: DataFrame, key: StructType, run_id: str, n_failed: int) -> None:
    """Update the quarantine with `results`: key columns, FINGERPRINT and OUTCOME of every row that the run worked on.

    Rows that failed, `n_failed` of them, enter it or count one attempt more, rows that succeeded leave it. While nothing ever
    failed there is no such table.
    """
    if not exists(spark, ref):
        if not n_failed:
            return
        _create(spark, ref, key)
    new = _renamed(results, key.names, F.col(FINGERPRINT), F.col(OUTCOME)["error"])
    failed = F.col("new_reason").isNotNull()
    again = F.when(F.col("fingerprint") == F.col("new_fingerprint"), F.col("attempts") + 1).otherwise(F.lit(1))
    values = _values(run_id)
    merge = open_table(spark, ref, "quarantine").merge(new, _same_key(key.names))
    merge = merge.whenMatchedDelete(~failed).whenMatchedUpdate(set=values | {"attempts": again})
    merge.whenNotMatchedInsert(condition=failed, values=values | _new_row(key.names)).execute()


def failing_rows(job: Job, tables: Tables) -> DataFrame:
    """Find the rows that have an error now: key columns, `fingerprint` and `error` of every row of the source that failed."""
    key, columns, source = tables.key, job.columns, read(job.spark, job.source)
    stored = source if job.in_place else read(job.spark, job.target).join(source, key.names, "left_semi")
    return stored.where(F.col(quoted(columns.error)).isNotNull()).select(
        *[quoted(name) for name in key.names],
        F.col(quoted(columns.fingerprint_column)).alias("fingerprint"),
        F.col(quoted(columns.error)).alias("error"),
    )


def reconcile_quarantine(spark: SparkSession, ref: TableRef, failing: DataFrame, key: StructType, run_id: str) -> None:
    """Reconcile the quarantine with the table: it holds exactly the rows that have an error now; their attempts stay as they are."""
    if not exists(spark, ref):
        if failing.isEmpty():
            return
        _create(spark, ref, key)
    new = _renamed(failing, key.names, F.col("fingerprint"), F.col("error"))
    merge = open_table(spark, ref, "quarantine").merge(new, _same_key(key.names)).whenNotMatchedBySourceDelete()
    merge.whenNotMatchedInsert(values=_values(run_id) | _new_row(key.names)).execute()


def _renamed(rows: DataFrame, key: list[str], fingerprint: Column, reason: Column) -> DataFrame:
    return rows.select(
        *[F.col(quoted(name)).alias(f"new_key_{i}") for i, name in enumerate(key)],
        text_part(fingerprint).alias("new_text_hash"),
        fingerprint.alias("new_fingerprint"),
        reason.alias("new_reason"),
    )


def _same_key(key: list[str]) -> Column:
    return same_key([F.col(quoted(name)) for name in key], [F.col(f"new_key_{i}") for i in range(len(key))])


def _values(run_id: str) -> dict[str, Column | str]:
    values: dict[str, Column | str] = {name: F.col(f"new_{name}") for name in ("text_hash", "fingerprint", "reason")}
    return values | {"last_run_id": F.lit(run_id)}


def _new_row(key: list[str]) -> dict[str, Column | str]:
    return {"attempts": F.lit(1), **{quoted(name): F.col(f"new_key_{i}") for i, name in enumerate(key)}}


def _create(spark: SparkSession, ref: TableRef, key: StructType) -> None:
    stats = ",".join(quoted(name) for name in key.names)
    create(spark, ref, StructType([*key.fields, *FIELDS]), "Rows without an embedding; holds no text", stats)
