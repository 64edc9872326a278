"""All four notebooks are executed, cell by cell, on a tiny model, and their results looked at."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession

from metaeol_udf import EmbeddingSpec, MetaEOLEncoder
from tests.notebooks.runner import read_cells, run_notebook

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
ANIMALS = ("cat", "dog", "horse", "bird", "fish", "mouse", "fox", "cow")
PLACES = ("garden", "house", "river", "street", "forest")
TEXTS = [f"The {animal} sleeps in the {place}." for animal in ANIMALS for place in PLACES]
PNG = b"\x89PNG"


@pytest.fixture(scope="module", autouse=True)
def no_window() -> Iterator[None]:
    before = os.environ.get("MPLBACKEND")
    os.environ["MPLBACKEND"] = "Agg"
    yield
    if before is None:
        del os.environ["MPLBACKEND"]
    else:
        os.environ["MPLBACKEND"] = before


@pytest.fixture
def reviews(spark: SparkSession) -> Iterator[str]:
    """A named table of 43 rows: 40 texts, one of them nearly twice, one NULL, one blank."""
    name = "spark_catalog.default.notebook_reviews"
    rows = [*enumerate(TEXTS), (40, TEXTS[0] + " "), (41, None), (42, " ")]
    spark.createDataFrame(rows, "id long, text string").coalesce(1).write.format("delta").saveAsTable(name)
    yield name
    for table in (name, f"{name}__metaeol_journal", f"{name}__metaeol_quarantine"):
        spark.sql(f"DROP TABLE IF EXISTS {table}")


def run_nightly(spark: SparkSession, table: str, model: Path, folder: Path, **widgets: str) -> dict[str, Any]:
    settings = {"max_failed_fraction": "0.5", "device": "cpu", "report": str(folder / "report.json"), **widgets}
    return run_notebook(NOTEBOOKS / "nightly_job.py", spark=spark, table=table, model=str(model), **settings)


@pytest.mark.slow
def test_the_quick_start_embeds_compares_and_asks_in_sql(spark: SparkSession, tiny_model_dir: Path) -> None:
    widgets = {"catalog": "spark_catalog", "schema": "default", "table": "notebook_quick_start", "model": str(tiny_model_dir)}
    outcome = run_notebook(NOTEBOOKS / "quick_start.py", spark=spark, **widgets)
    rows, pairs, asked = outcome["displayed"]
    table = "spark_catalog.default.notebook_quick_start"
    assert {row["id"]: row["embedding_error"] for row in rows} == dict.fromkeys(range(1, 5)) | {5: "null_text", 6: "empty_text"}
    assert [row["dim"] for row in rows] == [32, 32, 32, 32, None, None]
    stored = {row["id"]: np.array(row["embedding"]) for row in spark.table(table).where("embedding IS NOT NULL").collect()}
    encoder = MetaEOLEncoder.from_spec(EmbeddingSpec(model=str(tiny_model_dir)), device="cpu")
    texts = {number: text for number, text in outcome["namespace"]["texts"] if number in stored}
    expected = encoder.encode(list(texts.values()))
    np.testing.assert_allclose(np.array([stored[number] for number in texts]), expected, rtol=0, atol=0.02)  # bfloat16 where it is computed
    unit = {texts[n]: v / np.linalg.norm(v) for n, v in stored.items()}
    assert [row["cosine"] for row in pairs] == pytest.approx([float(unit[row["text"]] @ unit[row["other"]]) for row in pairs], abs=1e-5)
    assert len(pairs) == 6
    assert [row["dim"] for row in asked] == [32, 32]
    assert json.loads(outcome["exit"]) == {"table": table, "rows": 6, "nearest": [pairs[0]["text"], pairs[0]["other"]]}
    spark.sql(f"DROP TABLE {table}")


@pytest.mark.slow
def test_the_nightly_job_embeds_once_and_shows_what_failed(spark: SparkSession, tiny_model_dir: Path, reviews: str, tmp_path: Path) -> None:
    outcome = run_nightly(spark, reviews, tiny_model_dir, tmp_path)
    findings, rows, failed = outcome["displayed"]
    assert "problem" not in {row["level"] for row in findings}
    assert json.loads(outcome["exit"]) == {"status": "done", "rows_embedded": 41, "rows_failed": 2}
    assert {row["id"]: row["reason"] for row in failed}.keys() == {41, 42}
    assert len(rows) == 20
    assert outcome["namespace"]["estimate"]["rows_selected"] == 43
    report = json.loads((tmp_path / "report.json").read_text())
    assert outcome["task_values"] == {"rows_embedded": 41, "fingerprint": report["fingerprint"]}
    again = json.loads(run_nightly(spark, reviews, tiny_model_dir, tmp_path)["exit"])
    assert again == {"status": "nothing_to_do", "rows_embedded": 0, "rows_failed": 0}


@pytest.mark.slow
def test_the_nightly_job_stops_before_it_writes_where_the_doctor_finds_a_problem(
    spark: SparkSession, tiny_model_dir: Path, reviews: str, tmp_path: Path
) -> None:
    with pytest.raises(RuntimeError, match="column 'body'"):
        run_nightly(spark, reviews, tiny_model_dir, tmp_path, text="body")
    assert spark.table(reviews).columns == ["id", "text"]


@pytest.mark.slow
def test_quality_scores_draws_and_writes_a_spec_that_loads(spark: SparkSession, tiny_model_dir: Path, tmp_path: Path) -> None:
    table = "spark_catalog.default.notebook_pairs"
    draw = np.random.default_rng(0)
    rows = [(f"{TEXTS[i % 40]} {i}", f"{TEXTS[(7 * i + 3) % 40]}\t{i}", float(draw.uniform(0, 5))) for i in range(120)]
    rows.append((" ", "left out", 1.0))
    spark.createDataFrame(rows, "text1 string, text2 string, score double").write.format("delta").saveAsTable(table)
    widgets = {
        "pairs": table,
        "model": str(tiny_model_dir),
        "templates": "metaeol-two",
        "device": "cpu",
        "folder": str(tmp_path / "quality"),
    }
    outcome = run_notebook(NOTEBOOKS / "quality.py", spark=spark, **widgets)
    by_layer, drawn, specs, front = outcome["displayed"]
    assert [row["layer"] for row in by_layer] == [0, 1, 2]
    assert [row["spec"] for row in specs] == ["as configured", "chosen"]
    assert outcome["namespace"]["before"]["sts"]["mine"]["pairs"] == 120
    assert all((tmp_path / "quality" / f"{name}.png").read_bytes().startswith(PNG) for name in ("layers", "prompts", "front"))
    assert all(len(figure.axes) for figure in (drawn, front))
    result = json.loads(outcome["exit"])
    assert EmbeddingSpec.load(result["spec"]).model == str(tiny_model_dir)
    assert result["after"] == pytest.approx(outcome["namespace"]["after"]["sts"]["mine"]["spearman_all"])
    spark.sql(f"DROP TABLE {table}")


@pytest.mark.slow
def test_search_finds_duplicates_clusters_and_draws_a_map(spark: SparkSession, tiny_model_dir: Path, reviews: str, tmp_path: Path) -> None:
    run_nightly(spark, reviews, tiny_model_dir, tmp_path)
    picture = tmp_path / "map.png"
    widgets = {"query": TEXTS[3], "k": "3", "clusters": "4", "duplicate_cosine": "0.9999", "picture": str(picture), "device": "cpu"}
    outcome = run_notebook(NOTEBOOKS / "search.py", spark=spark, table=reviews, model=str(tiny_model_dir), **widgets)
    hits, duplicates, clusters, figure = outcome["displayed"]
    assert (hits[0]["text"], len(hits)) == (TEXTS[3], 3)
    assert hits[0]["cosine"] == pytest.approx(1.0, abs=1e-3)
    assert {(row["key"], row["other"]) for row in duplicates} == {(0, 40)}
    assert duplicates[0]["cosine"] == pytest.approx(1.0, abs=1e-6)
    assert sum(row["rows"] for row in clusters) == 41
    assert len(clusters) == 4
    assert picture.read_bytes().startswith(PNG)
    (axes,) = figure.axes
    assert axes.collections[0].get_offsets().shape == (41, 2)
    assert json.loads(outcome["exit"]) == {"hits": outcome["namespace"]["result"]["hits"], "duplicates": 1, "clusters": 4}


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.py")), ids=lambda path: path.name)
def test_every_notebook_explains_itself_and_defines_no_function(path: Path) -> None:
    cells = list(read_cells(path))
    kinds = [cell.kind for cell in cells]
    assert kinds[0] == "md"
    assert kinds.count("md") >= 4
    assert {"python", "pip"} <= set(kinds)
    assert not any(line.startswith(("def ", "class ")) for cell in cells for line in cell.source.splitlines())


def test_a_widget_that_a_notebook_does_not_have_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    notebook = tmp_path / "small.py"
    notebook.write_text('# Databricks notebook source\ndbutils.widgets.text("table", "t")\n')
    with pytest.raises(ValueError, match=r"has no widget tabel \(widgets: table\)"):
        run_notebook(notebook, spark=spark, tabel="x")


def test_an_error_names_the_line_of_the_notebook(spark: SparkSession, tmp_path: Path) -> None:
    notebook = tmp_path / "small.py"
    notebook.write_text("# Databricks notebook source\n# MAGIC %md\n# MAGIC words\n\n# COMMAND ----------\n\nfirst = 1\n1 / 0\n")
    with pytest.raises(ZeroDivisionError) as caught:
        run_notebook(notebook, spark=spark)
    assert caught.traceback[-1].lineno + 1 == 8


def test_sql_cells_are_run_and_displayed(spark: SparkSession, tmp_path: Path) -> None:
    notebook = tmp_path / "small.py"
    notebook.write_text("# Databricks notebook source\n# MAGIC %sql\n# MAGIC SELECT id\n# MAGIC FROM range(4) WHERE id > 2\n")
    outcome = run_notebook(notebook, spark=spark)
    assert [row["id"] for row in outcome["displayed"][0]] == [3]
    assert outcome["exit"] is None
