"""One run over the rows in scope. Each phase is a module of its own; the order of the phases is what is here."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from delta import DeltaTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from metaeol_udf.delta import lineage, publish, selection
from metaeol_udf.delta.columns import check_source_columns, check_vector_columns, require_field
from metaeol_udf.delta.faults import with_retries
from metaeol_udf.delta.journal import Journal
from metaeol_udf.delta.monitor import WaveMonitor
from metaeol_udf.delta.progress import Progress, default_progress
from metaeol_udf.delta.quarantine import reconcile_quarantine, update_quarantine
from metaeol_udf.delta.report import Report, Stopwatch
from metaeol_udf.delta.scope import Scope
from metaeol_udf.delta.selection import OUTCOME, Selection
from metaeol_udf.delta.tables import TableRef, current_version, open_table, read
from metaeol_udf.delta.target import check_target, create_target
from metaeol_udf.delta.termination import check_termination
from metaeol_udf.delta.waves import embed_waves
from metaeol_udf.errors import MetaEOLError
from metaeol_udf.spark.udf import pin, quoted
from metaeol_udf.spark.worker import EncoderRequest

if TYPE_CHECKING:
    from metaeol_udf.delta.job import Job

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Tables:
    """What a run reads and writes.

    Attributes:
        source: The source as it was when the run began.
        source_version: Its version.
        target_version: The version of a target of its own as the run began; None where there is none yet, and in place.
        target: Where vectors go; the source itself where the settings name no other.
        in_place: Whether it is the source itself.
    """

    source_ref: TableRef
    source: DataFrame
    source_version: int
    target_version: int | None
    target: TableRef
    in_place: bool


class EmbedRun:
    """One pass over the rows in scope: select, embed in waves, publish, verify, quarantine."""

    def __init__(self, job: Job, progress: Progress | None, report: Report, scope: Scope | None = None) -> None:
        self._job, self._config, self._spark = job, job.config, job.spark
        self._columns, self._scope, self._report = job.columns, scope or Scope(), report
        self._progress = progress or default_progress()
        self._watch = Stopwatch()
        self._journal = Journal(self._spark, job.target.beside("journal"), report.fingerprint, report.run_id)

    def run(self) -> None:
        """All phases in order; fills the report.

        Raises:
            BudgetError: The run was stopped before its end: nothing is published.
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
        with self._watch.phase("select"):
            tables = self._open_checked()
            selection.check_keys(tables.source, self._config.source)
            chosen = self._select(tables, pinned=True)
            counts = selection.count(chosen)
        self._report.count_selected(counts)
        if counts.rows_of_other_specs:
            logger.warning("%s", self._report.migration_line())
        with self._watch.phase("prepare"):
            self._prepare(tables)
        if counts.rows_skipped < counts.rows_selected:
            self._embed(chosen)
            check_termination()
            self._publish(tables, chosen)
        if self._scope.failed:
            self._reconcile(tables)
        self._finish(tables)

    def prepare_tables(self) -> None:
        """Only the checks and the columns: for a stream, which must not see the schema change while it runs."""
        self._prepare(self._open_checked())

    def count_rows_of_other_specs(self) -> int:
        """Rows in scope that hold a vector of another spec."""
        return selection.count(self._select(self._open_checked(), pinned=True)).rows_of_other_specs

    def _open_checked(self) -> _Tables:
        """Open the tables and check all that can be checked before anything is written."""
        config = self._config
        table = open_table(self._spark, self._job.source, "source.table")
        version = current_version(table)
        source = self._scope.of_source(read(self._spark, self._job.source, version))
        check_source_columns(source.schema, config.source.key, config.source.text, self._job.source)
        in_place = self._job.in_place
        taken = (*config.source.key, config.source.text) if in_place else config.source.key
        if in_place:
            check_vector_columns(source.schema, self._columns, taken, self._job.source)
            target_version = None
        else:
            target_version = check_target(self._spark, self._job.target, self._key_fields(source), self._columns)
        return _Tables(self._job.source, source, version, target_version, self._job.target, in_place)

    def _key_fields(self, source: DataFrame) -> StructType:
        return StructType([require_field(source.schema, name, "source.key", self._job.source) for name in self._config.source.key])

    def _select(self, tables: _Tables, *, pinned: bool) -> Selection:
        """The selection as the tables stood when the run began, or as they stand now."""
        source = tables.source if pinned else self._scope.of_source(read(self._spark, tables.source_ref))
        stored = None
        if not tables.in_place and not (pinned and tables.target_version is None):
            stored = read(self._spark, tables.target, tables.target_version if pinned else None)
        chosen = selection.select(source, self._config.source, self._report.fingerprint, self._columns, stored, tables.in_place)
        return self._scope.of_selection(chosen)

    def _prepare(self, tables: _Tables) -> None:
        """Target, columns and lineage, before the expensive part."""
        if not tables.in_place:
            create_target(self._spark, tables.target, self._key_fields(tables.source))
        properties = lineage.lineage_properties(self._columns.vector, self._job.spec, self._job.info)
        with_retries(lambda: lineage.prepare_table(self._spark, tables.target, self._columns, properties))

    def _embed(self, chosen: Selection) -> None:
        runtime = self._config.runtime
        with self._watch.phase("select"):
            pending = selection.find_pending(chosen, self._journal.finished())
        request = EncoderRequest(pin(self._job.spec), runtime.device, runtime.max_batch_tokens, self._report.run_id)
        after_wave = WaveMonitor(self._journal, self._job.budget, self._report)
        with self._watch.phase("embed"):
            embed_waves(self._spark, pending, self._journal, request, runtime.wave_rows, self._progress, after_wave)
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

    def _publish(self, tables: _Tables, chosen: Selection) -> None:
        outcomes = self._journal.outcomes()
        with self._watch.phase("publish"):
            with_retries(lambda: self._merge(tables, outcomes))
        with self._watch.phase("verify"):
            # Not `chosen`: its stored fingerprints are those from before the MERGE.
            # A second try that failed again is stored as it was before.
            due = outcomes.where(F.col("error").isNull()) if self._scope.failed else outcomes
            publish.verify(self._select(tables, pinned=False), due)
            results = selection.with_outcomes(chosen, outcomes)
            contributing = self._count_rows(results)
        with self._watch.phase("quarantine"):
            ref = tables.target.beside("quarantine")
            key, failed = self._key_fields(tables.source), self._report.rows_failed
            with_retries(lambda: update_quarantine(self._spark, ref, results, key, self._report.run_id, failed))
        self._journal.drop_runs(contributing)

    def _reconcile(self, tables: _Tables) -> None:
        """Let the quarantine hold what has an error now, whatever killed runs and deleted rows left in it."""
        key, columns, source = self._key_fields(tables.source), self._columns, read(self._spark, tables.source_ref)
        stored = source if tables.in_place else read(self._spark, tables.target).join(source, key.names, "left_semi")
        failing = stored.where(F.col(quoted(columns.error)).isNotNull()).select(
            *[quoted(name) for name in key.names],
            F.col(quoted(columns.fingerprint)).alias("fingerprint"),
            F.col(quoted(columns.error)).alias("error"),
        )
        with self._watch.phase("quarantine"):
            ref = tables.target.beside("quarantine")
            with_retries(lambda: reconcile_quarantine(self._spark, ref, failing, key, self._report.run_id))

    def _merge(self, tables: _Tables, outcomes: DataFrame) -> None:
        source, scope = self._config.source, self._scope
        target: DeltaTable = open_table(self._spark, tables.target, "target.table")
        if tables.in_place:
            publish.publish_in_place(target, outcomes, self._columns, self._report.fingerprint, source.text, scope.condition(source.where))
        else:
            publish.publish_to_target(target, self._select(tables, pinned=False), outcomes, self._columns, scope.bounds)

    def _count_rows(self, results: DataFrame) -> list[str]:
        """Count what became of the rows worked on; gives the runs whose journal rows they used.

        Raises:
            MetaEOLError: A row of the run is in no journal.
        """
        outcome = F.col(OUTCOME)
        ok = outcome.isNotNull() & outcome["error"].isNull()
        found = results.agg(
            F.count(F.when(outcome.isNull(), True)).alias("lost"),
            F.count(F.when(ok, True)).alias("embedded"),
            F.count(outcome["error"]).alias("failed"),
            F.count(F.when(outcome["trimmed"], True)).alias("trimmed"),
            F.collect_set(outcome["run_id"]).alias("run_ids"),
        ).collect()[0]
        if found["lost"]:
            raise MetaEOLError(f"{found['lost']} rows were embedded but are in no journal: run the job again")
        self._report.rows_embedded, self._report.rows_failed = found["embedded"], found["failed"]
        self._report.rows_trimmed = found["trimmed"]
        if found["failed"]:
            reasons = results.groupBy(outcome["error"].alias("reason")).count().where(F.col("reason").isNotNull()).collect()
            self._report.failures = {row["reason"]: row["count"] for row in sorted(reasons)}
        return list(found["run_ids"])

    def _finish(self, tables: _Tables) -> None:
        report = self._report
        target = open_table(self._spark, tables.target, "target.table")
        report.delta_versions = {"source": tables.source_version, "target": current_version(target)}
        report.executors = _executor_count(self._spark)


def _executor_count(spark: SparkSession) -> int:
    """Executors of the session; in local mode the driver is the one."""
    context: Any = spark.sparkContext._jsc
    return max(1, len(context.sc().statusTracker().getExecutorInfos()) - 1)
