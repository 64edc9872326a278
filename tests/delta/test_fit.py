"""Post-processing fitted in Spark is what numpy fits on the encoder's own vectors, and a job applies it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from pyspark.sql import DataFrame, SparkSession

from metaeol_udf import MetaEOLEncoder, cli
from metaeol_udf.delta.fit import fit_on
from metaeol_udf.encoder.vectors.output import PostProcessing, finish_vectors
from metaeol_udf.encoder.vectors.postprocess_fit import Moments, fit_postprocess
from metaeol_udf.errors import InputError
from metaeol_udf.spark import with_embeddings
from metaeol_udf.spec import EmbeddingSpec

TEXTS = [f"Text number {n} is about {topic}." for n in range(30) for topic in ("rivers", "music", "trade", "sleep")]


@pytest.fixture
def table(spark: SparkSession) -> DataFrame:
    rows = [*enumerate(TEXTS), (900, None), (901, "  "), (902, TEXTS[0])]
    return spark.createDataFrame(rows, "id int, text string").repartition(5)


def test_a_fit_in_spark_is_a_fit_on_the_encoders_vectors(table: DataFrame, spec: EmbeddingSpec) -> None:
    vectors = MetaEOLEncoder.from_spec(spec, device="cpu").encode(TEXTS)
    for method in ("mean", "standardize", "whiten"):
        expected = fit_postprocess(Moments.of(vectors), method)
        found = fit_on(table, dataclasses.replace(spec, normalize=True, truncate_dim=3), method, device="cpu")
        np.testing.assert_allclose(np.abs(found(vectors)), np.abs(expected(vectors)), atol=0.05 * np.abs(expected(vectors)).max())
        np.testing.assert_allclose(found.mean, vectors.mean(0), atol=1e-4)


def test_too_few_texts_are_refused(table: DataFrame, spec: EmbeddingSpec) -> None:
    with pytest.raises(InputError, match="at least 100 different texts, found 50"):
        fit_on(table, spec, n_texts=50, device="cpu")
    with pytest.raises(InputError, match="found 0"):
        fit_on(table.where("id = 900"), spec, device="cpu")


@pytest.mark.slow
def test_the_command_writes_a_file_that_a_job_uses(
    spark: SparkSession, table: DataFrame, spec: EmbeddingSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table.write.format("delta").save(str(tmp_path / "table"))
    conf, out = tmp_path / "job.yaml", tmp_path / "fitted" / "mean.safetensors"
    blocks = {
        "source": {"table": str(tmp_path / "table"), "key": ["id"], "where": "id < 900"},
        "embedding": {"model": spec.model, "dtype": "float32"},
        "runtime": {"device": "cpu"},
    }
    conf.write_text(yaml.safe_dump(blocks))
    assert cli.run(["fit", str(conf), "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["setting"] == f"embedding.postprocess={out}"
    assert cli.run(["embed", str(conf), f"embedding.postprocess={out}"]) == 0
    rows = spark.read.format("delta").load(str(tmp_path / "table")).where("id < 900").select("embedding").collect()
    stored = np.array([row[0] for row in rows], np.float32)
    assert np.abs(stored.mean(0)).max() < 1e-3  # the mean over the fitted texts is gone
    plain = MetaEOLEncoder.from_spec(spec, device="cpu").encode(TEXTS)
    assert np.abs(plain.mean(0)).max() > 0.05


def test_post_processing_and_values_reach_workers_with_the_spec(table: DataFrame, spec: EmbeddingSpec, tmp_path: Path) -> None:
    path = tmp_path / "white.safetensors"
    path.write_bytes(fit_on(table, spec, "whiten", n_components=6, device="cpu").to_bytes())
    wanted = dataclasses.replace(spec, postprocess=str(path), values="int8")
    rows = with_embeddings(table.where("id < 10"), wanted, device="cpu").orderBy("id").collect()
    expected = MetaEOLEncoder.from_spec(wanted, device="cpu").encode(TEXTS[:10])
    found = np.array([row["embedding"] for row in rows], np.float32)
    assert found.shape == (10, 6)
    assert np.abs(found - expected).max() <= 1
    assert PostProcessing.from_bytes(path.read_bytes()).dim == 6


def test_parquet_packs_int8_and_binary_values(spark: SparkSession, tmp_path: Path) -> None:
    random = np.random.default_rng(0).normal(size=(3000, 256)).astype(np.float32)
    size = {}
    for values in ("float32", "int8", "binary"):
        vectors = finish_vectors(random, EmbeddingSpec(model="m", values=values))
        rows = spark.createDataFrame([(vector.tolist(),) for vector in vectors], "embedding array<float>").coalesce(1)
        rows.write.parquet(str(tmp_path / values))
        size[values] = sum(file.stat().st_size for file in (tmp_path / values).glob("*.parquet"))
    assert size["int8"] < 0.35 * size["float32"]
    assert size["binary"] < 0.08 * size["float32"]


def test_titles_of_a_table_are_scored_by_how_well_they_find_their_texts(
    spark: SparkSession, spec: EmbeddingSpec, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = [(n, f"title {n % 3}", text, 1) for n, text in enumerate(TEXTS[:6])]
    spark.createDataFrame([*rows, (7, None, "b", 1), (8, "a", " ", 1)], "id int, title string, text string, no int").coalesce(
        1
    ).write.format("delta").save(str(tmp_path / "table"))
    conf = tmp_path / "job.yaml"
    source = {"table": str(tmp_path / "table"), "key": ["id"]}
    embedding = {"model": spec.model, "dtype": "float32"}
    conf.write_text(yaml.safe_dump({"source": source, "embedding": embedding, "runtime": {"device": "cpu"}}))
    assert cli.run(["evaluate", str(conf), "--title", "title", "--json"]) == 0
    (found,) = json.loads(capfd.readouterr().out)["retrieval"].items()
    assert found[0] == "title to text, a proxy"
    assert (found[1]["queries"], found[1]["documents"], found[1]["recall_at_10"]) == (3, 6, 100)
    for column, message in (("no", "must be a string column"), ("titel", "columns: id, title"), ("Text", "is source.text itself")):
        assert cli.run(["evaluate", str(conf), "--title", column]) == 2
        assert message in capfd.readouterr().err
