"""Rows without an embedding: by key and vector column, with the reason and how often they were tried. Never the text."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import IntegerType, StringType, StructField, StructType

from metaeol_udf.delta.base.context import Job
from metaeol_udf.delta.select.selection import FINGERPRINT, OUTCOME
from metaeol_udf.delta.select.snapshot import Tables
from metaeol_udf.delta.tables.alter_table import alter_table
from metaeol_udf.delta.tables.columns import VectorColumns
from metaeol_udf.delta.tables.fingerprint import text_part
from metaeol_udf.delta.tables.refs import TableDefinition, TableRef, check_free, create, exists, open_table, read, replace
from metaeol_udf.delta.tables.spark_errors import with_retries
from metaeol_udf.spark.columns import quoted, same_key

logger = logging.getLogger(__name__)

FIELDS = [
    StructField("vector_column", StringType()),  # NULL in rows of earlier versions: the next run that meets them fills it in
    StructField("text_hash", StringType()),
    StructField("fingerprint", StringType()),
    StructField("reason", StringType()),
    StructField("attempts", IntegerType()),
    StructField("last_run_id", StringType()),
]
_COMMENT = "Rows without an embedding; holds no text"
_NEW = "metaeol_new_"  # of the run's columns inside a MERGE, so that a key may have any name but such a one


def prepare_quarantine(spark: SparkSession, ref: TableRef, key: StructType) -> None:
    """Prepare the quarantine for the rows of a run, where there is a quarantine: it must have the key's columns, and ours.

    A quarantine of another key is emptied and takes the new key: `reconcile_quarantine` fills it again from the vectors' table.

    Raises:
        InputError: There is none, and its folder holds other files, so that none could be made.
    """
    if exists(spark, ref):
        with_retries(lambda: _adapt(spark, ref, key))
    else:
        check_free(spark, ref)


def _adapt(spark: SparkSession, ref: TableRef, key: StructType) -> None:
    table = open_table(spark, ref, "quarantine")
    found = {field.name.casefold(): field.dataType for field in table.toDF().schema.fields}
    own = {field.name: field.dataType for field in FIELDS}
    is_of_key = {name: kind for name, kind in found.items() if name not in own} == {f.name.casefold(): f.dataType for f in key.fields}
    if not is_of_key or any(found.get(name, kind) != kind for name, kind in own.items()):
        columns = ", ".join(name for name in found if name not in own)
        logger.info("%s is made anew: it was made for the key (%s), the source's is (%s)", ref, columns, ", ".join(key.names))
        replace(spark, ref, _definition(key))
        return
    properties = table.detail().collect()[0]["properties"]
    is_closed = properties.get("delta.appendOnly", "").lower() == "true"  # by the defaults of the session that made it
    missing = [field for field in FIELDS if field.name not in found]
    alter_table(spark, ref, missing, {}, {"delta.appendOnly": "false"} if is_closed else {})


def update_quarantine(
    spark: SparkSession, ref: TableRef, results: DataFrame, key: StructType, run_id: str, n_failed: int, column: str
) -> None:
    """Update the quarantine with `results`: key columns, FINGERPRINT and OUTCOME of every row that the run worked on.

    Rows that failed, `n_failed` of them, enter it or count one attempt more, rows that succeeded leave it: each for the vector
    column `column`. While nothing ever failed there is no such table.
    """
    if not exists(spark, ref):
        if not n_failed:
            return
        create(spark, ref, _definition(key))
    new = _renamed(results, key.names, F.col(FINGERPRINT), F.col(OUTCOME)["error"])
    failed = _new("reason").isNotNull()
    again = F.when(_kept("fingerprint") == _new("fingerprint"), _kept("attempts") + 1).otherwise(F.lit(1))
    values = _values(run_id, column)
    merge = open_table(spark, ref, "quarantine").merge(_as_new(new), _same_row(key.names, column))
    merge = merge.whenMatchedDelete(~failed).whenMatchedUpdate(set=values | {"attempts": again})
    merge.whenNotMatchedInsert(condition=failed, values=values | _new_row(key.names)).execute()


def failing_rows(job: Job, tables: Tables) -> DataFrame:
    """Find the rows that have an error now: key columns, `fingerprint` and `error` of every row of the source that failed."""
    source = job.source.read_whole(job.spark)
    if job.in_place:
        return failing_in(source, tables.key.names, job.columns)
    stored = read(job.spark, job.target)
    return among(source, job.source.config.key, failing_in(stored, tables.key.names, job.columns))


def failing_in(stored: DataFrame, key: Sequence[str], columns: VectorColumns) -> DataFrame:
    """Find the rows of a table that have an error: key columns, `fingerprint` and `error`."""
    error = F.col(quoted(columns.error))
    fingerprint = F.col(quoted(columns.fingerprint_column)).alias("fingerprint")
    return stored.where(error.isNotNull()).select(*map(quoted, key), fingerprint, error.alias("error"))


def among(source: DataFrame, key: Sequence[str], failing: DataFrame) -> DataFrame:
    """Keep the rows whose key is in the source.

    An inner join, unlike a semi join, can send the few rows that failed to where the source is.
    """
    return source.select(*map(quoted, key)).join(failing, list(key), "inner").select(*map(quoted, failing.columns))


def reconcile_quarantine(spark: SparkSession, ref: TableRef, failing: DataFrame, key: StructType, run_id: str, column: str) -> None:
    """Reconcile the quarantine with the table: of a vector column it holds exactly the rows that have an error now.

    Attempts of a row whose text is the same stay as they are. Where nothing differs there is no commit.
    """
    if not exists(spark, ref):
        if failing.isEmpty():
            return
        create(spark, ref, _definition(key))
    new = _renamed(failing, key.names, F.col("fingerprint"), F.col("error"))
    new = new.dropDuplicates([f"key_{i}" for i in range(len(key.names))])
    if _agrees(read(spark, ref).where(_is_of(F.col("vector_column"), column)), new, key.names):
        return
    values = _values(run_id, column)
    merge = open_table(spark, ref, "quarantine").merge(_as_new(new), _same_row(key.names, column))
    merge = merge.whenMatchedUpdate(~_kept("fingerprint").eqNullSafe(_new("fingerprint")), values | {"attempts": F.lit(1)})
    merge = merge.whenMatchedUpdate(_kept("vector_column").isNull(), {"vector_column": F.lit(column)})
    merge = merge.whenNotMatchedInsert(values=values | _new_row(key.names))
    merge.whenNotMatchedBySourceDelete(_is_of(_kept("vector_column"), column)).execute()


def count_listed(spark: SparkSession, ref: TableRef, column: str) -> int:
    """Count the rows that the quarantine lists for a vector column; 0 where there is no quarantine, because nothing ever failed."""
    return read(spark, ref).where(_is_of(F.col("vector_column"), column)).count() if exists(spark, ref) else 0


def _agrees(kept: DataFrame, new: DataFrame, key: list[str]) -> bool:
    """Tell whether a vector column's rows of the quarantine are those that have an error now. One join of both."""
    names = [F.col(quoted(name)).alias(f"kept_{i}") for i, name in enumerate(key)]
    known = kept.select(*names, F.col("fingerprint").alias("kept_fingerprint"), F.col("vector_column"), F.lit(True).alias("is_kept"))
    same = same_key([F.col(f"kept_{i}") for i in range(len(key))], [F.col(f"key_{i}") for i in range(len(key))])
    both = known.join(new.withColumn("is_new", F.lit(True)), same, "full_outer")
    only_one = F.col("is_kept").isNull() | F.col("is_new").isNull()
    differs = only_one | F.col("vector_column").isNull() | ~F.col("kept_fingerprint").eqNullSafe(F.col("fingerprint"))
    return both.where(differs).isEmpty()


