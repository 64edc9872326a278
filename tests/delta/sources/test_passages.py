"""Passages of long texts as rows of their own: kept in step with their texts, found by a search with what they say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from delta import DeltaTable
from pyspark.sql import Row, SparkSession

from metaeol_udf import MetaEOLEncoder
from metaeol_udf.care import run_drop, run_rollback, run_status
from metaeol_udf.config import parse_config
from metaeol_udf.delta.retry import run_retry
from metaeol_udf.delta.stream import run_stream
from metaeol_udf.doctor.examine import examine
from metaeol_udf.errors import ConfigError, InputError
from metaeol_udf.estimate.dry_run import plan_dry_run
from metaeol_udf.search import find_duplicates, search_table
from metaeol_udf.spark.cluster.finding import Level
from tests.table_bench import POISON, SENTENCES, Before, Bench

SPLIT: dict[str, Any] = {"max_tokens": 24, "long_texts": "passages", "passage": {"tokens": 16, "overlap": 0}}
LONG = " ".join(SENTENCES * 3)


def settings(bench: Bench, **sections: dict[str, Any]) -> dict[str, dict[str, Any]]:
    base: dict[str, dict[str, Any]] = {"target": {"table": str(bench.folder / "parts"), "max_deleted_fraction": 1.0}, "embedding": SPLIT}
    return base | {name: base.get(name, {}) | section for name, section in sections.items()}


def run(bench: Bench, between: Before | None = None, **sections: dict[str, Any]) -> dict[str, Any]:
    return bench.run(between=between, **settings(bench, **sections))


def parts(bench: Bench) -> list[Row]:
    return sorted(bench.table("parts").collect(), key=lambda row: (row["id"], row["passage"]))


def check_in_step(bench: Bench, texts: dict[int, str | None]) -> dict[int, list[str]]:
    """Check that the passages are exactly those of the texts, and that each holds the encoder's vector; gives what they say."""
    rows, config = parts(bench), bench.config(**settings(bench))
    encoder = MetaEOLEncoder.from_spec(config.embedding.of_one_passage(), device="cpu")
    said: dict[int, list[str]] = {}
    for key, text in texts.items():
        mine = [row for row in rows if row["id"] == key]
        assert [row["passage"] for row in mine] == list(range(len(mine)))
        if text is None or not text.strip():
            assert [(row["start"], row["end"], row["embedding"]) for row in mine] == [(0, 0, None)]
            assert mine[0]["embedding_error"] == ("null_text" if text is None else "empty_text")
            continue
        said[key] = [text[row["start"] : row["end"]] for row in mine]
        assert " ".join(said[key]).split() == text.split()  # without an overlap passages cover the text once
        np.testing.assert_allclose([row["embedding"] for row in mine], encoder.encode(said[key]), atol=2e-5)
    assert {row["id"] for row in rows} == texts.keys()
    return said


@pytest.mark.slow
def test_an_edit_computes_the_passages_that_it_changes(spark: SparkSession, bench: Bench) -> None:
    bench.write([(1, LONG), (2, "a short text")])
    assert run(bench)["unique_texts"] == len(SENTENCES) + 1
    edited = LONG.replace(SENTENCES[1], "Anna signed for the large box of yesterday.", 1)
    DeltaTable.forPath(spark, bench.path).update("id = 1", {"text": f"'{edited}'"})
    report = run(bench)
    assert (report["unique_texts"], report["texts_reused"], report["rows_failed"], report["rows_deleted"]) == (1, 3, 0, 8)
    check_in_step(bench, {1: edited, 2: "a short text"})


