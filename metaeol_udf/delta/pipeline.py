"""One run over the rows in scope: `EmbedRun.run` calls the phases in their order, which `metaeol_udf.delta` describes."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from metaeol_udf.delta.base.context import Job
from metaeol_udf.delta.base.progress import Between, Progress, default_progress
from metaeol_udf.delta.base.run_report import Report
from metaeol_udf.delta.base.shutdown import check_termination
from metaeol_udf.delta.select.row_scope import RowScope
from metaeol_udf.delta.select.selection import Outcomes, Pending, count_outcomes, find_pending
from metaeol_udf.delta.select.snapshot import Snapshot, is_outdated, select, take_snapshot
from metaeol_udf.delta.tables.refs import current_version, open_table, read
from metaeol_udf.delta.tables.spark_errors import files_are_gone, with_retries
from metaeol_udf.delta.write import merge
from metaeol_udf.delta.write.journal import Journal
from metaeol_udf.delta.write.prepare import prepare_tables
from metaeol_udf.delta.write.quarantine import failing_rows, reconcile_quarantine, update_quarantine
from metaeol_udf.delta.write.run_lock import RunLock
from metaeol_udf.delta.write.wave_monitor import WaveMonitor
from metaeol_udf.delta.write.waves import embed_waves
from metaeol_udf.errors import MetaEOLError
from metaeol_udf.spark.cluster.preflight import check_executors
from metaeol_udf.spark.cluster.session import executor_count

logger = logging.getLogger(__name__)

#: The phases in order, each with the key of the report's `seconds` that its time is added to; None: to `total` alone.
PHASES = {
    "snapshot": "select",
    "preflight": "prepare",
    "prepare": "prepare",
    "select": "select",
    "embed": "embed",
    "journal": "embed",
    "gate": "quality",
    "publish": "publish",
    "verify": "verify",
    "quarantine": "quarantine",
    "cleanup": None,
    "report": None,
}
_MAX_ATTEMPTS = 3
_MAX_MERGES = 5


class EmbedRun:
    """One pass over the rows in scope."""

    def __init__(
        self, job: Job, progress: Progress | None, report: Report, scope: RowScope | None = None, between: Between | None = None
    ) -> None:
        """Make a run ready; starts no Spark work.

        Args:
            job: Settings and session.
            progress: The watcher of how far the run is; by default a bar on a terminal and lines in a log.
            report: The report to fill.
            scope: The rows of the run; by default all.
            between: A function that is called with the name of a phase (see `PHASES`) before it begins, on the thread of the run:
                `embed` and `journal` once a wave, `publish` and `verify` once a MERGE. What it raises ends the run. For tests
                and for tools that watch a run.
        """
        self._job, self._config, self._spark = job, job.config, job.spark
        self._columns, self._scope, self._report = job.columns, scope or RowScope(), report
        self._progress, self._between = progress or default_progress(), between or (lambda phase: None)
        self._journal = Journal(self._spark, job.target.beside("journal"), report.fingerprint, report.run_id)
        self._lock: RunLock | None = None
        self._attempts_left = _MAX_ATTEMPTS
        self._is_accepted = False  # by the quality gate

    def run(self) -> None:
        """Run all phases in order, and fill the report; raises what `run_embed` names."""
        with self._timed_report():
            check_termination()
            snapshot = self._take_snapshot()
            if self._report.migration:
                logger.warning("%s", self._report.migration_line())
            if not snapshot.rows_to_do:
                self._prepare_tables(snapshot)
            with self._hold_lock(snapshot) as snapshot:
                n_left = snapshot.rows_to_do
                while n_left:
                    with self._attempt(snapshot):
                        is_gated = self._must_pass_gate(snapshot)
                        if not is_gated:
                            self._prepare_tables(snapshot)
                        texts = self._select_texts(snapshot)
                        self._embed_and_journal(texts)
                        if is_gated:
                            self._pass_gate(snapshot)
                            self._prepare_tables(snapshot)
                        n_missing = self._publish(snapshot)
                        verified = self._verify(snapshot, n_missing)
                        outcomes = self._count_outcomes(snapshot, verified)
                        self._update_quarantine(snapshot, outcomes)
                        self._clean_up_journal(verified)
                        n_left = self._count_lost(outcomes)
                    if n_left:
                        snapshot = self._take_another_snapshot()
            self._reconcile_quarantine(snapshot)
            self._finish_report(snapshot)

    @contextmanager
    def _timed_report(self) -> Iterator[None]:
        """Fill the report's times at the end of the block, also where the run fails."""
        started = time.monotonic()
        try:
            yield
        finally:
            self._report.seconds["total"] = round(time.monotonic() - started, 3)
            self._report.set_rate()

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        """Announce a phase, and add the time spent inside to the report."""
        self._between(name)
        key = PHASES[name]
        with nullcontext() if key is None else self._report.timed(key):
            yield

    def _take_snapshot(self) -> Snapshot:
        """Take a snapshot of the tables, and count the rows in it."""
        with self._phase("snapshot"):
            snapshot = take_snapshot(self._job, self._scope)
        self._report.count_selected(snapshot.counts)
        return snapshot

    def _take_another_snapshot(self) -> Snapshot:
        """Take a snapshot of what is left: what is journalled or published is not computed again."""
        snapshot = self._take_snapshot()
        self._journal = self._journal.for_another_snapshot()
        return snapshot

    @contextmanager
    def _hold_lock(self, snapshot: Snapshot) -> Iterator[Snapshot]:
        """Hold the run lock while the block runs, where there is work; gives the snapshot to work on."""
        if not snapshot.rows_to_do:
            yield snapshot
            return
        with self._phase("preflight"):
            check_executors(self._spark, self._job.request(self._report.run_id), self._config.runtime.task_gpus)
        self._lock = RunLock(self._spark, self._journal.open(), self._report.run_id)
        with self._lock.hold(self._job_digest()):
            # Another run may have ended just before the lock was free.
            yield self._take_snapshot() if is_outdated(self._job, snapshot.tables) else snapshot

    def _job_digest(self) -> str:
        """Identify the job for the run lock: two runs with the same digest would do the same work."""
        job = self._job
        parts = (self._config.source, str(job.source), str(job.target), self._columns.vector, self._report.fingerprint, self._scope.kind)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]

    @contextmanager
    def _attempt(self, snapshot: Snapshot) -> Iterator[None]:
        """Make an attempt to publish; while attempts are left, it may end because VACUUM removed files of the snapshot."""
        self._attempts_left -= 1
        try:
            yield
        except Exception as error:
            if not self._attempts_left or not files_are_gone(error):
                raise
            version = snapshot.tables.source_version
            logger.warning("files of version %d of the source are gone: going on with the newest version", version)

    def _must_pass_gate(self, snapshot: Snapshot) -> bool:
        """Tell whether the run must pass the quality gate before it labels or publishes anything. Starts no Spark work.

        For rows that failed it always must: they hold no vector, and say nothing of what the other rows hold.
        """
        if self._is_accepted or not self._config.quality.gate:
            return False
        return self._scope.failed or snapshot.counts.rows_of_other_specs > 0

    def _prepare_tables(self, snapshot: Snapshot) -> None:
        """Bring the table that is written to into the state that a publication needs."""
        with self._phase("prepare"):
            prepare_tables(self._job, snapshot.tables)

    def _select_texts(self, snapshot: Snapshot) -> Pending:
        """Select the texts that no journal holds, each once."""
        with self._phase("select"):
            return find_pending(snapshot.chosen, self._journal.finished())

    def _embed_and_journal(self, texts: Pending) -> None:
        """Embed texts in waves, each of which is journalled before the next one begins; then report what this run computed."""
        report, runtime = self._report, self._config.runtime
        after_wave = WaveMonitor(self._journal, self._job.budget, report)
        with report.timed("embed"):  # the waves announce their phases
            embed_waves(
                self._spark,
                texts,
                self._journal,
                self._job.request(report.run_id),
                runtime.wave_rows,
                self._progress,
                after_wave,
                runtime.task_gpus,
                self._between,
            )
        report.tokens_computed, report.tokens_saved, report.model_loads = self._journal.count_run()

    def _pass_gate(self, snapshot: Snapshot) -> None:
        """Pass the quality gate. Until then the target keeps the label of the vectors that it holds."""
        from metaeol_udf.delta.gate.gate import pass_gate

        check_termination()
        with self._phase("gate"):
            pass_gate(self._job, self._scope, snapshot, self._journal, self._report)
        self._is_accepted = True

    def _publish(self, snapshot: Snapshot) -> int:
        """Publish the journal's outcomes; gives the rows that do not hold theirs even after the last MERGE."""
        check_termination()
        for merges_left in reversed(range(_MAX_MERGES)):
            with self._phase("publish"):
                with_retries(lambda: merge.publish(self._job, self._scope, snapshot.tables, self._journal.outcomes()))
            with self._phase("verify"):
                # Whoever writes a journalled text just after the MERGE gets its vector from another one.
                n_missing = merge.count_missing(self._job, self._scope, snapshot.tables, self._journal.digests())
            if not n_missing or not merges_left:
                break
        return n_missing

    def _verify(self, snapshot: Snapshot, n_missing: int) -> merge.Verified:
        """Verify from the tables as they stand now that every row holds the vector of its present text."""
        with self._report.timed("verify"):
            present = select(self._job, self._scope, snapshot.tables, pinned=False, whole=True)
            stored = self._scope.of_source(read(self._spark, self._job.target))
            return merge.verify(snapshot.chosen, present, stored, self._columns, self._journal, n_missing)

    def _count_outcomes(self, snapshot: Snapshot, verified: merge.Verified) -> Outcomes:
        """Count what became of the rows, for the report."""
        with self._report.timed("verify"):
            outcomes = count_outcomes(snapshot.chosen, self._journal.digests())
        self._report.count_done(outcomes.n_embedded, outcomes.n_trimmed, outcomes.failures)
        self._report.rows_stale += verified.rows_stale
        return outcomes

    def _update_quarantine(self, snapshot: Snapshot, outcomes: Outcomes) -> None:
        """Update the quarantine: rows that failed enter it, rows that succeeded leave it."""
        ref, key = self._job.target.beside("quarantine"), snapshot.tables.key
        with self._phase("quarantine"):
            with_retries(lambda: update_quarantine(self._spark, ref, outcomes.rows, key, self._report.run_id, outcomes.n_failed))

    def _clean_up_journal(self, verified: merge.Verified) -> None:
        """Clean the journal of what is published, unless another run may count on what it found there."""
        with self._phase("cleanup"):
            if self._lock is None or self._lock.is_alone():
                self._journal.drop_published(verified.fingerprints)

    def _count_lost(self, outcomes: Outcomes) -> int:
        """Count the rows that another attempt must embed, because another run dropped their texts from the journal."""
        if outcomes.n_lost:
            if not self._attempts_left:
                raise MetaEOLError("rows that were embedded are in no journal, however often they are looked for: run the job again")
            logger.warning("%d rows were dropped from the journal by another run: looking again", outcomes.n_lost)
        return outcomes.n_lost

    def _reconcile_quarantine(self, snapshot: Snapshot) -> None:
        """Reconcile the quarantine with the table after a second try of failed rows, whatever killed runs and deleted rows left in it."""
        if not self._scope.failed:
            return
        ref, key, failing = self._job.target.beside("quarantine"), snapshot.tables.key, failing_rows(self._job, snapshot.tables)
        with self._phase("quarantine"):
            with_retries(lambda: reconcile_quarantine(self._spark, ref, failing, key, self._report.run_id))

    def _finish_report(self, snapshot: Snapshot) -> None:
        """Finish the report with the tables' versions and the session's executors."""
        with self._phase("report"):
            target = open_table(self._spark, self._job.target, "target.table")
            self._report.delta_versions = {"source": snapshot.tables.source_version, "target": current_version(target)}
            self._report.executors = executor_count(self._spark)
