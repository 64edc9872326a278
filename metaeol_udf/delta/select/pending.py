"""The texts of a snapshot that the model must see: those of rows that need work, without what is computed already."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from metaeol_udf.delta.base.kept_rows import keep, keep_counted
from metaeol_udf.delta.select.selection import FINGERPRINT, TEXT, TEXTLESS
from metaeol_udf.delta.select.snapshot import MOST_BROADCAST, Snapshot


@dataclass(frozen=True)
class WaveTexts:
    """Texts that go through the model in waves.

    Attributes:
        rows: FINGERPRINT and TEXT; a fingerprint may stand in several rows.
        n_texts: Different fingerprints.
        are_kept: Whether the rows lie on the executors already, so that one task may read them all.
    """

    rows: DataFrame
    n_texts: int
    are_kept: bool


@dataclass(frozen=True)
class Pending:
    """Fingerprints of a snapshot that nothing holds yet, with their texts.

    Attributes:
        snapshot: What there is to do.
        due: One column, FINGERPRINT, each once: kept on the executors.
        n_texts: Rows of `due`.
        is_fresh: Whether the journal held nothing of the spec before this run.
        is_all: Whether these are the fingerprints of all texts that the snapshot holds.
        n_reused: Texts whose vectors were found in a table, and are journalled by this run.
    """

    snapshot: Snapshot
    due: DataFrame
    n_texts: int
    is_fresh: bool
    is_all: bool
    n_reused: int = 0

    @property
    def texts(self) -> DataFrame:
        """FINGERPRINT and TEXT; a fingerprint may stand in several rows."""
        texts = self.snapshot.texts.where(F.col(TEXTLESS).isNull()).select(FINGERPRINT, TEXT)
        if self.is_all:
            return texts
        due = F.broadcast(self.due) if self.n_texts <= MOST_BROADCAST else self.due
        return texts.join(due, FINGERPRINT, "left_semi")

    @property
    def for_waves(self) -> WaveTexts:
        """Say what goes through the model."""
        return WaveTexts(self.texts, self.n_texts, self.snapshot.look.why_all is None)

    @property
    def distinct_texts(self) -> DataFrame:
        """FINGERPRINT and TEXT, each fingerprint once."""
        return self.texts.dropDuplicates([FINGERPRINT])

    def without(self, reused: DataFrame, n_reused: int) -> Pending:
        """Leave out texts whose vectors were found, of which `reused` has the FINGERPRINT."""
        due = keep(self.due.join(reused, FINGERPRINT, "left_anti"))
        return dataclasses.replace(self, due=due, n_texts=self.n_texts - n_reused, is_all=False, n_reused=n_reused)


def find_pending(snapshot: Snapshot, finished: DataFrame | None) -> Pending:
    """Find the pending texts.

    Args:
        snapshot: What there is to do.
        finished: One column, `fingerprint`, each once: of what the journal holds and needs no more work; None where it holds nothing.
    """
    due = snapshot.work.where(F.col(TEXTLESS).isNull()).select(FINGERPRINT)
    due = (due.coalesce(1) if snapshot.is_small else due).distinct()
    if finished is not None:
        due = due.join(finished, F.col(FINGERPRINT) == F.col("fingerprint"), "left_anti")
    kept, n_texts = keep_counted(due)
    is_all = finished is None and snapshot.rows_to_do == snapshot.n_texts
    return Pending(snapshot, kept, n_texts, finished is None, is_all)


def join_pending(pending: Sequence[Pending]) -> WaveTexts:
    """Join the pending texts of several columns whose vectors are of one spec: a text that several of them have is computed once."""
    parts = [each for each in pending if each.n_texts]
    if len(parts) < 2:
        return (parts or pending)[0].for_waves
    _, n_texts = keep_counted(functools.reduce(DataFrame.union, [each.due.select(FINGERPRINT) for each in parts]).distinct())
    rows = functools.reduce(DataFrame.union, [each.texts for each in parts])
    return WaveTexts(rows, n_texts, are_kept=True)
