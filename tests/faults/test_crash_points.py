"""Faults 15 to 17, and the matrix: killed with SIGKILL at six points, in a first run and in a rerun over changed rows."""

from __future__ import annotations

import pytest
from bench import Bench
from crash import crash
from crashing_job import POINTS
from delta import DeltaTable
from pyspark.sql import functions as F

TEXTS = {n: f"text number {n % 15}" for n in range(18)}  # 15 unique texts: three waves


def _journalled(bench: Bench) -> set[str]:
    if not (bench.folder / "table__metaeol_journal").exists():
        return set()
    rows = [row["fingerprint"] for row in bench.table("table__metaeol_journal").select("fingerprint").collect()]
    assert len(rows) == len(set(rows)), "a text was journalled twice"
    return set(rows)


def _published(bench: Bench) -> int:
    table = bench.table()
    if "embedding_fingerprint" not in table.columns:
        return 0
    return table.where(F.col("embedding_fingerprint").isNotNull()).count()


def _recover(bench: Bench, texts: dict[int, str], n_unique: int) -> None:
    """Run the job to its end; it computes exactly what was not journalled."""
    journalled = _journalled(bench)
    report = bench.run(runtime={"wave_rows": 5})
    done = report["status"] == "nothing_to_do"
    assert report["unique_texts"] == (0 if done else n_unique - len(journalled))
    assert report["rows_embedded"] + report["rows_skipped"] == len(texts)
    bench.check_all_right(texts)
    assert bench.run()["status"] == "nothing_to_do"
    if not done:
        assert bench.table("table__metaeol_journal").isEmpty()


@pytest.mark.parametrize("point", POINTS)
def test_crash_point_in_a_first_run(bench: Bench, point: str) -> None:
    bench.write(list(TEXTS.items()))
    crash(bench, point)
    journalled = _journalled(bench)
    assert len(journalled) == 0 if point == "before_embed" else 0 < len(journalled) <= 15
    if point in ("before_publish", "mid_publish", "before_cleanup"):
        assert len(journalled) == 15
    assert _published(bench) == (len(TEXTS) if point == "before_cleanup" else 0)
    _recover(bench, TEXTS, 15)


@pytest.mark.parametrize("point", POINTS)
def test_crash_point_in_a_rerun(bench: Bench, point: str) -> None:
    bench.write(list(TEXTS.items()))
    bench.run()
    table = DeltaTable.forPath(bench.spark, bench.path)
    table.update(F.col("id") < 4, {"text": F.concat(F.lit("changed "), F.col("id").cast("string"))})
    table.delete(F.col("id").isin(4, 5))
    more = {n: f"new text {n}" for n in range(100, 108)}
    bench.write(list(more.items()), mode="append")
    texts = {n: text for n, text in TEXTS.items() if n not in (4, 5)} | {n: f"changed {n}" for n in range(4)} | more
    crash(bench, point)
    _recover(bench, texts, 12)


def test_fault_15_a_driver_killed_before_its_commit_adds_no_version(bench: Bench) -> None:
    bench.write(list(TEXTS.items()))
    crash(bench, "mid_publish")
    orphans = set((bench.folder / "table").glob("*.parquet"))
    versions = bench.versions()
    assert _published(bench) == 0
    assert bench.table().count() == len(TEXTS)
    _recover(bench, TEXTS, 15)
    assert bench.versions() == versions + 1
    assert orphans <= set((bench.folder / "table").glob("*.parquet"))  # left for VACUUM, and in no version


def test_fault_16_a_driver_killed_after_its_commit_computes_nothing_again(bench: Bench) -> None:
    bench.write(list(TEXTS.items()))
    crash(bench, "after_journal")
    journalled = _journalled(bench)
    assert 0 < len(journalled) < 15
    _recover(bench, TEXTS, 15)


def test_fault_17_a_driver_killed_before_publishing_needs_no_model_in_its_next_run(bench: Bench) -> None:
    bench.write(list(TEXTS.items()))
    crash(bench, "before_publish")
    report = bench.run()
    assert (report["unique_texts"], report["model_loads"], report["rows_embedded"]) == (0, 0, len(TEXTS))
    bench.check_all_right(TEXTS)


def test_killed_three_times_and_then_run_to_the_end(bench: Bench) -> None:
    texts = {n: f"text number {n}" for n in range(40)}
    bench.write(list(texts.items()))
    journalled: set[str] = set()
    for point in ("after_journal", "mid_wave", "after_journal"):
        crash(bench, point)
        now = _journalled(bench)
        assert journalled < now
        journalled = now
    _recover(bench, texts, 40)
