"""A spec over the tiny model, and a folder with a table for one test."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from metaeol_udf.spec import EmbeddingSpec
from tests.table_bench import TableBench


@pytest.fixture(scope="session")
def spec(tiny_model_dir: Path) -> EmbeddingSpec:
    return EmbeddingSpec(model=str(tiny_model_dir), dtype="float32", max_tokens=64)


class Bench(TableBench):
    """One whose reports are those on disk."""

    def run(self, **sections: dict[str, Any]) -> dict[str, Any]:
        report = super().run(**sections)
        assert json.loads((self.folder / "report.json").read_text()) == report
        return report


@pytest.fixture
def bench(spark: SparkSession, tmp_path: Path, spec: EmbeddingSpec) -> Iterator[Bench]:
    yield Bench(spark, tmp_path, spec)
    spark.catalog.clearCache()
