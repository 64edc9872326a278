"""What there is to do: the job's own look at its tables, and a sample of the texts that the model would see."""

from __future__ import annotations

import time
from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from metaeol_udf.delta.base.context import Job
from metaeol_udf.delta.select import selection
from metaeol_udf.delta.select.looking import take_snapshot
from metaeol_udf.delta.select.pending import find_pending
from metaeol_udf.delta.select.row_scope import RowScope
from metaeol_udf.delta.select.selection import FINGERPRINT, TEXT
from metaeol_udf.delta.select.snapshot import Snapshot
from metaeol_udf.delta.tables.refs import open_table
from metaeol_udf.delta.write.journal import Journal


@dataclass(frozen=True)
class Workload:
    """Holds what a run would select.

    Attributes:
        snapshot: Tables, columns and counts, as the run itself would see them.
        unique_texts: Distinct texts that the model would see: not NULL, not blank, not journalled.
        n_textless: Rows with a NULL or blank text.
        rewritten_bytes: Of the files that a first MERGE into the source writes anew; 0 for a target of its own.
        select_s: Seconds that finding all this took, which the run spends again.
        sample: One column, TEXT: at most the asked number of the unique texts, chosen by hash.
    """

    snapshot: Snapshot
    unique_texts: int
    n_textless: int
    rewritten_bytes: int
    select_s: float
    sample: DataFrame


def find_workload(job: Job, scope: RowScope, n_sample: int) -> Workload:
    """Find the workload as the job does, with its checks and its refusals, and `n_sample` texts of it; write nothing."""
    started = time.monotonic()
    snapshot = take_snapshot(job, scope)
    journal = Journal(job.spark, job.target.beside("journal"), job.spec.fingerprint(), "estimate", job.resolved.vector_length)
    pending = find_pending(snapshot, None if journal.is_empty() else journal.finished())
    select_s = time.monotonic() - started
    size = open_table(job.spark, job.target, "source.table").detail().collect()[0]["sizeInBytes"] if job.in_place else 0
    # Repaired as the job does it: Arrow would refuse the whole batch, and quote the text in its message.
    texts = pending.distinct_texts.select(F.make_valid_utf8(TEXT).alias(TEXT), FINGERPRINT)
    sample = selection.sampled(texts, [F.col(FINGERPRINT)], pending.n_texts, n_sample).select(TEXT)
    return Workload(snapshot, pending.n_texts, snapshot.n_textless, int(size), select_s, sample)
