from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from metaeol_udf.config import JobConfig, parse_config
from metaeol_udf.errors import InputError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

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
    assert run_embed(config, spark)["rows_embedded"] == 4
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


def test_more_rows_than_there_are_gives_all_that_have_a_vector(spark: SparkSession, job: JobConfig) -> None:
    from metaeol_udf.search import search_table

    (hits,) = search_table(job, ["a red apple"], k=50, spark=spark)
    assert {tuple(hit.key.values()) for hit in hits} == {key for key, text in TEXTS.items() if text is not None}


def test_vectors_of_other_settings_are_refused_with_counts(spark: SparkSession, job: JobConfig, tiny_model_dir: Path) -> None:
    from metaeol_udf.search import search_table

    other = config_for(Path(job.source.table), tiny_model_dir, layer=1)
    with pytest.raises(InputError, match="4 of 4 vectors in column 'embedding'"):
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
