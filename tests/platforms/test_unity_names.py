"""Names of three parts, as Unity Catalog has them, for every table that the job makes."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from metaeol_udf.spec import EmbeddingSpec
from tests.table_bench import TableBench

SCHEMA = "spark_catalog.default"


@pytest.mark.slow
def test_a_table_of_three_names_gets_its_vectors_journal_and_quarantine(spark: SparkSession, tmp_path: Path, tiny_model_dir: Path) -> None:
    bench = TableBench(spark, tmp_path, EmbeddingSpec(model=str(tiny_model_dir), dtype="float32", max_tokens=64))
    names = [f"{SCHEMA}.{name}" for name in ("unity_texts", "unity_vectors")]
    rows = [("en", 1, "hello"), ("de's", 1, "hallo"), ("en", 2, None)]
    spark.createDataFrame(rows, "lang string, `no'n` int, text string").write.format("delta").option(
        "delta.columnMapping.mode", "name"
    ).saveAsTable(names[0])
    try:
        report = bench.run(source={"table": names[0], "key": ["lang", "no'n"]}, target={"table": names[1]})
        assert (report["rows_embedded"], report["rows_failed"]) == (2, 1)
        assert spark.table(names[1]).where("embedding IS NOT NULL").count() == 2
        (failed,) = spark.table(f"{names[1]}__metaeol_quarantine").collect()
        assert (failed["lang"], failed["no'n"], failed["reason"]) == ("en", 2, "null_text")
        properties = {row["key"]: row["value"] for row in spark.sql(f"SHOW TBLPROPERTIES {names[1]}__metaeol_quarantine").collect()}
        assert properties["delta.dataSkippingStatsColumns"] == "`lang`,`no'n`"
        assert bench.run(source={"table": names[0], "key": ["lang", "no'n"]}, target={"table": names[1]})["rows_skipped"] == 3
    finally:
        for name in names:
            for suffix in ("", "__metaeol_journal", "__metaeol_quarantine"):
                spark.sql(f"DROP TABLE IF EXISTS {name}{suffix}")
