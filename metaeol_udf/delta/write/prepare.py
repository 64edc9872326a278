"""What a table needs before vectors come in: itself, the vectors' columns, and the properties that say how they are made."""

from __future__ import annotations

from metaeol_udf.delta.base.context import Job
from metaeol_udf.delta.select.snapshot import Tables
from metaeol_udf.delta.sources.passages import PassageSource
from metaeol_udf.delta.tables import metadata
from metaeol_udf.delta.tables.spark_errors import with_retries
from metaeol_udf.delta.tables.target import create_target
from metaeol_udf.delta.write.quarantine import prepare_quarantine


def properties_of(job: Job) -> dict[str, str]:
    """Make the table properties that say how the job's vectors are made."""
    source = None if job.in_place else job.source
    key_id = None if job.hash_key is None else job.hash_key.id
    passage = job.source.by if isinstance(job.source, PassageSource) else None
    return metadata.vector_properties(job.columns.vector, job.resolved, source, key_id, passage)


def prepare_tables(job: Job, tables: Tables, *, with_metadata: bool = True) -> None:
    """Prepare the table that is written to: create it, and add the vectors' columns and properties; prepare its quarantine.
    What is there costs no commit.

    Without `with_metadata` the properties that the table has stay as they are.
    """
    if not job.in_place:
        create_target(job.spark, job.target, tables.key)
    properties = properties_of(job) if with_metadata else {}
    with_retries(lambda: metadata.prepare_table(job.spark, job.target, job.columns, properties))
    prepare_quarantine(job.spark, job.target.beside("quarantine"), tables.key)
