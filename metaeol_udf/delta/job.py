"""The main job, from its configuration to its report, and what all commands over tables do around a run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any

from pyspark.sql import SparkSession

from metaeol_udf.config import GivenConfig, RuntimeConfig, as_config
from metaeol_udf.delta.base.context import Job
from metaeol_udf.delta.base.progress import Between, Progress
from metaeol_udf.delta.base.run_report import Report, write_report
from metaeol_udf.delta.base.shutdown import check_termination
from metaeol_udf.delta.pipeline import EmbedRun
from metaeol_udf.delta.select.row_scope import RowScope
from metaeol_udf.delta.tables.spark_errors import translate
from metaeol_udf.errors import BudgetError, MetaEOLError, QualityError, TerminatedError

logger = logging.getLogger(__name__)

#: Status of a report where nothing was published.
_STOPPED = {BudgetError: "stopped_over_budget", QualityError: "blocked_by_quality", TerminatedError: "terminated"}


def run_embed(
    config: GivenConfig,
    spark: SparkSession | None = None,
    progress: Progress | None = None,
    *,
    full: bool = False,
    between: Between | None = None,
) -> dict[str, Any]:
    """Embed what is new or changed in a Delta table, and write the vectors back or to a table of their own.

    Runs on the driver; only the model runs on executors. It may be killed at any point and run again: it goes on from what
    was journalled, and a run that finds nothing to do commits nothing and loads no model.

    Args:
        config: All settings: a `JobConfig`, nested mappings, or the path of a YAML file.
        spark: The session to use; by default the active one, or a new one.
        progress: The watcher of how far the run is; by default a bar on a terminal and lines in a log.
        full: Whether to look at every row. By default a run looks at the files that were added since the last run, where nothing
            happened since that an earlier run's proof cannot answer for; the report's `looked_at` says which.
        between: A function that is called with the name of each phase (`pipeline.PHASES`) before the phase begins. For tests and for
            tools that watch a run.

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
        job = prepare_job(config, spark, connect=True)
        with reported(job) as report:
            EmbedRun(job, progress, report, RowScope(full=full), between).run()
        return conclude(job, report)


def prepare_job(config: GivenConfig, spark: SparkSession | None, *, writes: bool = True, connect: bool = False) -> Job:
    """Check that the optional packages which the settings need are there, then prepare the job; see `Job.prepare`."""
    config = as_config(config)
    if _exports(config.runtime):
        from metaeol_udf.delta.report.exporters import check_installed

        check_installed(config.runtime)
    return Job.prepare(config, spark, writes=writes, connect=connect)


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


@contextmanager
def reported(job: Job) -> Iterator[Report]:
    """Write the report of a run that is stopped early, too."""
    report = job.new_report()
    try:
        yield report
    except (BudgetError, QualityError, TerminatedError) as error:
        report.status = next(status for kind, status in _STOPPED.items() if isinstance(error, kind))
        write_reports(job, report)
        raise


def write_reports(job: Job, report: Report, *, with_map: bool = False) -> None:
    """Write the report wherever the settings ask for it; its page with a map of the vectors where all of them are published."""
    report.ended = datetime.now(timezone.utc).isoformat(timespec="seconds")
    write_report(report, job.config.runtime.report)
    if job.config.runtime.report_page is not None:
        from metaeol_udf.delta.report.page_sample import publish_page

        publish_page(report, job, with_map=with_map)
    if _exports(job.config.runtime):
        from metaeol_udf.delta.report.exporters import publish_metrics

        publish_metrics(report, job.config, job.written_spec)
    logger.info("run %s: %s", report.run_id, {name: value for name, value in report.as_dict().items() if name != "wave_log"})


def conclude(job: Job, report: Report) -> dict[str, Any]:
    """Judge a finished run by the failure budget and write its report; raises where too many rows failed."""
    over = job.budget.is_exceeded(report.rows_failed, report.rows_selected)
    worked = report.rows_embedded + report.rows_failed
    report.status = "over_budget" if over else "done" if worked else "nothing_to_do"
    write_reports(job, report, with_map=True)
    if over:
        raise BudgetError(
            f"{report.rows_failed} of {report.rows_selected} rows have no embedding, more than "
            f"runtime.max_failed_fraction={job.budget.max_fraction} allows; "
            f"all others are published, the reasons are in {job.target.beside('quarantine')}"
        )
    return report.as_dict()


def _exports(runtime: RuntimeConfig) -> bool:
    """Tell whether the settings ask for figures in other systems."""
    return bool(runtime.mlflow) or runtime.prometheus is not None
