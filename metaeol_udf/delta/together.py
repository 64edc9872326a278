"""Several vector columns from one load of the model: their texts go through it in the same waves, before each column is published."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from metaeol_udf.delta.base.context import Job
from metaeol_udf.delta.base.progress import Between, Progress, default_progress, showing
from metaeol_udf.delta.base.run_report import Report
from metaeol_udf.delta.base.shutdown import check_termination
from metaeol_udf.delta.select.looking import take_snapshots
from metaeol_udf.delta.select.pending import Pending, find_pending, join_pending
from metaeol_udf.delta.select.proof import noted_commits
from metaeol_udf.delta.select.row_scope import RowScope
from metaeol_udf.delta.select.selection import FINGERPRINT
from metaeol_udf.delta.select.snapshot import Snapshot, is_outdated
from metaeol_udf.delta.tables.refs import exists, read
from metaeol_udf.delta.write.journal import Journal
from metaeol_udf.delta.write.reuse import reuse_vectors
from metaeol_udf.delta.write.run_lock import WHOLE_TARGET, RunLock
from metaeol_udf.delta.write.wave_monitor import WaveMonitor
from metaeol_udf.delta.write.waves import WavePlan, embed_waves
from metaeol_udf.errors import TerminatedError
from metaeol_udf.spark.cluster.finding import Level
from metaeol_udf.spark.cluster.log_store import check_session_commits
from metaeol_udf.spark.cluster.preflight import check_executors
from metaeol_udf.spark.columns import quoted

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """What was done for one column together with others, before its own run.

    Attributes:
        snapshot: What there is to do.
        journal: The journal as the run sees it that computed the texts.
        runs: Ids of the runs over all of the columns, whose commits leave each other's columns as they are.
        pending: The texts that nothing held; None where there was nothing to do for any column.
        plan: How the texts of all columns were cut into waves; None where none was computed, or vectors of a table are among them.
        lock: The run lock, which is held; None where nothing is to be done.
    """

    snapshot: Snapshot
    journal: Journal
    runs: frozenset[str]
    pending: Pending | None = None
    plan: WavePlan | None = None
    lock: RunLock | None = None


@dataclass(frozen=True)
class Group:
    """Columns whose vectors are of one spec: their texts go through the model in the same waves.

    Attributes:
        jobs: Of one session, with one source, key, condition and target.
        report: The report of what is done for them together.
    """

    jobs: Sequence[Job]
    report: Report


@contextmanager
def embed_together(
    groups: Sequence[Group], scope: RowScope, report: Report, progress: Progress | None, between: Between | None, run_ids: Sequence[str]
) -> Iterator[list[list[Prepared]]]:
    """Find what there is to do for several columns, and embed their texts. Each column is published by a run of its own, in the block.

    The texts of all columns go through the model before the first column is published: Spark ends Python workers that wait for a
    minute, and with them a model that another group shares. Where a group fails, the groups before it are published, then its error is
    raised.

    Args:
        groups: All columns of the run, which have one source, key, condition and target.
        scope: The rows of the runs.
        report: The report of the whole run.
        progress: As in `EmbedRun`.
        between: As in `EmbedRun`.
        run_ids: Ids of the runs that follow.

    Yields:
        What is prepared for the jobs of each group, up to the one that failed.
    """
    jobs = [job for group in groups for job in group.jobs]
    first, between = jobs[0], between or (lambda phase: None)
    names = ", ".join(job.columns.vector for job in jobs)
    progress = progress or default_progress(f"{first.target} {names}, run {report.run_id}")
    check_termination()
    snapshots = _take_snapshots(jobs, scope, report, progress, between)
    runs = frozenset(run_ids)
    if not any(snapshot.rows_to_do for snapshot in snapshots.values()):
        yield [[Prepared(snapshots[job.columns.vector], journal_of(job, report.run_id), runs) for job in group.jobs] for group in groups]
        return
    between("preflight")
    with ExitStack() as locks:
        with showing(progress, "preflight"), report.timed("prepare"):
            for group in groups:
                check_executors(first.spark, group.jobs[0].request(report.run_id), first.config.runtime.task_gpus)
            location = journal_of(first, report.run_id).open()
            lock = RunLock(first.spark, location, report.run_id)
            locks.enter_context(hold_locks(lock, location, jobs, scope))
            is_old = any(is_outdated(job, snapshots[job.columns.vector].tables) for job in jobs)
        if is_old:
            snapshots = _take_snapshots(jobs, scope, report, progress, between)
        done: list[list[Prepared]] = []
        failed: Exception | None = None
        for group in groups:
            try:
                of_group = [snapshots[job.columns.vector] for job in group.jobs]
                with noted_commits(group.jobs[0], group.report.run_id):
                    done.append(_embed_group(group, of_group, runs, lock, progress, between))
            except Exception as error:
                if not done or isinstance(error, TerminatedError):
                    raise
                failed = error
                break
        yield done
        if failed is not None:
            raise failed
        between("cleanup")
        with showing(progress, "cleanup"):
            for group, prepared in zip(groups, done, strict=True):
                of_group = [each.snapshot for each in prepared]
                _clean_up(group.jobs, of_group, prepared[-1].journal, {group.report.run_id, *run_ids}, location, lock)


def _embed_group(
    group: Group, snapshots: Sequence[Snapshot], runs: frozenset[str], lock: RunLock, progress: Progress, between: Between
) -> list[Prepared]:
    """Embed the texts of a group's columns in waves."""
    jobs, report = group.jobs, group.report
    if not any(snapshot.rows_to_do for snapshot in snapshots):
        return [Prepared(snapshot, journal_of(job, report.run_id), runs) for job, snapshot in zip(jobs, snapshots, strict=True)]
    journals = [journal_of(jobs[0], report.run_id)]
    for _ in jobs:  # a commit of the journal must have a larger number than those before it
        journals.append(journals[-1].for_another_snapshot())
    report.rows_selected = sum(snapshot.counts.rows_selected for snapshot in snapshots)  # what may fail is a part of them
    pending, is_reused = _find_pending(jobs, snapshots, journals, report, progress, between)
    plan = _embed(jobs, pending, journals[-1], report, progress, between)
    plan = None if is_reused else plan
    return [Prepared(snapshot, journals[-1], runs, each, plan, lock) for snapshot, each in zip(snapshots, pending, strict=True)]


