"""The main job, from configuration to report. Each phase is a module of its own; the order of the phases is what is here."""

from __future__ import annotations

import dataclasses
import logging
import time
import uuid
from dataclasses import dataclass
from typing import Any

from delta import DeltaTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from metaeol_udf.config import JobConfig
from metaeol_udf.delta import lineage, publish, selection
from metaeol_udf.delta.columns import VectorColumns, check_source_columns, check_vector_columns, require_field
from metaeol_udf.delta.faults import translate, with_retries
from metaeol_udf.delta.journal import Journal
from metaeol_udf.delta.progress import Progress, default_progress
from metaeol_udf.delta.quarantine import update_quarantine
from metaeol_udf.delta.report import Report, Stopwatch, check_writable, write_report
from metaeol_udf.delta.selection import OUTCOME, Selection
from metaeol_udf.delta.tables import TableRef, current_version, open_table, parse_table, read
from metaeol_udf.delta.target import check_target, create_target
from metaeol_udf.delta.waves import embed_waves
from metaeol_udf.errors import BudgetError, MetaEOLError
from metaeol_udf.spark.executors import check_executors
from metaeol_udf.spark.session import get_session
from metaeol_udf.spark.staging import resolve
from metaeol_udf.spark.udf import make_request
from metaeol_udf.spark.worker import EncoderRequest

logger = logging.getLogger(__name__)


def run_embed(config: JobConfig, spark: SparkSession | None = None, progress: Progress | None = None) -> dict[str, Any]:
    """Embed what is new or changed in a Delta table, and write the vectors back or to a table of their own.

    Runs on the driver; only the model runs on executors. It may be killed at any point and run again: it goes on from what
    was journalled, and a run that finds nothing to do commits nothing and loads no model.

    Args:
        config: All settings.
        spark: The session to use; by default the active one, or a new one.
        progress: Told how far it is; by default a bar on a terminal and lines in a log.

    Returns:
        The report, which is also written to `runtime.report`.

    Raises:
        ConfigError: The spec names something that does not exist. Nothing was written.
        InputError: A table, column or key is not what the settings say. Nothing was written.
        BudgetError: All is published, but more rows failed than the budget allows.
        ConflictError: Another writer was quicker too often. What was computed is journalled.
        EnvironmentFault: Java, disk, memory, device or model files.
    """
    try:
        return _Run(config, spark, progress).run()
    except MetaEOLError:
        raise
    except Exception as error:
        known = translate(error)
        if known is None:
            raise
        raise known from error


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


