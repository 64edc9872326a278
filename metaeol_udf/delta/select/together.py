"""The snapshots of several vector columns, of one source and one target: one pass over the tables finds the rows of all."""

from __future__ import annotations

import functools
import logging
import operator
from collections.abc import Sequence

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from metaeol_udf.delta.base.context import Job
from metaeol_udf.delta.base.kept_rows import keep
from metaeol_udf.delta.select.changed_files import Look, choose_look
from metaeol_udf.delta.select.row_scope import RowScope
from metaeol_udf.delta.select.selection import (
    DONE,
    FINGERPRINT,
    HELD,
    TEXT,
    TEXTLESS,
    Wanted,
    check_keys,
    name_in,
    select_together,
)
from metaeol_udf.delta.select.snapshot import Snapshot, Tables, check_single, observed, open_checked, select, take_snapshot
from metaeol_udf.delta.tables.refs import read
from metaeol_udf.spark.columns import quoted

logger = logging.getLogger(__name__)


def take_snapshots(jobs: Sequence[Job], scope: RowScope) -> list[Snapshot]:
    """Take a snapshot for each job, as `take_snapshot` does. The jobs have one source, key, condition and target.

    Jobs that must look at all rows do so in one pass, and what they need is kept on the executors, texts included. The others read the
    files that were added since their proof, each for itself.

    Raises:
        InputError: As `take_snapshot`.
    """
    opened = [open_checked(job, scope) for job in jobs]
    versions = {(tables.source_version, tables.target_version) for tables in opened}
    looks = [
        choose_look(job, scope, tables.source, tables.source_version, tables.target_version, tables.key)
        for job, tables in zip(jobs, opened, strict=True)
    ]
    whole = [i for i, look in enumerate(looks) if look.why_all is not None]
    if len(whole) < 2 or len(versions) > 1:  # a writer was at work in between
        return [take_snapshot(job, scope) for job in jobs]
    logger.info("looking at all rows for %s: %s", ", ".join(jobs[i].columns.vector for i in whole), looks[whole[0]].why_all)
    found = _look_at_all([jobs[i] for i in whole], [opened[i] for i in whole], [looks[i] for i in whole], scope)
    together = dict(zip(whole, found, strict=True))
    return [together[i] if i in together else take_snapshot(job, scope) for i, job in enumerate(jobs)]


def _look_at_all(jobs: Sequence[Job], opened: Sequence[Tables], looks: Sequence[Look], scope: RowScope) -> list[Snapshot]:
    """Look at all rows, once for all jobs."""
    first, tables = jobs[0], opened[0]
    first.source.check_readable(tables.source)
    n_rows = check_keys(tables.source, first.config.source, first.source)
    wanted = [Wanted(job.config.source, job.fingerprints, job.columns, job.resolved.vector_length) for job in jobs]
    stored = None if tables.target_version is None else read(first.spark, first.target, tables.target_version)
    rows = select_together(tables.source, wanted, stored, first.in_place)
    counting = []
    for position in range(len(jobs)):
        rows, counts = observed(rows, name_in(position))
        counting.append(counts)
    kept = keep(_to_do(rows, first.config.source.key, len(jobs)))
    snapshots = []
    for position, (job, look) in enumerate(zip(jobs, looks, strict=True)):
        found, n_textless, n_failing, _ = counting[position]()
        check_single(job, found.rows_selected, n_rows)
        mine = _of_column(kept, job.config.source.key, position)
        work, texts = mine.drop(TEXT), mine.select(FINGERPRINT, TEXTLESS, TEXT)
        n_to_do = found.rows_selected - found.rows_skipped
        chosen = select(job, scope, opened[position], pinned=True)
        snapshots.append(Snapshot(opened[position], look, chosen, work, texts, found, n_to_do, n_textless, n_failing))
    return snapshots


def _to_do(rows: DataFrame, key: Sequence[str], n_columns: int) -> DataFrame:
    """Choose the rows that need work for any of the columns, with the texts of those alone."""
    names = [name_in(position) for position in range(n_columns)]
    parts = []
    for of in names:
        text = F.when(~F.col(of(DONE)) & F.col(of(TEXTLESS)).isNull(), F.col(of(TEXT))).alias(of(TEXT))
        parts += [*(F.col(of(name)) for name in (FINGERPRINT, TEXTLESS, HELD, DONE)), text]
    needed = functools.reduce(operator.or_, [~F.col(of(DONE)) for of in names])
    return rows.where(needed).select(*[F.col(quoted(name)) for name in key], *parts)


def _of_column(kept: DataFrame, key: Sequence[str], position: int) -> DataFrame:
    """Choose the rows that need work for one of the columns: the key's columns, FINGERPRINT, TEXTLESS, HELD and TEXT."""
    of = name_in(position)
    parts = [F.col(of(name)).alias(name) for name in (FINGERPRINT, TEXTLESS, HELD, TEXT)]
    return kept.where(~F.col(of(DONE))).select(*[F.col(quoted(name)) for name in key], *parts)
