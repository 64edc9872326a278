"""Which rows need an embedding: plain Spark SQL over a pinned version of the source, no Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from metaeol_udf.config import SourceConfig
from metaeol_udf.delta.base.run_report import Counts
from metaeol_udf.delta.tables.columns import VectorColumns
from metaeol_udf.delta.tables.fingerprint import row_fingerprint, spec_part, textless_error
from metaeol_udf.delta.tables.where_clause import filtered
from metaeol_udf.errors import InputError
from metaeol_udf.spark.columns import find_field, quoted, same_key

#: Columns of a selection beside the key; no user's table may have them.
FINGERPRINT, STORED, TEXT = "metaeol_row_fingerprint", "metaeol_stored_fingerprint", "metaeol_text"
ERROR, OUTCOME = "metaeol_stored_error", "metaeol_outcome"

_SPARE = 1.2  # hashes do not hit a sample's size exactly


@dataclass(frozen=True)
class Selection:
    """The rows a run looks at.

    Attributes:
        rows: Key columns, FINGERPRINT of the text, STORED fingerprint (NULL where there is none), stored ERROR and TEXT.
        key: Names of the key columns.
    """

    rows: DataFrame
    key: tuple[str, ...]

    @property
    def changed(self) -> DataFrame:
        """The rows whose vector is missing or belongs to another text or spec."""
        return self.rows.where(~F.col(STORED).eqNullSafe(F.col(FINGERPRINT)))


def select(
    source: DataFrame, config: SourceConfig, spec_fingerprint: str, columns: VectorColumns, target: DataFrame | None, in_place: bool
) -> Selection:
    """Describe the rows of a run; starts no Spark work. `target` is None where vectors stand in the source, or where there is none yet.

    Raises:
        InputError: The condition cannot be parsed, or names a column that is not there.
    """
    text = F.col(quoted(config.text))
    key = [F.col(quoted(name)) for name in config.key]
    chosen = filtered(source, config.where)
    fingerprint = row_fingerprint(spec_fingerprint, text).alias(FINGERPRINT)
    table = source if in_place else target
    stored, error = _stored(table, columns.fingerprint_column).alias(STORED), _stored(table, columns.error).alias(ERROR)
    if target is None:
        return Selection(chosen.select(*key, fingerprint, stored, error, text.alias(TEXT)), config.key)
    rows = chosen.select(*key, fingerprint, text.alias(TEXT))
    known = [F.col(quoted(name)).alias(f"{STORED}_{i}") for i, name in enumerate(config.key)]
    stored_by_key = target.select(*known, stored, error)
    matches = same_key(key, [F.col(f"{STORED}_{i}") for i in range(len(key))])
    return Selection(rows.join(stored_by_key, matches, "left").select(*key, FINGERPRINT, STORED, ERROR, TEXT), config.key)


def _stored(table: DataFrame | None, name: str) -> Column:
    """Name a stored column of the table that vectors are written to; NULL while there is no such table or column."""
    is_there = table is not None and find_field(table.schema, name) is not None
    return F.col(quoted(name)) if is_there else F.lit(None).cast("string")


def check_keys(source: DataFrame, config: SourceConfig) -> None:
    """Check that the keys name every selected row: no NULL, no key twice. One aggregation over the key columns.

    Raises:
        InputError: With counts, and hashes rather than values of the first offenders.
    """
    # Renamed, so that no name of the user's meets one of ours.
    key = [F.col(quoted(name)).alias(f"key_{i}") for i, name in enumerate(config.key)]
    groups = filtered(source, config.where).select(*key).groupBy(*[f"key_{i}" for i in range(len(key))]).agg(F.count(F.lit(1)).alias("n"))
    is_null = F.lit(False)
    for i in range(len(key)):
        is_null = is_null | F.col(f"key_{i}").isNull()
    repeated = ~is_null & (F.col("n") > 1)
    digest = F.substring(F.sha2(F.to_json(F.struct(*[f"key_{i}" for i in range(len(key))])), 256), 1, 12)
    found = groups.agg(
        F.sum(F.when(is_null, F.col("n"))).alias("null_rows"),
        F.count(F.when(repeated, True)).alias("repeated_keys"),
        F.sum(F.when(repeated, F.col("n"))).alias("repeated_rows"),
        F.min(F.when(repeated, digest)).alias("example"),
    ).collect()[0]
    names = ", ".join(config.key)
    if found["null_rows"]:
        raise InputError(f"source.key: {found['null_rows']} rows of {config.table} have NULL in the key ({names}): a key names a row")
    if found["repeated_keys"]:
        raise InputError(
            f"source.key: {found['repeated_keys']} keys ({names}) of {config.table} stand in {found['repeated_rows']} rows, "
            f"for example the key with SHA-256 {found['example']}…: a key names one row"
        )


@dataclass(frozen=True)
class Pending:
    """Distinct fingerprints of a selection that the journal does not hold yet, each with its text.

    Attributes:
        texts: FINGERPRINT and TEXT of what the model must see.
        textless: FINGERPRINT and error of NULL and blank texts.
        n_texts: Rows of `texts`.
        n_textless: Rows of `textless`.
    """

    texts: DataFrame
    textless: DataFrame
    n_texts: int
    n_textless: int


@dataclass(frozen=True)
class Outcomes:
    """What became of the rows that needed work.

    Attributes:
        rows: Key columns, FINGERPRINT and OUTCOME, a struct that is NULL where the journal does not hold the fingerprint.
        n_lost: Rows whose fingerprint the journal does not hold.
        n_embedded: Rows with a vector.
        n_trimmed: Rows whose text was trimmed.
        failures: Rows with an error, by reason.
    """

    rows: DataFrame
    n_lost: int
    n_embedded: int
    n_trimmed: int
    failures: dict[str, int]

    @property
    def n_failed(self) -> int:
        """Rows with an error."""
        return sum(self.failures.values())


def count_outcomes(selection: Selection, journalled: DataFrame) -> Outcomes:
    """Count the outcomes of the rows that needed work by the journal, one row a fingerprint."""
    outcome = F.col(OUTCOME)
    values = F.struct(*[F.col(name) for name in ("error", "trimmed", "run_id")]).alias(OUTCOME)
    by_fingerprint = journalled.select(F.col("fingerprint").alias(f"{FINGERPRINT}_journalled"), values)
    changed = selection.changed.select(*[F.col(quoted(name)) for name in selection.key], FINGERPRINT)
    rows = changed.join(by_fingerprint, F.col(FINGERPRINT) == F.col(f"{FINGERPRINT}_journalled"), "left")
    found = rows.agg(
        F.count(F.when(outcome.isNull(), True)).alias("lost"),
        F.count(F.when(outcome.isNotNull() & outcome["error"].isNull(), True)).alias("embedded"),
        F.count(outcome["error"]).alias("failed"),
        F.count(F.when(outcome["trimmed"], True)).alias("trimmed"),
    ).collect()[0]
    failures: dict[str, int] = {}
    if found["failed"]:
        reasons = rows.groupBy(outcome["error"].alias("reason")).count().where(F.col("reason").isNotNull())
        failures = dict(map(tuple, reasons.collect()))
    return Outcomes(rows, found["lost"], found["embedded"], found["trimmed"], failures)


def count(selection: Selection) -> Counts:
    """Count rows by what is stored for them: one aggregation."""
    stored = F.col(STORED)
    is_other = stored.isNotNull() & (spec_part(stored) != spec_part(F.col(FINGERPRINT)))
    found = selection.rows.agg(
        F.count(F.lit(1)).alias("n"),
        F.count(F.when(stored.eqNullSafe(F.col(FINGERPRINT)), True)).alias("current"),
        F.count(F.when(stored.isNull(), True)).alias("new"),
        F.count(F.when(is_other, True)).alias("other"),
        F.collect_set(F.when(is_other, spec_part(stored))).alias("specs"),
    ).collect()[0]
    return Counts(found["n"], found["current"], found["new"], found["other"], tuple(sorted(found["specs"])))


def find_pending(selection: Selection, journalled: DataFrame) -> Pending:
    """Find the pending texts: each fingerprint once, without those that the journal holds from a run that was cut off.

    `journalled` has one column, `fingerprint`: of the journal's rows without an error.
    """
    distinct = selection.changed.groupBy(FINGERPRINT).agg(F.first(TEXT).alias(TEXT))
    fresh = distinct.join(journalled, F.col(FINGERPRINT) == F.col("fingerprint"), "left_anti")
    marked = fresh.withColumn("error", textless_error(F.col(TEXT)))
    counts = marked.agg(F.count(F.lit(1)).alias("n"), F.count("error").alias("textless")).collect()[0]
    return Pending(
        texts=marked.where(F.col("error").isNull()).select(FINGERPRINT, TEXT),
        textless=marked.where(F.col("error").isNotNull()).select(FINGERPRINT, "error"),
        n_texts=counts["n"] - counts["textless"],
        n_textless=counts["textless"],
    )


def sampled(rows: DataFrame, key: Sequence[Column], n_rows: int, n_wanted: int) -> DataFrame:
    """Draw a sample of at most `n_wanted` rows by the hash of their key: the same rows in every run, and all rows equally likely."""
    one_in = max(1, int(n_rows / (n_wanted * _SPARE)))
    chosen = rows.where(F.pmod(F.xxhash64(*key), F.lit(one_in)) == 0) if one_in > 1 else rows
    return chosen.limit(n_wanted)
