"""The failure budget and `metaeol retry`, with texts that a real model fails on."""

from __future__ import annotations

import json
from typing import Any

import pytest
from delta import DeltaTable
from pyspark.sql import functions as F

from metaeol_udf.delta.base.failure_budget import FailureBudget
from metaeol_udf.delta.retry import run_retry
from metaeol_udf.errors import BudgetError
from tests.table_bench import POISON, Bench


def retry(bench: Bench, **sections: dict[str, Any]) -> dict[str, Any]:
    report = run_retry(bench.config(**sections), bench.spark, bench.progress)
    assert json.loads((bench.folder / "report.json").read_text()) == report
    return report


@pytest.mark.slow
@pytest.mark.parametrize("in_place", [pytest.param(True, id="in place"), pytest.param(False, id="target")])
def test_a_retry_embeds_what_can_be_cured_and_leaves_the_rest_in_the_quarantine(bench: Bench, poisoned_model: str, in_place: bool) -> None:
    bench.write([(1, "one"), (2, f"a {POISON} here"), (3, "three"), (4, None), (5, "five"), (6, f"the {POISON} again")])
    table = "table" if in_place else "vectors"
    sections: dict[str, dict[str, Any]] = {"embedding": {"model": poisoned_model}, "target": {"table": str(bench.folder / table)}}
    report = bench.run(**sections)
    assert report["failures"] == {"non_finite": 2, "null_text": 1}
    assert report["rows_embedded"] == 3
    vectors = {n: row["embedding"] for n, row in bench.rows(table).items()}

    # As a run leaves it whose GPU had no memory for one text, and that was killed before it came to the quarantine.
    oom = {"embedding": F.lit(None), "embedding_error": F.lit("oom")}
    DeltaTable.forPath(bench.spark, str(bench.folder / table)).update(F.col("id") == 3, oom)
    DeltaTable.forPath(bench.spark, bench.path).delete(F.col("id") == 6)
    report = retry(bench, **sections)
    assert [report[f"rows_{name}"] for name in ("selected", "embedded", "failed", "skipped")] == [2, 1, 1, 0]
    assert {n: row["embedding"] for n, row in bench.rows(table).items() if n != 6} == {n: v for n, v in vectors.items() if n != 6}
    assert bench.rows(table)[3]["embedding_error"] is None
    quarantined = bench.rows(f"{table}__metaeol_quarantine")
    assert {n: (row["reason"], row["attempts"]) for n, row in quarantined.items()} == {2: ("non_finite", 2), 4: ("null_text", 1)}
    assert bench.table(f"{table}__metaeol_journal").count() == 0

    DeltaTable.forPath(bench.spark, bench.path).update(F.col("id").isin(2, 4), {"text": F.lit("a horse here")})
    bench.run(**sections)
    versions = bench.versions(table)
    report = retry(bench, **sections)
    assert (report["status"], report["model_loads"], bench.versions(table)) == ("nothing_to_do", 0, versions)
    assert bench.rows(f"{table}__metaeol_quarantine") == {}


def test_a_run_that_must_end_over_its_budget_is_stopped_early_publishes_nothing_and_is_not_paid_twice(
    bench: Bench, poisoned_model: str
) -> None:
    bench.write([(n, f"the {POISON} number {n}" if n % 3 else f"the horse number {n}") for n in range(30)])
    sections = {"embedding": {"model": poisoned_model}, "runtime": {"max_failed_fraction": 0.1, "wave_rows": 6}}
    with pytest.raises(BudgetError, match=r"stopped early: .*non_finite \d+") as caught:
        bench.run(**sections)
    assert caught.value.exit_code == 3
    report = json.loads((bench.folder / "report.json").read_text())
    assert report["status"] == "stopped_over_budget"
    assert 0 < report["waves"] < 5
    assert bench.table().where("embedding_fingerprint IS NOT NULL").count() == 0
    journalled = bench.table("table__metaeol_journal")
    computed = journalled.where("error IS NULL").count()
    assert journalled.count() == report["unique_texts"] < 30

    report = bench.run(**{**sections, "runtime": {"max_failed_fraction": 1.0}})
    assert (report["rows_embedded"], report["rows_failed"], report["unique_texts"]) == (10, 20, 30 - computed)
    assert bench.table().where("embedding IS NOT NULL").count() == 10


@pytest.mark.parametrize(
    ("n_failed", "n_tried", "rows", "stops"),
    [
        (100, 5_000, 10_000, False),  # as many as allowed
        (101, 5_000, 10_000, True),  # certain: one more than allowed
        (21, 999, 1_000_000, False),  # no sample yet
        (20, 1_000, 1_000_000, False),  # twice the allowed fraction
        (21, 1_000, 1_000_000, True),  # likely: more than twice
    ],
)
def test_a_run_is_stopped_once_it_is_certain_or_likely_to_end_over_its_budget(n_failed: int, n_tried: int, rows: int, stops: bool) -> None:
    budget = FailureBudget(0.01)
    if not stops:
        budget.check_early({"oom": n_failed}, n_tried, rows)
        return
    with pytest.raises(BudgetError, match=f"oom {n_failed}"):
        budget.check_early({"oom": n_failed}, n_tried, rows)


def test_a_stream_without_an_end_is_judged_from_its_thousandth_row_on() -> None:
    FailureBudget(0.01).check_endless(999, 999)
    FailureBudget(0.01).check_endless(10, 1_000)
    with pytest.raises(BudgetError, match="11 of the 1,000 rows"):
        FailureBudget(0.01).check_endless(11, 1_000)
