"""From the journal into the table: one MERGE whose plan holds no model, and the proof that it did its work."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from delta import DeltaTable
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from metaeol_udf.delta.base.context import Job
from metaeol_udf.delta.select.row_scope import RowScope
from metaeol_udf.delta.select.selection import FINGERPRINT, Selection
from metaeol_udf.delta.select.snapshot import Tables, select
from metaeol_udf.delta.tables.columns import VectorColumns
from metaeol_udf.delta.tables.fingerprint import row_fingerprint
from metaeol_udf.delta.tables.refs import TableRef, open_table
from metaeol_udf.delta.write.journal import Journal, digest_of
from metaeol_udf.errors import ConflictError, MetaEOLError
from metaeol_udf.spark.columns import find_field, quoted, same_key

_NEAR = 0.03  # relative distance, which is a cosine above 0.9995
_COUNT = "metaeol_count"
_PREFIX = "metaeol_new_"  # of the journal's columns inside a MERGE, so that a user's names stay unambiguous


def publish(job: Job, scope: RowScope, tables: Tables, outcomes: DataFrame) -> None:
    """Publish `outcomes`, the journal's rows one a fingerprint, for the rows in scope as the tables stand now: one MERGE."""
    source, columns = job.config.source, job.columns
    target = open_table(job.spark, job.target, "target.table")
    _check_still_fits(target, columns, [source.text] if job.in_place else source.key, job.target)
    if job.in_place:
        publish_in_place(target, outcomes, columns, job.spec.fingerprint(), source.text, scope.condition(source.where))
    else:
        _publish_to_target(target, select(job, scope, tables, pinned=False), outcomes, columns, scope.bounds)


def publish_in_place(
    table: DeltaTable, outcomes: DataFrame, columns: VectorColumns, spec_fingerprint: str, text: str, within: Column | None
) -> None:
    """Publish vectors beside the texts that they belong to.

    The MERGE matches the fingerprint of the text as it stands now: a row that was changed or deleted since it was read gets nothing.
    Rows outside `within`, the user's condition and the run's scope, are left alone though their text may be known.
    """
    values = _renamed(outcomes)
    new = F.col(f"{_PREFIX}fingerprint")
    matches = row_fingerprint(spec_fingerprint, F.col(quoted(text))) == new
    cured = F.col(quoted(columns.error)).isNotNull() & F.col(f"{_PREFIX}error").isNull()
    matches = matches & (~F.col(quoted(columns.fingerprint_column)).eqNullSafe(new) | cured)
    if within is not None:
        matches = matches & within
    table.merge(values, matches).whenMatchedUpdate(set=_assignments(columns)).execute()


def _publish_to_target(table: DeltaTable, selection: Selection, outcomes: DataFrame, columns: VectorColumns, bounds: Column | None) -> None:
    """Publish vectors by key to a table of their own: insert or update. Delta does not read the target's files outside `bounds`.

    The selection is of the source as it stands now, so that a changed text gets no stale vector. Keys that left it are left alone.
    """
    keys = [F.col(quoted(name)).alias(f"{_PREFIX}key_{i}") for i, name in enumerate(selection.key)]
    rows = selection.changed.select(*keys, FINGERPRINT).join(_renamed(outcomes), F.col(FINGERPRINT) == F.col(f"{_PREFIX}fingerprint"))
    matches = _same_key(selection)
    if bounds is not None:
        matches = matches & bounds
    inserted = _assignments(columns) | {quoted(name): F.col(f"{_PREFIX}key_{i}") for i, name in enumerate(selection.key)}
    merge = table.merge(rows.drop(FINGERPRINT), matches)
    merge.whenMatchedUpdate(set=_assignments(columns)).whenNotMatchedInsert(values=inserted).execute()


def _check_still_fits(table: DeltaTable, columns: VectorColumns, matched_by: Iterable[str], ref: TableRef) -> None:
    """Check, before every try of a MERGE, that the table still fits: nobody dropped, renamed or retyped a column since the run began."""
    schema = table.toDF().schema
    gone = [name for name in matched_by if find_field(schema, name) is None]
    for wanted in columns.fields:
        found = find_field(schema, wanted.name)
        if found is None or found.dataType != wanted.dataType:
            gone.append(wanted.name)
    if gone:
        raise ConflictError(
            f"column {', '.join(map(repr, gone))} of {ref} was dropped, renamed or changed while the job ran: nothing was published; "
            "what was computed is kept, so put the column back or change the settings, and run the job again"
        )


@dataclass(frozen=True)
class Verified:
    """What the proof found.

    Attributes:
        fingerprints: One column, `fingerprint`, of what the journal need not hold any longer: published, or of a text that is gone.
        rows_stale: Rows that were changed or deleted after they were read: no row holds a vector of its old text.
    """

    fingerprints: DataFrame
    rows_stale: int


def count_missing(job: Job, scope: RowScope, tables: Tables, digests: DataFrame) -> int:
    """Count the rows, as they are now, whose text is in the journal and which do not hold its fingerprint."""
    # A second try that failed again is stored as it was before.
    due = digests.where(F.col("error").isNull()) if scope.failed else digests
    known = due.select(F.col("fingerprint").alias(FINGERPRINT))
    return select(job, scope, tables, pinned=False).changed.join(known, FINGERPRINT, "left_semi").count()


