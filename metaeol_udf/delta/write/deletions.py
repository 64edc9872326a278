"""Vectors of keys that left the source, and of passages that a text lost: they leave a target of its own, too.

A key counts as gone where the whole source does not have it, whatever `source.where` selects: another job may be responsible for the
rows that this job's condition leaves out.
"""

from __future__ import annotations

import functools
import logging
import operator
from collections.abc import Sequence

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from metaeol_udf.delta.base.context import Job
from metaeol_udf.delta.select.row_scope import RowScope
from metaeol_udf.delta.select.snapshot import open_checked
from metaeol_udf.delta.tables.commits import TableLog
from metaeol_udf.delta.tables.refs import open_table, read
from metaeol_udf.delta.tables.spark_errors import with_retries
from metaeol_udf.delta.write.quarantine import failing_rows, reconcile_quarantine
from metaeol_udf.errors import InputError
from metaeol_udf.spark.columns import quoted, same_key

logger = logging.getLogger(__name__)

_GONE, _TEXT = "metaeol_gone_", "metaeol_of_text_"


def count_orphans(job: Job) -> int:
    """Count the target's rows whose key has left the source.

    Raises:
        InputError: They are to be removed, and are more than `target.max_deleted_fraction` of the target's rows.
    """
    n_orphans = find_orphans(job).count()
    if not n_orphans or not removes(job):
        return n_orphans
    n_rows, most = read(job.spark, job.target).count(), job.config.target.max_deleted_fraction
    if n_orphans > most * n_rows:
        raise InputError(
            f"{n_orphans:,} of the {n_rows:,} rows of {job.target} have a key that left {job.source}, more than "
            f"target.max_deleted_fraction={most} allows in one run. If they are to go, run once with "
            f"target.max_deleted_fraction=1; to keep such rows for good, set target.deleted=keep"
        )
    return n_orphans


def removes(job: Job) -> bool:
    """Tell whether the job removes the rows of keys that left its source: not where the target holds vectors of other sources too."""
    if job.config.target.deleted == "keep":
        return False
    log = TableLog.of(job.spark, job.target)
    properties = open_table(job.spark, job.target, "target.table").detail().collect()[0]["properties"] if log is None else log.properties()
    sources = {name: value for name, value in properties.items() if _is_source(name)}
    others = sorted({value for value in sources.values() if value != str(job.source)})
    if others:
        logger.warning("%s holds vectors of %s too: rows of keys that left the source are kept", job.target, ", ".join(others))
    return not others


def _is_source(name: str) -> bool:
    return name.startswith("metaeol.") and name.endswith(".source")


def sweep_orphans(job: Job, run_id: str) -> int:
    """Remove the rows of keys that left the source from target and quarantine, at the end of a stream; gives their number."""
    if not count_orphans(job) or not removes(job):
        return 0
    n_removed = remove_orphans(job)
    tables = open_checked(job, RowScope())
    reconcile_quarantine(job.spark, job.target.beside("quarantine"), failing_rows(job, tables), tables.key, run_id, job.columns.vector)
    return n_removed


def remove_orphans(job: Job) -> int:
    """Remove the target's rows whose key is not in the source now; gives their number."""
    return _remove(job, find_orphans(job))


def find_orphans(job: Job) -> DataFrame:
    """Find the target's rows whose key is not in the source now: the key's columns. Of passages that is the key of their text."""
    return _without(_held(job), job.source.read_whole(job.spark), job.source.config.key)


def remove_lost_passages(job: Job, passages: DataFrame) -> int:
    """Remove the target's passages that their text does not have any more; gives their number."""
    return _remove(job, find_lost_passages(job, passages))


def find_lost_passages(job: Job, passages: DataFrame) -> DataFrame:
    """Find the target's passages that their text does not have: the columns of the passages' key.

    `passages` are those of all texts that the job selects. Texts that are gone, or that `source.where` leaves out, lose none.
    """
    key = job.source.config.key
    texts = passages.select(*map(quoted, key)).distinct()
    named = texts.select(*[F.col(quoted(name)).alias(f"{_TEXT}{i}") for i, name in enumerate(key)])
    held = _held(job)
    of_texts = held.join(
        named, same_key([F.col(quoted(name)) for name in key], [F.col(f"{_TEXT}{i}") for i in range(len(key))]), "left_semi"
    )
    return _without(of_texts, passages, job.config.source.key)


def _held(job: Job) -> DataFrame:
    """Read the key's columns of the target. A row with NULL there has no key, so no run made it, and none takes it away."""
    key = [F.col(quoted(name)) for name in job.config.source.key]
    return read(job.spark, job.target).where(functools.reduce(operator.and_, [column.isNotNull() for column in key])).select(*key)


def _without(held: DataFrame, there: DataFrame, key: Sequence[str]) -> DataFrame:
    """Leave out the rows whose key is there."""
    named = there.select(*[F.col(quoted(name)).alias(f"{_GONE}{i}") for i, name in enumerate(key)])
    return held.join(named, same_key([F.col(quoted(name)) for name in key], [F.col(f"{_GONE}{i}") for i in range(len(key))]), "left_anti")


def _remove(job: Job, rows: DataFrame) -> int:
    """Remove rows of the target by their keys; gives the number of keys."""
    names = job.config.source.key
    gone = rows.select(*[F.col(quoted(name)).alias(f"{_GONE}{i}") for i, name in enumerate(names)]).distinct()
    matches = same_key([F.col(quoted(name)) for name in names], [F.col(f"{_GONE}{i}") for i in range(len(names))])

    def delete() -> None:
        open_table(job.spark, job.target, "target.table").merge(gone, matches).whenMatchedDelete().execute()

    n_rows = gone.count()
    if n_rows:
        with_retries(delete)
    return n_rows
