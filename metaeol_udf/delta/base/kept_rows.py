"""Rows that a run keeps on the executors, so that no later question reads the tables again."""

from __future__ import annotations

from pyspark import StorageLevel
from pyspark.sql import DataFrame, Observation
from pyspark.sql import functions as F

from metaeol_udf.spark.cluster.connect import is_connect
from metaeol_udf.spark.cluster.session import executor_count


def keep(rows: DataFrame) -> DataFrame:
    """Compute rows now, in one action, and keep them on the executors; what comes back reads no table.

    A cache would not do: Spark drops a cache, and computes it anew, when a table below it is written to. Where there are several
    executors each part is kept on two of them. The rows lie on disk: in memory, those of a large table leave a small heap no room.
    """
    return keep_counted(rows)[0]


def keep_counted(rows: DataFrame) -> tuple[DataFrame, int]:
    """Keep rows as `keep` does, and count them in the same action; over Spark Connect, which observes no checkpoint, in one more."""
    several = executor_count(rows.sparkSession) > 1
    level = StorageLevel.DISK_ONLY_2 if several else StorageLevel.DISK_ONLY
    if is_connect(rows.sparkSession):
        kept = rows.localCheckpoint(eager=True, storageLevel=level)
        return kept, kept.count()
    seen = Observation()
    kept = rows.observe(seen, F.count(F.lit(1)).alias("n")).localCheckpoint(eager=True, storageLevel=level)
    return kept, seen.get["n"]
