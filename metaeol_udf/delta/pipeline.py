"""One run over the rows in scope. Each phase is a module of its own; the order of the phases is what is here."""

from __future__ import annotations

import hashlib
import logging
import time

from delta import DeltaTable
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from metaeol_udf.delta.base.context import Job
from metaeol_udf.delta.base.progress import Progress, default_progress
from metaeol_udf.delta.base.run_report import Report, Stopwatch
from metaeol_udf.delta.base.shutdown import check_termination
from metaeol_udf.delta.gate import gate
from metaeol_udf.delta.select import selection
from metaeol_udf.delta.select.row_scope import RowScope
from metaeol_udf.delta.select.selection import OUTCOME, Selection
from metaeol_udf.delta.select.snapshot import Snapshot, Tables, is_outdated, open_checked, select, take_snapshot
from metaeol_udf.delta.tables import metadata
from metaeol_udf.delta.tables.refs import current_version, open_table, read
from metaeol_udf.delta.tables.spark_errors import files_are_gone, with_retries
from metaeol_udf.delta.tables.target import create_target
from metaeol_udf.delta.write import merge
from metaeol_udf.delta.write.journal import Journal
from metaeol_udf.delta.write.quarantine import reconcile_quarantine, update_quarantine
from metaeol_udf.delta.write.run_lock import RunLock
from metaeol_udf.delta.write.wave_monitor import WaveMonitor
from metaeol_udf.delta.write.waves import embed_waves
from metaeol_udf.errors import MetaEOLError
from metaeol_udf.spark.cluster.preflight import check_executors
from metaeol_udf.spark.cluster.session import executor_count
from metaeol_udf.spark.columns import quoted

logger = logging.getLogger(__name__)

_MAX_LOOKS = 3
_MAX_MERGES = 5