class _Run:
    """One run: settings, session and report, which every phase needs."""

    def __init__(self, config: JobConfig, spark: SparkSession | None, progress: Progress | None) -> None:
        self._config = config
        self._source_ref = parse_table(config.source.table, "source.table")
        self._target_ref = parse_table(config.target_table, "target.table")
        check_writable(config.runtime.report)
        self._spec, self._info = resolve(config.embedding, lambda: spark or get_session(config.spark))
        self._columns = VectorColumns(config.column)
        self._spark = spark or get_session(config.spark)
        self._progress = progress or default_progress()
        self._watch = Stopwatch()
        run_id = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:8]}"
        self._report = Report(run_id, self._spec.fingerprint())
        self._journal = Journal(self._spark, self._target_ref.beside("journal"), self._report.fingerprint, run_id)

    def run(self) -> dict[str, Any]:
        """All phases in order."""
        started = time.monotonic()
        settings = dataclasses.replace(self._config.spark, conf=dict.fromkeys(self._config.spark.conf, "…"))  # values may be secrets
        logger.info("run %s: %s", self._report.run_id, dataclasses.replace(self._config, spark=settings))
        with self._watch.phase("select"):
            tables = self._open_checked()
            chosen = self._select(tables, pinned=True)
            counts = selection.count(chosen)
        self._report.rows_selected, self._report.rows_skipped = counts.rows_selected, counts.rows_skipped
        with self._watch.phase("prepare"):
            if counts.rows_skipped < counts.rows_selected:
                check_executors(self._spark, self._request())
            self._prepare(tables)
        if counts.rows_skipped < counts.rows_selected:
            self._embed(chosen)
            self._publish(tables, chosen)
        return self._finish(tables, started)

    def _open_checked(self) -> _Tables:
        """Open the tables and check all that can be checked before anything is written."""
        config, source_setting = self._config, "source.table"
        table = open_table(self._spark, self._source_ref, source_setting)
        version = current_version(table)
        source = read(self._spark, self._source_ref, version)
        check_source_columns(source.schema, config.source.key, config.source.text, self._source_ref)
        in_place = self._target_ref == self._source_ref
        taken = (*config.source.key, config.source.text) if in_place else config.source.key
        if in_place:
            check_vector_columns(source.schema, self._columns, taken, self._source_ref)
            target_version = None
        else:
            target_version = check_target(self._spark, self._target_ref, self._key_fields(source), self._columns)
        selection.check_keys(source, config.source)
        return _Tables(self._source_ref, source, version, target_version, self._target_ref, in_place)

    def _key_fields(self, source: DataFrame) -> StructType:
        return StructType([require_field(source.schema, name, "source.key", self._source_ref) for name in self._config.source.key])

    def _select(self, tables: _Tables, *, pinned: bool) -> Selection:
        """The selection as the tables stood when the run began, or as they stand now."""
        source = tables.source if pinned else read(self._spark, tables.source_ref)
        stored = None
        if not tables.in_place and not (pinned and tables.target_version is None):
            stored = read(self._spark, tables.target, tables.target_version if pinned else None)
        return selection.select(source, self._config.source, self._report.fingerprint, self._columns, stored, tables.in_place)

    def _prepare(self, tables: _Tables) -> None:
        """Target, columns and lineage, before the expensive part."""
        if not tables.in_place:
            create_target(self._spark, tables.target, self._key_fields(tables.source))
        properties = lineage.lineage_properties(self._columns.vector, self._spec, self._info)
        with_retries(lambda: lineage.prepare_table(self._spark, tables.target, self._columns, properties))

    def _embed(self, chosen: Selection) -> None:
        runtime = self._config.runtime
        with self._watch.phase("select"):
            pending = selection.find_pending(chosen, self._journal.finished())
        with self._watch.phase("embed"):
            embed_waves(self._spark, pending, self._journal, self._request(), runtime.wave_rows, self._progress)
        self._report.unique_texts = pending.n_texts
        self._count_work()

    def _request(self) -> EncoderRequest:
        runtime = self._config.runtime
        return make_request(self._spec, runtime.device, runtime.max_batch_tokens, self._report.run_id, runtime.model_cache)

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
            publish.verify(self._select(tables, pinned=False), outcomes)
            results = selection.with_outcomes(chosen, outcomes)
            contributing = self._count_rows(results)
        with self._watch.phase("quarantine"):
            ref = tables.target.beside("quarantine")
            key, failed = self._key_fields(tables.source), self._report.rows_failed
            with_retries(lambda: update_quarantine(self._spark, ref, results, key, self._report.run_id, failed))
        self._journal.drop_runs(contributing)

    def _merge(self, tables: _Tables, outcomes: DataFrame) -> None:
        source = self._config.source
        target: DeltaTable = open_table(self._spark, tables.target, "target.table")
        if tables.in_place:
            publish.publish_in_place(target, outcomes, self._columns, self._report.fingerprint, source.text, source.where)
        else:
            publish.publish_to_target(target, self._select(tables, pinned=False), outcomes, self._columns)

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
        return list(found["run_ids"])

    def _finish(self, tables: _Tables, started: float) -> dict[str, Any]:
        report, watch = self._report, self._watch
        target = open_table(self._spark, tables.target, "target.table")
        report.delta_versions = {"source": tables.source_version, "target": current_version(target)}
        report.executors = _executor_count(self._spark)
        report.seconds = {**watch.seconds, "total": round(time.monotonic() - started, 3)}
        embed_s = watch.seconds.get("embed", 0.0)
        report.texts_per_second = round(report.unique_texts / embed_s, 3) if report.unique_texts and embed_s else 0.0
        worked = report.rows_embedded + report.rows_failed
        over = report.rows_failed > self._config.runtime.max_failed_fraction * report.rows_selected
        report.status = "over_budget" if over else "done" if worked else "nothing_to_do"
        write_report(report, self._config.runtime.report)
        logger.info("run %s: %s", report.run_id, report.as_dict())
        if over:
            raise BudgetError(
                f"{report.rows_failed} of {report.rows_selected} rows have no embedding, more than "
                f"runtime.max_failed_fraction={self._config.runtime.max_failed_fraction} allows; "
                f"all others are published, the reasons are in {tables.target.beside('quarantine')}"
            )
        return report.as_dict()


def _executor_count(spark: SparkSession) -> int:
    """Executors of the session; in local mode the driver is the one."""
    context: Any = spark.sparkContext._jsc
    return max(1, len(context.sc().statusTracker().getExecutorInfos()) - 1)
