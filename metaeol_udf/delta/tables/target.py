"""A target table of its own: key columns and vectors, apart from the source."""

from __future__ import annotations

from pyspark.sql import SparkSession
from pyspark.sql.types import StructType

from metaeol_udf.delta.tables.columns import VectorColumns, check_vector_columns, require_field
from metaeol_udf.delta.tables.metadata import check_constraints
from metaeol_udf.delta.tables.refs import TableRef, create, current_version, exists, open_table
from metaeol_udf.errors import InputError
from metaeol_udf.spark.columns import quoted


def check_target(spark: SparkSession, ref: TableRef, key: StructType, columns: VectorColumns) -> int | None:
    """Check that the target may be created, or has the source's key and room for the vectors.

    Returns:
        The target's version; None where there is no such table yet.

    Raises:
        InputError: The target's key differs from the source's, or a column name is taken.
    """
    if not exists(spark, ref):
        check_vector_columns(key, columns, key.names, ref)
        return None
    table = open_table(spark, ref, "target.table")
    version = current_version(table)
    schema = table.toDF().schema
    for field in key.fields:
        found = require_field(schema, field.name, "target.table", ref)
        if found.dataType != field.dataType:
            raise InputError(
                f"target.table: key column {field.name!r} of {ref} is {found.dataType.simpleString()}, "
                f"the source's is {field.dataType.simpleString()}"
            )
    check_vector_columns(schema, columns, key.names, ref)
    check_constraints(spark, table, columns, ref)
    return version


def create_target(spark: SparkSession, ref: TableRef, key: StructType) -> None:
    """Create the target with the key's columns where it is missing; `metadata` adds the vectors' columns."""
    # Statistics of the keys only: for vectors they would be waste.
    create(spark, ref, key, "Embeddings by key", stats=",".join(quoted(name) for name in key.names))
