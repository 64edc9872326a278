"""Changes of a table's columns and properties, through the catalog's interface rather than SQL text.

Delta's parser takes no parameters, so a statement would have to be pasted together from a user's names; the catalog takes
them as values. Over Spark Connect there is no catalog at hand, and statements are what is left.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pyspark.sql import SparkSession
from pyspark.sql.types import StructField

from metaeol_udf.delta.tables.refs import TableRef, literal
from metaeol_udf.spark.cluster.connect import is_connect
from metaeol_udf.spark.columns import quoted


def alter_table(
    spark: SparkSession,
    ref: TableRef,
    new_columns: list[StructField],
    comments: Mapping[str, str],
    properties: Mapping[str, str],
    *,
    dropped: Sequence[str] = (),
    unset: Sequence[str] = (),
) -> None:
    """Alter a table: its columns, their comments, its properties. One commit for each kind of change; no commit if nothing changes.

    Args:
        spark: The session.
        ref: The table.
        new_columns: Columns to append, in this order; all of them may be NULL.
        comments: Comments by column; the column may be new.
        properties: Properties to set beside those that are there.
        dropped: Columns to drop, which needs column mapping.
        unset: Properties to take away.
    """
    if is_connect(spark):
        for clause in _clauses(new_columns, comments, properties, dropped, unset):
            spark.sql(f"ALTER TABLE {ref.sql} {clause}").collect()
        return
    jvm: Any = spark._jvm
    change = jvm.org.apache.spark.sql.connector.catalog.TableChange
    parse_type = jvm.org.apache.spark.sql.types.DataType.fromJson
    added = [change.addColumn(_strings(spark, [f.name]), parse_type(f.dataType.json()), True) for f in new_columns]
    commented = [change.updateColumnComment(_strings(spark, [name]), comment) for name, comment in comments.items()]
    stated = [change.setProperty(key, value) for key, value in properties.items()]
    removed = [change.removeProperty(key) for key in unset]
    left_out = [change.deleteColumn(_strings(spark, [name]), True) for name in dropped]
    for changes in (added, commented, stated, removed, left_out):
        if changes:
            _apply(spark, ref, changes)


def _clauses(
    new_columns: Sequence[StructField],
    comments: Mapping[str, str],
    properties: Mapping[str, str],
    dropped: Sequence[str],
    unset: Sequence[str],
) -> Iterator[str]:
    """Write the clauses of the statements that make the changes."""
    if new_columns:
        yield f"ADD COLUMNS ({', '.join(f'{quoted(f.name)} {f.dataType.simpleString()}' for f in new_columns)})"
    for name, comment in comments.items():
        yield f"ALTER COLUMN {quoted(name)} COMMENT {literal(comment)}"
    if properties:
        yield f"SET TBLPROPERTIES ({', '.join(f'{literal(key)} = {literal(value)}' for key, value in properties.items())})"
    if unset:
        yield f"UNSET TBLPROPERTIES IF EXISTS ({', '.join(map(literal, unset))})"
    if dropped:
        yield f"DROP COLUMNS ({', '.join(map(quoted, dropped))})"


def _apply(spark: SparkSession, ref: TableRef, changes: list[Any]) -> None:
    jvm: Any = spark._jvm
    # The catalog is made from the settings of the thread's active session; a thread of the caller's may have none, and then no Delta.
    jvm.org.apache.spark.sql.classic.SparkSession.setActiveSession(spark._jsparkSession)
    manager = spark._jsparkSession.sessionState().catalogManager()
    names = ["delta", ref.name] if ref.is_path else ref.name.split(".")
    if not ref.is_path and len(names) < 3:
        names = [*list(manager.currentNamespace()), names[0]] if len(names) == 1 else names
    catalog = manager.v2SessionCatalog() if ref.is_path else manager.currentCatalog()
    if len(names) == 3:
        catalog, names = manager.catalog(names[0]), names[1:]
    identifier = jvm.org.apache.spark.sql.connector.catalog.Identifier.of(_strings(spark, names[:-1]), names[-1])
    kind = jvm.org.apache.spark.sql.connector.catalog.TableChange
    catalog.alterTable(identifier, _array(spark, kind, changes))


def _strings(spark: SparkSession, values: list[str]) -> Any:
    jvm: Any = spark._jvm
    return _array(spark, jvm.java.lang.String, values)


def _array(spark: SparkSession, kind: Any, values: list[Any]) -> Any:
    gateway: Any = spark.sparkContext._gateway
    array = gateway.new_array(kind, len(values))
    for i, value in enumerate(values):
        array[i] = value
    return array
