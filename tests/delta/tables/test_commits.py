"""Commits of a table as other writers may leave them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from metaeol_udf.delta.tables.commits import Commit, TableLog, newest_version
from metaeol_udf.delta.tables.refs import parse_table
from metaeol_udf.errors import EnvironmentFault

ADD = {"add": {"path": "a\u2028b\u00e4.parquet", "partitionValues": {}, "size": 1, "modificationTime": 1, "dataChange": True}}
INFO: dict[str, Any] = {"commitInfo": {"operationParameters": {"mode": "Append"}, "timestamp": 1, "operation": "WRITE"}}


def _text(*actions: dict[str, Any]) -> str:
    return "".join(json.dumps(action, ensure_ascii=False) + "\n" for action in actions)


def test_a_commit_is_parsed_whatever_its_order_and_its_names() -> None:
    commit = Commit.parse(7, _text(ADD, INFO, {"remove": {"path": "old.parquet", "dataChange": True}}))
    assert (commit.operation, commit.alters, commit.removes_rows) == ("WRITE", False, True)
    assert list(commit.added) == ["a\u2028b\u00e4.parquet"]
    assert not Commit.parse(8, _text(INFO, {"remove": {"path": "old.parquet", "dataChange": False}})).removes_rows


def test_a_commit_that_names_its_operation_late_is_no_foreign_file(spark: SparkSession, tmp_path: Path) -> None:
    table = tmp_path / "table"
    spark.range(1).write.format("delta").save(str(table))
    tags = {"commitInfo": {"tags": {"note": "\u00e4" * 5_000}, **INFO["commitInfo"]}}
    (table / "_delta_log" / f"{1:020d}.json").write_text(_text(tags), encoding="utf-8")
    ref = parse_table(str(table), "source.table")
    assert newest_version(spark, ref) == 1
    log = TableLog.of(spark, ref)
    assert log is not None
    assert [commit.operation for commit in log.commits_since(0) or []] == ["WRITE"]
    (table / "_delta_log" / f"{2:020d}.json").write_text(_text({"commitInfo": {"timestamp": 1}}), encoding="utf-8")
    with pytest.raises(EnvironmentFault, match=f"{2:020d}.json"):
        newest_version(spark, ref)


def _ids(log: TableLog | None, since: int) -> list[int]:
    """Read the ids of the rows that came in after a version."""
    assert log is not None
    commits = log.commits_since(since)
    assert commits is not None
    rows = log.read_added(commits).rows
    return [] if rows is None else sorted(row["id"] for row in rows.select("id").collect())


@pytest.mark.slow
def test_rows_left_in_a_file_of_which_a_deletion_vector_hides_others_are_no_new_rows(spark: SparkSession, tmp_path: Path) -> None:
    ref = parse_table(str(tmp_path / "table"), "source.table")
    table = f"delta.`{tmp_path / 'table'}`"
    spark.sql(f"CREATE TABLE {table} (id long, text string) USING delta TBLPROPERTIES ('delta.enableDeletionVectors' = 'true')")
    spark.range(100).selectExpr("id", "'old' AS text").coalesce(1).write.format("delta").mode("append").save(str(tmp_path / "table"))
    spark.sql(f"UPDATE {table} SET text = 'new' WHERE id = 3")
    assert _ids(TableLog.of(spark, ref), 1) == [3]
    spark.sql(f"DELETE FROM {table} WHERE id = 4")
    spark.sql(f"MERGE INTO {table} t USING (SELECT explode(array(5L, 200L)) AS id) s ON t.id = s.id "
              "WHEN MATCHED THEN UPDATE SET text = 'merged' WHEN NOT MATCHED THEN INSERT (id, text) VALUES (s.id, 'merged')")  # fmt: skip
    assert _ids(TableLog.of(spark, ref), 1) == [3, 5, 200]
    assert _ids(TableLog.of(spark, ref), 0) == [*(n for n in range(100) if n != 4), 200]
    spark.sql(f"DELETE FROM {table} WHERE id = 200")
    assert _ids(TableLog.of(spark, ref), 1) == [3, 5]
    log = TableLog.of(spark, ref)
    assert log is not None
    spark.sql(f"RESTORE TABLE {table} TO VERSION AS OF {log.version - 3}")  # rows come back into their file
    assert 4 in _ids(TableLog.of(spark, ref), log.version)
