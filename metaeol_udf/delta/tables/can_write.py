"""Whether Delta will take the vectors: all that would make it refuse the last commit for certain, asked before the model runs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from delta import DeltaTable
from py4j.protocol import Py4JError, Py4JJavaError
from pyspark.sql import SparkSession

from metaeol_udf.delta.connect.sql_table import SqlTable
from metaeol_udf.delta.tables.columns import VectorColumns
from metaeol_udf.delta.tables.fingerprint import FINGERPRINT_KEY, HashKey
from metaeol_udf.delta.tables.refs import TableRef
from metaeol_udf.delta.tables.spark_errors import translate
from metaeol_udf.delta.tables.where_clause import columns_in
from metaeol_udf.errors import InputError
from metaeol_udf.spark.columns import quoted

_OWN_TABLE = "or use a target.table of its own"
_GENERATION = "delta.generationExpression"
_IDENTITY = "delta.identity.start"
_EXPLICIT = "delta.identity.allowExplicitInsert"
_FEATURES = re.compile(r"unsupported by Delta Lake[^:]*: ([\w ,]+)")
_DEFAULT = "CURRENT_DEFAULT"  # Spark's name for a column's default value


def check_can_write(
    spark: SparkSession,
    table: DeltaTable | SqlTable,
    ref: TableRef,
    columns: VectorColumns,
    hash_key: HashKey | None,
    key: Sequence[str] | None,
) -> dict[str, str]:
    """Check that Delta will take vectors: the job and `metaeol doctor` both ask this before anything is computed or written.

    Args:
        spark: The session.
        table: The table that is written to.
        ref: Its name.
        columns: The vectors' columns, which may be there or not.
        hash_key: The secret key of the texts' hashes; None: they have none.
        key: Key columns of a target of its own, into which rows are inserted; None in place, where rows are updated alone.

    Returns:
        The table's properties.

    Raises:
        InputError: Delta would refuse the vectors, or the table's fingerprints were made with another key; the message says what to
            change.
    """
    properties = dict(table.detail().collect()[0]["properties"])
    _check_append_only(properties, ref)
    _check_key(properties, ref, columns, hash_key)
    _check_features(table, ref)
    _check_columns(_stored_fields(table), ref, columns, key)
    _check_constraints(spark, properties, columns, ref, table.toDF().columns if isinstance(table, SqlTable) else None)
    return properties


def _check_key(properties: Mapping[str, str], ref: TableRef, columns: VectorColumns, hash_key: HashKey | None) -> None:
    """Check that the column's fingerprints were made with the job's key: another one would embed every row anew, unasked."""
    name = f"metaeol.{columns.vector}.fingerprint_key"
    known, ours = properties.get(name), hash_key and hash_key.id
    if known in (None, ours):
        return
    job = "the job has none" if ours is None else f"the job's is key {ours}"
    raise InputError(
        f"{FINGERPRINT_KEY}: the fingerprints of column {columns.vector!r} of {ref} were made with key {known}, and {job}: set that key; "
        f"to embed every row anew under another one, allow it by ALTER TABLE {ref.sql} UNSET TBLPROPERTIES ('{name}')"
    )


def _check_append_only(properties: Mapping[str, str], ref: TableRef) -> None:
    """Check that rows of a table may be updated."""
    if properties.get("delta.appendOnly", "").lower() == "true":
        change = f"ALTER TABLE {ref.sql} SET TBLPROPERTIES ('delta.appendOnly' = 'false')"
        raise InputError(f"{ref} has delta.appendOnly=true, so that no vector can be written into it: {change}, {_OWN_TABLE}")


def _check_features(table: DeltaTable | SqlTable, ref: TableRef) -> None:
    """Check that this session's Delta writes tables with such features, by asking it; where it cannot be asked, nothing is known."""
    if isinstance(table, SqlTable):
        return
    delta: Any = table
    try:
        log = delta._jdt.deltaLog()
        log.protocolWrite(log.unsafeVolatileSnapshot().protocol())
    except Exception as error:
        if isinstance(error, Py4JError) and not isinstance(error, Py4JJavaError):
            return  # a Delta whose classes have other methods
        known = translate(error)
        if known is None:
            raise
        features = _FEATURES.search(str(error))
        raise InputError(f"{ref} has features ({features.group(1)}): {known}" if features else f"{ref}: {known}") from None


def _stored_fields(table: DeltaTable | SqlTable) -> list[dict[str, Any]]:
    """List the table's columns as its log holds them, with what a DataFrame does not show; without that where Delta does not tell it."""
    delta: Any = table
    try:
        schema: str = (
            table.toDF().schema.json()
            if isinstance(table, SqlTable)
            else delta._jdt.deltaLog().unsafeVolatileSnapshot().metadata().schemaString()
        )
    except Py4JError:
        schema = table.toDF().schema.json()
    fields: list[dict[str, Any]] = json.loads(schema)["fields"]
    return fields


def _check_columns(fields: Sequence[Mapping[str, Any]], ref: TableRef, columns: VectorColumns, key: Sequence[str] | None) -> None:
    """Check that NULL and any value may be written into the vectors' columns, and that rows without the other columns may be inserted."""
    ours = {field.name.casefold() for field in columns.fields}
    keys = {name.casefold() for name in key or ()}
    for field in fields:
        name, metadata = field["name"], field["metadata"]
        if name.casefold() in ours:
            if not field["nullable"]:
                change = f"ALTER TABLE {ref.sql} ALTER COLUMN {quoted(name)} DROP NOT NULL"
                raise InputError(f"embedding.column: column {name!r} of {ref} is NOT NULL, but rows without a vector have NULL: {change}")
            if _GENERATION in metadata or _IDENTITY in metadata:
                raise InputError(f"embedding.column: column {name!r} of {ref} is generated by Delta: choose another embedding.column")
        elif name.casefold() in keys:
            if _GENERATION in metadata or (_IDENTITY in metadata and not metadata.get(_EXPLICIT)):
                raise InputError(f"target.table: key column {name!r} of {ref} is generated by Delta, and takes no key of the source's")
        elif key is not None and not field["nullable"] and not {_GENERATION, _IDENTITY, _DEFAULT} & metadata.keys():
            change = f"ALTER TABLE {ref.sql} ALTER COLUMN {quoted(name)} DROP NOT NULL"
            raise InputError(f"target.table: column {name!r} of {ref} is NOT NULL and none of the job's: {change}, or give it a default")


def _check_constraints(
    spark: SparkSession, properties: Mapping[str, str], columns: VectorColumns, ref: TableRef, present: Sequence[str] | None
) -> None:
    """Check that no CHECK constraint ties the vectors to other columns: a violation would write these columns' values into logs."""
    ours = {field.name.lower() for field in columns.fields}
    for key, condition in properties.items():
        mentioned = columns_in(spark, condition) if key.startswith("delta.constraints.") else set()
        if present is not None:  # over Spark Connect all words of a condition are told, of which some name columns
            mentioned &= {name.lower() for name in present}
        others = sorted(mentioned - ours)
        if mentioned & ours and others:
            raise InputError(
                f"the CHECK constraint {key.removeprefix('delta.constraints.')!r} of {ref} ties {', '.join(sorted(mentioned & ours))} to "
                f"{', '.join(others)}: a violation would put their values into logs; drop it, {_OWN_TABLE}"
            )
