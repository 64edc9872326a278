"""Sources that are no Delta table: what is embedded, what a second run sees, and what is refused."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from metaeol_udf.config import parse_config
from metaeol_udf.delta import run_embed
from metaeol_udf.delta.job import prepare_job
from metaeol_udf.delta.sources.query import name_of_query, read_query
from metaeol_udf.delta.sources.source import Source
from metaeol_udf.delta.stream import run_stream
from metaeol_udf.doctor import examine
from metaeol_udf.errors import InputError
from metaeol_udf.search import search_table
from tests.table_bench import Bench

CSV = 'id,body,tag\n007,"a first ""quoted"" text\nof two lines",x\n008,a second text,x\n009,,x\n'
COUNTS = ("rows_selected", "rows_embedded", "rows_failed", "rows_skipped", "rows_deleted")


def of_files(bench: Bench, name: str, **more: Any) -> dict[str, Any]:
    return {
        "source": {"table": None, "path": str(bench.folder / name), "text": "body", **more},
        "target": {"table": str(bench.folder / "vectors"), "max_deleted_fraction": 1.0},
    }


@pytest.mark.slow
def test_a_csv_file_is_embedded_and_its_changes_are_seen_by_content(bench: Bench) -> None:
    file = bench.folder / "tickets.csv"
    file.write_text(CSV)
    settings = of_files(bench, "tickets.csv")
    report = bench.run(**settings)
    assert [report[name] for name in COUNTS] == [3, 2, 1, 0, 0]
    assert report["looked_at"] == "all rows: source.path names csv files, which have no commits: rows are compared by content"
    assert report["delta_versions"].keys() == {"target"}
    assert bench.rows("vectors").keys() == {"007", "008", "009"}  # keys stay text
    again = bench.run(**settings)
    assert again["status"] == "nothing_to_do"
    assert [again[name] for name in COUNTS] == [3, 0, 0, 3, 0]
    file.write_text(CSV.replace("a second text", "another second text").replace("009,,x", "010,new,x"))
    third = bench.run(**settings)
    assert [third[name] for name in COUNTS] == [3, 2, 0, 1, 1]
    (hits,) = search_table(bench.config(**settings), "a first 'quoted' text", spark=bench.spark)
    assert {hit.key["id"] for hit in hits} == {"007", "008", "010"}
    assert {hit.text for hit in hits} >= {'a first "quoted" text\nof two lines'}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["parquet", "json"])
def test_a_folder_of_files_has_the_vectors_of_the_same_delta_table(bench: Bench, kind: str) -> None:
    rows = [(1, "one text"), (2, "another text"), (3, None)]
    bench.write(rows, "id long, body string")
    bench.run(source={"text": "body"})
    bench.spark.createDataFrame(rows, "id long, body string").write.format(kind).save(str(bench.folder / f"rows.{kind}"))
    report = bench.run(**of_files(bench, f"rows.{kind}"))
    assert (report["rows_embedded"], report["rows_failed"]) == (2, 1)
    held, files = bench.rows(), bench.rows("vectors")
    assert {n: row["embedding"] for n, row in files.items()} == {n: row["embedding"] for n, row in held.items()}


@pytest.mark.slow
def test_the_rows_of_a_query_and_of_a_view_are_embedded(bench: Bench) -> None:
    bench.write([(1, "first", "de"), (2, "second", "en"), (3, "third", "de")], "id long, text string, lang string")
    target = {"table": str(bench.folder / "vectors"), "max_deleted_fraction": 1.0}
    query = f"SELECT id, concat(text, ' text') AS text FROM delta.`{bench.path}` WHERE lang = 'de'"
    report = bench.run(source={"table": None, "query": query}, target=target)
    assert [report[name] for name in COUNTS] == [2, 2, 0, 0, 0]
    assert report["looked_at"] == "all rows: source.query has no commits: rows are compared by content"
    with pytest.raises(InputError, match=r"holds the vectors of source\.query"):
        bench.run(source={"table": None, "query": f"{query} OR id = 2"}, target=target)
    bench.spark.sql(f"CREATE OR REPLACE TEMP VIEW german AS {query}")
    report = bench.run(source={"table": None, "query": "german"}, target={"table": str(bench.folder / "others")})
    assert (report["rows_embedded"], report["tokens_computed"] > 0) == (2, True)
    bench.spark.catalog.dropTempView("german")


REFUSED = {
    "INSERT INTO t SELECT 1": "must be one SELECT",
    "FROM rows INSERT INTO a SELECT * INSERT INTO b SELECT *": "must be one SELECT",
    "DROP TABLE rows": "must be one SELECT",
    "SET spark.x = 1": "must be one SELECT",
    "EXECUTE IMMEDIATE 'SELECT 1'": "must be one SELECT",
    "BEGIN SELECT 1; END": "must be one SELECT",
    "SELECT 1; SELECT 2": "cannot be read",
    "SELECT * FROM no_such_view": "cannot be read: [TABLE_OR_VIEW_NOT_FOUND]",
    "no_such_view": "cannot be read: [TABLE_OR_VIEW_NOT_FOUND]",
    "SELECT id, text FROM rows WHERE rand() < 0.5": "is not deterministic",
    "SELECT id, text FROM rows WHERE id IN (SELECT id FROM rows WHERE rand() < 0.5)": "is not deterministic",
    "SELECT id, text FROM rows LIMIT 3": "LIMIT or OFFSET without an ORDER BY",
    "SELECT * FROM (SELECT id, text FROM rows LIMIT 3) ORDER BY id": "LIMIT or OFFSET without an ORDER BY",
    "SELECT id, text FROM rows TABLESAMPLE (10 PERCENT)": "takes a sample",
    "SELECT id, first(text) AS text FROM rows GROUP BY id": "calls first, whose value depends on the order",
    "SELECT id, array_join(collect_list(text), ' ') AS text FROM rows GROUP BY id": "calls collect_list, whose",
    "SELECT id, reflect('java.util.UUID', 'randomUUID') AS text FROM rows": "calls other code by reflection",
    "SELECT TRANSFORM(id) USING 'cat' AS (id) FROM rows": "runs a script",
    "SELECT CAST(text AS INT) AS id, text FROM rows": "casts a text to int",
    "SELECT id, id AS ID, text FROM rows": "gives two columns the name 'id'",
    "SELECT '${env:HOME}' AS text": "has ${...}",
}  # fmt: skip
TAKEN = (
    "SELECT id, text FROM rows ORDER BY id LIMIT 3",
    "WITH a AS (SELECT * FROM rows) SELECT id, text FROM a UNION ALL SELECT id, text FROM rows;",
    "SELECT id, array_join(sort_array(collect_list(text)), ' ') AS text FROM rows GROUP BY id",
    "SELECT id, text FROM (SELECT *, row_number() OVER (PARTITION BY id ORDER BY text) AS n FROM rows) WHERE n = 1",
    "FROM rows |> WHERE id > 1",
    "rows",
)


def test_a_query_that_does_something_or_says_now_this_now_that_is_refused(bench: Bench) -> None:
    spark = bench.spark
    spark.createDataFrame([(1, "a"), (2, "b")], "id long, text string").createOrReplaceTempView("rows")
    for query, words in REFUSED.items():
        with pytest.raises(InputError) as caught:
            read_query(spark, query)
        assert words in str(caught.value), query
    for query in TAKEN:
        assert {"id", "text"} <= set(read_query(spark, query).columns), query
    spark.catalog.dropTempView("rows")
    assert name_of_query(" a.b ; ") == "a.b"
    assert name_of_query("SELECT 1") != name_of_query("SELECT 2")


def test_what_is_no_delta_table_says_which_setting_takes_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    spark, folder = bench.spark, bench.folder
    (folder / "a.csv").write_text(CSV)
    rows = spark.createDataFrame([(1, "x", "de")], "id long, body string, lang string")
    rows.write.partitionBy("lang").parquet(str(folder / "pq"))
    (folder / "empty").mkdir()
    monkeypatch.chdir(folder)
    found = {
        f"{folder}/none": "there is nothing",
        f"{folder}/a.csv": f"it is a CSV file; give source.path={folder}/a.csv source.format=csv instead, and a target.table",
        f"{folder}/pq": f"it is a folder of Parquet files; give source.path={folder}/pq source.format=parquet instead",
        f"{folder}/empty": "it is an empty folder",
        "a.csv": "a.csv is a CSV file; give source.path=a.csv instead",
        "pq": "a path has a / in it: ./pq",
    }
    for table, words in found.items():
        with pytest.raises(InputError) as caught:
            Source(bench.config(source={"table": table}).source).open(spark)
        assert str(caught.value).startswith("source.table: no Delta table at the ")
        assert words in str(caught.value)


@pytest.mark.slow
def test_files_that_cannot_be_read_are_refused_by_job_and_doctor_in_the_same_words(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    folder = bench.folder
    (folder / "long.csv").write_text("id,body\n1,canary text, with a comma\n2,fine\n")
    (folder / "list.json").write_text('[{"id": 1, "body": "canary"},\n{"id": 2, "body": "x"}]')
    (folder / "text.parquet").write_text("id,body\n")
    for name, header in (("1", "id,body"), ("2", "body,id")):
        (folder / "two.csv").mkdir(exist_ok=True)
        (folder / "two.csv" / f"{name}.csv").write_text(f"{header}\n{name},text {name}\n")
    (folder / "twice.csv").write_text("id,body,Body\n1,canary,b\n")
    (folder / "empty.csv").write_text("")
    bench.spark.range(1).selectExpr("id", "'x' AS body").write.format("delta").save(str(folder / "delta.parquet"))
    found = {
        "none.csv": "source.path: there is no file or folder",
        "delta.parquet": "is a Delta table: name it in source.table",
        "long.csv": "1 of the records of",
        "list.json": "cannot be read as json: there must be one object a line, or else source.options: {multiLine: true}",
        "text.parquet": "cannot be read as parquet",
        "two.csv": "a CSV file has other columns in its header than another, or another order",
        "twice.csv": "the column 'body' stands twice in the header of",
        "empty.csv": "empty.csv is empty; a CSV file begins with a line of column names",
    }
    for name, words in found.items():
        config = bench.config(**of_files(bench, name))
        with pytest.raises(InputError) as caught:
            run_embed(config, bench.spark)
        assert words in str(caught.value), name
        assert "canary" not in str(caught.value)
        if name != "two.csv":
            said = [finding.found for finding in examine(config, bench.spark) if finding.check in ("source", "records")]
            assert str(caught.value) in said, name
    assert not (folder / "vectors").exists()
    with pytest.raises(InputError, match=r"lies among the files of source\.path"):
        run_embed(bench.config(**{**of_files(bench, "two.csv"), "target": {"table": f"{folder}/two.csv/v"}}), bench.spark)


@pytest.mark.slow
def test_a_stream_embeds_the_files_that_come_in(bench: Bench, tmp_path: Path) -> None:
    folder = bench.folder / "in.csv"
    folder.mkdir()
    (folder / "1.csv").write_text("id,body\n1,a text\n2,another text\n")
    settings = of_files(bench, "in.csv")
    report = run_stream(parse_config(bench.blocks(**settings)), bench.spark)
    assert report["rows_embedded"] == 2
    (folder / "2.csv").write_text("id,body\n3,a third text\n")
    report = run_stream(parse_config(bench.blocks(**settings)), bench.spark)
    assert (report["rows_embedded"], report["batches"]) == (1, 1)
    assert run_stream(parse_config(bench.blocks(**settings)), bench.spark)["status"] == "nothing_to_do"
    assert bench.rows("vectors").keys() == {"1", "2", "3"}
    for source, words in (
        (of_files(bench, "in.csv/1.csv"), "a stream follows the files of a folder"),
        ({"source": {"table": None, "query": "rows"}, "target": settings["target"]}, "a query cannot be followed as a stream"),
        ({**settings, "stream": {"start": "latest"}}, "files have no versions"),
    ):
        with pytest.raises(InputError, match=words):
            run_stream(parse_config(bench.blocks(**source)), bench.spark)


def test_options_of_a_reader_are_in_no_log(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        config = bench.config(**of_files(bench, "a.csv", options={"sep": ";", "comment": "~"}))
        prepare_job(config, bench.spark, writes=False)
    assert "'sep': '…'" in caplog.text
    assert "~" not in caplog.text
