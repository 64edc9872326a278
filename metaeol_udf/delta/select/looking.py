"""Looking at the tables: snapshots of one vector column, or of several with one source and target, which one pass finds together."""

from __future__ import annotations

import dataclasses
import functools
import logging
import operator
from collections.abc import Callable, Sequence

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from metaeol_udf.delta.base.context import Job
from metaeol_udf.delta.base.kept_rows import keep, keep_counted
from metaeol_udf.delta.base.run_report import Counts
from metaeol_udf.delta.select import selection
from metaeol_udf.delta.select.changed_files import Look, choose_look, join_looks
from metaeol_udf.delta.select.row_scope import RowScope
from metaeol_udf.delta.select.selection import DONE, ERROR, FINGERPRINT, HELD, STORED, TEXT, TEXTLESS, name_in, of_column, select_together
from metaeol_udf.delta.select.snapshot import MOST_BROADCAST, Snapshot, Tables, check_single, observed, open_checked, select, wanted_by
from metaeol_udf.delta.sources.passages import PassageSource
from metaeol_udf.delta.tables.refs import read
from metaeol_udf.spark.columns import quoted, same_key

logger = logging.getLogger(__name__)


def take_snapshot(job: Job, scope: RowScope, *, check_keys: bool = True) -> Snapshot:
    """Take a snapshot: pin the tables' versions, and find the rows that need work.

    Raises:
        InputError: A table, column or key is not what the settings say.
    """
    return take_snapshots([job], scope, check_keys=check_keys)[0]


def take_snapshots(jobs: Sequence[Job], scope: RowScope, *, check_keys: bool = True) -> list[Snapshot]:
    """Take a snapshot for each job. The jobs have one source, key, condition and target.

    Jobs that look at the same rows do so in one pass: those that must look at all, and those that look at what came since one proof.

    Raises:
        InputError: A table, column or key is not what the settings say.
    """
    opened = [open_checked(job, scope) for job in jobs]
    if len({(tables.source_version, tables.target_version) for tables in opened}) > 1:  # a writer was at work in between
        return [take_snapshot(job, scope, check_keys=check_keys) for job in jobs]
    looks = [
        choose_look(job, scope, tables.source, tables.source_version, tables.target_version)
        for job, tables in zip(jobs, opened, strict=True)
    ]
    found: dict[int, Snapshot] = {}
    for group in _groups(looks):
        names = ", ".join(jobs[i].columns.vector for i in group)
        logger.info("%s: looking at the rows of files added since version %d of %s", names, looks[group[0]].since, jobs[0].source)
        for i, snapshot in zip(group, _look_at_changes(*_of(group, jobs, opened, looks), scope), strict=True):
            if snapshot.counts.rows_of_other_specs:
                looks[i] = looks[i].of_all("rows hold vectors of another spec")
            else:
                found[i] = snapshot
    whole = [i for i in range(len(jobs)) if i not in found]
    if whole:
        logger.info("%s: looking at all rows: %s", ", ".join(jobs[i].columns.vector for i in whole), looks[whole[0]].why_all)
        look_at_all = _look_at_all if len(whole) == 1 else _look_at_all_together
        found |= zip(whole, look_at_all(*_of(whole, jobs, opened, looks), scope, check_keys=check_keys), strict=True)
    return [found[i] for i in range(len(jobs))]


def _groups(looks: Sequence[Look]) -> list[list[int]]:
    """Put together the places of the looks at the same added rows; looks at all rows are left out."""
    groups: dict[tuple[int, object], list[int]] = {}
    for i, look in enumerate(looks):
        if look.why_all is None:
            groups.setdefault((look.since, look.added), []).append(i)
    return list(groups.values())


def _of(
    places: Sequence[int], jobs: Sequence[Job], opened: Sequence[Tables], looks: Sequence[Look]
) -> tuple[list[Job], list[Tables], list[Look]]:
    return [jobs[i] for i in places], [opened[i] for i in places], [looks[i] for i in places]


def _look_at_all(
    jobs: Sequence[Job], opened: Sequence[Tables], looks: Sequence[Look], scope: RowScope, *, check_keys: bool
) -> list[Snapshot]:
    """Look at all rows in scope for one job, once without their texts; texts are read by whoever needs them."""
    job, tables = jobs[0], opened[0]
    n_rows = _check_source(job, tables, check_keys=check_keys)
    chosen = select(job, scope, tables, pinned=True)
    counted, counts = observed(chosen.rows.drop(TEXT))
    work = keep(_work(counted.where(~F.col(DONE)), chosen.key))
    found, n_textless, n_failing, _ = counts()
    if n_rows is not None:
        check_single(job, found.rows_selected, n_rows)
    texts = chosen.rows.select(FINGERPRINT, TEXTLESS, TEXT)
    return [Snapshot(tables, looks[0], chosen, work, texts, found, found.rows_selected, n_textless, n_failing)]


def _look_at_all_together(
    jobs: Sequence[Job], opened: Sequence[Tables], looks: Sequence[Look], scope: RowScope, *, check_keys: bool
) -> list[Snapshot]:
    """Look at all rows, once for several jobs. What they need is kept on the executors, texts included."""
    first, tables = jobs[0], opened[0]
    n_rows = _check_source(first, tables, check_keys=check_keys)
    stored = None if tables.target_version is None else read(first.spark, first.target, tables.target_version)
    rows, counting = _observed_each(select_together(tables.source, [wanted_by(job) for job in jobs], stored, first.in_place), len(jobs))
    is_needed = functools.reduce(operator.or_, [~F.col(name_in(i)(DONE)) for i in range(len(jobs))])
    kept = keep(_without_spare_texts(rows.where(is_needed), first.config.source.key, len(jobs)))
    snapshots = []
    for i, (job, look) in enumerate(zip(jobs, looks, strict=True)):
        found, n_textless, n_failing, _ = counting[i]()
        if n_rows is not None:
            check_single(job, found.rows_selected, n_rows)
        snapshots.append(_snapshot(job, opened[i], look, scope, _needed(kept, job, i), found, n_textless, n_failing))
    return snapshots


