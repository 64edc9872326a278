"""The report page of a run: a bounded sample of the table's vectors by key, the settings, and the file. It never fails a job."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import Row
from pyspark.sql import functions as F

from metaeol_udf.config import JobConfig
from metaeol_udf.delta.base.context import Job
from metaeol_udf.delta.base.run_report import Report
from metaeol_udf.delta.base.shutdown import was_requested
from metaeol_udf.delta.select.selection import sampled
from metaeol_udf.delta.tables.fingerprint import of_spec
from metaeol_udf.delta.tables.refs import read
from metaeol_udf.errors import EnvironmentFault
from metaeol_udf.formatting import shorten
from metaeol_udf.report_page import VectorSample, render_page, write_page
from metaeol_udf.spark.columns import find_field, quoted

logger = logging.getLogger(__name__)

SAMPLE_ROWS = 1_000
_MOST_VALUES = 2_000_000  # numbers of all sampled vectors together: long vectors come in a smaller sample
_ROWS_LOOKED_AT = 500_000  # Spark stops reading about there, so the sample of a larger table is of its first files
_LONGEST_NAME = 120  # characters


def publish_page(report: Report, config: JobConfig, job: Job | None = None, *, with_map: bool = False) -> None:
    """Write `runtime.report_page` where the settings ask for it; what goes wrong is a warning in the log.

    Args:
        report: Of the run.
        config: The run's settings.
        job: The run's job; None: the run was refused before there was one.
        with_map: Whether the run published, so that a map shows the table as it is now. A map reads keys and vectors of at most
            about half a million rows, once.
    """
    path = config.runtime.report_page
    if path is None:
        return
    try:
        sample, why_not = None, "No map: the run did not come to its end."
        if job is not None and with_map and not report.columns:
            sample, why_not = _try_sample(job)
        settings = {} if job is None else _settings(job)
        if report.columns:  # of one of the columns alone
            sample, why_not = None, "No map: the run wrote several columns; a run of one of them, by embedding.column=NAME, has a map."
            settings = {name: values for name, values in settings.items() if name not in ("source", "embedding")}
        write_page(render_page(report.as_dict(), f"{config.target_table}: {report.column}", settings, sample, why_not), path)
    except Exception as error:  # noqa: BLE001 - the vectors are published
        reason = str(error) if isinstance(error, EnvironmentFault) else type(error).__name__  # other messages may quote a row
        logger.warning("runtime.report_page: the page could not be written (%s)", reason)


def _try_sample(job: Job) -> tuple[VectorSample | None, str]:
    if was_requested():
        return None, "No map: the run was asked to end by SIGTERM."
    try:
        return draw_sample(job), ""
    except Exception as error:  # noqa: BLE001 - a page without a map is better than none
        logger.warning("runtime.report_page: no vectors could be read for the map (%s)", type(error).__name__)
        return None, f"No map: the vectors could not be read ({type(error).__name__})."


def draw_sample(job: Job) -> VectorSample:
    """Some rows of the table that hold a vector, drawn by the hash of their keys: the same ones while the table stays as it is."""
    table = read(job.spark, job.target)
    n_rows = table.count()  # from the log, where Delta has statistics
    dim = job.resolved.vector_length
    wanted = min(SAMPLE_ROWS, max(3, _MOST_VALUES // dim))
    names = list(job.config.source.key)
    vector = quoted(job.columns.vector)
    rows = table.where((F.size(vector) == dim) & F.col(vector).isNotNull())  # no vectors of other specs, as after an early stop
    if find_field(table.schema, job.columns.fingerprint_column) is not None:
        rows = rows.where(of_spec(job.spec.fingerprint(), F.col(quoted(job.columns.fingerprint_column))))
    keys = [F.col(quoted(name)) for name in names]
    digest = F.lit(None).cast("string")
    if find_field(table.schema, job.columns.fingerprint_column) is not None:
        digest = F.substring_index(F.col(quoted(job.columns.fingerprint_column)), "-", -1)
    shown_columns = (*keys, F.col(vector).alias("metaeol_vector"), digest.alias("metaeol_text_digest"))
    chosen = sampled(rows, keys, min(n_rows, _ROWS_LOOKED_AT), wanted).select(*shown_columns)
    # `collect` after `limit` reads file after file until it has enough.
    found = [row for row in chosen.collect() if np.isfinite(row["metaeol_vector"]).all()]
    vectors: NDArray[np.float32] = np.array([row["metaeol_vector"] for row in found], np.float32).reshape(len(found), dim)
    shown = [_name(row, names, job.source.config.text_columns) for row in found]
    texts = [row["metaeol_text_digest"] for row in found]
    return VectorSample(shown, vectors, n_rows, is_whole_table=n_rows <= _ROWS_LOOKED_AT, texts=texts)


def _name(row: Row, key: Sequence[str], text: Sequence[str]) -> str:
    """A row's key for people; of a key that is the text itself, a digest."""
    parts = [_digest(row[name]) if name.casefold() in {column.casefold() for column in text} else str(row[name]) for name in key]
    return shorten(" · ".join(parts), _LONGEST_NAME)


def _digest(value: Any) -> str:
    return f"SHA-256 {hashlib.sha256(str(value).encode(errors='replace')).hexdigest()[:12]}…"


def _settings(job: Job) -> Mapping[str, Any]:
    """What says how the run was done. Neither `spark.conf`, whose values may be secrets, nor paths of other outputs."""
    config, texts, runtime = job.config, job.source.config, job.config.runtime
    named: dict[str, Any] = {name: getattr(texts, name) for name in ("text", "format_text", "where")}
    source = {texts.place.partition(".")[2]: str(job.source), "key": list(texts.key), **named}
    shown = ("device", "max_batch_tokens", "wave_rows", "max_failed_fraction", "task_gpus")
    return {
        "source": source,
        "target": {"table": config.target_table},
        "embedding": {"column": job.columns.vector} | job.written_spec.settings(),
        "runtime": {name: getattr(runtime, name) for name in shown},
        "quality": {"gate": config.quality.gate},
    }
