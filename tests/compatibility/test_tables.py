"""What an earlier version left behind is good for this one: its tables are current, its pipelines load."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from pyspark.ml import PipelineModel
from pyspark.sql import SparkSession

from metaeol_udf.config import parse_config
from metaeol_udf.delta import run_embed

ROOT = Path(__file__).resolve().parents[2]
#: Made with commit 2b891ae: a table that it embedded in place, and a pipeline with the same settings that it saved.
RECORDED = Path(__file__).parent / "recorded"


@pytest.fixture(autouse=True)
def in_the_root(monkeypatch: pytest.MonkeyPatch, model_dir: Path) -> None:
    """Both name the demo model by its path below the repository."""
    monkeypatch.chdir(ROOT)


def test_a_table_of_an_earlier_version_is_current(spark: SparkSession, tmp_path: Path) -> None:
    table = tmp_path / "table"
    shutil.copytree(RECORDED / "table", table)
    blocks = {
        "source": {"table": str(table), "key": ["id"], "text": "body"},
        "embedding": {
            "column": "vector", "model": "models/smollm2-135m-instruct", "templates": "metaeol-fast", "layer": -3, "dtype": "float32",
            "truncate_dim": 16, "max_tokens": 24,
        },
        "runtime": {"device": "cpu", "max_failed_fraction": 0.5},
    }  # fmt: skip
    commits = len(list((table / "_delta_log").glob("*.json")))
    report = run_embed(parse_config(blocks), spark)
    assert (report["rows_selected"], report["rows_embedded"], report["rows_failed"], report["rows_skipped"]) == (10, 0, 0, 10)
    assert report["status"] == "nothing_to_do"
    assert len(list((table / "_delta_log").glob("*.json"))) == commits


@pytest.mark.slow
def test_a_pipeline_of_an_earlier_version_gives_the_vectors_of_its_table(spark: SparkSession, tmp_path: Path) -> None:
    pipeline = tmp_path / "pipeline"
    shutil.copytree(RECORDED / "pipeline", pipeline)
    stored = spark.read.format("delta").load(str(RECORDED / "table")).withColumnRenamed("vector", "stored")
    rows = PipelineModel.load(str(pipeline)).transform(stored.drop("vector_error")).collect()
    assert sum(row["stored"] is not None for row in rows) == 8
    for row in rows:
        assert (row["vector"] is None) == (row["stored"] is None)
        if row["stored"] is not None:
            np.testing.assert_allclose(row["vector"], row["stored"], rtol=1e-4, atol=1e-4)
