"""The snapshot of a run: tables that fit the settings, at versions that are pinned, and the rows in them that need work."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass

from pyspark.sql import DataFrame, Observation
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from metaeol_udf.delta.base.context import Job
from metaeol_udf.delta.base.kept_rows import keep
from metaeol_udf.delta.base.run_report import Counts
from metaeol_udf.delta.select import selection
from metaeol_udf.delta.select.changed_files import Look
from metaeol_udf.delta.select.proof import Proof, ProofStore, RunNote, columns_read
from metaeol_udf.delta.select.row_scope import RowScope
from metaeol_udf.delta.select.selection import DONE, ERROR, FINGERPRINT, STORED, TEXTLESS, Selection, Wanted
from metaeol_udf.delta.sources.passages import PassageSource
from metaeol_udf.delta.sources.text import check_text_columns, text_of
from metaeol_udf.delta.tables.can_write import check_can_write
from metaeol_udf.delta.tables.columns import check_source_columns, check_vector_columns, require_field
from metaeol_udf.delta.tables.commits import TableLog, newest_version
from metaeol_udf.delta.tables.fingerprint import spec_part
from metaeol_udf.delta.tables.metadata import check_only_column
from metaeol_udf.delta.tables.refs import open_table, read
from metaeol_udf.delta.tables.spark_errors import DOUBLED_KEY
from metaeol_udf.delta.tables.target import check_target
from metaeol_udf.delta.tables.where_clause import filtered
from metaeol_udf.errors import InputError
from metaeol_udf.spark.cluster.connect import is_connect
from metaeol_udf.spark.columns import quoted, same_key

logger = logging.getLogger(__name__)

_FEW = 10_000
MOST_BROADCAST = 500_000  # keys or fingerprints that every executor, and the driver, holds at a time


@dataclass(frozen=True)
class Tables:
    """Tables that a run reads and writes, by the names that the job holds.

    Attributes:
        source: The source's rows in scope, at the pinned version.
        source_version: The pinned version of the source; None where it is no Delta table.
        target_version: The pinned version of a target of its own; None where there was no target yet, and in place.
        key: Fields of the key columns.
    """

    source: DataFrame
    source_version: int | None
    target_version: int | None
    key: StructType


@dataclass(frozen=True)
class Snapshot:
    """What there is to do, at pinned versions of the tables.

    Attributes:
        tables: The tables, at these versions.
        look: Which rows were looked at.
        chosen: All rows in scope.
        work: The rows that need work, kept on the executors: key columns, FINGERPRINT, TEXTLESS and HELD.
        texts: FINGERPRINT, TEXTLESS and TEXT of rows that were looked at: of those that need work at least.
        counts: The numbers of the rows in scope.
        n_texts: Rows of `texts`.
        n_textless: Rows that need work and have no text.
        n_failing: Rows that need no work and have an error.
    """

    tables: Tables
    look: Look
    chosen: Selection
    work: DataFrame
    texts: DataFrame
    counts: Counts
    n_texts: int
    n_textless: int
    n_failing: int

    @property
    def rows_to_do(self) -> int:
        """Rows that need work."""
        return self.counts.rows_selected - self.counts.rows_skipped

    @property
    def is_small(self) -> bool:
        """Whether one task handles the rows that need work sooner than a shuffle does."""
        return self.rows_to_do <= _FEW


def check_single(job: Job, n_found: int, n_rows: int) -> None:
    """Check that each of so many rows of the source met one row of the target at most.

    Raises:
        InputError: More were found than there are.
    """
    if n_found > n_rows:
        raise InputError(
            f"target.table: {n_found - n_rows} rows of {job.target} have a key that stands there more than once: "
            "delete the rows of these keys, then run the job again"
        )


def observed(rows: DataFrame, of: Callable[[str], str] = str) -> tuple[DataFrame, Callable[[], tuple[Counts, int, int, int]]]:
    """Count rows by what is stored for them, while an action that follows reads them.

    The function that comes back gives the counts, the rows to do without a text, the rows that are done and have an error, and the rows
    for which no fingerprint is stored. `of` gives the names that the columns of a selection have in the rows.
    """
    stored, is_done, fingerprint, textless, error = (F.col(of(name)) for name in (STORED, DONE, FINGERPRINT, TEXTLESS, ERROR))
    is_other = stored.isNotNull() & (spec_part(stored) != spec_part(fingerprint))
    is_new = ~is_done & (stored.isNull() | stored.eqNullSafe(fingerprint))
    measures = (
        F.count(F.lit(1)).alias("n"),
        F.count(F.when(is_done, True)).alias("done"),
        F.count(F.when(is_new, True)).alias("new"),
        F.count(F.when(is_other, True)).alias("other"),
        F.collect_set(F.when(is_other, spec_part(stored))).alias("specs"),
        F.count(F.when(~is_done & textless.isNotNull(), True)).alias("textless"),
        F.count(F.when(is_done & error.isNotNull(), True)).alias("failing"),
        F.count(F.when(stored.isNull(), True)).alias("unknown"),
    )
    is_remote, seen = is_connect(rows.sparkSession), Observation()
    counted = rows if is_remote else rows.observe(seen, *measures)

    def counts() -> tuple[Counts, int, int, int]:
        found = rows.agg(*measures).collect()[0] if is_remote else seen.get  # Spark Connect observes no checkpoint
        counted = Counts(found["n"], found["done"], found["new"], found["other"], tuple(sorted(found["specs"])))
        return counted, found["textless"], found["failing"], found["unknown"]

    return counted, counts


def open_checked(job: Job, scope: RowScope) -> Tables:
    """Open the tables, checked as far as anything can be before a commit.

    Raises:
        InputError: A table or column is not what the settings say.
    """
    config = job.config.source
    ref = job.source.open(job.spark)
    version = job.source.newest_version(job.spark)
    source = scope.of_source(job.source.read(job.spark, version))
    check_source_columns(source, config.key, job.source)
    check_text_columns(config, source.schema, job.source)
    key = StructType([require_field(source.schema, name, "source.key", job.source) for name in config.key])
    if job.in_place and ref is not None:
        check_vector_columns(source.schema, job.columns, (*config.key, *config.text_columns), ref)
        check_can_write(job.spark, open_table(job.spark, ref, "source.table"), ref, job.columns, job.hash_key, key=None)
    target_version = None if job.in_place else check_target(job.spark, job.target, job.source, key, job.columns, job.hash_key)
    if isinstance(job.source, PassageSource):
        if target_version is not None:
            detail = open_table(job.spark, job.target, "target.table").detail().collect()[0]
            check_only_column(detail["properties"], job.target, job.columns.vector)
        source = _split_once(job, job.source, version)
    filtered(source, job.config.source.where)  # refuses what is no condition, before anybody looks at it closer
    return Tables(source, version, target_version, key)


def _split_once(job: Job, source: PassageSource, version: int | None) -> DataFrame:
    """Split the texts, each once for all that the run asks about them, and keep the passages on the executors.

    Raises:
        InputError: A text's key is NULL or stands there twice, or a record of the source cannot be read.
    """
    source.check_readable(source.read_whole(job.spark, version))  # also records that the condition would leave out
    texts = source.read_texts(job.spark, version)
    selection.check_keys(texts, dataclasses.replace(source.config, where=None), source)
    return keep(source.split(texts))


def select(job: Job, scope: RowScope, tables: Tables, *, pinned: bool) -> Selection:
    """Select the rows in scope.

    Args:
        job: Settings and session.
        scope: The rows of the run.
        tables: The tables as they were opened.
        pinned: Whether to read the pinned versions rather than the tables as they stand now.
    """
    source = tables.source if pinned else scope.of_source(job.source.read(job.spark))
    stored = None
    if not job.in_place and not (pinned and tables.target_version is None):
        stored = read(job.spark, job.target, tables.target_version if pinned else None)
    # A run over some keys trusts what the last look at all rows proved, rather than reading all vectors.
    proven = scope.kind != "all"
    return scope.of_selection(selection.select(source, wanted_by(job), stored, job.in_place, proven=proven))


def wanted_by(job: Job) -> Wanted:
    """Say which vector column a job wants."""
    return Wanted(job.config.source, job.fingerprints, job.columns, job.resolved.vector_length)


def unchanged_work(job: Job, scope: RowScope, snapshot: Snapshot, work: DataFrame | None = None) -> DataFrame:
    """Find, of the rows that need work, those whose text is still the same: the source is read again only where it was changed.

    `work` are some of the rows, with the key's columns and FINGERPRINT; by default all of the snapshot's.

    Raises:
        InputError: A key has come to stand in several rows of the source.
    """
    rows = snapshot.work if work is None else work
    version = job.source.newest_version(job.spark)
    if work is None and version is not None and version == snapshot.tables.source_version:
        return rows
    config = job.config.source
    named = [F.col(quoted(name)).alias(f"metaeol_now_{i}") for i, name in enumerate(config.key)]
    there = filtered(scope.of_source(job.source.read_again(job.spark, rows)), config.where)
    fingerprint = job.fingerprints.of(text_of(config, there.schema)).alias("metaeol_now")
    now = job.fingerprints.prepare(there).select(*named, fingerprint)
    if config.makes_key:  # equal rows are one
        now = now.distinct()
    key = [F.col(quoted(name)) for name in config.key]
    pairs = rows.join(now, same_key(key, [F.col(f"metaeol_now_{i}") for i in range(len(key))]))
    names = [F.col(quoted(name)) for name in rows.columns]
    found = keep(pairs.select(*names, (F.col(FINGERPRINT) == F.col("metaeol_now")).alias("metaeol_is_same")))
    if not found.groupBy(*key).agg(F.count(F.lit(1)).alias("metaeol_n")).where("metaeol_n > 1").isEmpty():
        raise InputError(DOUBLED_KEY)
    return found.where("metaeol_is_same").drop("metaeol_is_same")


def save_proof(job: Job, run_id: str, tables: Tables, rows_selected: int, created_version: int | None) -> None:
    """Save that each selected row of these tables holds its vector or its error now.

    `created_version` is the version of a target that was made since the tables were opened, before any row came in.
    """
    source = job.source.log(job.spark)
    target, quarantine = (TableLog.of(job.spark, ref) for ref in (job.target, job.target.beside("quarantine")))
    target_version = tables.source_version if job.in_place else tables.target_version
    if target_version is None:
        target_version = created_version
    if source is None or target is None or tables.source_version is None or target_version is None:
        return
    listed = (None, -1) if quarantine is None else (quarantine.table_id, quarantine.version)
    columns, ids = columns_read(job, tables.source), (source.table_id, target.table_id)
    proof = Proof(run_id, ids[0], tables.source_version, ids[1], target_version, columns, rows_selected, *listed)
    store = ProofStore(job)
    known = store.load()
    if known is not None and proof == dataclasses.replace(known, run_id=run_id):
        return
    if not store.save(proof):
        logger.info("this storage takes no file beside the journal: the next run looks at all rows again")


def is_outdated(job: Job, tables: Tables, but: Collection[str] = ()) -> bool:
    """Tell whether a snapshot is outdated: the table that is written to has had another commit since.

    `but` are ids of runs whose commits do not count: those over other columns, which left the job's own as they were.
    """
    then = tables.source_version if job.in_place else tables.target_version
    if job.in_place:
        now: int | None = newest_version(job.spark, job.target)
    else:
        now = check_target(job.spark, job.target, job.source, tables.key, job.columns, job.hash_key)
    if then == now or not but:
        return then != now
    log = TableLog.of(job.spark, job.target)
    commits = None if log is None else log.commits_since(-1 if then is None else then)
    notes = [RunNote.parse(commit.user_metadata) for commit in commits or ()]
    return commits is None or any(note is None or note.run_id not in but or note.column == job.columns.vector for note in notes)
