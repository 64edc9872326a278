"""The embedding itself: pending texts go through the model in waves, each wave one commit of the journal."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from metaeol_udf.delta.base.progress import Between, Progress, watch_tasks
from metaeol_udf.delta.select.selection import FINGERPRINT, TEXT, Pending
from metaeol_udf.delta.write.journal import Journal
from metaeol_udf.spark.cluster.session import slot_count
from metaeol_udf.spark.gpu_stage import embed_in_stage
from metaeol_udf.spark.udf import result_udf
from metaeol_udf.spark.worker.encoder_cache import EncoderRequest

ROWS_PER_TASK = 64  # fewer leave nothing to batch
TASKS_PER_SLOT = 3  # more than one evens out texts of different length


def embed_waves(
    spark: SparkSession,
    pending: Pending,
    journal: Journal,
    request: EncoderRequest,
    wave_rows: int,
    progress: Progress,
    after_wave: Callable[[int, int], None],
    task_gpus: int | None,
    between: Between,
) -> None:
    """Embed all pending texts in waves of about `wave_rows`. What a wave has journalled is never computed again, whatever happens later.

    Without texts no worker is started and no model loaded. `between` is called with `embed` before each wave, and with `journal`
    once the wave is journalled and not yet counted; `after_wave` then with the wave's number and the number of waves. Both end
    the run by raising. `task_gpus` are the GPUs of a task in the embedding stages; None leaves that to the session.
    """
    if pending.n_textless:
        journal.append_textless(pending.textless)
    if not pending.n_texts:
        return
    n_waves = math.ceil(pending.n_texts / wave_rows)
    staged = _stage(pending, n_waves)
    progress.start(pending.n_texts)
    started = time.monotonic()
    done = 0
    try:
        for wave in range(1, n_waves + 1):
            texts = staged.where(F.col("wave") == wave) if n_waves > 1 else staged
            # Counted where it is exact: with several waves from the staged rows, which are kept.
            n_texts = texts.count() if n_waves > 1 else pending.n_texts
            if n_texts:
                between("embed")
                n_tasks = task_count(n_texts, slot_count(spark, task_gpus))
                with watch_tasks(spark, progress, f"{journal.run_id}-{wave}", done, n_texts, n_tasks):
                    journal.append_wave(_embed(texts, request, n_tasks, task_gpus), wave)
            done += n_texts
            progress.update(done, f"{done / (time.monotonic() - started):.1f} texts/s")
            if n_texts:
                between("journal")
                after_wave(wave, n_waves)
    finally:
        progress.finish()
        staged.unpersist()


def task_count(n_texts: int, n_slots: int) -> int:
    """Count the tasks of a wave: enough to fill each slot a few times, equally many in each, but none with less than a batch of texts."""
    n_tasks = min(math.ceil(n_texts / ROWS_PER_TASK), TASKS_PER_SLOT * n_slots)
    return max(1, n_tasks if n_tasks < n_slots else n_tasks - n_tasks % n_slots)


def _stage(pending: Pending, n_waves: int) -> DataFrame:
    """Texts with their wave. Several waves share one scan: rows are kept on the executors, where each wave finds its own together."""
    if n_waves == 1:
        return pending.texts
    # By content, so that a repeated task finds the same rows.
    wave = (F.pmod(F.xxhash64(FINGERPRINT), F.lit(n_waves)) + 1).cast("int")
    waved = pending.texts.withColumn("wave", wave)
    return waved.sortWithinPartitions("wave").persist(StorageLevel.MEMORY_AND_DISK)


def _embed(texts: DataFrame, request: EncoderRequest, n_tasks: int, task_gpus: int | None) -> DataFrame:
    # By count and before the model: a scan packs small files of text into one task, and a shuffle after it could run it again.
    spread = texts.select(FINGERPRINT, TEXT).repartition(n_tasks)
    if task_gpus is not None:
        return embed_in_stage(spread, request, task_gpus)
    return spread.select(FINGERPRINT, result_udf(request)(F.col(TEXT)).alias("result"))
