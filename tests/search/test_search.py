from __future__ import annotations

import io
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import yaml

from metaeol_udf import cli
from metaeol_udf.config import JobConfig, parse_config
from metaeol_udf.errors import InputError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

EMBEDDED = 4
TEXTS = {
    ("a", 1): "a red apple",
    ("a", 2): "the train to Paris",
    ("b", 1): "an apple that is red",
    ("b", 2): "a quarterly tax form",
    ("c", 1): None,
}


def config_for(table: Path, model: Path, **embedding: object) -> JobConfig:
    source = {"table": str(table), "key": ["shelf", "no"], "where": None}
    settings = {"model": str(model), "dtype": "float32", **embedding}
    return parse_config({"source": source, "embedding": settings, "runtime": {"device": "cpu", "max_failed_fraction": 1.0}})


@pytest.fixture(scope="module")
def job(spark: SparkSession, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> JobConfig:
    """An embedded table of five rows, one without a text."""
    from metaeol_udf.delta import run_embed

    table = tmp_path_factory.mktemp("search") / "table"
    rows = [(*key, text) for key, text in TEXTS.items()]
    spark.createDataFrame(rows, "shelf string, no long, text string").repartition(2).write.format("delta").save(str(table))
    config = config_for(table, tiny_model_dir)
    assert run_embed(config, spark)["rows_embedded"] == EMBEDDED
    return config


def test_the_order_and_the_scores_are_those_of_plain_numpy(spark: SparkSession, job: JobConfig, tiny_model_dir: Path) -> None:
    from metaeol_udf import MetaEOLEncoder, TemplateSet
    from metaeol_udf.search import search_table

    queries = ["something about fruit", "the train to Paris"]
    found = search_table(job, queries, k=3, spark=spark)
    keys = [key for key, text in TEXTS.items() if text is not None]
    encoder = MetaEOLEncoder.from_pretrained(str(tiny_model_dir), templates=TemplateSet.load("metaeol"), dtype="float32", device="cpu")
    vectors = encoder.encode([text for text in TEXTS.values() if text is not None] + queries).astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for number, hits in enumerate(found):
        scores = vectors[: len(keys)] @ vectors[len(keys) + number]
        expected = np.argsort(-scores)[:3]
        assert [tuple(hit.key.values()) for hit in hits] == [keys[i] for i in expected]
        assert [hit.score for hit in hits] == pytest.approx(scores[expected], abs=1e-5)
        assert [hit.text for hit in hits] == [TEXTS[keys[i]] for i in expected]
    assert found[1][0].key == {"shelf": "a", "no": 2}
    assert found[1][0].score == pytest.approx(1.0, abs=1e-5)


def test_a_single_string_is_one_query_and_what_is_no_string_is_refused(
    spark: SparkSession, job: JobConfig, caplog: pytest.LogCaptureFixture
) -> None:
    from metaeol_udf.search import search_table

    caplog.set_level(logging.INFO, logger="metaeol_udf.terminal")
    (hits,) = search_table(job, "the train to Paris", k=1, spark=spark)
    assert hits[0].key == {"shelf": "a", "no": 2}
    shown = [record.getMessage() for record in caplog.records if record.name == "metaeol_udf.terminal"]
    assert shown == ["checking the table's vectors", "embedding the query", "comparing all rows", "reading the texts that were found"]
    with pytest.raises(InputError, match="query 1 is missing, and must be a string"):
        search_table(job, ["a", None], spark=spark)  # type: ignore[list-item]


def test_more_rows_than_there_are_gives_all_that_have_a_vector(spark: SparkSession, job: JobConfig) -> None:
    from metaeol_udf.search import search_table

    (hits,) = search_table(job, ["a red apple"], k=50, spark=spark)
    assert {tuple(hit.key.values()) for hit in hits} == {key for key, text in TEXTS.items() if text is not None}


def test_vectors_of_other_settings_are_refused_with_counts(spark: SparkSession, job: JobConfig, tiny_model_dir: Path) -> None:
    from metaeol_udf.search import search_table

    other = config_for(Path(job.source.table), tiny_model_dir, layer=1)
    with pytest.raises(
        InputError, match=r"4 of 4 vectors in column 'embedding'.*differ in embedding\.layer \(-1 in the table, 1 here\); set"
    ):
        search_table(other, ["anything"], spark=spark)


def test_settings_that_no_property_names_are_said_to_differ(spark: SparkSession, job: JobConfig, tiny_model_dir: Path) -> None:
    from metaeol_udf.search import search_table

    other = config_for(Path(job.source.table or ""), tiny_model_dir, normalize=True)
    with pytest.raises(InputError, match="do not name, such as max_tokens or normalize"):
        search_table(other, ["anything"], spark=spark)


def test_a_table_without_vectors_is_refused(spark: SparkSession, job: JobConfig, tiny_model_dir: Path, tmp_path: Path) -> None:
    from metaeol_udf.search import search_table

    spark.read.format("delta").load(job.source.table).select("shelf", "no", "text").write.format("delta").save(str(tmp_path / "bare"))
    with pytest.raises(InputError, match="no column 'embedding'"):
        search_table(config_for(tmp_path / "bare", tiny_model_dir), ["anything"], spark=spark)
    with pytest.raises(InputError, match="no Delta table"):
        search_table(config_for(tmp_path / "none", tiny_model_dir), ["anything"], spark=spark)


def test_a_blank_query_is_refused(spark: SparkSession, job: JobConfig) -> None:
    from metaeol_udf.search import search_table

    with pytest.raises(InputError, match="blank"):
        search_table(job, ["fine", "  "], spark=spark)


def test_a_condition_keeps_rows_out_of_the_competition(spark: SparkSession, job: JobConfig) -> None:
    from metaeol_udf.search import search_table

    (hits,) = search_table(job, ["a red apple"], k=50, where="shelf = 'b' AND text LIKE '%form'", spark=spark)
    assert [tuple(hit.key.values()) for hit in hits] == [("b", 2)]
    (none,) = search_table(job, ["a red apple"], where="no > 7", spark=spark)
    assert none == []
    with pytest.raises(InputError, match=r"--where 'shelves = 1' is no condition over the source's columns"):
        search_table(job, ["a red apple"], where="shelves = 1", spark=spark)
    with pytest.raises(InputError, match="has a query inside"):
        search_table(job, ["a red apple"], where="no IN (SELECT 1)", spark=spark)


@pytest.mark.slow
def test_a_condition_over_the_source_holds_for_a_target_of_its_own(spark: SparkSession, tiny_model_dir: Path, tmp_path: Path) -> None:
    from metaeol_udf.delta import run_embed
    from metaeol_udf.search import find_duplicates, search_table

    rows = [(1, "de", "ein Apfel"), (2, "en", "an apple"), (3, "de", "ein Apfel")]
    spark.createDataFrame(rows, "id long, lang string, text string").write.format("delta").save(str(tmp_path / "source"))
    blocks = {
        "source": {"table": str(tmp_path / "source"), "key": ["id"]},
        "target": {"table": str(tmp_path / "vectors")},
        "embedding": {"model": str(tiny_model_dir), "dtype": "float32"},
        "runtime": {"device": "cpu"},
    }
    config = parse_config(blocks)
    run_embed(config, spark)
    (hits,) = search_table(config, ["an apple"], where="lang = 'de'", spark=spark)
    assert [(hit.key["id"], hit.text) for hit in hits] == [(1, "ein Apfel"), (3, "ein Apfel")]
    (hits,) = search_table(config, ["ein Apfel"], k=2, distinct=True, spark=spark)
    assert [(hit.key["id"], hit.text, hit.more_rows) for hit in hits] == [(1, "ein Apfel", 1), (2, "an apple", 0)]
    pairs = find_duplicates(config, threshold=0.01, method="exact", distinct=True, spark=spark)
    assert [(pair.keys, pair.more_pairs) for pair in pairs] == [(({"id": 1}, {"id": 3}), 0), (({"id": 1}, {"id": 2}), 1)]
    (pair,) = find_duplicates(config, threshold=1.0, where="lang = 'de'", method="exact", spark=spark)
    assert (pair.keys, pair.texts, pair.score) == (({"id": 1}, {"id": 3}), ("ein Apfel", "ein Apfel"), 1.0)


@pytest.fixture
def conf(job: JobConfig, tmp_path: Path) -> Path:
    """The job as a file."""
    path = tmp_path / "job.yaml"
    source = {"table": job.source.table, "key": ["shelf", "no"]}
    path.write_text(yaml.safe_dump({"source": source, "embedding": {"model": job.embedding.model, "dtype": "float32"}}))
    return path


def test_a_file_of_queries_is_searched_at_once(
    spark: SparkSession, conf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "queries.txt").write_text("a red apple\n\n  the train to Paris \n")
    assert cli.run(["search", str(conf), "--queries", str(tmp_path / "queries.txt"), "--k", "2", "--json", "runtime.device=cpu"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["query"] for one in found] == ["a red apple", "the train to Paris"]
    assert [one["hits"][0]["key"] for one in found] == [{"shelf": "a", "no": 1}, {"shelf": "a", "no": 2}]
    assert [len(one["hits"]) for one in found] == [2, 2]
    monkeypatch.setattr("sys.stdin", io.StringIO("a red apple\nthe train to Paris\n"))
    assert cli.run(["search", str(conf), "--queries", "-", "--k", "1", "--where", "shelf = 'b'"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (lines[0], lines[2], lines[3]) == ('"a red apple"', "", '"the train to Paris"')
    assert lines[1].split()[1:3] == ["b", "1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "search needs a QUERY"),
        (["--queries", "no-such-file"], "no-such-file cannot be read as UTF-8 text (FileNotFoundError)"),
        (["--queries", "/dev/null"], "/dev/null holds no query"),
        (["--queries", "/dev/null", "runtime.devices=cpu"], "/dev/null holds no query"),
    ],
)
def test_a_search_for_nothing_is_refused(conf: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["search", str(conf), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_queries_that_must_find_their_rows_end_in_a_status(
    spark: SparkSession, conf: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "queries.tsv"
    path.write_text("no\tquery\tshelf\n1\ta red apple\ta\n2\tthe train to Paris\ta\n")
    assert cli.run(["test", str(conf), str(path), "--k", "1"]) == 0
    assert capfd.readouterr().out.splitlines()[2].split() == ["a", "red", "apple", "a", "1", "1", "1.0000"]
    path.write_text(path.read_text() + "2\ta red apple\tb\n9\ta red apple\tb\n")
    assert cli.run(["test", str(conf), str(path), "--k", "4", "--where", "no = 2 OR shelf = 'a'", "--json"]) == 6
    said = capfd.readouterr()
    assert [each["rank"] is None for each in json.loads(said.out)] == [False, False, False, True]
    assert said.err.splitlines()[-1] == "metaeol: 1 of 4 rows are not among the first 4 of their query"
    for content, message in (
        ("query\tshelf\na\tb\n", "queries.tsv, line 1: the header must name query, shelf, no"),
        ("query\tshelf\tno\n", "line 1: at least one row must follow"),
        ("query\tshelf\tno\n \tb\t1\n", "line 2: query must not be blank"),
    ):
        path.write_text(content)
        assert cli.run(["test", str(conf), str(path)]) == 2
        assert message in capfd.readouterr().err


@pytest.mark.slow
def test_near_duplicates_are_printed_with_their_texts_or_written(
    spark: SparkSession, conf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["duplicates", str(conf), "--threshold", "0.05", "--exact", "--k", "2", "--json"]) == 0
    pairs = json.loads(capsys.readouterr().out)
    assert len(pairs) == 2
    assert pairs[0]["score"] >= pairs[1]["score"] > 0.05
    assert pairs[0]["texts"] == [TEXTS[key["shelf"], key["no"]] for key in pairs[0]["keys"]]
    assert cli.run(["duplicates", str(conf), "--threshold", "0.999999", "--exact"]) == 0
    assert capsys.readouterr().out == "no pair\n"
    for name, kind in (("pairs.parquet", "parquet"), ("pairs", "delta")):
        out = str(tmp_path / name)
        assert cli.run(["duplicates", str(conf), "--threshold", "0.05", "--exact", "--out", out]) == 0
        written = spark.read.format(kind).load(out)
        assert written.columns == ["shelf1", "no1", "shelf2", "no2", "score"]
        assert capsys.readouterr().out == f"{out}: {written.count()} pairs\n"
        assert written.count() == EMBEDDED * (EMBEDDED - 1) // 2
        assert cli.run(["duplicates", str(conf), "--threshold", "0.05", "--exact", "--out", out]) == 2
        assert "name one that is not there" in capsys.readouterr().err


def test_what_a_worker_refuses_is_one_clear_message(spark: SparkSession) -> None:
    from metaeol_udf.search import search_vectors
    from metaeol_udf.search.open_job import worker_errors

    rows = spark.createDataFrame([(1, [1.0, 0.0]), (2, [1.0])], "id long, embedding array<float>").coalesce(1)
    with pytest.raises(InputError) as caught, worker_errors():
        search_vectors(rows, rows.where("id = 1"), k=1).collect()
    assert str(caught.value) == "column 'embedding': a vector holds 1 numbers where 2 are expected: both sides must be of one model"