def journal_of(job: Job, run_id: str) -> Journal:
    """Make the journal of a job's target, as a run sees it."""
    length, retention = job.resolved.vector_length, job.config.runtime.journal_retention_hours
    return Journal(job.spark, job.target.beside("journal"), job.resolved.fingerprint, run_id, length, retention)


@contextmanager
def hold_locks(lock: RunLock, location: str, jobs: Sequence[Job], scope: RowScope) -> Iterator[None]:
    """Hold the run locks of jobs on one target, whose journal stands at `location`, while the block runs.

    Other drivers are locked out from the whole target where the storage does not keep their commits apart.
    """
    with ExitStack() as locks:
        for job in jobs:
            locks.enter_context(lock.hold(_digest_of(job, scope)))
        commits = check_session_commits(jobs[0].spark, location)
        if commits.level is not Level.OK:
            logger.warning("%s", commits)
            locks.enter_context(lock.hold(WHOLE_TARGET))
        yield


def _digest_of(job: Job, scope: RowScope) -> str:
    """Identify a job for the run lock: two runs with the same digest would do the same work."""
    parts = (job.config.source, str(job.source), str(job.target), job.columns.vector, job.fingerprints.label, scope.kind)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _take_snapshots(jobs: Sequence[Job], scope: RowScope, report: Report, progress: Progress, between: Between) -> dict[str, Snapshot]:
    """Take the snapshots of all columns, by the columns' names."""
    between("snapshot")
    with showing(progress, "snapshot"), report.timed("select"):
        snapshots = take_snapshots(jobs, scope)
    return {job.columns.vector: snapshot for job, snapshot in zip(jobs, snapshots, strict=True)}


def _find_pending(
    jobs: Sequence[Job], snapshots: Sequence[Snapshot], journals: Sequence[Journal], report: Report, progress: Progress, between: Between
) -> tuple[list[Pending], bool]:
    """Find the pending texts of each column, and whether vectors of a table were reused. What a column reuses is done for the others."""
    between("select")
    found: list[Pending] = []
    with showing(progress, "select"), report.timed("select"):
        is_fresh, n_reused = journals[0].is_empty(), 0
        for job, snapshot, journal in zip(jobs, snapshots, journals[:-1], strict=True):
            pending = find_pending(snapshot, None if is_fresh and not n_reused else journal.finished())
            pending = reuse_vectors(job, pending, journal)
            n_reused += pending.n_reused
            found.append(dataclasses.replace(pending, is_fresh=is_fresh))
    return found, n_reused > 0


def _embed(
    jobs: Sequence[Job], pending: Sequence[Pending], journal: Journal, report: Report, progress: Progress, between: Between
) -> WavePlan | None:
    """Embed the texts of all columns in waves."""
    first = jobs[0]
    with report.timed("embed"):
        return embed_waves(
            first.spark,
            join_pending(pending),
            journal,
            first.request(report.run_id),
            first.config.runtime.wave_rows,
            progress,
            WaveMonitor(first.budget, report),
            first.config.runtime.task_gpus,
            between,
        )


def _clean_up(
    jobs: Sequence[Job], snapshots: Sequence[Snapshot], journal: Journal, run_ids: set[str], location: str, lock: RunLock
) -> None:
    """Drop from the journal what the columns hold now, as a run over one column does."""
    if not exists(journal.spark, journal.ref) or journal.has_no_file() or not lock.is_alone():
        return

    def needed() -> DataFrame:
        stored, parts = read(journal.spark, jobs[0].target), []
        for job, snapshot in zip(jobs, snapshots, strict=True):
            parts.append(stored.select(F.col(quoted(job.columns.fingerprint_column)).alias("fingerprint")).where("fingerprint IS NOT NULL"))
            parts.append(snapshot.work.select(F.col(FINGERPRINT).alias("fingerprint")))
        whole = parts[0]
        for part in parts[1:]:
            whole = whole.union(part)
        return whole

    journal.forget({(journal.spec_fingerprint, run_id) for run_id in run_ids}, journal.runs(), needed)
    journal.tidy_up(location)
