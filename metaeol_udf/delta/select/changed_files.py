"""Which rows a run looks at: those of the files that came into the source since the last proof, or all of them, and then why."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from metaeol_udf.delta.base.context import Job
from metaeol_udf.delta.select.proof import (
    Proof,
    ProofStore,
    is_answered_for,
    why_columns_are_unproven,
    why_source_is_unproven,
    why_target_is_unproven,
    wrote_after,
)
from metaeol_udf.delta.select.row_scope import TEXTLESS_ERRORS, RowScope
from metaeol_udf.delta.tables.commits import Added, Commit, TableLog
from metaeol_udf.delta.tables.refs import read
from metaeol_udf.delta.tables.where_clause import asks_time, filtered
from metaeol_udf.spark.cluster.connect import is_connect
from metaeol_udf.spark.columns import quoted


@dataclass(frozen=True)
class Look:
    """What a run looks at.

    Attributes:
        why_all: Why all rows in scope are looked at; None: only what changed since a proof.
        added: Of a look at what changed, the rows that came since then.
        failed: Of a look at what changed, the keys of the rows that failed before, and that another try may cure; None: none.
        since: The version of the source that was proved; -1 without a proof.
        n_proved: Rows that were selected then, where all rows that are looked at came since; else None.
        rows_left: Whether rows may have left the source, or changed in it, since then.
        keys_left: Whether keys may have left the source since then.
        reads_target: Whether the rows' stored state must be read from a target of its own.
        is_whole: Whether the run is over all rows, and not over named ones.
    """

    why_all: str | None
    added: Added = field(default_factory=Added)
    failed: DataFrame | None = None
    since: int = -1
    n_proved: int | None = None
    rows_left: bool = True
    keys_left: bool = True
    reads_target: bool = True
    is_whole: bool = True

    @property
    def may_miss_keys(self) -> bool:
        """Whether keys that were there at the proof may be gone: not where named rows, or new rows alone, are looked at."""
        return self.is_whole and (self.why_all is not None or (self.rows_left and self.keys_left))

    def of_all(self, why: str) -> Look:
        """Make the look at all rows instead."""
        return dataclasses.replace(self, why_all=why, rows_left=True, keys_left=True)

    def rows(self, source: DataFrame, key: Sequence[str]) -> DataFrame:
        """Read the rows of the source that a look at what changed is at: those that came, and those that failed before."""
        if self.failed is None:
            return source.limit(0) if self.added.rows is None else self.added.rows
        failed = source.join(F.broadcast(self.failed), list(key), "left_semi")
        return failed if self.added.rows is None else self.added.rows.unionByName(failed).dropDuplicates(list(key))  # a row may be both

    def n_selected(self, job: Job, source: DataFrame, n_looked_at: int) -> int:
        """Count the rows that the condition selects, where so many were looked at."""
        return filtered(source, job.config.source.where).count() if self.n_proved is None else self.n_proved + n_looked_at


def join_looks(looks: Sequence[Look]) -> Look:
    """Join looks at the same added rows into one, which is at whatever one of them is at."""
    failed = [look.failed for look in looks if look.failed is not None]
    proved = {look.n_proved for look in looks}
    return dataclasses.replace(
        looks[0],
        failed=functools.reduce(DataFrame.union, failed) if failed else None,
        n_proved=proved.pop() if len(proved) == 1 else None,
        rows_left=any(look.rows_left for look in looks),
        reads_target=any(look.reads_target for look in looks),
    )


def choose_look(job: Job, scope: RowScope, source: DataFrame, source_version: int | None, target_version: int | None) -> Look:
    """Choose what a run looks at. Reads the commits since the last proof, and starts no Spark work where no row failed before.

    Args:
        job: Settings and session.
        scope: The rows of the run.
        source: The source's rows in scope, at the pinned version.
        source_version: The pinned version of the source; None where it is no Delta table.
        target_version: The pinned version of a target of its own.
    """
    if scope.kind != "all":
        return Look("the rows of the run are named", is_whole=False)
    if scope.full:
        return Look("it was asked for")
    if job.source.why_unversioned is not None:
        return Look(job.source.why_unversioned)
    if is_connect(job.spark):
        return Look("Spark Connect does not show the commits of a table")
    if asks_time(source, job.config.source.where):
        return Look("source.where asks for the time, so that it may choose rows that stayed as they are")
    proof = ProofStore(job).load()
    if proof is None:
        return Look("no earlier run of this job has proved the table")
    log = job.source.log(job.spark)
    written_to = log if job.in_place or log is None or target_version is None else TableLog.of(job.spark, job.target)
    if log is None or written_to is None:
        return Look("this Delta does not show the commits of a table")
    if log.version != source_version or (target_version is not None and written_to.version != target_version):
        return Look("another writer was at work at this moment")
    commits, written = log.commits_since(proof.source_version), written_to.commits_since(proof.target_version)
    why = (
        _why_another_table(job, proof, log, written_to)
        or why_source_is_unproven(job, commits)
        or why_columns_are_unproven(job, proof, source)
        or why_target_is_unproven(job, written)
    )
    if why is not None or commits is None or written is None:
        return Look(why)

    def is_own(commit: Commit) -> bool:
        return job.in_place and is_answered_for(job, commit)

    quarantine = TableLog.of(job.spark, job.target.beside("quarantine"))
    why = _why_quarantine_is_unproven(job, proof, quarantine)
    if why is not None:
        return Look(why)
    added = log.read_added(commits, but=is_own)
    failed = None if quarantine is None else _failed_before(job)
    rows_left = any(commit.removes_rows and not is_own(commit) for commit in commits)
    are_new = not rows_left and not added.has_others and failed is None
    n_proved = proof.rows_selected if are_new else None
    may_be_stored = not are_new or wrote_after(job, proof, written)
    return Look(None, added, failed, proof.source_version, n_proved, rows_left, reads_target=may_be_stored and not job.in_place)


def _why_another_table(job: Job, proof: Proof, log: TableLog, written_to: TableLog) -> str | None:
    """Say which table is another than the proof's; None where none is."""
    if proof.source_id != log.table_id:
        return f"{job.source} is another table than before"
    if proof.target_id != written_to.table_id:
        return f"{job.target} is another table than before"
    return None


def _why_quarantine_is_unproven(job: Job, proof: Proof, quarantine: TableLog | None) -> str | None:
    """Say what happened to the quarantine since the proof; None where this package's own runs alone wrote to it."""
    if quarantine is None:
        return None if proof.quarantine_id is None else "the quarantine is gone"
    if proof.quarantine_id not in (None, quarantine.table_id):
        return "the quarantine is another table than before"
    commits = quarantine.commits_since(proof.quarantine_version)
    if commits is None or any(commit.changes_data and not is_answered_for(job, commit) for commit in commits):
        return "another writer changed the quarantine"
    return None


def _failed_before(job: Job) -> DataFrame | None:
    """Find the keys of the rows that failed before and that another try may cure; None where there is none."""
    listed = read(job.spark, job.target.beside("quarantine"))
    is_mine = F.col("vector_column").eqNullSafe(job.columns.vector) & ~F.col("reason").isin(*TEXTLESS_ERRORS)
    keys = listed.where(is_mine).select(*[F.col(quoted(name)) for name in job.config.source.key])
    return None if keys.isEmpty() else keys
