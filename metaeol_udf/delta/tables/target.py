"""A target table of its own: key columns and vectors, apart from the source."""

from __future__ import annotations

from typing import Any

from pyspark.errors import AnalysisException
from pyspark.sql import SparkSession
from pyspark.sql.types import StructType

from metaeol_udf.delta.tables.can_write import check_can_write
from metaeol_udf.delta.tables.columns import VectorColumns, check_vector_columns, require_field
from metaeol_udf.delta.tables.commits import newest_version
from metaeol_udf.delta.tables.fingerprint import HashKey
from metaeol_udf.delta.tables.metadata import check_source
from metaeol_udf.delta.tables.refs import TableDefinition, TableRef, create, exists, open_table
from metaeol_udf.errors import InputError
from metaeol_udf.spark.columns import quoted

LARGE_BYTES = 2**30  # bytes of a table whose files are worth advice


def check_target(
    spark: SparkSession, ref: TableRef, source: object, key: StructType, columns: VectorColumns, hash_key: HashKey | None
) -> int | None:
    """Check that the target may be created, or has the source's key, room for the vectors, and no other source's vectors.

    Returns:
        The target's version; None where there is no such table yet.

    Raises:
        InputError: The target's key differs from the source's, a column name is taken, Delta would refuse the vectors, or the
            target belongs to another source.
    """
    _check_schema(spark, ref)
    if not exists(spark, ref):
        check_vector_columns(key, columns, key.names, ref)
        return None
    table = open_table(spark, ref, "target.table")
    version = newest_version(spark, ref)
    schema = table.toDF().schema
    for field in key.fields:
        found = require_field(schema, field.name, "source.key (by which rows of the target are found)", ref)
        if found.dataType != field.dataType:
            raise InputError(
                f"target.table: key column {field.name!r} of {ref} is {found.dataType.simpleString()}, "
                f"the source's is {field.dataType.simpleString()}: where that is the wider type, widen the target's key "
                f"(ALTER TABLE {ref.sql} SET TBLPROPERTIES ('delta.enableTypeWidening' = 'true'), then ALTER TABLE {ref.sql} "
                f"ALTER COLUMN {quoted(found.name)} TYPE {field.dataType.simpleString()}), or name another target.table"
            )
    check_vector_columns(schema, columns, key.names, ref)
    properties = check_can_write(spark, table, ref, columns, hash_key, key.names)
    check_source(properties, ref, columns.vector, source)
    return version


def _check_schema(spark: SparkSession, ref: TableRef) -> None:
    """Check that the schema (database) of a table that is to be made is there."""
    schema = "" if ref.is_path else ref.name.rpartition(".")[0]
    if not schema:
        return
    try:
        is_there = spark.catalog.databaseExists(".".join(map(quoted, schema.split("."))))
    except AnalysisException:  # not even the catalog is there
        is_there = False
    if not is_there:
        raise InputError(f"target.table: there is no schema {schema!r} to make {ref} in: CREATE SCHEMA {schema}, or name another")


def rewritten_bytes(detail: Any, vector_bytes: int = 0) -> tuple[int, int] | None:
    """Estimate what a MERGE writes anew where it changes rows: whole files, unless the table has deletion vectors.

    Args:
        detail: The row of `DESCRIBE DETAIL` of the table that is written to.
        vector_bytes: Bytes of vectors that its files do not hold yet.

    Returns:
        Bytes of a file on average and of all files, vectors included; None where deletion vectors are on, or the files are less than
        1 GiB in all.
    """
    n_bytes = int(detail["sizeInBytes"]) + vector_bytes
    has_deletion_vectors = detail["properties"].get("delta.enableDeletionVectors", "").lower() == "true"
    if has_deletion_vectors or n_bytes < LARGE_BYTES or not detail["numFiles"]:
        return None
    return n_bytes // int(detail["numFiles"]), n_bytes


def create_target(spark: SparkSession, ref: TableRef, key: StructType) -> None:
    """Create the target with the key's columns where it is missing; `metadata` adds the vectors' columns."""
    # Statistics of the keys only: for vectors they would be waste.
    create(spark, ref, TableDefinition(key, "Embeddings by key", ",".join(quoted(name) for name in key.names)))
