"""From the journal into the table: one MERGE whose plan holds no model, and the proof that it did its work."""

from __future__ import annotations

from collections.abc import Iterable

from delta import DeltaTable
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from metaeol_udf.delta.columns import VectorColumns
from metaeol_udf.delta.fingerprint import row_fingerprint
from metaeol_udf.delta.selection import FINGERPRINT, Selection
from metaeol_udf.errors import MetaEOLError
from metaeol_udf.spark.udf import quoted

_PREFIX = "metaeol_new_"  # of the journal's columns inside a MERGE, so that a user's names stay unambiguous


def publish_in_place(
    table: DeltaTable, outcomes: DataFrame, columns: VectorColumns, spec_fingerprint: str, text: str, within: Column | None
) -> None:
    """Write vectors beside the texts they belong to.

    Matched on the fingerprint of the text as it stands now: a row that was changed or deleted since it was read gets nothing.

    Args:
        table: The source.
        outcomes: The journal, one row a fingerprint.
        columns: Where to write.
        spec_fingerprint: Of the job's spec.
        text: The text column.
        within: The user's condition and the run's scope; rows outside it are left alone though their text may be known.
    """
    values = _renamed(outcomes)
    new = F.col(f"{_PREFIX}fingerprint")
    matches = row_fingerprint(spec_fingerprint, F.col(quoted(text))) == new
    cured = F.col(quoted(columns.error)).isNotNull() & F.col(f"{_PREFIX}error").isNull()
    matches = matches & (~F.col(quoted(columns.fingerprint)).eqNullSafe(new) | cured)
    if within is not None:
        matches = matches & within
    table.merge(values, matches).whenMatchedUpdate(set=_assignments(columns)).execute()


def publish_to_target(
    table: DeltaTable, selection: Selection, outcomes: DataFrame, columns: VectorColumns, bounds: Column | None = None
) -> None:
    """Insert or update vectors by key in a table of their own.

    Args:
        table: The target.
        selection: The source as it stands now, so that a changed text gets no stale vector. Keys that left it are left alone.
        outcomes: The journal, one row a fingerprint.
        columns: Where to write.
        bounds: Holds for every key of the selection; files of the target outside it are not read.
    """
    keys = [F.col(quoted(name)).alias(f"{_PREFIX}key_{i}") for i, name in enumerate(selection.key)]
    rows = selection.changed.select(*keys, FINGERPRINT).join(_renamed(outcomes), F.col(FINGERPRINT) == F.col(f"{_PREFIX}fingerprint"))
    same_key = _all(F.col(quoted(name)) == F.col(f"{_PREFIX}key_{i}") for i, name in enumerate(selection.key))
    if bounds is not None:
        same_key = same_key & bounds
    inserted = _assignments(columns) | {quoted(name): F.col(f"{_PREFIX}key_{i}") for i, name in enumerate(selection.key)}
    merge = table.merge(rows.drop(FINGERPRINT), same_key)
    merge.whenMatchedUpdate(set=_assignments(columns)).whenNotMatchedInsert(values=inserted).execute()


def verify(selection: Selection, outcomes: DataFrame) -> None:
    """Count again, from the tables as they stand now.

    Raises:
        MetaEOLError: A row's text is in the journal, yet the row does not hold that fingerprint.
    """
    known = outcomes.select(F.col("fingerprint").alias(FINGERPRINT))
    missing = selection.changed.join(known, FINGERPRINT, "left_semi").count()
    if missing:
        raise MetaEOLError(
            f"{missing} rows do not hold the vector that was computed for them, although the commit succeeded; "
            "the journal is kept, so that another run publishes again without computing"
        )


def _renamed(outcomes: DataFrame) -> DataFrame:
    return outcomes.select(*[F.col(name).alias(f"{_PREFIX}{name}") for name in ("fingerprint", "vector", "error")])


def _assignments(columns: VectorColumns) -> dict[str, Column | str]:
    return {
        quoted(columns.vector): F.col(f"{_PREFIX}vector"),
        quoted(columns.error): F.col(f"{_PREFIX}error"),
        quoted(columns.fingerprint): F.col(f"{_PREFIX}fingerprint"),
    }


def _all(conditions: Iterable[Column]) -> Column:
    result = F.lit(True)
    for condition in conditions:
        result = result & condition
    return result
