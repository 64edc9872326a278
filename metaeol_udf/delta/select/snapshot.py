"""The snapshot of a run: tables that fit the settings, at versions that are pinned, and the rows in them that need work."""

from __future__ import annotations

from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql.types import StructType

from metaeol_udf.delta.base.context import Job
from metaeol_udf.delta.base.run_report import Counts
from metaeol_udf.delta.select import selection
from metaeol_udf.delta.select.row_scope import RowScope
from metaeol_udf.delta.select.selection import Selection
from metaeol_udf.delta.tables.columns import check_source_columns, check_vector_columns, require_field
from metaeol_udf.delta.tables.metadata import check_constraints
from metaeol_udf.delta.tables.refs import current_version, open_table, read
from metaeol_udf.delta.tables.target import check_target


@dataclass(frozen=True)
class Tables:
    """Tables that a run reads and writes, by the names that the job holds.

    Attributes:
        source: The source's rows in scope, at the pinned version.
        source_version: The pinned version of the source.
        target_version: The pinned version of a target of its own; None where there was no target yet, and in place.
        key: Fields of the key columns.
    """

    source: DataFrame
    source_version: int
    target_version: int | None
    key: StructType


@dataclass(frozen=True)
class Snapshot:
    """What there is to do, at pinned versions of the tables.

    Attributes:
        tables: The tables, at these versions.
        chosen: The rows in scope.
        counts: The numbers of these rows.
    """

    tables: Tables
    chosen: Selection
    counts: Counts

    @property
    def rows_to_do(self) -> int:
        """Rows that need work."""
        return self.counts.rows_selected - self.counts.rows_skipped


def take_snapshot(job: Job, scope: RowScope, *, check_keys: bool = True) -> Snapshot:
    """Take a snapshot: pin the tables' versions, and count the rows that need work."""
    tables = open_checked(job, scope)
    if check_keys:
        selection.check_keys(tables.source, job.config.source)
    chosen = select(job, scope, tables, pinned=True)
    return Snapshot(tables, chosen, selection.count(chosen))


def open_checked(job: Job, scope: RowScope) -> Tables:
    """Open the tables, checked as far as anything can be before a commit.

    Raises:
        InputError: A table or column is not what the settings say.
    """
    config = job.config.source
    table = open_table(job.spark, job.source, "source.table")
    version = current_version(table)
    source = scope.of_source(read(job.spark, job.source, version))
    check_source_columns(source.schema, config.key, config.text, job.source)
    key = StructType([require_field(source.schema, name, "source.key", job.source) for name in config.key])
    if job.in_place:
        check_vector_columns(source.schema, job.columns, (*config.key, config.text), job.source)
        check_constraints(job.spark, table, job.columns, job.source)
    target_version = None if job.in_place else check_target(job.spark, job.target, key, job.columns)
    return Tables(source, version, target_version, key)


def select(job: Job, scope: RowScope, tables: Tables, *, pinned: bool, whole: bool = False) -> Selection:
    """Select the rows in scope.

    Args:
        job: Settings and session.
        scope: The rows of the run.
        tables: The tables as they were opened.
        pinned: Whether to read the pinned versions rather than the tables as they stand now.
        whole: Whether to ignore the scope's filter on failed rows.
    """
    source = tables.source if pinned else scope.of_source(read(job.spark, job.source))
    stored = None
    if not job.in_place and not (pinned and tables.target_version is None):
        stored = read(job.spark, job.target, tables.target_version if pinned else None)
    chosen = selection.select(source, job.config.source, job.spec.fingerprint(), job.columns, stored, job.in_place)
    return chosen if whole else scope.of_selection(chosen)


def is_outdated(job: Job, tables: Tables) -> bool:
    """Tell whether a snapshot is outdated: the table that is written to has had another commit since."""
    if job.in_place:
        return current_version(open_table(job.spark, job.target, "target.table")) != tables.source_version
    return check_target(job.spark, job.target, tables.key, job.columns) != tables.target_version