def verify(chosen: Selection, present: Selection, stored: DataFrame, columns: VectorColumns, journal: Journal, n_missing: int) -> Verified:
    """Verify, from the tables as they stand now, that every row holds the vector that was computed for its present text.

    `chosen` are the rows of the run as they were read, `present` those in scope as they are now; `stored` are those of the table
    that was written to, and `n_missing` is what `count_missing` gave.

    Raises:
        MetaEOLError: A row's text is in the journal, yet the row does not hold that fingerprint, or it does and with another
            vector; or a key has come to stand in several rows.
    """
    keys = [F.col(quoted(name)) for name in present.key]
    counts = {
        "rows do not hold the vector that was computed for them": n_missing,
        "rows hold another vector than was computed for them": _count_wrong(stored, columns, journal),
        "keys stand in several rows": present.rows.groupBy(*keys).agg(F.count(F.lit(1)).alias(_COUNT)).where(F.col(_COUNT) > 1).count(),
    }
    complaints = [f"{n} {what}" for what, n in counts.items() if n]
    if complaints:
        raise MetaEOLError(
            f"{' and '.join(complaints)}, although the commit succeeded; "
            "the journal is kept, so that another run publishes again without computing"
        )
    held = stored.select(F.col(quoted(columns.fingerprint_column)).alias("fingerprint"))
    worked_on = chosen.changed.select(F.col(FINGERPRINT).alias("fingerprint"))
    return Verified(held.where(F.col("fingerprint").isNotNull()).union(worked_on), _count_stale(chosen, present))


def _count_wrong(stored: DataFrame, columns: VectorColumns, journal: Journal) -> int:
    """Count rows that hold a different vector than the journal has for their fingerprint, or neither vector nor error.

    An equal text may have failed in one run and not in another run: a row's error is no contradiction to the journal's vector.
    """
    fingerprint, vector, error = (F.col(quoted(name)) for name in (columns.fingerprint_column, columns.vector, columns.error))
    held = stored.select(fingerprint.alias("fingerprint"), vector.alias("held"), error.alias("held_error"))
    digests = held.select("fingerprint", digest_of(F.col("held")).alias("held_digest"), "held_error")
    pairs = digests.join(journal.digests().select("fingerprint", "digest"), "fingerprint")
    neither = F.col("held_digest").isNull() & F.col("held_error").isNull()
    differ = pairs.where(F.col("held_digest") != F.col("digest"))
    found = pairs.agg(
        F.count(F.when(neither, True)).alias("neither"), F.count(F.when(F.col("held_digest") != F.col("digest"), True)).alias("differ")
    )
    n_neither, n_differ = found.collect()[0]
    if n_differ:  # another run may have stored the same text's vector first
        suspects = differ.select("fingerprint").distinct()
        both = held.join(suspects, "fingerprint", "left_semi").join(journal.outcomes().select("fingerprint", "vector"), "fingerprint")
        n_differ = both.where(F.col("held").isNotNull() & F.col("vector").isNotNull() & ~_near(F.col("held"), F.col("vector"))).count()
    return int(n_neither + n_differ)


def _count_stale(chosen: Selection, present: Selection) -> int:
    """Count stale rows: rows of the run whose key now has another text, or is gone."""
    keys = [F.col(quoted(name)).alias(f"{_PREFIX}key_{i}") for i, name in enumerate(chosen.key)]
    now = present.rows.select(*keys, F.col(FINGERPRINT).alias(f"{_PREFIX}fingerprint"))
    read = chosen.changed.select(*[F.col(quoted(name)) for name in chosen.key], FINGERPRINT)
    return read.join(now, _same_key(chosen) & (F.col(FINGERPRINT) == F.col(f"{_PREFIX}fingerprint")), "left_anti").count()


def _near(one: Column, other: Column) -> Column:
    """Tell whether two vectors are as near as two runs of one model over one text come in low precision."""
    zero = F.lit(0.0).cast("float")
    distance = F.aggregate(F.zip_with(one, other, lambda x, y: (x - y) * (x - y)), zero, lambda total, x: total + x)
    length = F.aggregate(one, zero, lambda total, x: total + x * x)
    return F.coalesce((F.size(one) == F.size(other)) & (distance <= _NEAR * _NEAR * length), F.lit(False))


def _renamed(outcomes: DataFrame) -> DataFrame:
    return outcomes.select(*[F.col(name).alias(f"{_PREFIX}{name}") for name in ("fingerprint", "vector", "error")])


def _assignments(columns: VectorColumns) -> dict[str, Column | str]:
    return {
        quoted(columns.vector): F.col(f"{_PREFIX}vector"),
        quoted(columns.error): F.col(f"{_PREFIX}error"),
        quoted(columns.fingerprint_column): F.col(f"{_PREFIX}fingerprint"),
    }


def _same_key(selection: Selection) -> Column:
    """Make the condition that a row has the same key as a row whose key columns were renamed."""
    return same_key([F.col(quoted(name)) for name in selection.key], [F.col(f"{_PREFIX}key_{i}") for i in range(len(selection.key))])
