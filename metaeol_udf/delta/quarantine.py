"""Rows without an embedding: by key, with the reason and how often they were tried. Never the text."""

from __future__ import annotations

from delta import DeltaTable
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import IntegerType, StringType, StructField, StructType

from metaeol_udf.delta.selection import FINGERPRINT, OUTCOME
from metaeol_udf.delta.tables import TableRef, exists, open_table
from metaeol_udf.spark.udf import quoted

FIELDS = [
    StructField("text_hash", StringType()),
    StructField("fingerprint", StringType()),
    StructField("reason", StringType()),
    StructField("attempts", IntegerType()),
    StructField("last_run_id", StringType()),
]


def update_quarantine(spark: SparkSession, ref: TableRef, results: DataFrame, key: StructType, run_id: str, n_failed: int) -> None:
    """Bring the quarantine up to date with the rows of one run.

    Rows that failed enter it or count one attempt more, rows that succeeded leave it. While nothing ever failed there is no
    such table.

    Args:
        spark: The session.
        ref: Where it stands.
        results: Key columns, FINGERPRINT and OUTCOME of every row that the run worked on.
        key: Fields of the key columns.
        run_id: Of this run.
        n_failed: Rows of `results` with an error.
    """
    if not exists(spark, ref):
        if not n_failed:
            return
        _create(spark, ref, key)
    new = results.select(
        *[F.col(quoted(name)).alias(f"new_key_{i}") for i, name in enumerate(key.names)],
        F.substring_index(F.col(FINGERPRINT), "-", -1).alias("new_text_hash"),
        F.col(FINGERPRINT).alias("new_fingerprint"),
        F.col(OUTCOME)["error"].alias("new_reason"),
    )
    same_key = F.lit(True)
    for i, name in enumerate(key.names):
        same_key = same_key & (F.col(quoted(name)) == F.col(f"new_key_{i}"))
    failed = F.col("new_reason").isNotNull()
    again = F.when(F.col("fingerprint") == F.col("new_fingerprint"), F.col("attempts") + 1).otherwise(F.lit(1))
    values: dict[str, Column | str] = {name: F.col(f"new_{name}") for name in ("text_hash", "fingerprint", "reason")}
    values["last_run_id"] = F.lit(run_id)
    keys: dict[str, Column | str] = {quoted(name): F.col(f"new_key_{i}") for i, name in enumerate(key.names)}
    merge = open_table(spark, ref, "quarantine").merge(new, same_key)
    merge = merge.whenMatchedDelete(~failed).whenMatchedUpdate(set=values | {"attempts": again})
    merge.whenNotMatchedInsert(condition=failed, values=values | keys | {"attempts": F.lit(1)}).execute()


def _create(spark: SparkSession, ref: TableRef, key: StructType) -> None:
    builder = DeltaTable.createIfNotExists(spark).addColumns(StructType([*key.fields, *FIELDS]))
    builder = builder.location(ref.name) if ref.is_path else builder.tableName(ref.identifier)
    builder.comment("Rows without an embedding; holds no text").property(
        "delta.dataSkippingStatsColumns", ",".join(quoted(name) for name in key.names)
    ).execute()