@pytest.mark.slow
def test_passages_stay_in_step_with_their_texts(spark: SparkSession, bench: Bench) -> None:
    texts: dict[int, str | None] = {1: LONG, 2: LONG.replace("lamp", "drum"), 3: "a short text", 4: None, 5: " ", 6: "another short one"}
    bench.write([(key, text, "kept" if key < 6 else "left out") for key, text in texts.items()], "id long, text string, start string")
    where = {"where": "start = 'kept'"}
    del texts[6]
    report = run(bench, source=where)
    said = check_in_step(bench, texts)
    assert len(said[1]) > 5
    n_rows = sum(map(len, said.values())) + 2
    assert (report["rows_selected"], report["rows_failed"], report["rows_trimmed"]) == (n_rows, 2, 0)
    assert report["unique_texts"] == len({part for each in said.values() for part in each})
    assert run(bench, source=where)["status"] == "nothing_to_do"

    changes = {1: "A new beginning, which moves what follows it. " + LONG, 2: "short now", 3: None}
    table = DeltaTable.forPath(spark, bench.path)
    for key, text in changes.items():
        table.update(f"id = {key}", {"text": "NULL" if text is None else f"'{text}'"})
    table.delete("id = 5")
    texts = {1: changes[1], 2: changes[2], 3: None, 4: None}
    state = run_status(bench.config(**settings(bench, source=where)), spark)
    report = run(bench, source=where)
    now = check_in_step(bench, texts)
    known = {part for each in said.values() for part in each}
    assert report["unique_texts"] == len({part for each in now.values() for part in each} - known) <= 3
    assert report["texts_reused"] == len(SENTENCES)  # of the text that moved
    assert state["rows_orphaned"] == 1
    assert report["rows_deleted"] == state["passages_lost"] + 1
    state = run_status(bench.config(**settings(bench, source=where)), spark)
    assert (state["rows_to_do"], state["rows_orphaned"], state["passages_lost"], state["differs"]) == (0, 0, 0, {})
    other = SPLIT | {"passage": {"tokens": 20, "overlap": 0}}
    state = run_status(bench.config(**settings(bench, source=where, embedding=other)), spark)
    assert state["differs"] == {"passage": ["16 tokens, overlap 0, by sentence", "20 tokens, overlap 0, by sentence"]}
    assert [row["reason"] for row in bench.table("parts__metaeol_quarantine").collect()] == ["null_text", "null_text"]

    # A key that left stays where it is asked for; a passage that its text lost never does.
    table.delete("id = 2")
    table.update("id = 1", {"text": f"'{SENTENCES[0]}'"})
    report = run(bench, source=where, target={"deleted": "keep"})
    assert (report["rows_orphaned"], [(row["id"], row["passage"]) for row in parts(bench)]) == (1, [(1, 0), (2, 0), (3, 0), (4, 0)])
    with pytest.raises(InputError, match=r"1 of the 4 rows of .* have a key that left"):
        run(bench, source=where, target={"max_deleted_fraction": 0.2})


@pytest.mark.slow
def test_a_search_finds_each_text_once_by_its_best_passage(spark: SparkSession, bench: Bench) -> None:
    text = "tail. " + " ".join(SENTENCES * 3)
    bench.write([(1, LONG), (2, text), (3, LONG), (4, "The guitar is mine."), (5, None)])
    run(bench)
    config = bench.config(**settings(bench))
    held = {(row["id"], row["passage"]): row for row in parts(bench)}
    (hits,) = search_table(config, SENTENCES[2], k=3, spark=spark)
    query = MetaEOLEncoder.from_spec(config.embedding.of_one_passage(), device="cpu").encode(SENTENCES[2])
    vectors = {key: np.array(row["embedding"]) for key, row in held.items() if row["embedding"] is not None}
    scores = {key: float(vector @ query / np.linalg.norm(vector) / np.linalg.norm(query)) for key, vector in vectors.items()}
    best = {number: max(score for (key, _), score in scores.items() if key == number) for number in (1, 2, 3, 4)}
    assert sorted(hit.key["id"] for hit in hits) == sorted(sorted(best, key=lambda key: (-round(best[key], 5), key))[:3])
    for hit in hits:
        assert hit.place is not None
        row = held[hit.key["id"], hit.place["passage"]]
        assert hit.score == pytest.approx(best[hit.key["id"]], abs=1e-5)
        assert hit.place == {name: row[name] for name in ("passage", "start", "end")}
        assert hit.text == {1: LONG, 2: text, 3: LONG, 4: "The guitar is mine."}[hit.key["id"]][row["start"] : row["end"]]
    assert [len(each) for each in search_table(config, ["a", "b"], k=10, spark=spark)] == [4, 4]
    assert {hit.key["id"] for hit in search_table(config, "a", k=9, where="id < 3", spark=spark)[0]} == {1, 2}
    DeltaTable.forPath(spark, bench.path).update("id = 4", {"text": "'Else. The guitar is mine.'"})
    assert {hit.text for hit in search_table(config, "a", k=9, where="id = 4", spark=spark)[0]} == {None}
    with pytest.raises(InputError, match="duplicates compares whole texts"):
        find_duplicates(config, threshold=0.9, spark=spark)


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_and_a_text_that_changes_meanwhile_gets_no_old_passage(spark: SparkSession, bench: Bench) -> None:
    bench.write([(1, LONG), (2, "a short text")])

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(bench, Before("publish", stop))
    table = DeltaTable.forPath(spark, bench.path)
    report = run(bench, Before("publish", lambda: table.update("id = 1", {"text": f"'{SENTENCES[1]} {LONG}'"})))
    assert report["unique_texts"] == 0  # all was journalled
    held = {row["start"] for row in parts(bench) if row["id"] == 1}
    assert report["rows_stale"] > 0
    assert held <= {0}
    report = run(bench)
    check_in_step(bench, {1: f"{SENTENCES[1]} {LONG}", 2: "a short text"})


