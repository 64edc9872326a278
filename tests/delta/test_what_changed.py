"""A run looks at what changed since the last proof; rows of keys that left the source go; vectors that exist are not paid for again."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from delta import DeltaTable
from pyspark.sql import functions as F

from metaeol_udf.delta import pipeline, run_embed
from metaeol_udf.delta.stream import run_stream
from metaeol_udf.errors import InputError
from tests.table_bench import Bench

ROWS = [(n, f"text number {n}") for n in range(10)]


def table(bench: Bench, name: str = "table") -> DeltaTable:
    return DeltaTable.forPath(bench.spark, str(bench.folder / name))


def own(bench: Bench, **settings: Any) -> dict[str, dict[str, Any]]:
    return {"target": {"table": str(bench.folder / "vectors"), **settings}}


@pytest.mark.parametrize("in_place", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_run_looks_at_added_files_alone_and_at_all_rows_where_the_proof_cannot_answer(bench: Bench, in_place: bool) -> None:
    bench.write(ROWS)
    sections = {} if in_place else own(bench)
    written = "table" if in_place else "vectors"
    assert bench.run(**sections)["looked_at"] == "all rows: no earlier run of this job has proved the table"

    def run(looked_at: str, embedded: int, selected: int) -> None:
        report = bench.run(**sections)
        assert looked_at in report["looked_at"]
        assert (report["rows_embedded"], report["rows_selected"], report["rows_skipped"]) == (embedded, selected, selected - embedded)
        rows = bench.rows(written)
        assert all(rows[key]["embedding"] is not None for key in bench.rows())

    run("files added", 0, 10)
    bench.write([(10, "appended"), (11, "text number 3")], mode="append")
    run("files added", 2, 12)
    table(bench).update(F.col("id") == 4, {"text": F.lit("updated")})
    run("files added", 1, 12)
    table(bench).delete(F.col("id") == 5)
    run("files added", 0, 11)
    bench.write([(12, "appended before OPTIMIZE")], mode="append")
    table(bench).optimize().executeCompaction()
    run("files added", 1, 12)
    bench.spark.sql(f"ALTER TABLE delta.`{bench.path}` ADD COLUMN (note string)")
    run("files added", 0, 12)
    table(bench, written).restoreToVersion(table(bench, written).history(1).collect()[0]["version"] - 1)
    run("RESTORE changed", 0 if in_place else 1, 12)  # of the target its last MERGE is undone
    if not in_place:
        table(bench, written).delete(F.col("id") < 2)
        run("another writer changed", 2, 12)
    full = run_embed(bench.config(**sections), bench.spark, bench.progress, full=True)
    assert full["looked_at"] == "all rows: it was asked for"
    assert full["status"] == "nothing_to_do"


@pytest.mark.slow
def test_a_condition_that_asks_for_the_time_is_asked_of_all_rows_each_time(bench: Bench) -> None:
    """A row whose day comes is embedded, though no commit touches it. Here it comes by another time zone, where it is tomorrow already."""
    conf = bench.spark.conf
    before = conf.get("spark.sql.session.timeZone")
    try:
        conf.set("spark.sql.session.timeZone", "Pacific/Kiritimati")  # the first to begin a day
        (today,) = bench.spark.sql("SELECT current_date()").collect()[0]
        bench.write([(1, "open already", datetime.date(2024, 1, 1)), (2, "opens today there", today)], "id long, text string, opens date")
        conf.set("spark.sql.session.timeZone", "Etc/GMT+12")  # the last
        opened, by_id = ({"source": {"where": where}, **own(bench)} for where in ("opens <= current_date()", "id > 0"))
        assert bench.run(**opened)["rows_selected"] == 1
        assert "source.where asks for the time" in bench.run(**opened)["looked_at"]
        with pytest.raises(InputError, match=r"source\.where asks for the time, and a stream looks at a row once"):
            run_stream(bench.config(**opened), bench.spark)
        conf.set("spark.sql.session.timeZone", "Pacific/Kiritimati")
        report = bench.run(**opened)
        assert (report["rows_selected"], report["rows_embedded"]) == (2, 1)
        bench.run(**by_id)
        assert "files added" in bench.run(**by_id)["looked_at"]
        conf.set("spark.sql.session.timeZone", "Etc/GMT+12")  # a condition may read a day off a time
        assert "all rows" in bench.run(**by_id)["looked_at"]
    finally:
        conf.set("spark.sql.session.timeZone", before)


@pytest.mark.slow
@pytest.mark.parametrize("in_place", [True, False])
def test_a_column_of_a_wider_type_has_other_texts_in_rows_that_no_commit_touched(bench: Bench, in_place: bool) -> None:
    bench.write([(1, "lamps", 2), (2, "boxes", 3)], "id long, text string, amount int")
    bench.spark.sql(f"ALTER TABLE delta.`{bench.path}` SET TBLPROPERTIES ('delta.enableTypeWidening' = 'true')")
    written = {"source": {"text": ["text", "amount"], "format_text": "{amount} {text}"}, **({} if in_place else own(bench))}
    bench.run(**written)
    bench.spark.sql(f"ALTER TABLE delta.`{bench.path}` ALTER COLUMN amount COMMENT 'how many'")
    bench.spark.sql(f"ALTER TABLE delta.`{bench.path}` ALTER COLUMN id COMMENT 'the key'")
    assert "files added" in bench.run(**written)["looked_at"]
    bench.spark.sql(f"ALTER TABLE delta.`{bench.path}` ALTER COLUMN amount TYPE double")
    report = bench.run(**written)
    assert "are read have another type than before" in report["looked_at"]
    assert report["rows_embedded"] == 2  # of `2.0 lamps` and `3.0 boxes`


@pytest.mark.slow
def test_a_condition_over_a_column_of_a_wider_type_is_asked_of_all_rows(bench: Bench) -> None:
    bench.write([(1, "lamps", 2), (2, "boxes", 3)], "id long, text string, amount int")
    bench.spark.sql(f"ALTER TABLE delta.`{bench.path}` SET TBLPROPERTIES ('delta.enableTypeWidening' = 'true')")
    chosen = {"source": {"where": "CAST(amount AS STRING) LIKE '%.0'"}, **own(bench)}
    assert bench.run(**chosen)["rows_selected"] == 0
    bench.spark.sql(f"ALTER TABLE delta.`{bench.path}` ALTER COLUMN amount TYPE double")
    assert bench.run(**chosen)["rows_embedded"] == 2


@pytest.mark.slow
def test_keys_of_both_tables_are_compared_only_where_their_numbers_do_not_show_that_none_left(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = []
    count_orphans = pipeline.count_orphans
    monkeypatch.setattr(pipeline, "count_orphans", lambda job: compared.append(job) or count_orphans(job))
    bench.write(ROWS)
    sections = own(bench)
    bench.run(**sections)

    def run(embedded: int, deleted: int, n_compared: int) -> dict[str, Any]:
        compared.clear()
        report = bench.run(**sections)
        assert "files added" in report["looked_at"]
        assert (report["rows_embedded"], report["rows_deleted"], len(compared)) == (embedded, deleted, n_compared)
        assert bench.rows("vectors").keys() == bench.rows().keys()
        return report

    table(bench).update(F.col("id") == 4, {"text": F.lit("updated")})
    run(1, 0, 0)
    table(bench).update(F.col("id") == 5, {"text": F.lit("updated too")})
    bench.write([(10, "appended")], mode="append")
    run(2, 0, 0)
    table(bench).delete(F.col("id") == 3)
    bench.write([(11, "as many rows as before")], mode="append")
    run(1, 1, 1)
    table(bench).update(F.col("id") == 6, {"id": F.lit(60)})
    assert run(1, 1, 1)["texts_reused"] == 1


def test_a_new_row_with_a_key_that_is_there_already_is_refused(bench: Bench) -> None:
    bench.write(ROWS)
    bench.run()
    bench.write([(3, "the key of another row")], mode="append")
    with pytest.raises(InputError, match=r"source.key: 1 keys \(id\) .* stand in 2 rows"):
        bench.run()
    table(bench).delete("text = 'the key of another row'")
    bench.write([(None, "no key")], mode="append")
    with pytest.raises(InputError, match=r"source.key: 1 rows .* have NULL in the key"):
        bench.run()


@pytest.mark.slow
def test_rows_of_keys_that_left_the_source_leave_the_target_up_to_a_limit(bench: Bench) -> None:
    bench.write([*ROWS, (10, None)])
    assert bench.run(**own(bench))["rows_deleted"] == 0
    table(bench).delete("id IN (9, 10)")
    report = bench.run(**own(bench, deleted="keep"))
    assert (report["rows_deleted"], report["rows_orphaned"]) == (0, 2)
    assert bench.rows("vectors").keys() == set(range(11))
    report = bench.run(**own(bench))
    assert (report["rows_deleted"], report["rows_orphaned"]) == (2, 0)
    assert bench.rows("vectors").keys() == set(range(9))
    assert bench.rows("vectors__metaeol_quarantine") == {}

    table(bench).delete("id < 5")
    with pytest.raises(InputError, match=r"5 of the 9 rows .* target.max_deleted_fraction=0.2 .* target.max_deleted_fraction=1"):
        bench.run(**own(bench))
    assert bench.rows("vectors").keys() == set(range(9))
    bench.spark.sql(f"INSERT INTO delta.`{bench.folder / 'vectors'}` (id) VALUES (NULL)")  # somebody else's: it has no key
    assert bench.run(**own(bench, max_deleted_fraction=1.0))["rows_deleted"] == 5
    assert bench.rows("vectors").keys() == {5, 6, 7, 8, None}


@pytest.mark.slow
def test_a_stream_removes_rows_of_keys_that_left_the_source(bench: Bench) -> None:
    bench.write(ROWS)
    run_stream(bench.config(**own(bench)), bench.spark, bench.progress)
    table(bench).delete("id = 3")
    report = run_stream(bench.config(**own(bench)), bench.spark, bench.progress)
    assert report["rows_deleted"] == 1
    assert bench.rows("vectors").keys() == set(range(10)) - {3}


@pytest.mark.slow
def test_a_run_does_not_pay_for_what_a_stream_has_embedded_since_the_last_proof(bench: Bench) -> None:
    bench.write(ROWS)
    run_stream(bench.config(**own(bench)), bench.spark, bench.progress)
    bench.write([(10, "appended")], mode="append")
    assert run_stream(bench.config(**own(bench)), bench.spark, bench.progress)["rows_embedded"] == 1
    report = bench.run(**own(bench))
    assert (report["looked_at"], report["rows_embedded"]) == ("files added since version 0 of the source", 0)


@pytest.mark.slow
@pytest.mark.parametrize("in_place", [True, False])
def test_an_overwritten_source_takes_the_vectors_that_exist(bench: Bench, in_place: bool) -> None:
    bench.write(ROWS)
    sections = {} if in_place else own(bench, max_deleted_fraction=1.0)
    bench.run(**sections)
    before = {row["text"]: row["embedding"] for row in bench.rows().values()} if in_place else None
    rows = bench.spark.createDataFrame([*[(n + 100, text) for n, text in ROWS], (200, "a new text")], "id long, text string")
    rows.coalesce(1).write.format("delta").mode("overwrite").option("overwriteSchema", "true").save(bench.path)
    report = bench.run(**sections)
    assert (report["rows_embedded"], report["texts_reused"], report["unique_texts"]) == (11, 10, 1)
    if before is not None:
        assert {row["text"]: row["embedding"] for row in bench.rows().values() if row["id"] < 200} == before
