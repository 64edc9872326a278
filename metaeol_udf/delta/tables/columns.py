"""The three columns that the job writes, and the checks of all columns that a job names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame
from pyspark.sql.types import ArrayType, AtomicType, DataType, FloatType, StringType, StructField, StructType

from metaeol_udf.errors import InputError, did_you_mean
from metaeol_udf.spark.columns import find_field, is_case_sensitive, quoted

_REFUSED = re.compile(r"[ ,;{}()\n\t=`]")  # Delta stores such names only with column mapping
_QUARANTINE = ("vector_column", "text_hash", "fingerprint", "reason", "attempts", "last_run_id")  # stand beside the key there


@dataclass(frozen=True)
class VectorColumns:
    """Names of the columns that hold a row's embedding.

    Attributes:
        vector: ``array<float>``, NULL where there is an error.
        error: string, NULL where all is well.
        fingerprint_column: string: which spec and text the vector belongs to.
    """

    vector: str

    @property
    def error(self) -> str:
        """Name of the error column."""
        return f"{self.vector}_error"

    @property
    def fingerprint_column(self) -> str:
        """Name of the fingerprint column."""
        return f"{self.vector}_fingerprint"

    @property
    def fields(self) -> list[StructField]:
        """Name and type of each."""
        types: list[DataType] = [ArrayType(FloatType()), StringType(), StringType()]
        return [StructField(n, t) for n, t in zip((self.vector, self.error, self.fingerprint_column), types, strict=True)]

    def missing_from(self, schema: StructType) -> list[StructField]:
        """Those that a table does not have yet."""
        return [field for field in self.fields if find_field(schema, field.name) is None]


def is_quarantine_name(name: str) -> bool:
    """Whether the quarantine table has a column of that name, so that no key column may."""
    return name.casefold() in _QUARANTINE


def require_field(schema: StructType, name: str, setting: str, table: object) -> StructField:
    """Require a column to be there, by a name as the session resolves it.

    Raises:
        InputError: It is not; the message lists the table's columns.
    """
    field = find_field(schema, name)
    if field is None or (field.name != name and is_case_sensitive()):
        parts = [part.strip() for part in name.split(",")]
        if len(parts) > 1 and all(find_field(schema, part) for part in parts):
            raise InputError(f"{setting}: column {name!r} is not in {table}; several columns are a list: {setting}=[{', '.join(parts)}]")
        raise InputError(f"{setting}: column {name!r} is not in {table}; {did_you_mean(name, schema.names)}")
    return field


def check_source_columns(source: DataFrame, key: Sequence[str], table: object) -> None:
    """Check that every key column holds plain values that Spark can compare. Starts no Spark work.

    Raises:
        InputError: One is missing or of another kind.
    """
    schema = source.schema
    for name in key:
        kind = require_field(schema, name, "source.key", table).dataType
        if not isinstance(kind, AtomicType) or not _can_compare(source, name):
            raise InputError(f"source.key: column {name!r} of {table} must hold plain values, found {kind.simpleString()}")
        if is_quarantine_name(name):
            raise InputError(f"source.key: {name!r} is a column of the quarantine table: give the key another name in the source")
    if len({name.casefold() for name in key}) < len(key):
        raise InputError(f"source.key names a column twice: {', '.join(key)}")


def _can_compare(rows: DataFrame, name: str) -> bool:
    """Tell whether Spark can compare and group the values of a column, which the joins by key and the search for repeated keys need."""
    try:
        column = rows[quoted(name)]
        rows.where(column == column).select(column).distinct()
    except AnalysisException:
        return False
    return True


def check_vector_columns(schema: StructType, columns: VectorColumns, taken: Sequence[str], table: object) -> None:
    """See that the vectors' columns may be written: free, or there with our types, and not `taken` by the key or the text.

    Raises:
        InputError: The name is unusable, is the key or the text, or stands for a column of another type.
    """
    if _REFUSED.search(columns.vector):
        raise InputError(f"embedding.column: {columns.vector!r} must have none of the characters space , ; {{ }} ( ) = tab or back-tick")
    for wanted in columns.fields:
        if wanted.name.casefold() in {name.casefold() for name in taken}:
            raise InputError(f"embedding.column: {wanted.name!r} is the key or the text column of the source")
        found = find_field(schema, wanted.name)
        if found is not None and found.name != wanted.name and is_case_sensitive():
            raise InputError(
                f"embedding.column: {table} has a column {found.name!r}, and Delta takes {wanted.name!r} for the same name, which this "
                "session (spark.sql.caseSensitive) does not: write it in the same case"
            )
        # By their names, which say nothing of NULL in an array.
        if found is not None and found.dataType.simpleString() != wanted.dataType.simpleString():
            raise InputError(
                f"embedding.column: column {wanted.name!r} of {table} is {found.dataType.simpleString()} already, "
                f"not {wanted.dataType.simpleString()}: choose another embedding.column"
            )