class EmbedRun:
    """One pass over the rows in scope: select, embed in waves, pass the quality gate, publish, verify, quarantine."""

    def __init__(self, job: Job, progress: Progress | None, report: Report, scope: RowScope | None = None) -> None:
        self._job, self._config, self._spark = job, job.config, job.spark
        self._columns, self._scope, self._report = job.columns, scope or RowScope(), report
        self._progress = progress or default_progress()
        self._watch = Stopwatch()
        self._journal = Journal(self._spark, job.target.beside("journal"), report.fingerprint, report.run_id)
        self._is_accepted = False  # by the quality gate

    def run(self) -> None:
        """All phases in order; fills the report.

        Raises:
            BudgetError: The run was stopped before its end: nothing is published.
            QualityError: The quality gate did not let the vectors in: nothing is published.
            TerminatedError: SIGTERM came before the publication.
        """
        started = time.monotonic()
        try:
            self._run()
        finally:
            self._report.seconds = {**self._watch.seconds, "total": round(time.monotonic() - started, 3)}
            self._report.set_rate()

    def _run(self) -> None:
        check_termination()
        snapshot = self._take_snapshot()
        if self._report.migration:
            logger.warning("%s", self._report.migration_line())
        if snapshot.rows_to_do:
            with self._watch.phase("prepare"):
                check_executors(self._spark, self._job.request(self._report.run_id), self._config.runtime.task_gpus)
            claims = RunLock(self._spark, self._journal.open(), self._report.run_id)
            with claims.hold(self._job_digest()):
                if is_outdated(self._job, snapshot.tables):  # another run may have ended just before the claim was free
                    snapshot = self._take_snapshot()
                if snapshot.rows_to_do:
                    snapshot = self._work(snapshot, claims)
        else:
            with self._watch.phase("prepare"):
                self._prepare(snapshot.tables)
        if self._scope.failed:
            self._reconcile(snapshot.tables)
        self._finish(snapshot.tables)

    def _take_snapshot(self) -> Snapshot:
        """Pin the tables' versions and see what there is to do."""
        with self._watch.phase("select"):
            found = take_snapshot(self._job, self._scope)
        self._report.count_selected(found.counts)
        return found

    def _work(self, snapshot: Snapshot, claims: RunLock) -> Snapshot:
        """Embed and publish, and look again where what was pinned is gone or what was journalled was dropped by another run.

        Every further look finds what is left to do: what was journalled or published is not computed again.

        Raises:
            MetaEOLError: Rows are missing after every look.
        """
        for looks_left in reversed(range(_MAX_LOOKS)):
            try:
                self._prepare_and_embed(snapshot)
                check_termination()
                n_lost = self._publish(snapshot, claims)
                if not n_lost:
                    return snapshot
                logger.warning("%d rows were dropped from the journal by another run: looking again", n_lost)
            except Exception as error:
                if not looks_left or not files_are_gone(error):
                    raise
                logger.warning(
                    "files of version %d of the source are gone: going on with the newest version", snapshot.tables.source_version
                )
            snapshot = self._take_snapshot()
            self._journal = self._journal.for_another_snapshot()
        raise MetaEOLError("rows that were embedded are in no journal, however often they are looked for: run the job again")

    def _prepare_and_embed(self, snapshot: Snapshot) -> None:
        """Bring all outcomes into the journal, and the target into the state that a publication needs.

        Where the quality gate must be passed the target is not touched before: it keeps the label of the vectors that it holds.
        """
        is_gated = not self._is_accepted and gate.is_due(self._job, self._scope, snapshot)
        if not is_gated:
            with self._watch.phase("prepare"):
                self._prepare(snapshot.tables)
        self._embed(snapshot.chosen)
        if is_gated:
            check_termination()
            with self._watch.phase("quality"):
                gate.pass_gate(self._job, self._scope, snapshot, self._journal, self._report)
            self._is_accepted = True
            with self._watch.phase("prepare"):
                self._prepare(snapshot.tables)

    def _job_digest(self) -> str:
        """Names what a second run would pay for twice: the same rows, columns and spec by the same command."""
        job = self._job
        parts = (self._config.source, str(job.source), str(job.target), self._columns.vector, self._report.fingerprint, self._scope.kind)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]

    def prepare_tables(self, *, with_metadata: bool = True) -> None:
        """Only the checks, the columns and the lineage: for a stream, which must not see the schema change while it runs."""
        self._prepare(open_checked(self._job, self._scope), with_metadata=with_metadata)

    def count_rows_of_other_specs(self) -> int:
        """Rows in scope that hold a vector of another spec."""
        return take_snapshot(self._job, self._scope, check_keys=False).counts.rows_of_other_specs

    def _prepare(self, tables: Tables, *, with_metadata: bool = True) -> None:
        """Target, columns and lineage."""
        if not tables.in_place:
            create_target(self._spark, tables.target, tables.key)
        if not with_metadata:
            with_retries(lambda: metadata.add_columns(self._spark, tables.target, self._columns))
            return
        properties = metadata.vector_properties(self._columns.vector, self._job.resolved)
        with_retries(lambda: metadata.prepare_table(self._spark, tables.target, self._columns, properties))

    def _embed(self, chosen: Selection) -> None:
        runtime = self._config.runtime
        with self._watch.phase("select"):
            pending = selection.find_pending(chosen, self._journal.finished())
        after_wave = WaveMonitor(self._journal, self._job.budget, self._report)
        with self._watch.phase("embed"):
            request = self._job.request(self._report.run_id)
            embed_waves(self._spark, pending, self._journal, request, runtime.wave_rows, self._progress, after_wave, runtime.task_gpus)
        self._count_work()

    def _count_work(self) -> None:
        """Tokens and model loads of this run, from what it journalled."""
        mine = self._journal.rows().where(F.col("run_id") == self._report.run_id)
        loaded_now = F.when(F.col("load_id").endswith(f":{self._report.run_id}"), F.col("load_id"))
        found = mine.agg(
            F.coalesce(F.sum("tokens_computed"), F.lit(0)).alias("computed"),
            F.coalesce(F.sum("tokens_saved"), F.lit(0)).alias("saved"),
            F.count_distinct(loaded_now).alias("loads"),
        ).collect()[0]
        self._report.tokens_computed, self._report.tokens_saved = found["computed"], found["saved"]
        self._report.model_loads = found["loads"]

    def _publish(self, snapshot: Snapshot, claims: RunLock) -> int:
        """Bring the journal's outcomes into the tables; gives the rows that have none there."""
        tables, chosen = snapshot.tables, snapshot.chosen
        for tries_left in reversed(range(_MAX_MERGES)):
            with self._watch.phase("publish"):
                with_retries(lambda: self._merge(tables, self._journal.outcomes()))
            with self._watch.phase("verify"):
                due = self._journal.digests()
                if self._scope.failed:  # a second try that failed again is stored as it was before
                    due = due.where(F.col("error").isNull())
                # Whoever writes a journalled text just after the MERGE gets its vector from another one.
                n_missing = merge.count_missing(select(self._job, self._scope, tables, pinned=False), due)
                if not n_missing or not tries_left:
                    break
        with self._watch.phase("verify"):
            present, stored = (
                select(self._job, self._scope, tables, pinned=False, whole=True),
                self._scope.of_source(read(self._spark, tables.target)),
            )
            verified = merge.verify(chosen, present, stored, self._columns, self._journal, n_missing)
            results = selection.with_outcomes(chosen, self._journal.digests())
            n_lost, n_failed = self._count_rows(results)
        self._report.rows_stale += verified.rows_stale
        with self._watch.phase("quarantine"):
            ref, key = tables.target.beside("quarantine"), tables.key
            with_retries(lambda: update_quarantine(self._spark, ref, results, key, self._report.run_id, n_failed))
        if claims.is_alone():  # another run may count on what it found in the journal
            self._journal.drop_published(verified.fingerprints)
        return n_lost

    def _reconcile(self, tables: Tables) -> None:
        """Let the quarantine hold what has an error now, whatever killed runs and deleted rows left in it."""
        key, columns, source = tables.key, self._columns, read(self._spark, tables.source_ref)
        stored = source if tables.in_place else read(self._spark, tables.target).join(source, key.names, "left_semi")
        failing = stored.where(F.col(quoted(columns.error)).isNotNull()).select(
            *[quoted(name) for name in key.names],
            F.col(quoted(columns.fingerprint_column)).alias("fingerprint"),
            F.col(quoted(columns.error)).alias("error"),
        )
        with self._watch.phase("quarantine"):
            ref = tables.target.beside("quarantine")
            with_retries(lambda: reconcile_quarantine(self._spark, ref, failing, key, self._report.run_id))

    def _merge(self, tables: Tables, outcomes: DataFrame) -> None:
        source, scope = self._config.source, self._scope
        target: DeltaTable = open_table(self._spark, tables.target, "target.table")
        merge.check_still_fits(target, self._columns, [source.text] if tables.in_place else source.key, tables.target)
        if tables.in_place:
            merge.publish_in_place(target, outcomes, self._columns, self._report.fingerprint, source.text, scope.condition(source.where))
        else:
            merge.publish_to_target(target, select(self._job, self._scope, tables, pinned=False), outcomes, self._columns, scope.bounds)

    def _count_rows(self, results: DataFrame) -> tuple[int, int]:
        """Count what became of the rows worked on; gives the rows that are in no journal, and those that failed."""
        outcome = F.col(OUTCOME)
        ok = outcome.isNotNull() & outcome["error"].isNull()
        found = results.agg(
            F.count(F.when(outcome.isNull(), True)).alias("lost"),
            F.count(F.when(ok, True)).alias("embedded"),
            F.count(outcome["error"]).alias("failed"),
            F.count(F.when(outcome["trimmed"], True)).alias("trimmed"),
        ).collect()[0]
        reasons = results.groupBy(outcome["error"].alias("reason")).count().where(F.col("reason").isNotNull()) if found["failed"] else None
        self._report.count_done(found["embedded"], found["trimmed"], {} if reasons is None else dict(map(tuple, reasons.collect())))
        return found["lost"], found["failed"]

    def _finish(self, tables: Tables) -> None:
        report = self._report
        target = open_table(self._spark, tables.target, "target.table")
        report.delta_versions = {"source": tables.source_version, "target": current_version(target)}
        report.executors = executor_count(self._spark)
