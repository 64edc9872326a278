"""A command over Delta tables, from configuration to report: what surrounds the run itself, which is in `run`."""

from __future__ import annotations

import dataclasses
import logging
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pyspark.sql import SparkSession

from metaeol_udf.config import JobConfig
from metaeol_udf.delta import metrics
from metaeol_udf.delta.budget import FailureBudget
from metaeol_udf.delta.columns import VectorColumns
from metaeol_udf.delta.faults import translate
from metaeol_udf.delta.labels import LabelledPairs, load_pairs
from metaeol_udf.delta.page import publish_page
from metaeol_udf.delta.progress import Progress
from metaeol_udf.delta.report import Report, check_writable, write_report
from metaeol_udf.delta.run import EmbedRun
from metaeol_udf.delta.tables import TableRef, parse_table
from metaeol_udf.delta.termination import check_termination
from metaeol_udf.encoder.model_files import ModelInfo
from metaeol_udf.errors import BudgetError, MetaEOLError, QualityError, TerminatedError
from metaeol_udf.spark.session import get_session
from metaeol_udf.spark.staging import resolve
from metaeol_udf.spark.udf import make_request
from metaeol_udf.spark.worker import EncoderRequest
from metaeol_udf.spec import EmbeddingSpec

logger = logging.getLogger(__name__)

#: Status of a report where nothing was published.
_STOPPED = {BudgetError: "stopped_over_budget", QualityError: "blocked_by_quality", TerminatedError: "terminated"}


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
        BudgetError: All is published but more rows failed than the budget allows, or nothing is and the run was stopped early.
        ConflictError: Another writer was quicker too often. What was computed is journalled.
        EnvironmentFault: Java, disk, memory, device or model files.
        QualityError: The quality gate is on and did not let another spec's vectors in. What was computed is journalled.
        TerminatedError: SIGTERM came. What was computed is journalled.
    """
    with known_errors():
        job = Job.prepare(config, spark)
        with job.reported() as report:
            EmbedRun(job, progress, report).run()
        return job.conclude(report)


@contextmanager
def known_errors() -> Iterator[None]:
    """Raise failures of Spark and Delta as the errors of ours that they mean."""
    try:
        yield
    except MetaEOLError:
        raise
    except Exception as error:
        check_termination()  # what fails after SIGTERM fails because of it
        known = translate(error)
        if known is None:
            raise
        raise known from error


@dataclass(frozen=True)
class Job:
    """What all runs of one command share: settings, the resolved spec and the session."""

    config: JobConfig
    spec: EmbeddingSpec
    info: ModelInfo
    spark: SparkSession
    source: TableRef
    target: TableRef
    columns: VectorColumns
    pairs: LabelledPairs | None = None  # for the quality gate

    @classmethod
    def prepare(cls, config: JobConfig, spark: SparkSession | None, *, writes: bool = True) -> Job:
        """Check what can be checked without a table, and start the session.

        Args:
            config: All settings.
            spark: The session; None takes the active one or starts one.
            writes: Whether a run follows. Without one, no folder of a report is made.

        Raises:
            ConfigError: The spec names something that does not exist, a setting needs a package that is not installed, or the
                labelled pairs cannot be read.
            InputError: A table's name is none.
            EnvironmentFault: Spark does not start, or the report cannot be written.
        """
        source, target = parse_table(config.source.table, "source.table"), parse_table(config.target_table, "target.table")
        runtime, quality = config.runtime, config.quality
        for setting in ("report", "report_page", "prometheus") if writes else ():
            check_writable(getattr(runtime, setting), f"runtime.{setting}")
        metrics.check_installed(runtime)
        pairs = load_pairs(quality.pairs, config.source.key) if quality.gate and quality.pairs else None
        spec, info = resolve(config.embedding, lambda: get_session(config.spark, spark))
        settings = dataclasses.replace(config.spark, conf=dict.fromkeys(config.spark.conf, "…"))  # values may be secrets
        logger.info("%s", dataclasses.replace(config, spark=settings))
        return cls(config, spec, info, get_session(config.spark, spark), source, target, VectorColumns(config.column), pairs)

    @property
    def in_place(self) -> bool:
        """Whether vectors go into the source itself."""
        return self.source == self.target

    @property
    def budget(self) -> FailureBudget:
        """How many rows may fail."""
        return FailureBudget(self.config.runtime.max_failed_fraction)

    def new_report(self) -> Report:
        """An empty report with a run id of its own, which sorts by time."""
        return Report(f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:8]}", self.spec.fingerprint())

    def request(self, origin: str = "") -> EncoderRequest:
        """What workers load; `origin` names the run in its load ids."""
        runtime = self.config.runtime
        return make_request(self.spec, runtime.device, runtime.max_batch_tokens, origin, runtime.model_cache)

    @contextmanager
    def reported(self) -> Iterator[Report]:
        """Write the report of a run that is stopped early, too."""
        report = self.new_report()
        try:
            yield report
        except (BudgetError, QualityError, TerminatedError) as error:
            report.status = next(status for kind, status in _STOPPED.items() if isinstance(error, kind))
            self.write(report)
            raise

    def write(self, report: Report, *, with_map: bool = False) -> None:
        """Write the report wherever the settings ask for it; its page with a map of the vectors where all of them are published."""
        write_report(report, self.config.runtime.report)
        publish_page(report, self, with_map=with_map)
        metrics.publish_metrics(report, self.config, self.spec)
        logger.info("run %s: %s", report.run_id, {name: value for name, value in report.as_dict().items() if name != "wave_log"})

    def conclude(self, report: Report) -> dict[str, Any]:
        """Judge a finished run by the failure budget and write its report.

        Raises:
            BudgetError: Too many rows failed.
        """
        over = self.budget.is_exceeded(report.rows_failed, report.rows_selected)
        worked = report.rows_embedded + report.rows_failed
        report.status = "over_budget" if over else "done" if worked else "nothing_to_do"
        self.write(report, with_map=True)
        if over:
            raise BudgetError(
                f"{report.rows_failed} of {report.rows_selected} rows have no embedding, more than "
                f"runtime.max_failed_fraction={self.budget.max_fraction} allows; "
                f"all others are published, the reasons are in {self.target.beside('quarantine')}"
            )
        return report.as_dict()
