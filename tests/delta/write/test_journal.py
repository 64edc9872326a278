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


@pytest.mark.slow
@pytest.mark.parametrize("content", ["", "soon", "nan", "١٧"])
def test_a_damaged_note_of_the_last_clean_up_has_the_journal_cleaned_up_again(bench: Bench, content: str) -> None:
    bench.write([(1, "one")])
    bench.run()
    note = bench.folder / "table__metaeol_journal" / "_vacuumed"
    assert float(note.read_text()) > 1.7e9
    note.write_text(content)
    (note.parent / f".{note.name}.crc").unlink(missing_ok=True)
    bench.write([(2, "two")], mode="append")
    assert bench.run()["rows_embedded"] == 1
    assert float(note.read_text()) > 1.7e9


def partitions(bench: Bench, place: str) -> list[str]:
    found: list[str] = bench.spark.sql(f"DESCRIBE DETAIL delta.`{place}`").first()["partitionColumns"]  # type: ignore[index]
    return found
