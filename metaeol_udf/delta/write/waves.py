"""The embedding itself: pending texts go through the model in waves, each wave one commit of the journal."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from py4j.protocol import Py4JError
from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from metaeol_udf.delta.base.progress import Between, Progress, watch_tasks
from metaeol_udf.delta.select.pending import Pending
from metaeol_udf.delta.select.selection import FINGERPRINT, TEXT
from metaeol_udf.delta.write.journal import Journal, WaveCounts
from metaeol_udf.spark.cluster.connect import is_connect
from metaeol_udf.spark.cluster.session import slot_count
from metaeol_udf.spark.gpu_stage import embed_in_stage
from metaeol_udf.spark.udf import result_udf
from metaeol_udf.spark.worker.encoder_cache import EncoderRequest

ROWS_PER_TASK = 64  # fewer leave nothing to batch
TASKS_PER_SLOT = 3  # more than one evens out texts of different length
MOST_PARTITIONS = 8_192  # of one shuffle
_PART = "metaeol_part"


@dataclass(frozen=True)
class WavePlan:
    """How texts are cut into waves: by their fingerprints, so that a task that runs again finds the same texts.

    Texts are shuffled once. A partition holds the texts of one task in one wave or, where the waves are many, in each wave of a group.

    Attributes:
        n_groups: Groups of waves.
        waves_per_group: Waves in each.
        n_tasks: Tasks of a wave.
    """

    n_groups: int
    waves_per_group: int
    n_tasks: int

    @classmethod
    def of(cls, n_texts: int, wave_rows: int, n_slots: int) -> WavePlan:
        """Plan waves of about so many texts."""
        n_waves = math.ceil(n_texts / wave_rows)
        n_tasks = task_count(math.ceil(n_texts / n_waves), n_slots)
        n_groups = max(1, min(n_waves, MOST_PARTITIONS // n_tasks))
        return cls(n_groups, math.ceil(n_waves / n_groups), n_tasks)

    @property
    def n_waves(self) -> int:
        """Waves in all."""
        return self.n_groups * self.waves_per_group

    @property
    def n_partitions(self) -> int:
        """Partitions of the shuffle."""
        return self.n_groups * self.n_tasks

    def wave_of(self, fingerprint: Column) -> Column:
        """Find the wave of a text, from 1 on."""
        # Spark gives a row to the partition that its `hash` names.
        group = F.floor(F.pmod(F.hash(fingerprint), F.lit(self.n_partitions)) / self.n_tasks)
        within = F.pmod(F.xxhash64(fingerprint), F.lit(self.waves_per_group))
        return (group * self.waves_per_group + within + 1).cast("int")

    def partitions_of(self, wave: int) -> range:
        """Find the partitions that hold a wave's texts."""
        first = (wave - 1) // self.waves_per_group * self.n_tasks
        return range(first, first + self.n_tasks)


