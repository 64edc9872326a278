"""The proof at the end of a run: what its rows hold, read from the files that came into the table since the run began."""

from __future__ import annotations

from dataclasses import dataclass

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from metaeol_udf.delta.base.context import Job
from metaeol_udf.delta.base.kept_rows import keep
from metaeol_udf.delta.select.row_scope import RowScope
from metaeol_udf.delta.select.selection import FINGERPRINT, HELD, OUTCOME, TEXTLESS
from metaeol_udf.delta.select.snapshot import Snapshot, unchanged_work
from metaeol_udf.delta.select.stored_vector import digest_of, is_near
from metaeol_udf.delta.tables.commits import TableLog
from metaeol_udf.delta.tables.refs import read
from metaeol_udf.delta.tables.spark_errors import DOUBLED_KEY
from metaeol_udf.delta.write.merge import Published
from metaeol_udf.errors import InputError, MetaEOLError
from metaeol_udf.spark.columns import find_field, quoted, same_key

_HELD_KEY = "metaeol_held_key_"


@dataclass(frozen=True)
class Outcomes:
    """What became of the rows that needed work, by the journal and by the table.

    Attributes:
        rows: Key columns, FINGERPRINT and OUTCOME, a struct whose `error` is NULL where the row has a vector; the struct is NULL where
            the journal does not hold the fingerprint.
        n_lost: Rows whose fingerprint the journal does not hold.
        n_embedded: Rows with a vector.
        n_trimmed: Rows whose text was trimmed.
        failures: Rows with an error, by reason.
        n_stale: Rows that were changed or deleted after they were read: no row holds a vector of its old text.
        n_missing: Rows that do not hold their outcome although their text is the same.
    """

    rows: DataFrame
    n_lost: int
    n_embedded: int
    n_trimmed: int
    failures: dict[str, int]
    n_stale: int
    n_missing: int

    @property
    def n_failed(self) -> int:
        """Rows with an error."""
        return sum(self.failures.values())


def verify(job: Job, scope: RowScope, snapshot: Snapshot, published: Published, since: int) -> Outcomes:
    """Count the outcomes, and verify that the table holds them.

    Args:
        job: Settings and session.
        scope: The rows of the run.
        snapshot: What there was to do.
        published: What was published.
        since: The version of the table that was written to before this run wrote.

    Raises:
        InputError: A key has come to stand in several rows of the source.
        MetaEOLError: A row holds another vector than was computed for it, or its key stands in several rows of the target.
    """
    key = job.config.source.key
    rows = _with_outcomes(snapshot, published, key)
    stored = _stored(job, scope, since, key, is_small=snapshot.is_small)
    matches = same_key([F.col(quoted(name)) for name in key], [F.col(f"{_HELD_KEY}{i}") for i in range(len(key))])
    pairs = rows.join(stored, matches, "left")
    outcome, is_known = F.col(OUTCOME), F.col(OUTCOME).isNotNull()
    stands_already = F.coalesce(F.col(HELD) == outcome["error"], F.lit(False))
    is_there = F.coalesce(F.col("held_fingerprint") == F.col(FINGERPRINT), F.lit(False))
    differs = is_there & F.coalesce(F.col("held_digest") != outcome["digest"], F.lit(False))
    is_empty = is_there & F.col("held_digest").isNull() & F.col("held_error").isNull()
    is_absent = is_known & ~stands_already & ~is_there
    found = (
        pairs.groupBy(is_known.alias("known"), outcome["error"].alias("error"))
        .agg(
            F.count(F.lit(1)).alias("n"),
            F.count(F.when(outcome["trimmed"], True)).alias("trimmed"),
            F.count(F.when(is_absent, True)).alias("absent"),
            F.count(F.when(is_known & differs, True)).alias("differ"),
            F.count(F.when(is_known & is_empty, True)).alias("empty"),
            F.count(F.when(F.col("n_held") > 1, True)).alias("doubled"),
        )
        .collect()
    )

    def total(name: str, *, known: bool = True, failed: bool | None = None) -> int:
        return sum(row[name] for row in found if row["known"] == known and failed in (None, row["error"] is not None))

    n_differ = total("differ")
    if n_differ:  # another run may have stored the same text's vector
        n_differ = _count_far(job, published, pairs.where(differs).select(FINGERPRINT), since, scope)
    if job.in_place and total("doubled"):
        raise InputError(DOUBLED_KEY)
    _complain(n_differ + total("empty"), total("doubled"))
    n_missing, n_stale = 0, 0
    if total("absent"):
        absent = pairs.where(is_absent).select(*[F.col(quoted(name)) for name in key], FINGERPRINT)
        n_missing = unchanged_work(job, scope, snapshot, absent).count()
        n_stale = total("absent") - n_missing
    failures = {row["error"]: row["n"] for row in found if row["known"] and row["error"] is not None}
    return Outcomes(
        rows, total("n", known=False), total("n", failed=False), total("trimmed", failed=False), failures, n_stale, n_missing
    )  # fmt: skip


