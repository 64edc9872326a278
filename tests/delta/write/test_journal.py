"""The journal: what earlier versions left of it, and what a run makes of that."""

from __future__ import annotations

import pytest
from pyspark.sql import types as T

from metaeol_udf.delta.write import journal
from tests.table_bench import Bench


@pytest.mark.slow
def test_an_empty_journal_without_partitions_gets_them(bench: Bench) -> None:
    names = [name for name in journal.SCHEMA.names if name not in ("spec_fingerprint",)]
    without = T.StructType([journal.SCHEMA[name] for name in names])
    place = str(bench.folder / "table__metaeol_journal")
    bench.write([(1, "one"), (2, "two")])
    assert bench.run()["rows_embedded"] == 2
    bench.spark.createDataFrame([], without).write.format("delta").mode("overwrite").option("overwriteSchema", "true").save(place)
    assert partitions(bench, place) == []
    bench.write([(3, "three")], mode="append")
    assert bench.run()["rows_embedded"] == 1
    assert partitions(bench, place) == ["spec_fingerprint", "run_id"]
    assert bench.spark.read.format("delta").load(place).columns == journal.SCHEMA.names
    bench.write([(4, "four")], mode="append")
    assert bench.run()["rows_embedded"] == 1


def partitions(bench: Bench, place: str) -> list[str]:
    found: list[str] = bench.spark.sql(f"DESCRIBE DETAIL delta.`{place}`").first()["partitionColumns"]  # type: ignore[index]
    return found
