"""The text of a row: one column, or several by a template. Spark's own expressions, so that a MERGE can compare with it."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import (
    BooleanType,
    DataType,
    DateType,
    DecimalType,
    FractionalType,
    IntegralType,
    StringType,
    StructType,
    TimestampNTZType,
    TimestampType,
)

from metaeol_udf.config import SourceConfig
from metaeol_udf.config.source import MADE_KEY
from metaeol_udf.config.text_format import Line, parse_format
from metaeol_udf.delta.tables.columns import require_field
from metaeol_udf.delta.tables.fingerprint import textless_error
from metaeol_udf.errors import InputError
from metaeol_udf.spark.columns import find_field, quoted

_WRITTEN = (StringType, IntegralType, DecimalType, FractionalType, BooleanType, DateType, TimestampType, TimestampNTZType)


def text_of(config: SourceConfig, schema: StructType) -> Column:
    """Make the expression of a row's text.

    A part is missing where it is NULL or blank. Between two parts that are there stands what the template has directly before the
    second one; a line none of whose parts is there is left out. Where no part is there, the text is NULL if all are NULL, else empty.

    Args:
        config: The settings of the source.
        schema: The columns of the rows, whose types say how their values are written.
    """
    if not config.is_composed:
        return F.col(quoted(config.text_columns[0]))
    parts = {name: _written(name, schema) for name in config.text_columns}
    is_there = {name: textless_error(part).isNull() for name, part in parts.items()}
    written, above = [], F.lit(False)
    for line in parse_format(config.format_text, config.text_columns):
        is_kept = _any([is_there[name] for _, name in line.parts]) if line.parts else F.lit(True)
        content = F.concat(F.when(above, F.lit(line.before)).otherwise(""), _line(line, parts, is_there))
        written.append(F.when(is_kept, content).otherwise(""))
        above = above | is_kept
    nothing = F.when(_any([part.isNotNull() for part in parts.values()]), F.lit(""))
    return F.when(_any(list(is_there.values())), F.concat(*written)).otherwise(nothing)


def with_made_key(rows: DataFrame, config: SourceConfig, table: object) -> DataFrame:
    """Add the key's column where the key is made: a digest of the text and of `key_columns`; other rows stay as they are.

    Raises:
        InputError: A column is missing or of a kind that is not written as text, or the source has a column of the key's name.
    """
    if not config.makes_key:
        return rows
    if find_field(rows.schema, MADE_KEY) is not None:
        raise InputError(
            f"source.key: {table} has a column {MADE_KEY!r}, which source.key=auto would make: name it [{MADE_KEY}] by another name"
        )
    check_text_columns(config, rows.schema, table)
    parts = [text_of(config, rows.schema)]
    for name in config.key_columns or ():
        kind = require_field(rows.schema, name, "source.key_columns", table).dataType
        if not isinstance(kind, _WRITTEN):
            raise InputError(f"source.key_columns: column {name!r} of {table} must hold plain values, found {kind.simpleString()}")
        parts.append(_written(name, rows.schema))
    # Of digests, which all have one length, so that two rows of different parts are never the same characters.
    digests = [F.coalesce(F.sha2(part.cast("binary"), 256), F.lit("null")) for part in parts]
    return rows.withColumn(MADE_KEY, F.substring(F.sha2(F.concat(*digests).cast("binary"), 256), 1, 32))


def one_row_a_key(rows: DataFrame, config: SourceConfig) -> DataFrame:
    """Keep one of the rows that have the same key, where the key is made: they have the same text."""
    return rows.dropDuplicates([MADE_KEY]) if config.makes_key else rows


def check_text_columns(config: SourceConfig, schema: StructType, table: object) -> None:
    """Check that the text column holds strings, or, of several, each a value that can be written as text.

    Raises:
        InputError: One is missing or of another kind.
    """
    for name in config.text_columns:
        kind = require_field(schema, name, "source.text", table).dataType
        if not config.is_composed and not isinstance(kind, StringType):
            raise InputError(
                f"source.text: column {name!r} of {table} must be a string, found {kind.simpleString()}"
                + (f"; source.format_text: '{{{name}}}' writes it as text" if isinstance(kind, _WRITTEN) else "")
            )
        if config.is_composed and not isinstance(kind, _WRITTEN):
            raise InputError(
                f"source.text: column {name!r} of {table} is {kind.simpleString()}, which has no one way to be written as text: "
                "make a string of it in a source.query"
            )


def _line(line: Line, parts: dict[str, Column], is_there: dict[str, Column]) -> Column:
    """Write a line with the parts that are there: its beginning, the parts with what stands before each but the first, and its end."""
    if not line.parts:
        return F.lit(line.end)
    begin = line.parts[0][0]
    written, earlier = [F.lit(begin)], F.lit(False)
    for before, name in line.parts:
        content = F.concat(F.when(earlier, F.lit(before)).otherwise(""), parts[name])
        written.append(F.when(is_there[name], content).otherwise(""))
        earlier = earlier | is_there[name]
    return F.concat(*written, F.lit(line.end))


def _written(name: str, schema: StructType) -> Column:
    """Write a column's values as text, in whatever session alike: a point in time in UTC, as `2026-03-01 12:30:00Z`."""
    column, field = F.col(quoted(name)), find_field(schema, name)
    kind: DataType = StringType() if field is None else field.dataType
    if isinstance(kind, TimestampType):
        micros = F.expr(f"timestampadd(MICROSECOND, unix_micros({quoted(name)}), TIMESTAMP_NTZ'1970-01-01 00:00:00')")
        return F.concat(micros.cast("string"), F.lit("Z"))
    return column.cast("string")


def _any(conditions: Sequence[Column]) -> Column:
    return functools.reduce(operator.or_, conditions)
