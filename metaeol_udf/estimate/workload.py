"""What there is to do: the job's own selection, and a sample of the texts that the model would see."""

from __future__ import annotations

import time
from dataclasses import dataclass

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from metaeol_udf.config import JobConfig
from metaeol_udf.delta import selection
from metaeol_udf.delta.columns import VectorColumns, check_source_columns
from metaeol_udf.delta.journal import Journal
from metaeol_udf.delta.selection import FINGERPRINT, TEXT
from metaeol_udf.delta.tables import exists, open_table, parse_table, read

_SPARE = 1.2  # hashes do not hit a sample's size exactly


@dataclass(frozen=True)
class Workload:
    """What a run would select.

    Attributes:
        rows_selected: Rows that the condition keeps.
        rows_pending: Those of them without a current vector.
        unique_texts: Distinct texts that the model would see: not NULL, not blank, not journalled.
        n_textless: Distinct NULL and blank texts.
        rewritten_bytes: Of the files that a first MERGE into the source writes anew; 0 for a target of its own.
        select_s: Seconds that finding all this took, which the run spends again.
        sample: One column, TEXT: at most the asked number of the unique texts, chosen by hash.
    """

    rows_selected: int
    rows_pending: int
    unique_texts: int
    n_textless: int
    rewritten_bytes: int
    select_s: float
    sample: DataFrame


def find_workload(spark: SparkSession, config: JobConfig, fingerprint: str, n_sample: int) -> Workload:
    """Select as the job does, with its checks and its refusals, and write nothing.

    Args:
        spark: A session with Delta.
        config: The job.
        fingerprint: Of the resolved spec.
        n_sample: Texts of the sample.

    Raises:
        InputError: What the job would refuse.
    """
    source_ref, target_ref = parse_table(config.source.table, "source.table"), parse_table(config.target_table, "target.table")
    started = time.monotonic()
    detail = open_table(spark, source_ref, "source.table").detail().collect()[0]
    source = read(spark, source_ref)
    check_source_columns(source.schema, config.source.key, config.source.text, source_ref)
    selection.check_keys(source, config.source)
    in_place = source_ref == target_ref
    stored = read(spark, target_ref) if not in_place and exists(spark, target_ref) else None
    chosen = selection.select(source, config.source, fingerprint, VectorColumns(config.column), stored, in_place)
    counts = selection.count(chosen)
    finished = Journal(spark, target_ref.beside("journal"), fingerprint, "estimate").finished()
    pending = selection.find_pending(chosen, finished)
    select_s = time.monotonic() - started
    return Workload(
        rows_selected=counts.rows_selected,
        rows_pending=counts.rows_selected - counts.rows_skipped,
        unique_texts=pending.n_texts,
        n_textless=pending.n_textless,
        rewritten_bytes=int(detail["sizeInBytes"]) if in_place else 0,
        select_s=select_s,
        sample=_sample(pending.texts, pending.n_texts, n_sample),
    )


def _sample(texts: DataFrame, n_texts: int, n_sample: int) -> DataFrame:
    """Some of the texts, by hash: the same ones in every run, and no kind of text more likely than another."""
    one_in = max(1, int(n_texts / (n_sample * _SPARE)))
    chosen = texts.where(F.pmod(F.xxhash64(FINGERPRINT), F.lit(one_in)) == 0) if one_in > 1 else texts
    # Repaired as the job does it: Arrow would refuse the whole batch, and quote the text in its message.
    return chosen.select(F.make_valid_utf8(TEXT).alias(TEXT)).limit(n_sample)
