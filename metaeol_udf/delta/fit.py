"""`metaeol fit`: post-processing fitted on the texts of a job's source table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from metaeol_udf.config import JobConfig
from metaeol_udf.delta.columns import check_source_columns
from metaeol_udf.delta.tables import open_table, parse_table, read
from metaeol_udf.encoder.postprocess import replace_file
from metaeol_udf.spark.fit import fit_on
from metaeol_udf.spark.session import get_session


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
    spark = spark if spark is not None else get_session(config.spark)
    ref = parse_table(config.source.table, "source.table")
    open_table(spark, ref, "source.table")
    source = read(spark, ref)
    check_source_columns(source.schema, config.source.key, config.source.text, ref)
    rows = source if config.source.where is None else source.where(F.expr(config.source.where))
    runtime = config.runtime
    post = fit_on(
        rows, config.embedding, method, text=config.source.text, device=runtime.device, max_batch_tokens=runtime.max_batch_tokens, **options
    )
    replace_file(out, post.to_bytes())
    return {"method": method, "file": str(out), "hidden_size": post.hidden_size, "dim": post.dim, "setting": f"embedding.postprocess={out}"}
