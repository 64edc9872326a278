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
