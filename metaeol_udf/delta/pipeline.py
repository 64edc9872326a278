"""One run over the rows in scope: `EmbedRun.run` calls the phases in their order, which `metaeol_udf.delta` describes."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from metaeol_udf.delta.base.context import Job
from metaeol_udf.delta.base.progress import Between, Progress, default_progress, showing
from metaeol_udf.delta.base.run_report import Report
from metaeol_udf.delta.base.shutdown import check_termination
from metaeol_udf.delta.select.looking import take_snapshot
from metaeol_udf.delta.select.pending import Pending, find_pending
from metaeol_udf.delta.select.proof import noted_commits
from metaeol_udf.delta.select.row_scope import RowScope
from metaeol_udf.delta.select.selection import FINGERPRINT
from metaeol_udf.delta.select.snapshot import Snapshot, is_outdated, save_proof
from metaeol_udf.delta.sources.passages import PassageSource
from metaeol_udf.delta.tables.commits import newest_version
from metaeol_udf.delta.tables.refs import exists, read
from metaeol_udf.delta.tables.spark_errors import rows_are_gone, with_retries
from metaeol_udf.delta.together import Prepared, hold_locks, journal_of
from metaeol_udf.delta.write.deletions import count_orphans, remove_lost_passages, remove_orphans, removes
from metaeol_udf.delta.write.merge import Published, publish
from metaeol_udf.delta.write.prepare import prepare_tables
from metaeol_udf.delta.write.quarantine import count_listed, failing_rows, prepare_quarantine, reconcile_quarantine, update_quarantine
from metaeol_udf.delta.write.reuse import reuse_vectors
from metaeol_udf.delta.write.run_lock import RunLock
from metaeol_udf.delta.write.verify import Outcomes, verify
from metaeol_udf.delta.write.wave_monitor import WaveMonitor
from metaeol_udf.delta.write.waves import WavePlan, embed_waves
from metaeol_udf.errors import MetaEOLError
from metaeol_udf.spark.cluster.preflight import check_executors
from metaeol_udf.spark.cluster.session import executor_count
from metaeol_udf.spark.columns import quoted

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
    "delete": "publish",
    "quarantine": "quarantine",
    "cleanup": None,
    "report": None,
}
_MAX_ATTEMPTS = 3
_MAX_MERGES = 5


class EmbedRun:
    """One pass over the rows in scope."""

    def __init__(
        self,
        job: Job,
        progress: Progress | None,
        report: Report,
        scope: RowScope | None = None,
        between: Between | None = None,
        prepared: Prepared | None = None,
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
            prepared: What was done together with other columns; None: nothing.
        """
        self._job, self._config, self._spark = job, job.config, job.spark
        self._columns, self._scope, self._report = job.columns, scope or RowScope(), report
        self._progress, self._between = (
            progress or default_progress(f"{job.target} {job.columns.vector}, run {report.run_id}"),
            between or (lambda phase: None),
        )
        self._prepared = prepared
        self._journal_is_shared = prepared is not None
        self._journal = journal_of(job, report.run_id) if prepared is None else prepared.journal
        self._monitor = WaveMonitor(job.budget, report)
        self._lock: RunLock | None = None
        self._attempts_left = _MAX_ATTEMPTS
        self._is_accepted = False  # by the quality gate
        self._created_version: int | None = None  # of a target that this run made
        self._journal_was_empty = False

    def run(self) -> None:
        """Run all phases in order, and fill the report; raises what `run_embed` names."""
        with self._timed_report(), noted_commits(self._job, self._report.run_id):
            check_termination()
            snapshot = self._take_snapshot()
            if self._report.migration:
                logger.warning("%s", self._report.migration_line())
            n_orphans = self._count_orphans(snapshot)
            if not snapshot.rows_to_do:
                self._prepare_tables(snapshot)
            with self._hold_lock(snapshot) as snapshot:
                n_left = snapshot.rows_to_do
                while n_left:
                    with self._attempt(snapshot):
                        is_gated = self._must_pass_gate(snapshot)
                        if is_gated:
                            self._prepare_quarantine(snapshot)
                        else:
                            self._prepare_tables(snapshot)
                        texts = self._select_texts(snapshot)
                        plan = self._embed_and_journal(texts)
                        if is_gated:
                            self._pass_gate(snapshot)
                            self._prepare_tables(snapshot)
                        outcomes = self._publish_and_verify(snapshot, texts, plan)
                        self._update_quarantine(snapshot, outcomes)
                        n_left = self._count_lost(outcomes)
                    if n_left:
                        snapshot = self._take_another_snapshot()
                self._remove_orphans(n_orphans)
                self._remove_lost_passages(snapshot)
                self._reconcile_quarantine(snapshot)
                self._count_standing_errors(snapshot)
                self._clean_up_journal(snapshot)
            self._save_proof(snapshot)
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
        """Announce a phase, and show it."""
        self._between(name)
        with self._shown(name):
            yield

    @contextmanager
    def _shown(self, phase: str) -> Iterator[None]:
        """Show that the run is in a phase, and add the time spent inside to the report."""
        key = PHASES[phase]
        with showing(self._progress, phase), nullcontext() if key is None else self._report.timed(key):
            yield

    def _take_snapshot(self) -> Snapshot:
        """Take a snapshot of the tables, and count the rows in it."""
        with self._phase("snapshot"):
            snapshot = take_snapshot(self._job, self._scope) if self._prepared is None else self._prepared.snapshot
        self._report.count_selected(snapshot.counts, snapshot.n_failing)
        look = snapshot.look
        self._report.looked_at = f"all rows: {look.why_all}" if look.why_all else f"files added since version {look.since} of the source"
        return snapshot

    def _take_another_snapshot(self) -> Snapshot:
        """Take a snapshot of what is left: what is journalled or published is not computed again."""
        self._journal = self._journal.for_another_snapshot() if self._prepared is None else journal_of(self._job, self._report.run_id)
        self._prepared = None
        return self._take_snapshot()

    @contextmanager
    def _hold_lock(self, snapshot: Snapshot) -> Iterator[Snapshot]:
        """Hold the run lock while the block runs, where there is work; gives the snapshot to work on."""
        if not snapshot.rows_to_do:
            yield snapshot
            return
        if self._prepared is not None:  # its lock is held
            self._lock = self._prepared.lock
            yield self._take_another_snapshot() if is_outdated(self._job, snapshot.tables, self._prepared.runs) else snapshot
            return
        with ExitStack() as locks:
            with self._phase("preflight"):
                check_executors(self._spark, self._job.request(self._report.run_id), self._config.runtime.task_gpus)
                location = self._journal.open()
                self._lock = RunLock(self._spark, location, self._report.run_id)
                locks.enter_context(hold_locks(self._lock, location, [self._job], self._scope))
                # Another run may have ended just before the lock was free.
                is_old = is_outdated(self._job, snapshot.tables)
            yield self._take_snapshot() if is_old else snapshot

    @contextmanager
    def _attempt(self, snapshot: Snapshot) -> Iterator[None]:
        """Make an attempt to publish; while attempts are left, it may end because rows of the snapshot are gone.

        VACUUM removes files, and a lost executor takes along what it kept. An attempt that journalled a wave does not count.
        """
        self._attempts_left -= 1
        waves = self._report.waves
        try:
            yield
        except Exception as error:
            if not rows_are_gone(error):
                raise
            if self._report.waves > waves:
                self._attempts_left = _MAX_ATTEMPTS
            if not self._attempts_left:
                raise
            version = snapshot.tables.source_version
            logger.warning("rows of %s are gone: looking again", "the source" if version is None else f"version {version} of the source")

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
            if snapshot.tables.target_version is None and self._created_version is None and not self._job.in_place:
                self._created_version = newest_version(self._spark, self._job.target)

    def _prepare_quarantine(self, snapshot: Snapshot) -> None:
        """Bring the quarantine into its state before the model runs; what the gate decides on comes after it."""
        with self._phase("prepare"):
            prepare_quarantine(self._spark, self._job.target.beside("quarantine"), snapshot.tables.key)

    def _select_texts(self, snapshot: Snapshot) -> Pending:
        """Select the texts that no journal holds, each once."""
        with self._phase("select"):
            if self._prepared is not None and self._prepared.pending is not None:
                return self._prepared.pending
            self._journal_was_empty = self._journal.has_no_file()
            pending = find_pending(snapshot, None if self._journal.is_empty() else self._journal.finished())
            pending = reuse_vectors(self._job, pending, self._journal)
        self._report.texts_reused += pending.n_reused
        return pending

    def _embed_and_journal(self, texts: Pending) -> WavePlan | None:
        """Embed texts in waves, each of which is journalled before the next one begins."""
        if self._prepared is not None:
            return self._prepared.plan
        runtime = self._config.runtime
        with self._report.timed("embed"):  # the waves announce their phases
            return embed_waves(
                self._spark,
                texts.for_waves,
                self._journal,
                self._job.request(self._report.run_id),
                runtime.wave_rows,
                self._progress,
                self._monitor,
                runtime.task_gpus,
                self._between,
            )

    def _pass_gate(self, snapshot: Snapshot) -> None:
        """Pass the quality gate. Until then the target keeps the label of the vectors that it holds."""
        from metaeol_udf.delta.gate.gate import pass_gate

        check_termination()
        with self._phase("gate"):
            pass_gate(self._job, self._scope, snapshot, self._journal, self._report)
        self._is_accepted = True

    def _publish_and_verify(self, snapshot: Snapshot, texts: Pending, plan: WavePlan | None) -> Outcomes:
        """Publish the journal's outcomes, and verify that the table holds them: again where another writer was in between."""
        check_termination()
        published = Published(self._journal, texts.is_fresh, None if texts.n_reused else plan)
        tables = snapshot.tables
        before = tables.source_version if self._job.in_place else tables.target_version
        since = -1 if before is None else before
        for merges_left in reversed(range(_MAX_MERGES)):
            with self._phase("publish"):
                publish(self._job, self._scope, snapshot, published)
            with self._phase("verify"):
                outcomes = verify(self._job, self._scope, snapshot, published, since)
            if not outcomes.n_missing:
                break
            if not merges_left:
                raise MetaEOLError(
                    f"{outcomes.n_missing} rows do not hold the vector that was computed for them, although the commit succeeded; "
                    "the journal is kept, so that another run publishes again without computing"
                )
        self._report.count_done(outcomes.n_embedded, outcomes.n_trimmed, outcomes.failures)
        self._report.rows_stale += outcomes.n_stale
        return outcomes

    def _count_orphans(self, snapshot: Snapshot) -> int:
        """Count the target's rows whose key left the source; raises where they are too many to be removed unasked."""
        if self._job.in_place or snapshot.tables.target_version is None or not snapshot.look.may_miss_keys:
            return 0
        with self._phase("delete"):
            return count_orphans(self._job)

    def _remove_orphans(self, n_orphans: int) -> None:
        """Remove the target's rows whose key left the source, or report them where they are kept."""
        if not n_orphans:
            return
        if not removes(self._job):
            self._report.rows_orphaned = n_orphans
            return
        with self._phase("delete"):
            self._report.rows_deleted += remove_orphans(self._job)

    def _remove_lost_passages(self, snapshot: Snapshot) -> None:
        """Remove the passages that their text does not have any more, whatever becomes of keys that left the source."""
        if not isinstance(self._job.source, PassageSource) or snapshot.tables.target_version is None or not snapshot.look.may_miss_keys:
            return
        with self._phase("delete"):
            self._report.rows_deleted += remove_lost_passages(self._job, snapshot.tables.source)

    def _update_quarantine(self, snapshot: Snapshot, outcomes: Outcomes) -> None:
        """Update the quarantine: rows that failed enter it, rows that succeeded leave it."""
        ref, key, column = self._job.target.beside("quarantine"), snapshot.tables.key, self._columns.vector
        with self._phase("quarantine"):
            with_retries(lambda: update_quarantine(self._spark, ref, outcomes.rows, key, self._report.run_id, outcomes.n_failed, column))

    def _count_lost(self, outcomes: Outcomes) -> int:
        """Count the rows that another attempt must embed, because another run dropped their texts from the journal."""
        if outcomes.n_lost:
            if not self._attempts_left:
                raise MetaEOLError("rows that were embedded are in no journal, however often they are looked for: run the job again")
            logger.warning("%d rows were dropped from the journal by another run: looking again", outcomes.n_lost)
        return outcomes.n_lost

    def _reconcile_quarantine(self, snapshot: Snapshot) -> None:
        """Reconcile the quarantine with the table, whatever killed runs and deleted rows left in it.

        A run that looked at the changes alone has nothing to reconcile, unless rows left the source.
        """
        ref, key = self._job.target.beside("quarantine"), snapshot.tables.key
        if not (self._scope.failed or snapshot.look.may_miss_keys):
            return
        # Another try of rows says nothing of those that it does not try.
        if not (self._scope.failed or snapshot.n_failing or self._report.rows_failed or exists(self._spark, ref)):
            return
        with self._shown("quarantine"):
            failing = failing_rows(self._job, snapshot.tables)
            with_retries(lambda: reconcile_quarantine(self._spark, ref, failing, key, self._report.run_id, self._columns.vector))

    def _count_standing_errors(self, snapshot: Snapshot) -> None:
        """Count the rows that have an error now, also those that a look at the changes alone does not see: the quarantine lists them."""
        if snapshot.look.why_all is None:
            ref = self._job.target.beside("quarantine")
            with self._shown("quarantine"):
                self._report.rows_without_vector = count_listed(self._spark, ref, self._columns.vector)

    def _clean_up_journal(self, snapshot: Snapshot) -> None:
        """Drop from the journal what is published, and what is forgotten, unless another run may count on what it found there."""
        if self._journal_is_shared or not exists(self._spark, self._job.target.beside("journal")):
            return
        with self._shown("cleanup"):
            if self._journal.has_no_file():
                return
            self._between("cleanup")
            mine = (self._report.fingerprint, self._report.run_id)
            runs = {mine} if self._journal_was_empty else self._journal.runs()
            location = self._journal.open()
            if not (self._lock or RunLock(self._spark, location, self._report.run_id)).is_alone():
                return

            def needed() -> DataFrame:
                stored, column = read(self._spark, self._job.target), quoted(self._columns.fingerprint_column)
                held = stored.select(F.col(column).alias("fingerprint")).where("fingerprint IS NOT NULL")
                return held.union(snapshot.work.select(F.col(FINGERPRINT).alias("fingerprint")))

            self._journal.forget({mine}, runs, needed)
            self._journal.tidy_up(location)

    def _save_proof(self, snapshot: Snapshot) -> None:
        """Save what this run proved, so that the next one looks at what is changed after it."""
        if self._scope.kind != "all":
            return
        with self._shown("report"):
            save_proof(self._job, self._report.run_id, snapshot.tables, snapshot.counts.rows_selected, self._created_version)

    def _finish_report(self, snapshot: Snapshot) -> None:
        """Finish the report with the tables' versions and the session's executors."""
        with self._phase("report"):
            source = snapshot.tables.source_version
            versions = {} if source is None else {"source": source}
            self._report.delta_versions = versions | {"target": newest_version(self._spark, self._job.target)}
            self._report.executors = executor_count(self._spark)
