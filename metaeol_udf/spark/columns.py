"""Column names as Spark takes them: quoted, found in any case, compared by key."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence

from pyspark.sql import Column, SparkSession
from pyspark.sql.types import StructField, StructType


def quoted(name: str) -> str:
    """Quote a column name as an expression: dots, spaces and keywords are then part of the name."""
    return "`" + name.replace("`", "``") + "`"


def find_field(schema: StructType, name: str) -> StructField | None:
    """Find a top-level column by name, in any case: what is written so comes first."""
    named = [field for field in schema.fields if field.name.casefold() == name.casefold()]
    return next((field for field in named if field.name == name), named[0] if named else None)


def is_case_sensitive() -> bool:
    """Tell whether the active session takes `Id` and `id` for two names."""
    return str(SparkSession.active().conf.get("spark.sql.caseSensitive")).lower() == "true"


def same_key(left: Sequence[Column], right: Sequence[Column], *, null_safe: bool = False) -> Column:
    """Make the condition that two rows have the same key.

    Args:
        left: The key's columns in one table, at least one.
        right: The same in the other table, in the same order.
        null_safe: Whether NULL equals NULL.
    """
    pairs = zip(left, right, strict=True)
    return functools.reduce(operator.and_, [a.eqNullSafe(b) if null_safe else a == b for a, b in pairs])
