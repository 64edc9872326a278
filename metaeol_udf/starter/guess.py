"""Which columns are probably the key and the text: from names, types and a bounded sample. No text leaves Spark."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import (
    AtomicType,
    BinaryType,
    BooleanType,
    DataType,
    DateType,
    FractionalType,
    IntegralType,
    StringType,
    StructField,
    TimestampNTZType,
    TimestampType,
)

from metaeol_udf.delta.tables.columns import is_quarantine_name
from metaeol_udf.errors import InputError
from metaeol_udf.spark.columns import quoted

SAMPLE_ROWS = 10_000
_MOST_COLUMNS = 40  # that are looked at as keys
_PAIRED_COLUMNS = 6  # the most distinct ones, if no column alone is unique
_ALTERNATIVES = 5
_SURE_NAMES = re.compile(r"(?i:(^|_)(id|key|uuid|guid|pk))$|[a-z](Id|ID)$")
_LIKELY_NAMES = re.compile(r"(^|_)(nr|number|code|sku|isbn|doi|url|uri|path|name)$", re.IGNORECASE)
_NO_KEYS = (BinaryType, BooleanType, FractionalType)  # floats compare badly, truth values repeat
_TIMES = (DateType, TimestampType, TimestampNTZType)


@dataclass(frozen=True)
class Guess:
    """What a table's columns are taken for.

    Attributes:
        key: Columns that name a row: together unique and never NULL in the sample.
        text: The string column with the longest texts.
        other_keys: Columns that would do as a key alone, too.
        other_texts: Other string columns, the longest texts first, with their mean length in characters.
        n_sampled: Rows looked at.
        mean_length: Characters of a text on average.
        longest: Characters of the longest text.
        blank_share: Share of texts that are NULL or blank.
    """

    key: tuple[str, ...]
    text: str
    other_keys: tuple[str, ...]
    other_texts: tuple[tuple[str, int], ...]
    n_sampled: int
    mean_length: int
    longest: int
    blank_share: float


def guess_columns(
    rows: DataFrame,
    taken: Sequence[str] = (),
    key: tuple[str, ...] = (),
    text: str | None = None,
    *,
    needs_key: bool = True,
    table: str = "the table",
) -> Guess:
    """Guess columns for key and text, where they are not known, from the first `SAMPLE_ROWS` rows.

    Args:
        rows: The table.
        taken: Columns that are neither, such as vectors of an earlier run.
        key: The key, where it is known.
        text: The text column, where it is known.
        needs_key: Whether a table without a key is refused; else the key that comes back is empty.
        table: What messages call the table.

    Raises:
        InputError: The table is empty, has no column of strings for the text, or no column or pair of columns that names a row.
    """
    sample = rows.limit(SAMPLE_ROWS).cache()
    try:
        n = sample.count()
        if not n:
            raise InputError(f"{table} has no rows to guess columns from: give source.key=[NAME] and source.text=NAME, or fill it first")
        fields = [field for field in rows.schema.fields if field.name not in taken]
        lengths = _lengths(sample, [f for f in fields if isinstance(f.dataType, StringType) and f.name not in key])
        text = text or _longest(lengths, table)
        others = [field for field in fields if field.name != text]
        distinct = _distinct(sample, [(name,) for name in _ranked(others)])
        alone = tuple(name for (name,), found in distinct.items() if found == n)
        key = key or alone[:1] or _unique_pair(sample, n, distinct, others, table if needs_key else None)
        mean, longest, blank = _measure(sample, text)
    finally:
        sample.unpersist()
    texts = sorted(((name, round(length)) for name, length in lengths.items() if name not in (text, *key)), key=lambda each: -each[1])
    other_keys = tuple(name for name in alone if name not in key)[:_ALTERNATIVES]
    return Guess(key, text, other_keys, tuple(texts[:_ALTERNATIVES]), n, mean, longest, blank)


def _lengths(sample: DataFrame, fields: Sequence[StructField]) -> dict[str, float]:
    """Mean length of each string column, in characters; NULL counts as 0."""
    if not fields:
        return {}
    means = [F.avg(F.coalesce(F.length(quoted(field.name)), F.lit(0))) for field in fields]
    return {field.name: mean for field, mean in zip(fields, sample.agg(*means).collect()[0], strict=True)}


def _longest(lengths: dict[str, float], table: str) -> str:
    if not lengths:
        raise InputError(f"{table} has no column of strings beside the key: there is no text to embed")
    return max(lengths, key=lambda name: lengths[name])


def _measure(sample: DataFrame, text: str) -> tuple[int, int, float]:
    length = F.length(quoted(text))
    blank = F.col(quoted(text)).isNull() | (F.trim(quoted(text)) == "")
    mean, longest, blank_share = sample.agg(F.avg(length), F.max(length), F.avg(blank.cast("int"))).collect()[0]
    return round(mean or 0), longest or 0, blank_share


def _unique_pair(
    sample: DataFrame, n: int, distinct: dict[tuple[str, ...], int], fields: Sequence[StructField], table: str | None
) -> tuple[str, ...]:
    """Find a pair of the most distinct columns that names every row of the sample, the likeliest key first.

    Without one, `table` is refused by this name; where it is None, the pair is empty.
    """
    likeliest = [name for (name,) in distinct]
    most = sorted(likeliest, key=lambda name: -distinct[(name,)])[:_PAIRED_COLUMNS]
    pairs = itertools.combinations([name for name in likeliest if name in most], 2)
    for pair, found in _distinct(sample, list(pairs)).items():
        if found == n:
            return pair
    if table is None:
        return ()
    raise InputError(
        f"no column, and no pair of columns, is unique and never NULL in {n:,} rows of {table}: "
        f"name the key with source.key=[NAME, …] (columns: {', '.join(field.name for field in fields)})"
    )


def _distinct(sample: DataFrame, groups: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], int]:
    """Count the distinct combinations of each group of columns; a row with a NULL in it counts for none."""
    if not groups:
        return {}
    counts = [F.count_distinct(*[F.col(quoted(name)) for name in group]) for group in groups]
    return dict(zip(groups, sample.agg(*counts).collect()[0], strict=True))


def _ranked(fields: Sequence[StructField]) -> list[str]:
    """Rank the columns that may be keys: names like `id` first, times last, else as they stand in the table."""
    usable = [
        field
        for field in fields
        if isinstance(field.dataType, AtomicType) and not isinstance(field.dataType, _NO_KEYS) and not is_quarantine_name(field.name)
    ]
    return [field.name for field in sorted(usable, key=lambda field: _rank(field.name, field.dataType))[:_MOST_COLUMNS]]


def _rank(name: str, kind: DataType) -> tuple[bool, int, bool]:
    """Lowest first."""
    named = 0 if name.lower() == "id" else 1 if _SURE_NAMES.search(name) else 2 if _LIKELY_NAMES.search(name) else 3
    return isinstance(kind, _TIMES), named, not isinstance(kind, (IntegralType, StringType))