@pytest.mark.slow
def test_commands_around_a_table_of_passages(spark: SparkSession, bench: Bench, poisoned_model: str) -> None:
    bench.write([(1, LONG + f" A {POISON} is here."), (2, "a short text"), (3, "a short text")], "id long, text string")
    both = settings(bench, embedding={"model": poisoned_model, "layer": 1})
    plan = plan_dry_run(bench.config(**both), spark=spark)
    report = bench.run(**both)
    assert (plan["rows_selected"], plan["unique_texts"]) == (report["rows_selected"], report["unique_texts"])
    assert report["rows_failed"] == 1
    again = run_retry(bench.config(**both), spark)
    assert (again["rows_selected"], again["rows_failed"]) == (1, 1)
    (listed,) = bench.table("parts__metaeol_quarantine").collect()
    failed = next(row for row in parts(bench) if row["embedding_error"] is not None)
    assert (listed["passage"], listed["start"], listed["attempts"]) == (failed["passage"], failed["start"], 2)
    before = {(row["id"], row["passage"]): row["embedding"] for row in parts(bench)}
    version = bench.versions("parts") - 1
    other = settings(bench, embedding={"model": poisoned_model, "layer": 2})
    bench.run(**other)
    assert {(row["id"], row["passage"]): row["embedding"] for row in parts(bench)} != before
    back = run_rollback(bench.config(**both), version, spark)
    assert (back["rows_restored"], back["rows_emptied"]) == (len(before), 0)
    assert {(row["id"], row["passage"]): row["embedding"] for row in parts(bench)} == before
    levels = {finding.check: finding.level for finding in examine(bench.config(**both), spark)}
    assert {levels[check] for check in ("columns", "keys", "vector columns", "fingerprint")} == {Level.OK}
    with pytest.raises(InputError, match="a table of passages has one column of vectors"):
        bench.run(**settings(bench, embedding={"column": "second"}))
    with pytest.raises(InputError, match="passages are no stream"):
        run_stream(bench.config(**both), spark)
    items = run_drop(bench.config(**both), spark)["items"]
    assert "target" in {item["kind"] for item in items}
    assert not (bench.folder / "parts" / "_delta_log").exists()


@pytest.mark.slow
def test_passages_of_a_query_and_of_made_keys(spark: SparkSession, bench: Bench) -> None:
    bench.write([(1, LONG), (2, LONG), (3, "a short text")])
    target = {"table": str(bench.folder / "parts")}
    source = {"table": None, "query": f"SELECT id AS number, text AS passage FROM delta.`{bench.path}`", "key": "auto", "text": "passage"}
    report = bench.run(source=source, target=target, embedding=SPLIT)
    rows = bench.table("parts").collect()
    assert len({row["metaeol_key"] for row in rows}) == 2
    assert (report["rows_selected"], report["rows_embedded"]) == (len(rows), len(rows))
    assert bench.run(source=source, target=target, embedding=SPLIT)["status"] == "nothing_to_do"
    query = f"SELECT nullif(1, 1) AS n, text AS passage FROM delta.`{bench.path}` WHERE id < 3"
    without_key = source | {"key": ["n"], "query": query}
    with pytest.raises(InputError, match=r"source.key: 2 rows of .* have NULL in the key"):
        bench.run(source=without_key, target={"table": str(bench.folder / "others")}, embedding=SPLIT)
    with pytest.raises(InputError, match=r"target.table must be another table than source.table"):
        bench.run(target={"table": bench.path}, embedding=SPLIT)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"target": {}}, "target.table is missing: embedding.long_texts=passages"),
        ({"source": {"table": "t", "key": ["id", "Start"]}}, "source.key: 'Start' is a column of a table of passages"),
        ({"quality": {"pairs": "pairs.tsv"}}, "quality.pairs names rows by source.key"),
        ({"embedding": {"model": "m", "long_texts": "passages", "max_tokens": 100}}, "embedding.passage.tokens is 256"),
    ],
)
def test_what_does_not_go_with_passages_is_refused_at_once(wrong: dict[str, Any], said: str) -> None:
    right: dict[str, Any] = {
        "source": {"table": "t", "key": ["id"]}, "target": {"table": "parts"}, "embedding": {"model": "m", "long_texts": "passages"}
    }  # fmt: skip
    assert parse_config(right).of_rows().source.key == ("id", "passage", "start", "end")
    with pytest.raises(ConfigError) as refusal:
        parse_config(right | wrong)
    assert said in str(refusal.value)