def _look_at_changes(jobs: Sequence[Job], opened: Sequence[Tables], looks: Sequence[Look], scope: RowScope) -> list[Snapshot]:
    """Look at the rows of added files and at those that failed before, once for all jobs; they are kept with the texts that need work."""
    first, tables, look = jobs[0], opened[0], join_looks(looks)
    key, source = first.config.source.key, tables.source
    stored = read(first.spark, first.target, tables.target_version) if look.reads_target else None
    rows = look.rows(source, key)
    of_these = None if stored is None else _stored_for(rows, stored, key)
    selected = select_together(rows, [wanted_by(job) for job in jobs], of_these, first.in_place, proven=not first.in_place)
    counted, counting = _observed_each(selected, len(jobs))
    kept = keep(_without_spare_texts(counted, key, len(jobs)))
    counts = [each() for each in counting]
    n_rows = counts[0][0].rows_selected
    if n_rows:
        selection.check_keys(source, first.config.source, first.source, kept if n_rows <= MOST_BROADCAST else None)
    n_selected = look.n_selected(first, source, n_rows)
    n_unknown = min(n_unknown for *_, n_unknown in counts)
    keys_left = look.keys_left and not (look.rows_left and stored is not None and _holds_all_keys(first, tables, stored, n_unknown))
    snapshots = []
    for i, (job, own) in enumerate(zip(jobs, looks, strict=True)):
        found, n_textless, n_failing, _ = counts[i]
        n_to_do = n_rows - found.rows_skipped
        whole = Counts(n_selected, n_selected - n_to_do, found.rows_new, found.rows_of_other_specs, found.other_specs)
        own = dataclasses.replace(own, keys_left=keys_left)
        snapshots.append(_snapshot(job, opened[i], own, scope, _needed(kept, job, i), whole, n_textless, n_failing))
    return snapshots


def _snapshot(
    job: Job, tables: Tables, look: Look, scope: RowScope, needed: DataFrame, counts: Counts, n_textless: int, n_failing: int
) -> Snapshot:
    """Make the snapshot of a job whose rows that need work are kept with their texts."""
    chosen = select(job, scope, tables, pinned=True)
    n_to_do = counts.rows_selected - counts.rows_skipped
    texts = needed.select(FINGERPRINT, TEXTLESS, TEXT)
    return Snapshot(tables, look, chosen, _work(needed, chosen.key), texts, counts, n_to_do, n_textless, n_failing)


def _check_source(job: Job, tables: Tables, *, check_keys: bool) -> int | None:
    """Check the records and keys of the source; gives the number of its rows, or None where the keys were not to be checked."""
    job.source.check_readable(tables.source)
    return selection.check_keys(tables.source, job.config.source, job.source) if check_keys else None


def _observed_each(rows: DataFrame, n_columns: int) -> tuple[DataFrame, list[Callable[[], tuple[Counts, int, int, int]]]]:
    """Count rows by what is stored for each of the columns; see `observed`."""
    counting = []
    for position in range(n_columns):
        rows, counts = observed(rows, name_in(position))
        counting.append(counts)
    return rows, counting


def _without_spare_texts(rows: DataFrame, key: Sequence[str], n_columns: int) -> DataFrame:
    """Leave out what no later question needs: texts of rows that need no work, or have none, and what is stored."""
    parts = []
    for of in map(name_in, range(n_columns)):
        text = F.when(~F.col(of(DONE)) & F.col(of(TEXTLESS)).isNull(), F.col(of(TEXT))).alias(of(TEXT))
        parts += [*(F.col(of(name)) for name in (FINGERPRINT, TEXTLESS, HELD, DONE)), text]
    return rows.select(*[F.col(quoted(name)) for name in key], *parts)


def _needed(kept: DataFrame, job: Job, position: int) -> DataFrame:
    """Choose the rows that need work for one of the columns."""
    return of_column(kept, job.config.source.key, position, but=(STORED, ERROR)).where(~F.col(DONE))


def _work(rows: DataFrame, key: Sequence[str]) -> DataFrame:
    return rows.select(*[F.col(quoted(name)) for name in key], FINGERPRINT, TEXTLESS, HELD)


def _stored_for(rows: DataFrame, stored: DataFrame, key: Sequence[str]) -> DataFrame:
    """Find what is stored for some rows. Where the rows are few, their keys go to the target, and no other row of it is shuffled."""
    keys, n_rows = keep_counted(rows.select(*[F.col(quoted(name)).alias(f"metaeol_key_{i}") for i, name in enumerate(key)]))
    if n_rows > MOST_BROADCAST:
        return stored
    matches = same_key([F.col(quoted(name)) for name in key], [F.col(f"metaeol_key_{i}") for i in range(len(key))])
    return stored.join(F.broadcast(keys), matches, "left_semi")


def _holds_all_keys(job: Job, tables: Tables, stored: DataFrame, n_unknown: int) -> bool:
    """Tell from the numbers of rows that no key has left the source since a proof: Delta counts them from its log.

    The target holds each key of the source but those of the `n_unknown` rows at most that were looked at. So it has as many rows
    as the source without these, and one more for each key that left. Where a condition or passages choose, the numbers say nothing.
    """
    if job.config.source.where is not None or job.config.source.makes_key or isinstance(job.source, PassageSource):
        return False
    return stored.count() + n_unknown == tables.source.count()
