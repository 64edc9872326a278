"""`metaeol stream` on real Delta tables: what it embeds, what it leaves alone, and that its own commits start nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from delta import DeltaTable
from pyspark.sql import functions as F

from metaeol_udf.delta.base.progress import Between
from metaeol_udf.delta.stream import run_stream
from metaeol_udf.errors import BudgetError, InputError, MetaEOLError
from tests.table_bench import Before, Bench

COUNTED = ("rows_selected", "rows_embedded", "rows_failed", "rows_skipped", "unique_texts", "batches")


def follow(bench: Bench, *, between: Between | None = None, **sections: dict[str, Any]) -> dict[str, Any]:
    report = run_stream(bench.config(**sections), bench.spark, bench.progress, between=between)
    assert json.loads((bench.folder / "report.json").read_text()) == report
    return report


def counts(report: dict[str, Any]) -> list[int]:
    return [report[name] for name in COUNTED]


def stale_rows(bench: Bench, vectors: str = "table") -> int:
    """Rows with a text whose vector is missing or belongs to another text, found with nothing of the package's."""
    digest = F.substring(F.sha2(F.col("text").cast("binary"), 256), 1, 32)
    stored = bench.table(vectors).select("id", "embedding", F.col("embedding_fingerprint").alias("fingerprint"))
    rows = bench.table().select("id", "text").where("text IS NOT NULL").join(stored, "id", "left")
    return rows.where(F.col("embedding").isNull() | F.col("fingerprint").isNull() | ~F.col("fingerprint").endswith(digest)).count()


@pytest.mark.slow
def test_a_damaged_note_of_where_a_stream_began_is_named(bench: Bench) -> None:
    bench.write([(1, "one")])
    follow(bench)
    (note,) = (bench.folder / "table__metaeol_checkpoint").glob("*.start")
    begun = note.read_text()
    (note.parent / f".{note.name}.crc").unlink(missing_ok=True)
    note.write_text("1x")
    with pytest.raises(InputError, match=r"stream\.checkpoint: the file .*\.start is damaged"):
        follow(bench)
    note.write_text(begun)
    assert follow(bench)["status"] == "nothing_to_do"


def test_appends_updates_and_deletes_are_followed_and_own_commits_start_nothing(bench: Bench) -> None:
    bench.write([(n, f"text number {n}") for n in range(6)])
    first = follow(bench)
    assert counts(first) == [6, 6, 0, 0, 6, 0]
    assert first["status"] == "done"
    versions = [bench.versions(name) for name in ("table", "table__metaeol_journal")]
    for _ in range(2):  # the first sees the commits of the run before it
        again = follow(bench)
        assert counts(again) == [0, 0, 0, 0, 0, 0]
        assert (again["status"], again["model_loads"]) == ("nothing_to_do", 0)
    assert versions == [bench.versions(name) for name in ("table", "table__metaeol_journal")]

    bench.write([(6, "a new text"), (7, None)], mode="append")
    report = follow(bench)
    assert counts(report) == [2, 1, 1, 0, 1, 1]
    assert report["failures"] == {"null_text": 1}

    table = DeltaTable.forPath(bench.spark, bench.path)
    table.update(F.col("id").isin(1, 2), {"text": F.concat(F.lit("changed "), F.col("text"))})
    table.delete(F.col("id") == 3)
    assert counts(follow(bench)) == [2, 2, 0, 0, 2, 1]
    assert bench.rows().keys() == {0, 1, 2, 4, 5, 6, 7}
    assert stale_rows(bench) == 0


@pytest.mark.slow
@pytest.mark.parametrize("in_place", [True, False], ids=["in place", "target"])
def test_a_change_feed_brings_the_changed_rows_alone(bench: Bench, in_place: bool) -> None:
    rows = bench.spark.createDataFrame([(n, f"text number {n}") for n in range(5)], "id long, text string").coalesce(1)
    rows.write.format("delta").option("delta.enableChangeDataFeed", "true").save(bench.path)
    vectors = "table" if in_place else "vectors"
    sections = {"target": {"table": None if in_place else str(bench.folder / vectors), "max_deleted_fraction": 0.5}}
    assert counts(follow(bench, **sections)) == [5, 5, 0, 0, 5, 0]
    table = DeltaTable.forPath(bench.spark, bench.path)
    table.update(F.col("id") == 1, {"text": F.lit("once")})
    table.update(F.col("id") == 1, {"text": F.lit("twice")})
    table.update(F.col("id") == 2, {"text": F.lit("gone soon")})
    table.delete(F.col("id").isin(2, 3))
    # One micro-batch for all: the text in between is embedded for nobody, and neither is that of the row that left.
    report = follow(bench, **sections)
    assert (report["rows_embedded"], report["unique_texts"]) == (1, 1)
    assert stale_rows(bench, vectors) == 0
    versions = bench.versions(vectors)
    assert counts(follow(bench, **sections))[4:] == [0, 0]
    assert bench.versions(vectors) == versions


