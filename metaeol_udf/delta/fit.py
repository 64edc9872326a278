"""`metaeol fit`: post-processing fitted on the texts of a job's source table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from metaeol_udf.config import JobConfig
from metaeol_udf.delta.tables.columns import check_source_columns
from metaeol_udf.delta.tables.refs import open_table, parse_table, read
from metaeol_udf.delta.tables.where_clause import filtered
from metaeol_udf.files import replace_file
from metaeol_udf.spark.cluster.session import get_session
from metaeol_udf.spark.postprocess_fit import chosen_texts, fit_on


def run_fit(config: JobConfig, out: Path, method: str, *, spark: SparkSession | None = None, **options: Any) -> dict[str, Any]:
    """Fit on the source table and write the file; the table itself is only read.

    Args:
        config: The job whose source, condition and embedding are meant.
        out: The safetensors file; replaced whole, or not at all.
        method: As in `fit_on`.
        spark: The session; None takes the active one or starts one.
        **options: As in `fit_on`.

    Returns:
        What was written, for people.

    Raises:
        InputError: The table or its column is missing, or holds too few texts.
        ConfigError: A setting is out of range.
        EnvironmentFault: The file cannot be written.
    """
    runtime = config.runtime
    post = fit_on(
        _source(config, spark),
        config.embedding,
        method,
        text=config.source.text,
        device=runtime.device,
        max_batch_tokens=runtime.max_batch_tokens,
        **options,
    )
    replace_file(out, post.to_bytes())
    return {"method": method, "file": str(out), "hidden_size": post.hidden_size, "dim": post.dim, "setting": f"embedding.postprocess={out}"}


def sample_texts(config: JobConfig, n_texts: int, spark: SparkSession | None = None) -> list[str]:
    """Different texts of a job's source, those of smallest hash, brought to the driver.

    Raises:
        InputError: The table or its column is missing.
    """
    return [row["text"] for row in chosen_texts(_source(config, spark), config.source.text, n_texts).collect()]


def _source(config: JobConfig, spark: SparkSession | None) -> DataFrame:
    """The rows that the job would select."""
    session = get_session(config.spark, spark)
    ref = parse_table(config.source.table, "source.table")
    open_table(session, ref, "source.table")
    source = read(session, ref)
    check_source_columns(source.schema, config.source.key, config.source.text, ref)
    return filtered(source, config.source.where)
