"""`metaeol stream` on real Delta tables: what it embeds, what it leaves alone, and that its own commits start nothing."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from delta import DeltaTable
from pyspark.sql import functions as F

from metaeol_udf.delta import publish
from metaeol_udf.delta import stream as stream_module
from metaeol_udf.delta.stream import run_stream
from metaeol_udf.errors import BudgetError, InputError

from .conftest import Bench

COUNTED = ("rows_selected", "rows_embedded", "rows_failed", "rows_skipped", "unique_texts")


def follow(bench: Bench, **sections: dict[str, Any]) -> dict[str, Any]:
    report = run_stream(bench.config(**sections), bench.spark, bench.progress)
    assert json.loads((bench.folder / "report.json").read_text()) == report
    return report


def counts(report: dict[str, Any]) -> list[int]:
    return [report[name] for name in COUNTED]


def stale_rows(bench: Bench, table: str = "table") -> int:
    """Rows whose vector is missing or belongs to another text, found with nothing of the package's."""
    rows = bench.table(table)
    digest = F.substring(F.sha2(F.col("text").cast("binary"), 256), 1, 32)
    return rows.where(F.col("embedding_fingerprint").isNull() | ~F.col("embedding_fingerprint").endswith(digest)).count()


def test_appends_updates_and_deletes_are_followed_and_own_commits_start_nothing(bench: Bench) -> None:
    bench.write([(n, f"text number {n}") for n in range(6)])
    first = follow(bench)
    assert counts(first) == [6, 6, 0, 0, 6]
    assert (first["status"], first["batches"]) == ("done", 1)
    versions = [bench.versions(name) for name in ("table", "table__metaeol_journal")]
    for _ in range(2):  # the first sees the commits of the run before it
        again = follow(bench)
        assert counts(again) == [0, 0, 0, 0, 0]
        assert (again["status"], again["batches"], again["model_loads"]) == ("nothing_to_do", 0, 0)
    assert versions == [bench.versions(name) for name in ("table", "table__metaeol_journal")]

    bench.write([(6, "a new text"), (7, None)], mode="append") if False else None
    bench.spark.createDataFrame([(6, "a new text"), (7, None)], "id long, text string").write.format("delta").mode("append").save(
        bench.path
    )
    report = follow(bench)
    assert counts(report) == [2, 1, 1, 0, 1]
    assert report["failures"] == {"null_text": 1}

    table = DeltaTable.forPath(bench.spark, bench.path)
    table.update(F.col("id").isin(1, 2), {"text": F.concat(F.lit("changed "), F.col("text"))})
    table.delete(F.col("id") == 3)
    report = follow(bench)
    assert (report["rows_embedded"], report["unique_texts"]) == (2, 2)
    assert bench.rows().keys() == {0, 1, 2, 4, 5, 6, 7}
    assert stale_rows(bench) == 1  # the NULL, whose digest is no digest