@pytest.mark.slow
def test_files_bound_a_micro_batch_and_a_batch_that_failed_is_done_again(bench: Bench) -> None:
    bench.write([(0, "the first")])
    sections = {"target": {"table": str(bench.folder / "vectors")}, "stream": {"max_files": 1}}
    follow(bench, **sections)
    for n in range(1, 4):
        bench.write([(n, f"appended {n}")], mode="append")

    def fail() -> None:
        raise OSError("No space left on device")

    with pytest.raises(MetaEOLError, match="the disk is full") as caught:
        follow(bench, between=Before("publish", fail, at=2), **sections)
    assert caught.value.exit_code == 5
    assert bench.table("vectors").count() == 2
    report = follow(bench, **sections)
    assert counts(report) == [2, 2, 0, 0, 1, 2]  # the failed batch's text was journalled, the last batch's was not
    assert bench.table("vectors").count() == 4
    assert stale_rows(bench, "vectors") == 0


@pytest.mark.slow
def test_a_late_start_leaves_earlier_rows_alone_and_misses_none_between_two_runs(bench: Bench) -> None:
    bench.write([(n, f"old {n}") for n in range(3)])
    bench.write([(3, "newest commit")], mode="append")
    sections = {"target": {"table": str(bench.folder / "vectors")}, "stream": {"start": "latest"}}
    assert counts(follow(bench, **sections)) == [1, 1, 0, 0, 1, 1]
    bench.write([(4, "between two runs")], mode="append")
    assert counts(follow(bench, **sections)) == [1, 1, 0, 0, 1, 1]
    assert bench.rows("vectors").keys() == {3, 4}
    with pytest.raises(InputError, match=r"stream\.start is 99, but the newest version of .* is 2"):
        follow(bench, target={"table": str(bench.folder / "others")}, stream={"start": 99})


@pytest.mark.slow
def test_another_spec_is_a_migration_of_the_whole_table_that_is_counted_before_it_runs(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.write([(n, f"text {n}") for n in range(4)])
    first = follow(bench)
    bench.write([(4, "a new row")], mode="append")
    old = {n: row["embedding"] for n, row in bench.rows().items()}
    seen = {}

    def look() -> None:
        seen.update({n: row["embedding"] for n, row in bench.rows().items()})
        assert "migration" in caplog.text

    # `latest` cannot leave old vectors beside new ones.
    report = follow(bench, between=Before("publish", look, at=None), embedding={"layer": 1}, stream={"start": "latest"})
    assert seen == old
    assert report["migration"] == {
        "rows_of_other_specs": 4,
        "rows_new": 1,
        "rows_changed": 0,
        "from": [first["fingerprint"]],
        "to": report["fingerprint"],
    }
    assert f"4 rows hold vectors of {first['fingerprint']}" in caplog.text
    assert report["rows_embedded"] == 5
    assert {row["embedding_fingerprint"].split("-")[0] for row in bench.rows().values()} == {report["fingerprint"]}
    assert all(row["embedding"] != old[n] for n, row in bench.rows().items())


@pytest.mark.slow
def test_going_back_to_an_earlier_spec_leaves_no_vector_of_the_later_one(bench: Bench) -> None:
    bench.write([(n, f"text {n}") for n in range(3)])
    target = {"table": str(bench.folder / "vectors")}
    first = follow(bench, target=target)
    bench.run(target=target, embedding={"layer": 1})
    bench.write([(3, "appended meanwhile")], mode="append")
    back = follow(bench, target=target)
    assert back["fingerprint"] == first["fingerprint"]
    assert (back["rows_embedded"], back["migration"]["rows_of_other_specs"]) == (4, 3)
    assert {row["embedding_fingerprint"].split("-")[0] for row in bench.rows("vectors").values()} == {first["fingerprint"]}


@pytest.mark.slow
def test_null_and_repeated_keys_end_a_stream_before_anything_is_embedded(bench: Bench) -> None:
    bench.write([(1, "one")])
    follow(bench)
    bench.write([(1, "one again")], mode="append")
    with pytest.raises(InputError, match=r"keys \(id\)"):
        follow(bench)
    DeltaTable.forPath(bench.spark, bench.path).delete("embedding IS NULL")
    bench.write([(None, "nobody's")], mode="append")
    with pytest.raises(InputError, match="1 new or changed rows have NULL in the key"):
        follow(bench)
    assert bench.table().where("embedding IS NOT NULL").count() == 1


@pytest.mark.slow
def test_the_budget_is_that_of_the_stream_as_a_whole(bench: Bench) -> None:
    bench.write([(n, f"text {n}") for n in range(9)])
    bench.write([(9, None)], mode="append")
    budget = {"runtime": {"max_failed_fraction": 0.05}}
    with pytest.raises(BudgetError, match="1 of 10 rows") as caught:
        follow(bench, **budget)
    assert caught.value.exit_code == 3
    assert stale_rows(bench) == 0
    assert follow(bench, **budget)["status"] == "nothing_to_do"
