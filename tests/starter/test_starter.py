"""`metaeol init` on real tables: what it guesses, that its file loads and suits the table, and that it replaces nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from pyspark.sql import SparkSession

from metaeol_udf import cli
from metaeol_udf.config import load_config
from metaeol_udf.delta import run_embed
from metaeol_udf.delta.tables import target
from metaeol_udf.delta.tables.refs import parse_table, read
from metaeol_udf.doctor import Level
from metaeol_udf.doctor.tables import check_columns, check_keys
from metaeol_udf.errors import ConfigError, InputError
from metaeol_udf.starter import draft_config
from tests.table_bench import Silence

ROWS = [(f"en-{n}", n, n % 3, n / 2, f"title {n % 5}", f"A longer text about the thing with number {n}.") for n in range(30)]
SCHEMA = "lang_code string, review_id long, shop int, price double, title string, body string"


def make(spark: SparkSession, path: Path, rows: list[tuple[Any, ...]] = ROWS, schema: str = SCHEMA) -> str:
    spark.createDataFrame(rows, schema).coalesce(1).write.format("delta").save(str(path))
    return str(path)


@pytest.mark.slow
def test_the_file_names_key_and_text_loads_and_suits_the_job(spark: SparkSession, tiny_model_dir: Path, tmp_path: Path) -> None:
    table = make(spark, tmp_path / "table")
    draft = draft_config(table, [f"embedding.model={tiny_model_dir}", "runtime.device=cpu"], spark)
    (tmp_path / "job.yaml").write_text(draft.text)
    config = load_config(tmp_path / "job.yaml")
    assert (config.source.table, config.source.key, config.source.text, config.column) == (table, ("review_id",), "body", "embedding")
    assert draft.guess.other_keys == ("lang_code",)
    assert draft.guess.other_texts[0][0] == "title"
    source = read(spark, parse_table(table, "source.table"))
    assert check_columns(source, config.source, parse_table(table, "source.table")).level is Level.OK
    assert check_keys(source, config.source, table, all_keys=True).level is Level.OK
    assert run_embed(config, spark, Silence())["rows_embedded"] == 30
    again = draft_config(table, (), spark)  # the job's own columns are neither key nor text
    assert (again.guess.key, again.guess.text) == (("review_id",), "body")
    assert yaml.safe_load(again.text)["embedding"]["column"] == "embedding"


def test_the_file_says_what_a_changed_text_rewrites_where_that_is_much(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = make(spark, tmp_path / "table")
    assert "rewrites its file" not in draft_config(table, (), spark).text
    monkeypatch.setattr(target, "LARGE_BYTES", 1)
    assert "a changed text then rewrites its file, 0 MiB on average and more with vectors" in draft_config(table, (), spark).text


def test_no_value_of_the_table_stands_in_the_file(spark: SparkSession, tmp_path: Path) -> None:
    rows = [(f"canarykey{n}", f"canarytext sings {n}") for n in range(5)]
    draft = draft_config(make(spark, tmp_path / "table", rows, "id string, text string"), (), spark)
    assert "canary" not in draft.text
    assert "canary" not in json.dumps(draft.facts())


def test_a_name_like_id_comes_first_and_columns_with_null_or_repeats_never(spark: SparkSession, tmp_path: Path) -> None:
    rows = [(n, None if n == 3 else n, n // 2, n, "some text") for n in range(10)]
    table = make(spark, tmp_path / "table", rows, "position int, order_id int, shop_id int, id int, text string")
    guess = draft_config(table, (), spark).guess
    assert guess.key == ("id",)
    assert guess.other_keys == ("position",)


def test_two_columns_are_the_key_where_no_one_is_unique(spark: SparkSession, tmp_path: Path) -> None:
    rows = [(n // 3, n % 3, "a", f"a text of some length {n % 2}") for n in range(12)]
    table = make(spark, tmp_path / "table", rows, "chapter int, verse int, kind string, text string")
    assert draft_config(table, (), spark).guess.key == ("chapter", "verse")


def test_what_is_given_wins_over_a_guess_and_is_written(spark: SparkSession, tmp_path: Path) -> None:
    given = ["source.key=lang_code", "source.text=title", "source.where=shop < 2", "quality.gate=true", "spark.conf.spark.x.y=1"]
    draft = draft_config(make(spark, tmp_path / "table"), given, spark)
    (tmp_path / "job.yaml").write_text(draft.text)
    config = load_config(tmp_path / "job.yaml")
    assert (config.source.key, config.source.text, config.source.where) == (("lang_code",), "title", "shop < 2")
    assert config.quality.gate
    assert config.spark.conf == {"spark.x.y": "1"}
    assert draft.guess.n_sampled == 20


def test_odd_names_of_columns_stay_on_their_line(spark: SparkSession, tmp_path: Path) -> None:
    rows = [(n, f"t{n}", f"a longer text {n}") for n in range(4)]
    table = make(spark, tmp_path / "table", rows, "`#key:1` int, `other\u2028source:` string, `te'xt` string")
    draft = draft_config(table, (), spark)
    (tmp_path / "job.yaml").write_text(draft.text)
    config = load_config(tmp_path / "job.yaml")
    assert (config.source.key, config.source.text) == (("#key:1",), "te'xt")


@pytest.mark.parametrize(
    ("rows", "schema", "words"),
    [
        ([], "id int, text string", "table has no rows to guess columns from"),
        ([(1, 2.0)], "id int, price double", "no column of strings"),
        ([(1, "a"), (1, "b")], "shop int, text string", r"source\.key="),
    ],
)
def test_a_table_without_key_or_text_is_refused(
    spark: SparkSession, tmp_path: Path, rows: list[tuple[Any, ...]], schema: str, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        draft_config(make(spark, tmp_path / "table", rows, schema), (), spark)


def test_a_file_that_is_not_there_is_named_as_one(spark: SparkSession) -> None:
    with pytest.raises(InputError, match=r"there is no file nosuch\.csv in /.*, and no Delta table of that name"):
        draft_config("nosuch.csv", (), spark)


def test_an_unknown_setting_or_column_is_refused_with_the_nearest(spark: SparkSession, tmp_path: Path) -> None:
    table = make(spark, tmp_path / "table")
    with pytest.raises(ConfigError, match="did you mean 'device'"):
        draft_config(table, ["runtime.devise=cpu"], spark)
    with pytest.raises(InputError, match="did you mean 'body'"):
        draft_config(table, ["source.text=bodi", "source.key=review_id"], spark)


def test_the_command_refuses_to_replace_a_file(spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, conf = make(spark, tmp_path / "table"), tmp_path / "conf" / "job.yaml"
    assert cli.run(["init", table, "--out", str(conf), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["file"], found["key"], found["text"], found["rows"]) == (str(conf), ["review_id"], "body", 30)
    conf.write_text("mine")
    assert cli.run(["init", table, "--out", str(conf)]) == 2
    assert "--force" in capsys.readouterr().err
    assert conf.read_text() == "mine"
    assert cli.run(["init", table, "--out", str(conf), "--force"]) == 0
    assert f"metaeol doctor {conf}" in capsys.readouterr().out
    assert load_config(conf).source.key == ("review_id",)
    assert [path.name for path in conf.parent.iterdir()] == ["job.yaml"]


def test_a_file_gets_its_format_its_separator_and_a_table_beside_it(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = "".join(f'{n:03};k{n % 2};"A text; with a semicolon, number {n}."\n' for n in range(5))
    (tmp_path / "tickets.csv").write_text("ticket_id;kind;body\n" + lines)
    (tmp_path / "list.json").write_text(json.dumps([{"id": n, "body": f"a text {n}"} for n in range(5)], indent=1))
    spark.range(5).selectExpr("id", "concat('a text ', id) AS body").write.parquet(str(tmp_path / "rows"))
    expected = {
        "tickets.csv": ({"path": "tickets.csv", "options": {"sep": ";"}}, "./tickets_vectors", ("ticket_id",)),
        f"{tmp_path}/list.json": ({"path": f"{tmp_path}/list.json", "options": {"multiLine": "true"}}, f"{tmp_path}/list_vectors", ("id",)),
        f"{tmp_path}/rows": ({"path": f"{tmp_path}/rows", "format": "parquet"}, f"{tmp_path}/rows_vectors", ("id",)),
    }
    for name, (source, beside, key) in expected.items():
        draft = draft_config(name, (), spark)
        (tmp_path / "job.yaml").write_text(draft.text)
        config = load_config(tmp_path / "job.yaml")
        found = {"path": config.source.path, "format": config.source.format, "options": dict(config.source.options)}
        assert {each: value for each, value in found.items() if value} == source
        assert (config.target.table, config.source.key, config.source.text, draft.n_rows) == (beside, key, "body", 5)
        assert draft.n_bytes > 0
    (tmp_path / "lines.csv").write_text("body\none text\none text\n")
    assert yaml.safe_load(draft_config("lines.csv", (), spark).text)["source"]["key"] == "auto"
    with pytest.raises(InputError, match=r"no Delta table at the path .*there is nothing"):
        draft_config(f"{tmp_path}/none.csv", (), spark)