def embed_waves(
    spark: SparkSession,
    pending: Pending,
    journal: Journal,
    request: EncoderRequest,
    wave_rows: int,
    progress: Progress,
    after_wave: Callable[[int, int, WaveCounts], None],
    task_gpus: int | None,
    between: Between,
) -> WavePlan | None:
    """Embed all pending texts in waves of about `wave_rows`. What a wave has journalled is never computed again, whatever happens later.

    Without texts no worker is started and no model loaded, and there is no plan. `between` is called with `embed` before each wave,
    and with `journal` once the wave is journalled and not yet counted; `after_wave` then with the wave's number, the number of waves
    and what was counted. Both end the run by raising. `task_gpus` are the GPUs of a task in the embedding stages; None leaves that to
    the session.
    """
    if not pending.n_texts:
        return None
    plan = WavePlan.of(pending.n_texts, wave_rows, slot_count(spark, task_gpus))
    spread = _spread(pending, plan)
    kept = spread.persist(StorageLevel.DISK_ONLY) if plan.n_waves > 1 else None
    progress.start(pending.n_texts)
    started, done = time.monotonic(), 0
    try:
        sizes = {1: pending.n_texts} if kept is None else _wave_sizes(kept)
        for wave in range(1, plan.n_waves + 1):
            n_texts = sizes.get(wave, 0)
            if n_texts:
                between("embed")
                texts = spread if kept is None else _texts_of(kept, plan, wave)
                # Kept until the commit is through: a commit that is tried again costs no pass of the model.
                embedded = _embed(texts, request, task_gpus).persist(StorageLevel.DISK_ONLY)
                try:
                    with watch_tasks(spark, progress, f"{journal.run_id}-{wave}", done, n_texts, plan.n_tasks):
                        journal.append_wave(embedded, wave)
                    done += n_texts
                    progress.update(done, f"{done / (time.monotonic() - started):.1f} texts/s")
                    between("journal")
                    after_wave(wave, plan.n_waves, journal.count(embedded.coalesce(1) if n_texts <= ROWS_PER_TASK else embedded))
                finally:
                    embedded.unpersist()
    finally:
        progress.finish()
        if kept is not None:
            kept.unpersist()
    return plan


def task_count(n_texts: int, n_slots: int) -> int:
    """Count the tasks of a wave: enough to fill each slot a few times, equally many in each, but none with less than a batch of texts."""
    n_tasks = min(math.ceil(n_texts / ROWS_PER_TASK), TASKS_PER_SLOT * n_slots)
    return max(1, n_tasks if n_tasks < n_slots else n_tasks - n_tasks % n_slots)


def _spread(pending: Pending, plan: WavePlan) -> DataFrame:
    """Spread the texts over the tasks of all waves, each text once: the one shuffle that moves texts."""
    # For one task no shuffle is needed, unless it would scan a whole table.
    is_kept = pending.snapshot.look.why_all is None
    texts = pending.texts
    texts = texts.coalesce(1) if is_kept and plan.n_partitions == 1 else texts.repartition(plan.n_partitions, FINGERPRINT)
    distinct = texts.groupBy(FINGERPRINT).agg(F.first(TEXT).alias(TEXT))
    if plan.n_waves == 1:
        return distinct
    waved = distinct.withColumn(_PART, plan.wave_of(F.col(FINGERPRINT)))
    return waved.sortWithinPartitions(_PART) if plan.waves_per_group > 1 else waved


def _wave_sizes(kept: DataFrame) -> dict[int, int]:
    """Count the texts of each wave; this brings all of them to where their tasks will find them."""
    return {row[_PART]: row["count"] for row in kept.groupBy(_PART).count().collect()}


def _texts_of(kept: DataFrame, plan: WavePlan, wave: int) -> DataFrame:
    """Take the texts of one wave, starting no task for the partitions of other waves, where this Spark allows that."""
    spark: Any = kept.sparkSession
    rows = kept.where(F.col(_PART) == wave).select(FINGERPRINT, TEXT)
    if is_connect(spark):
        return rows
    jvm = spark._jvm
    try:
        numbers = jvm.PythonUtils.toSeq(list(plan.partitions_of(wave))).toSet()  # in Scala a set is the function that tells its members
        rdd = jvm.org.apache.spark.rdd.PartitionPruningRDD.create(rows._jdf.queryExecution().toRdd(), numbers)
        return DataFrame(spark._jsparkSession.internalCreateDataFrame(rdd, rows._jdf.schema(), False), spark)
    except (Py4JError, TypeError):  # a Spark without these classes
        return rows


def _embed(texts: DataFrame, request: EncoderRequest, task_gpus: int | None) -> DataFrame:
    """Send texts through the model: FINGERPRINT and `result`."""
    if task_gpus is not None:
        return embed_in_stage(texts, request, task_gpus)
    return texts.select(FINGERPRINT, result_udf(request)(F.col(TEXT)).alias("result"))
