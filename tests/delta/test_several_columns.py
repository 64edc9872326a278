"""Several vector columns in one run: one load of the model and one look at the tables, and each column with a state of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from delta import DeltaTable
from pyspark.sql import functions as F

from metaeol_udf import MetaEOLEncoder
from metaeol_udf.delta import run_embed
from metaeol_udf.delta.retry import run_retry
from metaeol_udf.errors import EnvironmentFault
from tests.table_bench import POISON, Before, Bench

SCHEMA = "id long, subject string, body string"
ROWS = [(1, "no sound", "the left speaker"), (2, "the left speaker", "hums at night"), (3, None, "hums at night"), (4, "no sound", " ")]
ENTRIES: list[dict[str, Any]] = [
    {"text": "subject", "column": "s"},
    {"text": ["subject", "body"], "format_text": "{subject}: {body}", "column": "b"},
]
TEXTS = {1: "no sound: the left speaker", 2: "the left speaker: hums at night", 3: "hums at night", 4: "no sound"}


def blocks(bench: Bench, entries: list[dict[str, Any]] = ENTRIES, **sections: dict[str, Any]) -> dict[str, Any]:
    return {**bench.blocks(**sections), "embeddings": entries}


def run(bench: Bench, entries: list[dict[str, Any]] = ENTRIES, **sections: Any) -> dict[str, Any]:
    between = sections.pop("between", None)
    return run_embed(blocks(bench, entries, **sections), bench.spark, bench.progress, between=between)


def check_vectors(bench: Bench, rows: dict[Any, Any], column: str, texts: dict[int, str], **settings: Any) -> None:
    encoder = MetaEOLEncoder.from_spec(replace(bench.spec, **settings), device="cpu")
    found = np.array([rows[n][column] for n in texts], np.float32)
    np.testing.assert_allclose(found, encoder.encode(list(texts.values())), atol=2e-5)


def of_columns(report: dict[str, Any], *names: str) -> dict[str, list[Any]]:
    return {part["column"]: [part[name] for name in names] for part in report["columns"]}


@pytest.mark.slow
@pytest.mark.parametrize("in_place", [True, False])
def test_two_columns_come_from_one_load_and_then_each_from_its_own_changes(bench: Bench, in_place: bool) -> None:
    bench.take_own_model()
    bench.write(ROWS, SCHEMA)
    target, name = ({}, "table") if in_place else ({"target": {"table": str(bench.folder / "target")}}, "target")
    report = run(bench, **target)
    assert (report["status"], report["model_loads"], report["waves"]) == ("done", 1, 1)
    assert report["unique_texts"] == 5  # `no sound` is a text of both columns
    assert of_columns(report, "status", "rows_embedded", "rows_failed", "failures") == {
        "s": ["done", 3, 1, {"null_text": 1}], "b": ["done", 4, 0, {}],
    }  # fmt: skip
    rows = bench.rows(name)
    check_vectors(bench, rows, "s", {1: "no sound", 2: "the left speaker", 4: "no sound"})
    check_vectors(bench, rows, "b", TEXTS)
    assert {n: row["s_error"] for n, row in rows.items() if row["s_error"]} == {3: "null_text"}
    assert {n: row["b_error"] for n, row in rows.items() if row["b_error"]} == {}
    quarantined = bench.table(f"{name}__metaeol_quarantine").select("id", "vector_column").collect()
    assert [tuple(row) for row in quarantined] == [(3, "s")]
    assert bench.table(f"{name}__metaeol_journal").isEmpty()

    versions = [bench.versions(each) for each in (name, f"{name}__metaeol_journal")]
    again = run(bench, **target)
    assert (again["status"], again["model_loads"], again["rows_skipped"]) == ("nothing_to_do", 0, 8)
    assert [bench.versions(each) for each in (name, f"{name}__metaeol_journal")] == versions

    DeltaTable.forPath(bench.spark, bench.path).update(F.col("id") == 2, {"body": F.lit("whistles")})
    changed = run(bench, **target)
    assert of_columns(changed, "rows_embedded", "rows_skipped") == {"s": [0, 4], "b": [1, 3]}
    check_vectors(bench, bench.rows(name), "b", {**TEXTS, 2: "the left speaker: whistles"})


@pytest.mark.slow
@pytest.mark.parametrize("in_place", [True, False])
def test_a_night_counts_the_rows_of_each_column_where_another_one_failed_before(bench: Bench, poisoned_model: str, in_place: bool) -> None:
    bench.write([(1, "no sound", "hums"), (2, f"a {POISON} here", None), (3, None, "hums at night")], SCHEMA)
    sections: dict[str, Any] = {"embedding": {"model": poisoned_model}, "runtime": {"max_failed_fraction": 1.0}}
    if not in_place:
        sections["target"] = {"table": str(bench.folder / "target")}
    entries = [{"text": "subject", "column": "s"}, {"text": "body", "column": "b"}]
    names = ("rows_selected", "rows_embedded", "rows_failed", "rows_skipped")
    assert of_columns(run(bench, entries, **sections), *names) == {"s": [3, 1, 2, 0], "b": [3, 2, 1, 0]}
    bench.write([(4, "whistles", "the left speaker")], SCHEMA, mode="append")
    report = run(bench, entries, **sections)
    assert [part["looked_at"].split(" since")[0] for part in report["columns"]] == ["files added", "files added"]
    # What failed is tried again, for its own column alone.
    assert of_columns(report, *names) == {"s": [4, 1, 1, 2], "b": [4, 1, 0, 3]}
    assert of_columns(report, "rows_without_vector") == {"s": [2], "b": [1]}
    rows = bench.rows("table" if in_place else "target")
    assert {n: (row["s_error"], row["b_error"]) for n, row in rows.items()} == {
        1: (None, None), 2: ("non_finite", "null_text"), 3: ("null_text", None), 4: (None, None),
    }  # fmt: skip


@pytest.mark.slow
def test_a_run_that_is_killed_between_two_columns_goes_on_without_computing(bench: Bench) -> None:
    bench.write(ROWS, SCHEMA)

    def die() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(bench, between=Before("publish", die, at=2))
    assert "b" not in bench.table().columns or bench.rows()[1]["b"] is None
    assert bench.rows()[1]["s"] is not None
    report = run(bench)
    assert (report["status"], report["unique_texts"], report["model_loads"]) == ("done", 0, 0)
    check_vectors(bench, bench.rows(), "b", TEXTS)
    assert bench.table("table__metaeol_journal").isEmpty()


@pytest.mark.slow
def test_columns_of_other_settings_and_later_ones_keep_their_own_labels(bench: Bench) -> None:
    bench.write(ROWS, SCHEMA)
    first = run(bench, ENTRIES[:1])
    assert "columns" not in first  # one column is a run as any other
    entries = [*ENTRIES, {"text": "body", "column": "c", "normalize": True}]
    report = run(bench, entries)
    assert of_columns(report, "rows_embedded", "rows_skipped") == {"s": [0, 4], "b": [4, 0], "c": [3, 0]}
    assert first["fingerprint"] == report["columns"][0]["fingerprint"] != report["columns"][2]["fingerprint"]
    rows = bench.rows()
    assert np.linalg.norm(rows[1]["c"]) == pytest.approx(1.0, abs=1e-5)
    properties = DeltaTable.forPath(bench.spark, bench.path).detail().collect()[0]["properties"]
    assert {name: properties[f"metaeol.{name}.fingerprint"] for name in "sbc"} == {
        part["column"]: part["fingerprint"] for part in report["columns"]
    }
    check_vectors(bench, rows, "c", {1: "the left speaker", 2: "hums at night", 3: "hums at night"}, normalize=True)
    retried = run_retry(blocks(bench, entries), bench.spark, bench.progress)
    assert (retried["status"], retried["rows_selected"]) == ("nothing_to_do", 0)


@pytest.mark.slow
@pytest.mark.parametrize("in_place", [True, False])
def test_columns_of_several_specs_take_one_load_of_their_model_and_one_look_at_the_source(bench: Bench, in_place: bool) -> None:
    bench.take_own_model()
    bench.write(ROWS, SCHEMA)
    target, name = ({}, "table") if in_place else ({"target": {"table": str(bench.folder / "target")}}, "target")
    others: dict[str, dict[str, Any]] = {
        "fast": {"templates": "metaeol-fast"},
        "low": {"layer": 1, "templates": "metaeol-separate"},
        "unit": {"normalize": True},
        "short": {"max_tokens": 16},
    }
    entries = [{"text": "subject", "column": column, **settings} for column, settings in others.items()]
    seen: list[str] = []  # each column names the phase for itself, too
    report = run(bench, entries, **target, between=seen.append)
    assert (report["status"], seen.count("snapshot")) == ("done", 1 + len(entries))
    assert 1 <= report["model_loads"] <= 2  # once a worker
    rows = bench.rows(name)
    for column, settings in others.items():
        check_vectors(bench, rows, column, {1: "no sound", 2: "the left speaker", 4: "no sound"}, **settings)
    assert bench.table(f"{name}__metaeol_journal").isEmpty()
    again = run(bench, entries, **target)
    assert (again["status"], again["model_loads"], again["rows_skipped"]) == ("nothing_to_do", 0, 4 * len(entries))


@pytest.mark.slow
def test_columns_before_one_whose_model_fails_are_published_first(bench: Bench) -> None:
    bench.write(ROWS, SCHEMA)
    entries = [ENTRIES[0], {"text": "body", "column": "b", "normalize": True}]

    def fail() -> None:
        raise EnvironmentFault("the disk is full")

    with pytest.raises(EnvironmentFault, match="the disk is full"):
        run(bench, entries, between=Before("embed", fail, at=2))
    check_vectors(bench, bench.rows(), "s", {1: "no sound", 2: "the left speaker", 4: "no sound"})
    assert "b" not in bench.table().columns
    report = run(bench, entries)
    assert of_columns(report, "status", "rows_embedded") == {"s": ["nothing_to_do", 0], "b": ["done", 3]}
    assert bench.table("table__metaeol_journal").isEmpty()