def _renamed(rows: DataFrame, key: list[str], fingerprint: Column, reason: Column) -> DataFrame:
    return rows.select(
        *[F.col(quoted(name)).alias(f"key_{i}") for i, name in enumerate(key)],
        text_part(fingerprint).alias("text_hash"),
        fingerprint.alias("fingerprint"),
        reason.alias("reason"),
    )


def _kept(name: str) -> Column:
    """Name a column of the quarantine inside a MERGE."""
    return F.col(quoted(name))


def _new(name: str) -> Column:
    """Name a column of the run's rows inside a MERGE."""
    return F.col(f"{_NEW}{name}")


def _as_new(rows: DataFrame) -> DataFrame:
    """Give the columns of a run's rows the names that they have inside a MERGE."""
    return rows.select(*[F.col(name).alias(f"{_NEW}{name}") for name in rows.columns])


def _is_of(vector_column: Column, column: str) -> Column:
    """Tell whether a row of the quarantine is of a vector column; what an earlier version wrote is of any."""
    return vector_column.isNull() | (vector_column == F.lit(column))


def _same_row(key: list[str], column: str) -> Column:
    same = same_key([_kept(name) for name in key], [_new(f"key_{i}") for i in range(len(key))])
    return same & _is_of(_kept("vector_column"), column)


def _values(run_id: str, column: str) -> dict[str, Column | str]:
    values: dict[str, Column | str] = {name: _new(name) for name in ("text_hash", "fingerprint", "reason")}
    return values | {"vector_column": F.lit(column), "last_run_id": F.lit(run_id)}


def _new_row(key: list[str]) -> dict[str, Column | str]:
    return {"attempts": F.lit(1), **{quoted(name): _new(f"key_{i}") for i, name in enumerate(key)}}


def _stats(key: StructType) -> str:
    return ",".join(quoted(name) for name in key.names)


def _definition(key: StructType) -> TableDefinition:
    return TableDefinition(StructType([*key.fields, *FIELDS]), _COMMENT, _stats(key))
