"""The main job, from its configuration to its report, and what all commands over tables do around a run."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from metaeol_udf.config import GivenConfig, JobConfig, RuntimeConfig, as_config, as_configs
from metaeol_udf.delta.base.context import Job, wants_connect
from metaeol_udf.delta.base.progress import Between, Progress
from metaeol_udf.delta.base.run_report import Report, begin_report, write_report
from metaeol_udf.delta.base.shutdown import check_termination
from metaeol_udf.delta.pipeline import EmbedRun
from metaeol_udf.delta.select.row_scope import RowScope
from metaeol_udf.delta.tables.columns import VectorColumns
from metaeol_udf.delta.tables.spark_errors import translate
from metaeol_udf.delta.together import Group, Prepared, embed_together
from metaeol_udf.errors import BudgetError, ConfigError, EnvironmentFault, InputError, MetaEOLError, QualityError, TerminatedError
from metaeol_udf.files import is_file
from metaeol_udf.terminal import log_fields, waiting

logger = logging.getLogger(__name__)


def run_embed(
    config: GivenConfig,
    spark: SparkSession | None = None,
    progress: Progress | None = None,
    *,
    full: bool = False,
    between: Between | None = None,
) -> dict[str, Any]:
    """Embed what is new or changed in a Delta table, and write the vectors back or to a table of their own: one column, or several.

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
        The report, which is also written to `runtime.report`. Of several columns it holds the sums, and each one's own in `columns`.

    Raises:
        ConfigError: The spec names something that does not exist. Nothing was written.
        InputError: A table, column or key is not what the settings say. Nothing was written.
        BudgetError: All is published but more rows failed than the budget allows, or nothing is and the run was stopped early.
        ConflictError: Another writer was quicker too often. What was computed is journalled.
        EnvironmentFault: Java, disk, memory, device or model files.
        QualityError: The quality gate is on and did not let another spec's vectors in. What was computed is journalled.
        TerminatedError: SIGTERM came. What was computed is journalled.
    """
    return run_columns(config, spark, progress, RowScope(full=full), between)


def run_columns(
    config: GivenConfig, spark: SparkSession | None, progress: Progress | None, scope: RowScope, between: Between | None
) -> dict[str, Any]:
    """Run over the rows in scope for each column of a configuration, as `run_embed` does."""
    with known_errors():
        configs = as_configs(config)
        with refusal_reported(configs):
            jobs = _prepare_jobs(configs, spark)
        job = jobs[0] if len(jobs) == 1 else _as_one(jobs)
        with reported(job) as report:
            if len(jobs) == 1:
                EmbedRun(job, progress, report, scope, between).run()
            else:
                _run_each(jobs, report, progress, scope, between)
        return conclude(job, report)


def _prepare_jobs(configs: Sequence[JobConfig], spark: SparkSession | None) -> list[Job]:
    """Prepare the jobs of all columns of one table, in one session.

    Raises:
        EnvironmentFault: There are several, and the session is one of Spark Connect.
    """
    if len(configs) == 1:
        return [prepare_job(configs[0], spark, connect=True)]
    if wants_connect(configs[0], spark):
        raise EnvironmentFault(
            "embeddings: several columns cannot be embedded in one run over Spark Connect, where it was not tried: run each column by "
            f"itself (embedding.column={configs[0].column})"
        )
    first = prepare_job(configs[0], spark)
    return [first, *(prepare_job(config, spark, beside=first) for config in configs[1:])]


def _as_one(jobs: Sequence[Job]) -> Job:
    """Make the job in whose name the report of several is written."""
    names = ", ".join(job.columns.vector for job in jobs)
    return replace(jobs[0], config=replace(jobs[0].config, column=names), columns=VectorColumns(names))


def _run_each(jobs: Sequence[Job], report: Report, progress: Progress | None, scope: RowScope, between: Between | None) -> None:
    """Run for each column: all look at the tables together, and those with the same spec embed their texts together.

    A column that the quality gate stops does not keep the others from their vectors; its error is raised after them.
    """
    stopped: list[QualityError] = []
    report.fingerprint = ", ".join(dict.fromkeys(job.resolved.fingerprint for job in jobs))
    started = time.monotonic()
    parts = {job.columns.vector: job.new_report() for job in jobs}
    groups = _groups(jobs)
    try:
        with _prepared(groups, scope, report, progress, between, [part.run_id for part in parts.values()]) as prepared:
            for group, of_group in zip(groups, prepared, strict=False):  # a group that failed is not there, nor are those after it
                for job, ready in zip(group.jobs, of_group, strict=True):
                    part = parts[job.columns.vector]
                    try:
                        EmbedRun(job, progress, part, scope, between, ready).run()
                        _judge(job, part)
                    except QualityError as error:
                        part.fail(error)
                        stopped.append(error)
    except (Exception, KeyboardInterrupt) as error:
        for part in parts.values():
            if part.status == "running":
                part.fail(_known(error))
        raise
    finally:
        for group in groups:
            group.report.rows_selected = 0  # the columns count them
        for part in (*parts.values(), *(group.report for group in groups)):
            report.add(part)
            report.runner = report.runner or part.runner
        report.columns = [part.as_dict() for part in parts.values()]
        report.seconds["total"] = round(time.monotonic() - started, 3)
    if stopped:
        raise stopped[0]


def _groups(jobs: Sequence[Job]) -> list[Group]:
    """Put together the columns of one spec.

    Of the specs with one model the one that reads the deepest layer, and then the one that takes the longest texts, comes first: a
    worker loads the model for it, and uses the weights for the others.
    """
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.request().key, []).append(job)
    models = list(dict.fromkeys(job.resolved.spec.model_hash for job in jobs))

    def order(group: list[Job]) -> tuple[int, int, int]:
        resolved = group[0].resolved
        return models.index(resolved.spec.model_hash), -resolved.layers[-1], -resolved.spec.max_tokens

    return [Group(group, group[0].new_report()) for group in sorted(groups.values(), key=order)]


@contextmanager
def _prepared(
    groups: Sequence[Group], scope: RowScope, report: Report, progress: Progress | None, between: Between | None, run_ids: Sequence[str]
) -> Iterator[Sequence[Sequence[Prepared | None]]]:
    """Do what the columns do together; where the run is over named rows, each column has its own of these."""
    if scope.kind != "all":
        yield [[None] * len(group.jobs) for group in groups]
        return
    with embed_together(groups, scope, report, progress, between, run_ids) as prepared:
        yield prepared


def prepare_job(
    config: GivenConfig, spark: SparkSession | None, *, writes: bool = True, connect: bool = False, beside: Job | None = None
) -> Job:
    """Check that the optional packages which the settings need are there, then prepare the job; see `Job.prepare`."""
    config = as_config(config)
    if _exports(config.runtime):
        from metaeol_udf.delta.report.exporters import check_installed

        check_installed(config.runtime)
    return Job.prepare(config, spark, writes=writes, connect=connect, beside=beside)


@contextmanager
def known_errors() -> Iterator[None]:
    """Raise failures of Spark and Delta as the errors of ours that they mean."""
    try:
        yield
    except Exception as error:
        known = _known(error)
        if known is error:
            raise
        raise known from error


def _known(error: Exception | KeyboardInterrupt) -> Exception | KeyboardInterrupt:
    """Find the error of ours that a failure means; the failure itself where there is none."""
    if isinstance(error, (MetaEOLError, KeyboardInterrupt)):
        return error
    try:
        check_termination()  # what fails after SIGTERM fails because of it
    except TerminatedError as terminated:
        return terminated
    return translate(error) or error


@contextmanager
def reported(job: Job) -> Iterator[Report]:
    """Write the report of a run that does not come to its end, too: an earlier run's must not stand for it.

    The report of a run that is killed says `running`, where an earlier run left one.
    """
    report = job.new_report()
    with log_fields(table=str(job.target), column=job.columns.vector, run_id=report.run_id):
        try:
            write_report(report, _replacing(job.config.runtime).report)
            yield report
        except (Exception, KeyboardInterrupt) as error:
            _report_failure(report, _known(error), job.config, job)
            raise


@contextmanager
def refusal_reported(configs: Sequence[JobConfig]) -> Iterator[None]:
    """Write the report of a run that is refused before it begins, as `reported` does."""
    try:
        yield
    except Exception as error:
        config = replace(configs[0], column=", ".join(each.column for each in configs))
        report = begin_report("", config.target_table, config.column, config.embedding.model)
        _report_failure(report, _known(error), config)
        raise


def _report_failure(report: Report, error: BaseException, config: JobConfig, job: Job | None = None) -> None:
    """Write the report of a run that ended with an error; what goes wrong with it is a warning in the log.

    A refused run writes nothing, so its report only takes the place of an earlier run's.
    """
    report.fail(error)
    if isinstance(error, (ConfigError, InputError)):
        config = replace(config, runtime=_replacing(config.runtime))
    try:
        write_reports(report, config, job)
    except Exception as other:  # noqa: BLE001 - the run's own error is the one to raise
        reason = str(other) if isinstance(other, MetaEOLError) else type(other).__name__
        if reason != str(error):
            logger.warning("the run's report could not be written (%s)", reason)


def _replacing(runtime: RuntimeConfig) -> RuntimeConfig:
    """Leave out the reports of which no earlier run wrote a file."""

    def there(path: str | None) -> str | None:
        return path if path is not None and is_file(Path(path)) else None

    return replace(
        runtime, mlflow=None, report=there(runtime.report), report_page=there(runtime.report_page), prometheus=there(runtime.prometheus)
    )


def write_reports(report: Report, config: JobConfig, job: Job | None = None, *, with_map: bool = False) -> None:
    """Write the report wherever the settings ask for it; its page with a map of the vectors where all of them are published.

    Without a job the run was refused before there was a spec.
    """
    report.ended = datetime.now(timezone.utc).isoformat(timespec="seconds")
    write_report(report, config.runtime.report)
    if config.runtime.report_page is not None:
        from metaeol_udf.delta.report.page_sample import publish_page

        with waiting("writing the report's page"):
            publish_page(report, config, job, with_map=with_map)
    if _exports(config.runtime):
        from metaeol_udf.delta.report.exporters import publish_metrics

        publish_metrics(report, config, None if job is None else job.written_spec)
    logger.info("run %s: %s", report.run_id, {name: value for name, value in report.as_dict().items() if name != "wave_log"})


def conclude(job: Job, report: Report) -> dict[str, Any]:
    """Judge a finished run by the failure budget and write its report; raises where too many rows failed."""
    over = _judge(job, report)
    if over:
        report.error = (
            f"{report.rows_failed} of {report.rows_selected} rows have no embedding, more than "
            f"runtime.max_failed_fraction={job.budget.max_fraction} allows; "
            f"all others are published, the reasons are in {job.target.beside('quarantine')}"
        )
    write_reports(report, job.config, job, with_map=True)
    if over:
        raise BudgetError(report.error)
    return report.as_dict()


def _judge(job: Job, report: Report) -> bool:
    """Give a finished run its status, and tell whether it is over the failure budget: of several columns, whether one is."""
    over = job.budget.is_exceeded(report.rows_failed, report.rows_selected)
    over = over or any(part["status"] == "over_budget" for part in report.columns)
    worked = report.rows_embedded + report.rows_failed
    report.status = "over_budget" if over else "done" if worked else "nothing_to_do"
    return over


def _exports(runtime: RuntimeConfig) -> bool:
    """Tell whether the settings ask for figures in other systems."""
    return bool(runtime.mlflow) or runtime.prometheus is not None
