"""`--dry-run`: what a command would do to which table, from the job's own selection. No model is loaded and nothing is written."""

from __future__ import annotations

from typing import Any

from pyspark.sql import SparkSession

from metaeol_udf.config import JobConfig
from metaeol_udf.delta.base.context import Job
from metaeol_udf.delta.job import known_errors, prepare_job
from metaeol_udf.delta.select.row_scope import RowScope
from metaeol_udf.delta.select.snapshot import Snapshot
from metaeol_udf.delta.stream import describe_stream
from metaeol_udf.delta.tables.refs import read
from metaeol_udf.estimate.run import work_report
from metaeol_udf.estimate.tokens import TokenCount, count_tokens
from metaeol_udf.estimate.workload import find_workload

SAMPLE_TEXTS = 2_000  # whose tokens are counted; of fewer texts all are


@known_errors()
def plan_dry_run(config: JobConfig, command: str = "embed", spark: SparkSession | None = None) -> dict[str, Any]:
    """Say what a command would do, and do none of it.

    Args:
        config: The job.
        command: `embed`, `stream` or `retry`. A stream is planned as if it looked at every row: it looks at those of new
            commits, so it embeds no more than this.
        spark: The session; None takes the active one or starts one.

    Returns:
        The plan: plain values for JSON. `tokens_to_compute` is a count where `tokens_counted` is true, else projected from the
        sample; how tasks cut their chunks may move either by some percent.

    Raises:
        MetaEOLError: What the command itself would raise before it writes anything.
    """
    job = prepare_job(config, spark, writes=False)
    work = find_workload(job, RowScope(failed=command == "retry"), SAMPLE_TEXTS)
    counted = count_tokens(work.sample, job.request()) if work.unique_texts else TokenCount()
    is_new, columns = _target_changes(job, work.snapshot)
    report = job.new_report()
    report.count_selected(work.snapshot.counts, work.snapshot.n_failing)
    version = work.snapshot.tables.source_version
    plan = {
        "command": command,
        "source": str(job.source),
        **({} if version is None else {"source_version": version}),
        "target": str(job.target),
        "creates_target": is_new,
        "adds_columns": columns,
        **work_report(job, work, counted, n_loads=1),
        "texts_without_content": work.n_textless,
        "tokens_counted": counted.texts == work.unique_texts,
        "migration": report.migration,
    }
    return plan | ({"stream": describe_stream(job)} if command == "stream" else {})


def _target_changes(job: Job, seen: Snapshot) -> tuple[bool, list[str]]:
    """Tell whether the target is to be created, and which columns it lacks."""
    tables = seen.tables
    if job.in_place:
        schema = tables.source.schema
    else:
        schema = tables.key if tables.target_version is None else read(job.spark, job.target, tables.target_version).schema
    return not job.in_place and tables.target_version is None, [field.name for field in job.columns.missing_from(schema)]
