"""The main job on real Delta tables with a random model: what it computes, what it leaves alone, what it refuses."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import yaml
from delta import DeltaTable
from pyspark.sql import functions as F

from metaeol_udf import MetaEOLEncoder
from metaeol_udf.delta import run_embed
from metaeol_udf.delta.pipeline import PHASES
from metaeol_udf.errors import BudgetError, ConfigError, InputError, MetaEOLError
from tests.table_bench import Before, Bench

ROWS = [(1, "a first text"), (2, "a second text"), (3, "a first text"), (4, None), (5, " \t"), (6, "word " * 2000)]


def test_a_first_run_embeds_a_second_does_nothing_and_four_changed_rows_compute_four(bench: Bench) -> None:
    bench.take_own_model()
    bench.write([*ROWS, *[(n, f"text number {n}") for n in range(7, 21)]])
    report = bench.run(runtime={"device": "cpu", "max_batch_tokens": 777})
    counted = ("rows_selected", "rows_embedded", "rows_failed", "rows_skipped", "rows_trimmed", "unique_texts")
    assert [report[name] for name in counted] == [20, 18, 2, 0, 1, 17]
    assert report["status"] == "done"
    assert 1 <= report["model_loads"] <= 2
    assert report["runner"] == "decoder"
    assert set(report["batches_by_path"]) == {"cells"}
    assert report["path_reasons"] == []
    assert 0 < report["device_busy"] <= 1
    assert 0 < report["device_s"] <= report["device_span_s"] <= 2 * report["seconds"]["embed"]  # two workers
    assert report["tokens_computed"] > 0
    assert report["tokens_saved"] > 0
    assert bench.progress.total == 17
    assert bench.progress.done[-1] == 17
    assert bench.progress.finished

    rows = bench.rows()
    encoder = MetaEOLEncoder.from_spec(bench.spec, device="cpu")
    good = [n for n in rows if n not in (4, 5)]
    found = np.array([rows[n]["embedding"] for n in good], np.float32)
    np.testing.assert_allclose(found, encoder.encode([rows[n]["text"] for n in good]), atol=2e-5)
    assert rows[1]["embedding"] == rows[3]["embedding"]
    assert {n: row["embedding_error"] for n, row in rows.items() if row["embedding_error"]} == {4: "null_text", 5: "empty_text"}
    assert rows[4]["embedding"] is None
    assert rows[5]["embedding"] is None
    assert {row["embedding_fingerprint"].split("-")[0] for row in rows.values()} == {report["fingerprint"]}
    assert {row["reason"] for row in bench.rows("table__metaeol_quarantine").values()} == {"null_text", "empty_text"}

    versions = [bench.versions(name) for name in ("table", "table__metaeol_journal", "table__metaeol_quarantine")]
    again = bench.run()
    assert [again[name] for name in counted] == [20, 0, 0, 20, 0, 0]
    assert again["status"] == "nothing_to_do"
    assert (again["model_loads"], again["runner"]) == (0, None)
    assert (again["batches_by_path"], again["device_busy"]) == ({}, None)
    assert versions == [bench.versions(name) for name in ("table", "table__metaeol_journal", "table__metaeol_quarantine")]

    changed = F.when(F.col("id") == 4, "no longer null").otherwise(F.concat(F.lit("changed "), F.col("text")))
    DeltaTable.forPath(bench.spark, bench.path).update(F.col("id").isin(1, 4, 8, 9), {"text": changed})
    third = bench.run()
    assert [third[name] for name in counted] == [20, 4, 0, 16, 0, 4]
    np.testing.assert_allclose(np.array(bench.rows()[9]["embedding"], np.float32), encoder.encode(["changed text number 9"])[0], atol=2e-5)
    assert bench.rows("table__metaeol_quarantine").keys() == {5}


@pytest.mark.slow
def test_the_table_says_where_its_vectors_come_from(bench: Bench) -> None:
    bench.write([(1, None)])
    report = bench.run()
    detail = DeltaTable.forPath(bench.spark, bench.path).detail().collect()[0]
    properties = {key.removeprefix("metaeol.embedding."): value for key, value in detail["properties"].items()}
    assert properties["model"] == bench.spec.model
    assert properties["fingerprint"] == report["fingerprint"]
    assert (properties["templates"], properties["layer"], properties["dim"], properties["dtype"]) == ("metaeol", "-1", "32", "float32")
    assert len(properties["model_hash"]) >= 32
    assert len(properties["templates_hash"]) == 64
    comment = bench.table().schema["embedding"].metadata["comment"]
    assert report["fingerprint"] in comment
    assert bench.spec.model in comment


@pytest.mark.slow
def test_a_table_of_null_and_blank_texts_needs_no_model(bench: Bench) -> None:
    bench.write([(1, None), (2, ""), (3, "\u2003\x1c")])
    report = bench.run()
    assert (report["rows_failed"], report["unique_texts"], report["model_loads"]) == (3, 0, 0)
    assert {row["embedding_error"] for row in bench.rows().values()} == {"null_text", "empty_text"}
    assert bench.progress.total is None
    again = bench.run()  # which looks at the changes alone
    assert (again["status"], again["rows_failed"], again["rows_without_vector"]) == ("nothing_to_do", 0, 3)


@pytest.mark.slow
def test_broken_utf8_control_characters_and_huge_texts_are_embedded(bench: Bench) -> None:
    bench.write([(1, "a\x00b\x1b[31m\u202e"), (2, "x" * 200_000), (3, "{text} {} %s <|im_end|> \"'`")])
    broken = bench.spark.range(4, 5).select("id", F.unhex(F.lit("61FF62")).cast("string").alias("text"))
    broken.write.format("delta").mode("append").save(bench.path)
    report = bench.run()
    assert (report["rows_embedded"], report["rows_failed"], report["rows_trimmed"]) == (4, 0, 1)
    assert all(len(row["embedding"]) == 32 for row in bench.rows().values())
    assert bench.run()["rows_skipped"] == 4


@pytest.mark.slow
def test_waves_and_partitions_change_no_value(bench: Bench) -> None:
    texts = [(n, f"text {n} " + "and more " * (n % 7)) for n in range(40)]
    bench.write(texts)
    one = bench.run()
    together = {n: row["embedding"] for n, row in bench.rows().items()}
    bench.spark.createDataFrame(texts, "id long, text string").repartition(5).write.format("delta").save(str(bench.folder / "other"))
    other = bench.run(source={"table": str(bench.folder / "other"), "key": ["id"]}, runtime={"wave_rows": 7})
    assert one["unique_texts"] == other["unique_texts"] == 40
    for n, row in bench.rows("other").items():
        np.testing.assert_allclose(row["embedding"], together[n], atol=2e-5)


@pytest.mark.slow
def test_a_condition_selects_rows_and_leaves_equal_texts_outside_it_alone(bench: Bench) -> None:
    bench.write([(1, "same"), (2, "same"), (3, "other")])
    report = bench.run(source={"where": "id < 2"})
    assert (report["rows_selected"], report["rows_embedded"]) == (1, 1)
    rows = bench.rows()
    assert rows[1]["embedding"] is not None
    assert rows[2]["embedding_fingerprint"] is None
    assert bench.run()["rows_embedded"] == 2


def test_a_target_table_is_made_filled_and_updated_by_key(bench: Bench) -> None:
    bench.write(ROWS)
    target = {"table": str(bench.folder / "vectors")}
    report = bench.run(target=target)
    assert (report["rows_embedded"], report["rows_failed"]) == (4, 2)
    assert bench.table().columns == ["id", "text"]
    assert bench.table("vectors").columns == ["id", "embedding", "embedding_error", "embedding_fingerprint"]
    versions = bench.versions("vectors")
    assert bench.run(target=target)["rows_skipped"] == 6
    assert bench.versions("vectors") == versions

    source = DeltaTable.forPath(bench.spark, bench.path)
    source.update(F.col("id") == 2, {"text": F.lit("changed")})
    source.delete(F.col("id") == 3)
    bench.write([(7, "new")], mode="append")
    before = bench.rows("vectors")
    report = bench.run(target=target)
    assert (report["rows_embedded"], report["rows_skipped"], report["unique_texts"]) == (2, 4, 2)
    after = bench.rows("vectors")
    assert after.keys() == {1, 2, 4, 5, 6, 7}
    assert report["rows_deleted"] == 1
    assert after[2]["embedding"] != before[2]["embedding"]
    assert after[1] == before[1]


@pytest.mark.slow
def test_named_tables_with_keys_of_two_columns_work_as_paths_do(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    rows = [("en", 1, "hello"), ("de", 1, "hallo"), ("en", 2, "hello")]
    bench.spark.createDataFrame(rows, "lang string, n int, `the text` string").write.format("delta").option(
        "delta.columnMapping.mode", "name"
    ).saveAsTable("job_reviews")
    try:
        section = {"table": "job_reviews", "key": ["lang", "n"], "text": "the text"}
        report = bench.run(source=section)
        assert (report["rows_embedded"], report["unique_texts"]) == (3, 2)
        assert bench.spark.table("job_reviews").where("embedding IS NULL").count() == 0
        assert bench.run(source=section)["rows_skipped"] == 3
        caplog.clear()
        report = bench.run(source=section, target={"table": "job_vectors"})
        assert bench.spark.table("default.job_vectors").count() == 3
        assert "catalog is in memory and ends with the process, and with it the name job_reviews and job_vectors" in caplog.text
    finally:
        for name in ("job_reviews", "job_reviews__metaeol_journal", "job_vectors", "job_vectors__metaeol_journal"):
            bench.spark.sql(f"DROP TABLE IF EXISTS {name}")


REFUSALS: list[tuple[dict[str, dict[str, Any]], type[MetaEOLError], str]] = [
    ({"source": {"table": "/no/such/table"}}, InputError, "no Delta table at the path '/no/such/table'"),
    ({"source": {"table": "nosuch.table"}}, InputError, "no Delta table at the name 'nosuch.table'; this session's catalog is in memory"),
    ({"source": {"table": "delta.`/etc`"}}, InputError, "source.table"),
    ({"source": {"text": "body"}}, InputError, "source.text: column 'body' is not in"),
    ({"source": {"text": "id"}}, InputError, "'id' of .* must be a string, found bigint"),
    ({"source": {"key": ["nope"]}}, InputError, "source.key: column 'nope' is not in"),
    ({"source": {"key": ["tags"]}}, InputError, "source.key: column 'tags' .* must hold plain values"),
    ({"source": {"key": ["id", "ID"]}}, InputError, "names a column twice"),
    ({"source": {"key": ["twin"]}}, InputError, r"1 keys \(twin\) .* stand in 3 rows, .* SHA-256 [0-9a-f]{12}"),
    ({"source": {"key": ["gap"]}}, InputError, r"1 rows of .* have NULL in the key \(gap\)"),
    ({"source": {"where": "id <"}}, InputError, "source.where 'id <' is no condition"),
    ({"source": {"where": "nope = 1"}}, InputError, "source.where"),
    ({"source": {"where": "id"}}, InputError, "source.where"),
    ({"target": {"table": "a.b.c.d"}}, InputError, "target.table"),
    ({"embedding": {"column": "number"}}, InputError, "'number' of .* is int already, not array<float>"),
    ({"embedding": {"column": "text"}}, InputError, "'text' is the key or the text column"),
    ({"embedding": {"column": "two words"}}, InputError, "must have none of the characters"),
    ({"embedding": {"model": "/no/such/model"}}, ConfigError, "/no/such/model"),
    ({"embedding": {"layer": 99}}, ConfigError, "layer"),
    ({"embedding": {"templates": "nope"}}, ConfigError, "nope"),
    ({"embedding": {"truncate_dim": 33}}, ConfigError, "truncate_dim"),
]


def test_what_cannot_work_is_refused_before_a_model_is_loaded_and_without_a_commit(bench: Bench) -> None:
    schema = "id long, text string, twin string, gap string, tags array<string>, number int"
    bench.write([(n, f"text {n}", "x", None if n == 1 else str(n), [], n) for n in range(3)], schema)
    for sections, kind, message in REFUSALS:
        with pytest.raises(kind, match=message) as caught:
            bench.run(**sections)
        assert caught.value.exit_code == 2
    assert bench.versions() == 1
    assert sorted(path.name for path in bench.folder.iterdir()) == ["table"]


def test_more_failures_than_the_budget_are_published_reported_and_raised(bench: Bench) -> None:
    bench.write([(1, "fine"), (2, None)])
    with pytest.raises(BudgetError, match="1 of 2 rows have no embedding") as caught:
        bench.run(runtime={"max_failed_fraction": 0.4})
    assert caught.value.exit_code == 3
    left = json.loads((bench.folder / "report.json").read_text())
    assert (left["status"], left["error"]) == ("over_budget", str(caught.value))
    rows = bench.rows()
    assert rows[1]["embedding"] is not None
    assert rows[2]["embedding_error"] == "null_text"
    assert bench.run(runtime={"max_failed_fraction": 0.4})["status"] == "nothing_to_do"


@pytest.mark.slow
def test_a_run_announces_its_phases_in_order_and_only_those_that_it_has(bench: Bench) -> None:
    bench.write([(1, "one"), (2, "two"), (3, "three"), (4, "four"), (5, None)])
    told: list[str] = []
    report = bench.run(between=told.append, runtime={"wave_rows": 2})
    waves = ["embed", "journal"] * report["waves"]
    expected = ["snapshot", "preflight", "prepare", "select", *waves, "publish", "verify", "quarantine", "cleanup", "report"]
    assert told == expected
    assert set(report["seconds"]) == {seconds for phase, seconds in PHASES.items() if phase in told and seconds} | {"total"}
    told.clear()
    bench.run(between=told.append)
    assert told == ["snapshot", "prepare", "report"]


def test_what_the_hook_raises_ends_the_run_before_the_phase(bench: Bench) -> None:
    bench.write([(1, "one")])

    def refuse() -> None:
        raise KeyError("not today")

    with pytest.raises(KeyError, match="not today"):
        bench.run(between=Before("prepare", refuse))
    assert bench.table().columns == ["id", "text"]


def test_a_text_that_changes_while_the_job_runs_never_gets_the_old_vector(bench: Bench) -> None:
    bench.write([(1, "one"), (2, "two"), (3, "three")])

    def meddle() -> None:
        table = DeltaTable.forPath(bench.spark, bench.path)
        table.update(F.col("id") == 1, {"text": F.lit("changed meanwhile")})
        table.delete(F.col("id") == 2)

    bench.run(between=Before("publish", meddle))
    rows = bench.rows()
    assert rows.keys() == {1, 3}
    assert rows[1]["embedding_fingerprint"] is None
    assert rows[3]["embedding"] is not None
    assert bench.run()["rows_embedded"] == 1


def test_a_failed_publish_keeps_the_journal_and_the_next_run_computes_nothing(bench: Bench) -> None:
    bench.write([(1, "one"), (2, "two"), (3, None)])

    def fail() -> None:
        raise OSError("No space left on device")

    with pytest.raises(MetaEOLError, match="the disk is full") as caught:
        bench.run(between=Before("publish", fail))
    assert caught.value.exit_code == 5
    journal = bench.table("table__metaeol_journal")
    assert journal.count() == 2
    assert "text" not in journal.columns
    report = bench.run()
    assert (report["rows_embedded"], report["rows_failed"], report["unique_texts"], report["model_loads"]) == (2, 1, 0, 0)
    assert bench.table("table__metaeol_journal").count() == 0


@pytest.mark.slow
def test_a_publish_that_does_not_land_is_noticed(bench: Bench) -> None:
    bench.write([(1, "one")])

    def take_away() -> None:
        nothing = {f"embedding{name}": F.lit(None) for name in ("", "_error", "_fingerprint")}
        DeltaTable.forPath(bench.spark, bench.path).update(set=nothing)

    undone = Before("verify", take_away, at=None)
    with pytest.raises(MetaEOLError, match="1 rows do not hold the vector"):
        bench.run(between=undone)
    assert undone.phases.count("publish") == 5
    assert bench.table("table__metaeol_journal").count() == 1


@pytest.mark.slow
def test_another_spec_embeds_all_rows_anew(bench: Bench) -> None:
    bench.write([(1, "one"), (2, "two")])
    first = bench.run()
    vectors = {n: row["embedding"] for n, row in bench.rows().items()}
    second = bench.run(embedding={"layer": 1})
    assert first["fingerprint"] != second["fingerprint"]
    assert second["rows_embedded"] == 2
    assert all(row["embedding"] != vectors[n] for n, row in bench.rows().items())


def test_no_text_reaches_the_journal_the_quarantine_or_a_delta_log(bench: Bench) -> None:
    canary = "canary9f3b7"
    bench.write([(1, f"{canary} sings"), (2, None)])
    bench.run(target={"table": str(bench.folder / "vectors")})
    for folder in ("vectors", "vectors__metaeol_journal", "vectors__metaeol_quarantine"):
        for path in (bench.folder / folder).rglob("*"):
            assert not path.is_file() or canary.encode() not in path.read_bytes()


@pytest.mark.slow
def test_a_configuration_may_be_nested_mappings_or_a_file(bench: Bench) -> None:
    bench.write([(1, "a text"), (2, "another")])
    assert run_embed(bench.blocks(), bench.spark)["rows_embedded"] == 2
    conf = bench.folder / "job.yaml"
    conf.write_text(yaml.safe_dump(bench.blocks()))
    for given in (conf, str(conf)):
        assert run_embed(given, bench.spark)["status"] == "nothing_to_do"
    with pytest.raises(ConfigError, match="a configuration must be a JobConfig, a mapping of sections or the path of a file, found int"):
        run_embed(3, bench.spark)  # type: ignore[arg-type]
