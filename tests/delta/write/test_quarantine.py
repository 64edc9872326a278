"""The quarantine beside its table: a row for each key and vector column, whatever the key is called and whatever becomes of it."""

from __future__ import annotations

from typing import Any

import pytest
from delta import DeltaTable
from pyspark.sql import functions as F

from metaeol_udf.delta.retry import run_retry
from tests.table_bench import TableBench

QUARANTINE = "table__metaeol_quarantine"


def quarantined(bench: TableBench, *key: str, name: str = QUARANTINE) -> list[tuple[Any, ...]]:
    """The quarantine's keys, each with its vector column, reason and attempts."""
    return sorted(tuple(row[name] for name in (*key, "vector_column", "reason", "attempts")) for row in bench.table(name).collect())


@pytest.mark.slow
def test_two_vector_columns_of_one_table_keep_their_rows_apart(bench: TableBench) -> None:
    bench.write([(1, None, " "), (2, None, None)], "id long, title string, body string")
    of = {name: {"source": {"text": name}, "embedding": {"column": f"{name}_emb"}} for name in ("title", "body")}
    bench.run(**of["title"])
    bench.run(**of["body"])
    everything = [
        (1, "body_emb", "empty_text", 1),
        (1, "title_emb", "null_text", 1),
        (2, "body_emb", "null_text", 1),
        (2, "title_emb", "null_text", 1),
    ]
    assert quarantined(bench, "id") == everything
    DeltaTable.forPath(bench.spark, bench.path).delete(F.col("id") == 1)
    versions = bench.versions(QUARANTINE)
    run_retry(bench.config(**of["title"]), bench.spark)
    assert quarantined(bench, "id") == [row for row in everything if row[:2] != (1, "title_emb")]
    run_retry(bench.config(**of["title"]), bench.spark)
    assert bench.versions(QUARANTINE) == versions + 1  # where nothing differs there is no commit


@pytest.mark.parametrize("in_place", [pytest.param(True, marks=pytest.mark.slow), False])
def test_a_key_may_have_any_name_that_delta_takes_with_column_mapping(bench: TableBench, in_place: bool) -> None:
    names = ["customer id", "row`id.x", "new_reason"]
    schema = ", ".join(f"`{name.replace('`', '``')}` string" for name in names)
    rows = bench.spark.createDataFrame([("k 1", "a", "b", None), ("k 2", "a", "b", " ")], f"{schema}, `doc.body` string")
    rows.write.format("delta").option("delta.columnMapping.mode", "name").save(bench.path)
    sections: dict[str, Any] = {"source": {"key": names, "text": "doc.body"}}
    sections["target"] = {"table": None if in_place else str(bench.folder / "vectors")}
    assert bench.run(**sections)["failures"] == {"empty_text": 1, "null_text": 1}
    held = "table" if in_place else "vectors"
    assert quarantined(bench, *names, name=f"{held}__metaeol_quarantine") == [
        ("k 1", "a", "b", "embedding", "null_text", 1),
        ("k 2", "a", "b", "embedding", "empty_text", 1),
    ]
    assert bench.table(held).where("embedding_error IS NOT NULL").count() == 2
    assert bench.run(**sections)["status"] == "nothing_to_do"


@pytest.mark.slow
def test_a_quarantine_follows_a_key_that_was_renamed_or_extended(bench: TableBench, caplog: pytest.LogCaptureFixture) -> None:
    rows = bench.spark.createDataFrame([(1, None)], "id int, text string")
    rows.write.format("delta").option("delta.columnMapping.mode", "name").save(bench.path)
    bench.run()
    bench.spark.sql(f"ALTER TABLE delta.`{bench.path}` RENAME COLUMN id TO `row id`")
    bench.spark.sql(f"INSERT INTO delta.`{bench.path}` (`row id`, text) VALUES (4, '  ')")
    with caplog.at_level("INFO", "metaeol_udf"):
        assert bench.run(source={"key": ["row id"]})["rows_failed"] == 1
    assert "is made anew" in caplog.text
    assert (4, "embedding", "empty_text", 1) in quarantined(bench, "row id")
    run_retry(bench.config(source={"key": ["row id"]}), bench.spark)
    assert quarantined(bench, "row id") == [(1, "embedding", "null_text", 1), (4, "embedding", "empty_text", 1)]

    bench.spark.sql(f"ALTER TABLE delta.`{bench.path}` ADD COLUMN lang string")
    bench.spark.sql(f"UPDATE delta.`{bench.path}` SET lang = 'en'")
    run_retry(bench.config(source={"key": ["row id", "lang"]}), bench.spark)
    assert quarantined(bench, "row id", "lang") == [(1, "en", "embedding", "null_text", 1), (4, "en", "embedding", "empty_text", 1)]


@pytest.mark.slow
def test_a_quarantine_of_an_earlier_version_gets_the_column_and_counts_on(bench: TableBench) -> None:
    bench.write([(1, None), (2, None)])
    bench.run()
    folder = str(bench.folder / QUARANTINE)
    older = bench.spark.createDataFrame(bench.table(QUARANTINE).drop("vector_column").withColumn("attempts", F.lit(3)).collect())
    older.withColumn("attempts", F.col("attempts").cast("int")).write.format("delta").mode("overwrite").option(
        "overwriteSchema", "true"
    ).save(folder)
    bench.spark.sql(f"ALTER TABLE delta.`{folder}` SET TBLPROPERTIES ('delta.appendOnly' = 'true')")
    DeltaTable.forPath(bench.spark, bench.path).update(F.col("id") == 2, {"text": F.lit(" ")})
    bench.run()
    assert quarantined(bench, "id") == [(1, "embedding", "null_text", 3), (2, "embedding", "empty_text", 1)]
