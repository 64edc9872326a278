"""`metaeol retry`: rows that failed get another try."""

from __future__ import annotations

from typing import Any

from pyspark.sql import SparkSession

from metaeol_udf.config import GivenConfig
from metaeol_udf.delta.base.progress import Between, Progress
from metaeol_udf.delta.job import conclude, known_errors, prepare_job, reported
from metaeol_udf.delta.pipeline import EmbedRun
from metaeol_udf.delta.select.row_scope import RowScope


def run_retry(
    config: GivenConfig, spark: SparkSession | None = None, progress: Progress | None = None, *, between: Between | None = None
) -> dict[str, Any]:
    """Embed again the rows whose error another try may cure: all but NULL and blank texts.

    The rows are found by the error column of the table itself, so that none is missed where a run was killed before it came
    to the quarantine. Afterwards the quarantine holds the rows that have an error now, and no others: rows that succeeded, or
    whose text was made good or deleted meanwhile, leave it. Attempts are counted on.

    Takes and raises what `run_embed` does.

    Returns:
        The report; its `rows_selected` are the rows tried again.
    """
    with known_errors():
        job = prepare_job(config, spark, connect=True)
        with reported(job) as report:
            EmbedRun(job, progress, report, RowScope(failed=True), between).run()
        return conclude(job, report)
