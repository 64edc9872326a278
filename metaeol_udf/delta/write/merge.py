"""From the journal into the table, by MERGE. Its plan holds no model, and it moves each vector at most once."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Iterable
from dataclasses import dataclass

from delta import DeltaTable
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from metaeol_udf.delta.base.context import Job
from metaeol_udf.delta.select.row_scope import RowScope
from metaeol_udf.delta.select.selection import FINGERPRINT, HELD, TEXTLESS
from metaeol_udf.delta.select.snapshot import MOST_BROADCAST, Snapshot, unchanged_work
from metaeol_udf.delta.sources.text import text_of
from metaeol_udf.delta.tables.columns import VectorColumns
from metaeol_udf.delta.tables.refs import TableRef, open_table
from metaeol_udf.delta.tables.spark_errors import conflict_in, pause, with_retries
from metaeol_udf.delta.write.journal import Journal
from metaeol_udf.delta.write.waves import WavePlan
from metaeol_udf.errors import ConflictError
from metaeol_udf.spark.columns import find_field, quoted, same_key

_PREFIX = "metaeol_new_"  # of the journal's columns inside a MERGE, so that a user's names stay unambiguous
PIECE_ROWS = 200_000  # of one MERGE into a target of its own
_MOST_PIECES = 50
_MOST_PARTS = 16  # of a piece that meets other writers
_MOST_BROADCAST_BYTES = 32 << 20  # of vectors
_SPLIT_AT = ("ConcurrentAppend", "ConcurrentDeleteRead", "ConcurrentDeleteDelete", "ConcurrentWrite")


@dataclass(frozen=True)
class Published:
    """What a run may publish.

    Attributes:
        journal: The run's journal.
        own: Whether all that the run's rows need was computed by this run, so that no fingerprint stands twice.
        plan: How the run's texts were cut into waves; None where it computed nothing.
    """

    journal: Journal
    own: bool
    plan: WavePlan | None


@dataclass(frozen=True)
class Piece:
    """A part of the rows of a run, which one MERGE publishes.

    Attributes:
        waves: The waves that the rows' texts were in; None: all.
        n_parts: Parts by the hash of the key.
        part: Which of them.
    """

    waves: range | None = None
    n_parts: int = 1
    part: int = 0

    def halves(self) -> list[Piece]:
        """Cut the piece in two."""
        return [Piece(self.waves, 2 * self.n_parts, part) for part in (self.part, self.part + self.n_parts)]


def publish(job: Job, scope: RowScope, snapshot: Snapshot, published: Published) -> None:
    """Publish what the journal holds for the rows of a snapshot whose text is still the same, piece by piece.

    A conflict with another writer costs one piece: what is published stays so, and the piece is tried again in two halves. Where
    rows hold vectors of another spec there is one piece, which is not cut: all of them are replaced at once.
    """
    work = snapshot.work if job.in_place else unchanged_work(job, scope, snapshot)
    pieces = _first_pieces(job, snapshot, published)[::-1]
    most_parts, tries = 1 if snapshot.counts.rows_of_other_specs else _MOST_PARTS, 0
    while pieces:
        piece = pieces.pop()
        merge = functools.partial(_merge, job, scope, snapshot, work, published, piece)
        may_split = piece.n_parts < most_parts
        try:
            with_retries(merge, but=_SPLIT_AT if may_split else ())
            tries = 0
        except Exception as error:
            conflict = conflict_in(error)
            if not may_split or conflict not in _SPLIT_AT:
                raise
            tries += 1
            pause(conflict, tries)
            pieces += piece.halves()[::-1]


def _first_pieces(job: Job, snapshot: Snapshot, published: Published) -> list[Piece]:
    """Cut the rows into pieces by wave, for a target of its own.

    In place, where each MERGE reads all texts, one piece is tried first.
    """
    plan = published.plan
    n_pieces = min(math.ceil(snapshot.rows_to_do / PIECE_ROWS), _MOST_PIECES)
    if job.in_place or plan is None or not published.own or n_pieces <= 1 or snapshot.counts.rows_of_other_specs:
        return [Piece()]
    step = math.ceil(plan.n_waves / n_pieces)
    return [Piece(range(first, min(first + step, plan.n_waves + 1))) for first in range(1, plan.n_waves + 1, step)]


def _merge(job: Job, scope: RowScope, snapshot: Snapshot, work: DataFrame, published: Published, piece: Piece) -> None:
    """Publish one piece: one MERGE."""
    source, columns = job.config.source, job.columns
    table = open_table(job.spark, job.target, "target.table")
    _check_still_fits(table, columns, [*source.key, *(source.text_columns if job.in_place else [])], job.target)
    rows = _outcomes(snapshot, work, published, piece, source.key)
    matches = same_key([F.col(quoted(name)) for name in source.key], _new_key(source.key))
    condition = scope.condition(source.where) if job.in_place else scope.bounds
    if condition is not None:
        matches = matches & condition
    if job.in_place:
        # The fingerprint of the text as it is now: a row that was changed or deleted since it was read gets nothing.
        now = job.fingerprints.of(text_of(source, table.toDF().schema))
        rows, matches = job.fingerprints.prepare(rows), matches & (now == F.col(f"{_PREFIX}fingerprint"))
        table.merge(_sent_whole(job, snapshot, rows), matches).whenMatchedUpdate(set=_assignments(columns)).execute()
        return
    inserted = _assignments(columns) | {quoted(name): new for name, new in zip(source.key, _new_key(source.key), strict=True)}
    merge = table.merge(_sent_whole(job, snapshot, rows), matches)
    merge.whenMatchedUpdate(set=_assignments(columns)).whenNotMatchedInsert(values=inserted).execute()


def _sent_whole(job: Job, snapshot: Snapshot, rows: DataFrame) -> DataFrame:
    """Let each executor have all of the rows where they are few: the MERGE then finds their places without a shuffle of the table."""
    is_little = snapshot.rows_to_do * job.resolved.vector_length * 4 <= _MOST_BROADCAST_BYTES
    return F.broadcast(rows) if is_little else rows


def _outcomes(snapshot: Snapshot, work: DataFrame, published: Published, piece: Piece, key: tuple[str, ...]) -> DataFrame:
    """Find the new values of a piece's rows: key, fingerprint, vector and error, with names of their own.

    A row whose error stands already is left out: a second try that failed again is stored as it was before.
    """
    named = [F.col(quoted(name)).alias(f"{_PREFIX}key_{i}") for i, name in enumerate(key)]
    chosen = work.where(_is_in(piece, published.plan, key))
    known = published.journal.outcomes(own=published.own)
    if piece.waves is not None:
        before = published.journal.waves_before
        known = known.where(F.col("wave").between(before + piece.waves.start, before + piece.waves.stop - 1))
    new = known.select(*[F.col(name).alias(f"{_PREFIX}{name}") for name in ("fingerprint", "vector", "error")])
    embedded = chosen.where(F.col(TEXTLESS).isNull()).select(*named, FINGERPRINT, HELD)
    if snapshot.rows_to_do <= MOST_BROADCAST or piece.waves is not None:
        embedded = F.broadcast(embedded)
    rows = new.join(embedded, F.col(FINGERPRINT) == F.col(f"{_PREFIX}fingerprint")).drop(FINGERPRINT)
    if snapshot.n_textless:
        nothing = F.lit(None).cast(known.schema["vector"].dataType)
        textless = chosen.where(F.col(TEXTLESS).isNotNull()).select(
            *named,
            F.col(FINGERPRINT).alias(f"{_PREFIX}fingerprint"),
            nothing.alias(f"{_PREFIX}vector"),
            F.col(TEXTLESS).alias(f"{_PREFIX}error"),
            HELD,
        )
        rows = rows.unionByName(textless)
    stands_already = F.coalesce(F.col(HELD) == F.col(f"{_PREFIX}error"), F.lit(False))
    return rows.where(~stands_already).drop(HELD)


def _is_in(piece: Piece, plan: WavePlan | None, key: Iterable[str]) -> Column:
    """Tell whether a row belongs to a piece."""
    parts = [F.lit(True)]
    if piece.waves is not None and plan is not None:
        parts.append(plan.wave_of(F.col(FINGERPRINT)).between(piece.waves.start, piece.waves.stop - 1))
    if piece.n_parts > 1:
        parts.append(F.pmod(F.xxhash64(*[F.col(quoted(name)) for name in key]), F.lit(piece.n_parts)) == piece.part)
    return functools.reduce(operator.and_, parts)


def _check_still_fits(table: DeltaTable, columns: VectorColumns, matched_by: Iterable[str], ref: TableRef) -> None:
    """Check, before every try of a MERGE, that the table still fits: nobody dropped, renamed or retyped a column since the run began."""
    schema = table.toDF().schema
    gone = [name for name in matched_by if find_field(schema, name) is None]
    for wanted in columns.fields:
        found = find_field(schema, wanted.name)
        if found is None or found.dataType != wanted.dataType:
            gone.append(wanted.name)
    if gone:
        raise ConflictError(
            f"column {', '.join(map(repr, gone))} of {ref} was dropped, renamed or changed while the job ran: nothing was published; "
            "what was computed is kept, so put the column back or change the settings, and run the job again"
        )


def _new_key(key: Iterable[str]) -> list[Column]:
    return [F.col(f"{_PREFIX}key_{i}") for i, _ in enumerate(key)]


def _assignments(columns: VectorColumns) -> dict[str, Column | str]:
    return {
        quoted(columns.vector): F.col(f"{_PREFIX}vector"),
        quoted(columns.error): F.col(f"{_PREFIX}error"),
        quoted(columns.fingerprint_column): F.col(f"{_PREFIX}fingerprint"),
    }
