"""Queries in a session that writes an event log: `logged_queries.py FOLDER`. Their spans go to `FOLDER/spans.json`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyspark import StorageLevel
from pyspark.sql import functions as F

from benchmarks.cost import start_session

ROWS = 1_000


def main(folder: Path) -> None:
    """Run one query a span, over a table of 1,000 rows in two files."""
    spark = start_session(folder)
    spans: dict[str, tuple[float, float]] = {}

    @contextmanager
    def span(name: str) -> Iterator[None]:
        since_s = time.time()
        yield
        spans[name] = (since_s, time.time())

    place = str(folder / "table")
    wide = spark.range(0, ROWS, 1, 2).select("id", *[F.lit(i).alias(f"a_column_with_a_long_name_{i}") for i in range(20)])
    vectors = wide.withColumn("vector", F.array(F.rand(), F.rand())).withColumn("nested", F.struct("id", F.lit("x").alias("inner")))
    vectors.write.format("delta").save(place)
    table = spark.read.format("delta").load(place)

    with span("one column"):
        table.agg(F.sum("id")).collect()
    with span("all columns"):
        table.write.format("noop").mode("overwrite").save()
    with span("a filter that leaves nothing"):
        table.where(F.col("id") * F.col("id") == -1).collect()

    kept = table.select("id", "vector").persist(StorageLevel.MEMORY_AND_DISK)
    with span("the cache is filled"):
        kept.agg(F.count("vector")).collect()
    with span("the cache is read"):
        kept.agg(F.sum("id")).collect()
        kept.where("id < 5").collect()
    kept.unpersist(blocking=True)

    halves = table.groupBy((F.col("id") % 7).alias("rest")).agg(F.count(F.lit(1)).alias("n"))
    with span("an exchange is used again"):
        halves.union(halves).collect()
    with span("a join with itself"):
        table.select("id").join(table.select("id", "vector"), "id").collect()
    with span("a global sort"):
        table.select("id", F.rand(1).alias("by")).orderBy("by").collect()
    with span("take"):
        table.select("id").take(600)
    with span("a plan that ends early"):
        none = table.where(F.col("id") * F.col("id") == -1).groupBy("id").agg(F.max("vector").alias("best"))
        table.select("id").join(none, "id").collect()
    with span("an RDD"):
        table.select("vector").rdd.count()

    checkpointed = table.select("id").localCheckpoint()
    with span("a local checkpoint is read"):
        checkpointed.agg(F.sum("id")).collect()
    with span("Delta's log is read"):
        spark.read.schema("commitInfo string").json(f"{place}/_delta_log/*.json").collect()

    spark.stop()
    (folder / "spans.json").write_text(json.dumps(spans))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