def _with_outcomes(snapshot: Snapshot, published: Published, key: tuple[str, ...]) -> DataFrame:
    """Add to the rows that needed work what became of them, by the journal."""
    names = ("error", "trimmed", "digest")
    known = published.journal.digests(own=published.own).select(
        F.col("fingerprint").alias("metaeol_known"), F.struct(*names).alias("metaeol_computed")
    )
    work = snapshot.work
    if snapshot.is_small:
        work, known = work.coalesce(1), known.coalesce(1).hint("merge")
    joined = work.join(known, F.col(FINGERPRINT) == F.col("metaeol_known"), "left")
    textless = F.struct(F.col(TEXTLESS).alias("error"), F.lit(False).alias("trimmed"), F.lit(None).cast("long").alias("digest"))
    outcome = F.when(F.col(TEXTLESS).isNotNull(), textless).otherwise(F.col("metaeol_computed"))
    return joined.select(*[F.col(quoted(name)) for name in key], FINGERPRINT, HELD, outcome.alias(OUTCOME))


def _written(job: Job, scope: RowScope, since: int) -> DataFrame:
    """Read the rows of the files that came into the table since a version; the whole table where this Delta does not show them."""
    log = TableLog.of(job.spark, job.target)
    commits = None if log is None else log.commits_since(since)
    if log is None or commits is None:
        return scope.of_source(read(job.spark, job.target))
    added = log.read_added(commits).rows
    return read(job.spark, job.target).limit(0) if added is None else added


def _stored(job: Job, scope: RowScope, since: int, key: tuple[str, ...], *, is_small: bool) -> DataFrame:
    """Describe what the written rows hold, one row a key, with a digest in place of the vector."""
    columns, written = job.columns, _written(job, scope, since)
    keys = [F.col(quoted(name)).alias(f"{_HELD_KEY}{i}") for i, name in enumerate(key)]
    held = written.select(
        *keys,
        _column(written, columns.fingerprint_column).alias("held_fingerprint"),
        _column(written, columns.error).alias("held_error"),
        digest_of(F.col(quoted(columns.vector))).alias("held_digest"),
    )
    held = held.coalesce(1).hint("merge") if is_small else held
    first = [F.first(name).alias(name) for name in ("held_fingerprint", "held_error", "held_digest")]
    return held.groupBy(*[f"{_HELD_KEY}{i}" for i in range(len(key))]).agg(F.count(F.lit(1)).alias("n_held"), *first)


def _column(rows: DataFrame, name: str) -> Column:
    return F.lit(None).cast("string") if find_field(rows.schema, name) is None else F.col(quoted(name))


def _count_far(job: Job, published: Published, suspects: DataFrame, since: int, scope: RowScope) -> int:
    """Count the rows whose vector is not even near the computed one."""
    columns, texts = job.columns, keep(suspects.distinct())
    held = _written(job, scope, since).select(
        F.col(quoted(columns.fingerprint_column)).alias(FINGERPRINT), F.col(quoted(columns.vector)).alias("held")
    )
    computed = published.journal.outcomes(own=published.own).select(F.col("fingerprint").alias(FINGERPRINT), "vector")
    both = held.join(texts, FINGERPRINT, "left_semi").join(computed, FINGERPRINT)
    return both.where(F.col("held").isNotNull() & F.col("vector").isNotNull() & ~is_near(F.col("held"), F.col("vector"))).count()


def _complain(n_wrong: int, n_doubled: int) -> None:
    counts = {"rows hold another vector than was computed for them": n_wrong, "keys stand in several rows": n_doubled}
    complaints = [f"{n} {what}" for what, n in counts.items() if n]
    if complaints:
        raise MetaEOLError(
            f"{' and '.join(complaints)}, although the commit succeeded; "
            "the journal is kept, so that another run publishes again without computing"
        )
