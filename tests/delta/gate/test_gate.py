"""The quality gate on real Delta tables: what it stops, what it lets through, and that nothing comes in by a side door."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from delta import DeltaTable
from pyspark.sql import functions as F

from metaeol_udf import MetaEOLEncoder, cli
from metaeol_udf.delta.retry import run_retry
from metaeol_udf.delta.stream import run_stream
from metaeol_udf.errors import ConfigError, InputError, QualityError
from metaeol_udf.spec import EmbeddingSpec
from tests.table_bench import POISON, Bench

pytestmark = pytest.mark.slow  # `make test-slow`
WORDS = ["walrus", "bassoon", "guitar", "thunder", "lemon", "tractor", "meadow", "bazaar", "lantern", "copper"]
TEXTS = [(n, f"{WORDS[n % 10]} and {WORDS[n // 10]} number {n}") for n in range(60)]
OPEN = {"gate": True, "min_agreement": 0.0, "max_anisotropy_rise": 2.0, "min_rank_share": 0.0}
SHUT = OPEN | {"min_agreement": 1.0}  # no other layer finds exactly the same neighbours
OTHER = {"layer": 1}


def blocked(bench: Bench, match: str, **sections: dict[str, Any]) -> dict[str, Any]:
    """The report of a run that the gate stops."""
    with pytest.raises(QualityError, match=match) as caught:
        bench.run(**sections)
    assert caught.value.exit_code == 6
    return report_of(bench)


def report_of(bench: Bench) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((bench.folder / "report.json").read_text())
    return report


def vectors_of(bench: Bench, layer: int) -> np.ndarray:
    spec = EmbeddingSpec(model=bench.spec.model, dtype="float32", max_tokens=bench.spec.max_tokens, layer=layer)
    return MetaEOLEncoder.from_spec(spec, device="cpu").encode([text for _, text in TEXTS]).astype(np.float64)


def cosines_of(vectors: np.ndarray) -> np.ndarray:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit @ unit.T


def label_of(bench: Bench, name: str) -> str:
    detail = DeltaTable.forPath(bench.spark, str(bench.folder / name)).detail().collect()[0]
    return str(detail["properties"]["metaeol.embedding.fingerprint"])


@pytest.mark.parametrize("in_place", [True, False], ids=["in place", "target"])
def test_a_migration_that_is_stopped_leaves_the_table_and_costs_nothing_when_it_is_accepted(
    bench: Bench, in_place: bool, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    bench.write([*TEXTS, (60, TEXTS[0][1]), (61, None)])
    name = "table" if in_place else "vectors"
    target = {"table": None if in_place else str(bench.folder / name)}
    first = bench.run(target=target, quality=SHUT)
    assert (first["status"], first["quality"]) == ("done", None)  # a first run is no migration
    before, versions = bench.rows(name), bench.versions(name)

    with caplog.at_level(logging.INFO, logger="metaeol_udf"):
        report = blocked(bench, r"quality\.min_agreement=1\.0.*quality\.gate=false", target=target, embedding=OTHER, quality=SHUT)
    assert (report["status"], report["rows_embedded"], report["unique_texts"]) == ("blocked_by_quality", 0, 60)
    assert (bench.rows(name), bench.versions(name)) == (before, versions)
    found = report["quality"]
    assert (found["verdict"], found["from"], found["texts_compared"], found["neighbours"]) == ("blocked", first["fingerprint"], 60, 6)
    old, new = cosines_of(vectors_of(bench, -1)), cosines_of(vectors_of(bench, 1))
    nearest = [np.argsort(-(cosines - 9 * np.eye(60)), axis=1)[:, :6] for cosines in (old, new)]
    agreement = np.mean([len(set(one) & set(other)) / 6 for one, other in zip(*nearest, strict=True)])
    assert found["agreement"] == pytest.approx(agreement, abs=0.01)
    for side, cosines in (("old", old), ("new", new)):
        assert found[side]["anisotropy"] == pytest.approx(cosines[~np.eye(60, dtype=bool)].mean(), abs=1e-4)
    assert not any(word in caplog.text + json.dumps(report) for word in WORDS)

    conf = bench.folder / "job.yaml"
    conf.write_text(yaml.safe_dump(bench.blocks(target=target, embedding=OTHER, quality=SHUT)))
    capfd.readouterr()
    assert cli.run(["embed", str(conf)]) == 6  # judged again, on the same texts
    assert "metaeol: stopped by the quality gate: old and new vectors have" in capfd.readouterr().err
    again = report_of(bench)
    assert (again["tokens_computed"], again["quality"]) == (0, found)

    accepted = bench.run(target=target, embedding=OTHER, quality=SHUT | {"gate": False})
    assert (accepted["status"], accepted["rows_embedded"], accepted["quality"]) == ("done", 61, None)
    assert (accepted["tokens_computed"], accepted["model_loads"]) == (0, 0)
    assert label_of(bench, name) == accepted["fingerprint"] != first["fingerprint"]
    assert bench.run(target=target, embedding=OTHER, quality=SHUT)["status"] == "nothing_to_do"


def test_a_quarantine_that_cannot_be_made_ends_a_migration_before_the_model(bench: Bench) -> None:
    bench.write(TEXTS)
    bench.run()
    shutil.rmtree(bench.folder / "table__metaeol_quarantine", ignore_errors=True)
    (bench.folder / "table__metaeol_quarantine").mkdir()
    (bench.folder / "table__metaeol_quarantine" / "notes.txt").write_text("somebody's")
    phases: list[str] = []
    with pytest.raises(InputError, match=r"quarantine.*holds files but no Delta table"):
        bench.run(between=phases.append, embedding=OTHER, quality=OPEN)
    assert "embed" not in phases


def test_a_migration_that_is_good_enough_is_published_with_its_figures(bench: Bench) -> None:
    bench.write(TEXTS)
    bench.run()
    # Half of the dimensions: vectors of another length.
    report = bench.run(embedding={"truncate_dim": 16}, quality=OPEN | {"min_agreement": 0.3, "max_anisotropy_rise": 0.5, "sample": 50})
    found = report["quality"]
    assert (report["status"], report["rows_embedded"], found["verdict"], found["reasons"]) == ("done", 60, "passed", [])
    assert (found["texts_compared"], found["old"]["dim"], found["new"]["dim"]) == (50, 32, 16)
    assert 0.3 < found["agreement"] < 1
    assert {len(row["embedding"]) for row in bench.rows().values()} == {16}
    assert label_of(bench, "table") == report["fingerprint"]
    assert report["seconds"]["quality"] > 0


def test_labelled_pairs_are_found_by_key_and_decide_both_ways(bench: Bench) -> None:
    rows = [("en" if n < 30 else "de", n, text) for n, text in TEXTS]
    bench.write(rows, "lang string, n int, text string")
    source = {"key": ["lang", "n"]}
    bench.run(source=source)
    path = bench.folder / "pairs.tsv"

    def label_as(cosines: np.ndarray) -> None:
        pairs = [(a, (7 * a + 3) % 60) for a in range(60) if a != (7 * a + 3) % 60]
        lines = [f"{rows[a][0]}\t{a}\t{rows[b][0]}\t{b}\t{cosines[a, b]}" for a, b in pairs]
        unknown = ["en\tno number\ten\t1\t5", "fr\t1\ten\t2\t5", "en\t1\ten\t999\t5"]
        path.write_text("\n".join(["lang1\tn1\tlang2\tn2\tscore", *unknown, *lines]) + "\n")

    settings = {"source": source, "embedding": OTHER, "quality": OPEN | {"pairs": str(path)}}
    path.write_text("lang1\tn1\tlang2\tscore\n")
    with pytest.raises(ConfigError, match="header must name lang1, n1, lang2, n2, score"):
        bench.run(**settings)
    label_as(cosines_of(vectors_of(bench, -1)))
    report = blocked(bench, r"labelled pairs fell by .* more than quality\.max_score_drop=1\.0", **settings)
    assert report["quality"]["pairs_compared"] == len(path.read_text().splitlines()) - 4
    assert report["quality"]["old"]["score"] > 99.5
    assert report["quality"]["new"]["score"] < 99
    label_as(cosines_of(vectors_of(bench, 1)))
    report = bench.run(**settings)
    assert (report["quality"]["verdict"], report["tokens_computed"]) == ("passed", 0)
    assert report["quality"]["new"]["score"] > 99.5


def test_what_cannot_be_judged_is_stopped_unless_the_spec_is_the_tables_already(bench: Bench) -> None:
    bench.write(TEXTS)
    bench.run()
    DeltaTable.forPath(bench.spark, bench.path).update(F.col("id") < 20, {"text": F.concat(F.lit("changed "), F.col("text"))})
    report = blocked(bench, "40 texts have both .* fewer than the 50.* old settings, or take", embedding=OTHER, quality=OPEN)
    assert (report["quality"]["verdict"], report["quality"]["texts_comparable"]) == ("blocked", 40)
    old = bench.table().where("id >= 57").withColumn("id", F.col("id") + 100)
    rows = bench.spark.createDataFrame(old.collect(), old.schema)
    bench.run(embedding=OTHER)
    rows.write.format("delta").mode("append").save(bench.path)  # brought back by somebody else
    report = bench.run(embedding=OTHER, quality=SHUT)
    assert (report["quality"]["verdict"], report["rows_embedded"]) == ("not_judged", 3)


def test_texts_that_would_lose_their_vector_stop_a_migration(bench: Bench, poisoned_model: str) -> None:
    bench.write([(n, f"{text} {POISON}" if n < 8 else text) for n, text in TEXTS])
    bench.run()
    settings = {"embedding": {"model": poisoned_model}, "quality": OPEN, "runtime": {"max_failed_fraction": 0.1}}
    report = blocked(bench, r"8 of 60 texts that have a vector have no new one.*runtime\.max_failed_fraction=0\.1", **settings)
    assert (report["quality"]["texts_lost"], report["quality"]["texts_compared"]) == (8, 52)


def test_neither_retry_nor_a_stream_brings_in_what_the_gate_stopped(bench: Bench) -> None:
    bench.write(TEXTS)
    first = bench.run()
    table = DeltaTable.forPath(bench.spark, bench.path)
    table.update(F.col("id") == 5, {"embedding": F.lit(None), "embedding_error": F.lit("oom")})
    blocked(bench, "nearest neighbours", embedding=OTHER, quality=SHUT)
    before, versions = bench.rows(), bench.versions()
    config = bench.config(embedding=OTHER, quality=SHUT)
    for command in (run_retry, run_stream, run_stream):
        with pytest.raises(QualityError, match="nearest neighbours"):
            command(config, bench.spark, bench.progress)
        assert report_of(bench)["status"] == "blocked_by_quality"
        assert (bench.rows(), bench.versions(), label_of(bench, "table")) == (before, versions, first["fingerprint"])
    report = run_stream(bench.config(embedding=OTHER, quality=OPEN), bench.spark, bench.progress)
    assert (report["quality"]["verdict"], report["rows_embedded"], report["tokens_computed"]) == ("passed", 60, 0)
    assert label_of(bench, "table") == report["fingerprint"]
    bench.write([(100, "appended")], mode="append", schema="id long, text string")
    report = run_stream(bench.config(embedding=OTHER, quality=SHUT), bench.spark, bench.progress)
    assert (report["rows_embedded"], report["quality"]) == (1, None)


def test_the_gate_costs_nothing_where_it_is_off_or_no_other_spec_is_found(bench: Bench) -> None:
    told: list[str] = []
    bench.write(TEXTS[:3])
    bench.run(between=told.append, quality=SHUT)
    bench.write([(100, "appended")], mode="append", schema="id long, text string")
    assert bench.run(between=told.append, quality=SHUT)["rows_embedded"] == 1
    report = bench.run(between=told.append, embedding=OTHER)
    assert told.count("publish") == 3
    assert "gate" not in told
    assert (report["rows_embedded"], report["quality"]) == (4, None)
    assert "quality" not in report["seconds"]


def test_a_terminal_shows_the_figures_and_a_report_without_them_has_no_such_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from rich.console import Console

    from metaeol_udf.cli.views import show_report

    show_report(Console(), "a table", {"rows_selected": 1, "quality": {"verdict": "passed", "old": {"dim": 8}, "agreement": 0.5}})
    assert "quality        verdict passed, old (dim 8), agreement 0.50" in capsys.readouterr().out
    show_report(Console(), "a table", {"rows_selected": 1, "quality": None})
    assert "quality" not in capsys.readouterr().out
