"""What a table needs before vectors come in: itself, the vectors' columns, and the properties that say how they are made."""

from __future__ import annotations

from metaeol_udf.delta.base.context import Job
from metaeol_udf.delta.select.snapshot import Tables
from metaeol_udf.delta.tables import metadata
from metaeol_udf.delta.tables.spark_errors import with_retries
from metaeol_udf.delta.tables.target import create_target


def prepare_tables(job: Job, tables: Tables, *, with_metadata: bool = True) -> None:
    """Prepare the table that is written to: create it, and add the vectors' columns and properties. What is there costs no commit.

    Args:
        job: Settings and session.
        tables: The tables as they were opened.
        with_metadata: Whether the properties are brought up to date, too. Without them only columns are added.
    """
    target = tables.target
    if not tables.in_place:
        create_target(job.spark, target, tables.key)
    if not with_metadata:
        with_retries(lambda: metadata.add_columns(job.spark, target, job.columns))
        return
    properties = metadata.vector_properties(job.columns.vector, job.resolved)
    with_retries(lambda: metadata.prepare_table(job.spark, target, job.columns, properties))
