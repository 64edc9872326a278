from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from pyspark.ml import Pipeline, PipelineModel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from metaeol_udf import MetaEOLEncoder
from metaeol_udf.errors import ConfigError, InputError
from metaeol_udf.spark import MetaEOLEmbedder, embed_udf, register_sql, with_embeddings
from metaeol_udf.spark.cluster.resolve import resolve
from metaeol_udf.spark.udf import result_udf
from metaeol_udf.spark.worker.encoder_cache import EncoderRequest
from metaeol_udf.spec import EmbeddingSpec
from tests.plan_metrics import evaluated_rows
from tests.specs import with_own_model, without_files

TEXTS = [f"The {word} number {n} is{' very' * n} plain." for n, word in enumerate(["red", "green", "blue", "grey", "white", "black"])]


@pytest.fixture(scope="module")
def expected(spec: EmbeddingSpec) -> NDArray[np.float32]:
    """What the encoder itself gives, one text at a time."""
    encoder = MetaEOLEncoder.from_spec(spec, device="cpu")
    return np.concatenate([encoder.encode([text]) for text in TEXTS])


@pytest.fixture
def table(spark: SparkSession) -> DataFrame:
    return spark.createDataFrame(list(enumerate(TEXTS)), "id int, text string").repartition(3)


def test_vectors_are_the_encoders_own_in_whatever_partitions(
    spark: SparkSession, table: DataFrame, spec: EmbeddingSpec, expected: NDArray[np.float32]
) -> None:
    embed = embed_udf(spec, device="cpu")
    for n_partitions in (1, 4):
        rows = table.repartition(n_partitions).select("id", embed("text").alias("e")).collect()
        found = {row["id"]: np.array(row["e"], np.float32) for row in rows}
        np.testing.assert_allclose(np.stack([found[i] for i in range(len(TEXTS))]), expected, atol=2e-5)


def test_a_spec_may_be_a_mapping_or_a_file(table: DataFrame, spec: EmbeddingSpec, expected: NDArray[np.float32], tmp_path: Path) -> None:
    mapping = {"model": spec.model, "dtype": spec.dtype, "max_tokens": spec.max_tokens}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(mapping))
    for given in (mapping, tmp_path / "spec.yaml", str(tmp_path / "spec.yaml")):
        rows = with_embeddings(table, given, device="cpu").collect()
        np.testing.assert_allclose([row["embedding"] for row in sorted(rows)], expected, atol=2e-5)
    with pytest.raises(ConfigError, match="a spec must be an EmbeddingSpec, a mapping of its settings or the path of a file, found list"):
        embed_udf([spec])  # type: ignore[arg-type]


def test_with_embeddings_evaluates_each_row_once_however_its_columns_are_used(
    spark: SparkSession, table: DataFrame, spec: EmbeddingSpec, expected: NDArray[np.float32]
) -> None:
    embedded = with_embeddings(table, spec, device="cpu")
    assert embedded.columns == ["id", "text", "embedding", "embedding_error"]
    assert embedded.schema["embedding"].dataType.simpleString() == "array<float>"
    used = embedded.where(F.col("embedding_error").isNull() & (F.size("embedding") == 32)).withColumn("again", F.col("embedding")[0])
    rows = used.collect()
    assert evaluated_rows(spark) == len(TEXTS)
    for row in rows:
        np.testing.assert_allclose(np.array(row["embedding"], np.float32), expected[row["id"]], atol=2e-5)
        assert row["again"] == row["embedding"][0]


def test_a_filter_on_embed_udf_evaluates_each_row_once(spark: SparkSession, table: DataFrame, spec: EmbeddingSpec) -> None:
    kept = table.withColumn("e", embed_udf(spec, device="cpu")("text")).where(F.col("e").isNotNull()).where(F.size("e") > 0)
    assert len(kept.collect()) == len(TEXTS)
    assert evaluated_rows(spark) == len(TEXTS)


def test_null_blank_and_broken_texts_get_a_reason_and_their_neighbours_a_vector(
    spark: SparkSession, spec: EmbeddingSpec, expected: NDArray[np.float32]
) -> None:
    texts = [TEXTS[0], None, " \t\u00a0\u2003\n", "", "a\x00b\x1b[31m\u202e", "x" * 200_000, "{text} {} {0} <|im_end|> \"'"]
    rows = [(i, text) for i, text in enumerate(texts)]
    table = spark.createDataFrame(rows, "id int, text string").union(
        spark.range(1).select(F.lit(99).alias("id"), F.unhex(F.lit("61FF62")).cast("string").alias("text"))
    )
    found = {row["id"]: row for row in with_embeddings(table, spec, device="cpu").collect()}
    assert {i: row["embedding_error"] for i, row in found.items() if row["embedding_error"]} == {
        1: "null_text",
        2: "empty_text",
        3: "empty_text",
    }
    assert all((row["embedding"] is None) == (i in (1, 2, 3)) for i, row in found.items())
    assert all(len(row["embedding"]) == 32 and np.isfinite(row["embedding"]).all() for i, row in found.items() if i not in (1, 2, 3))
    np.testing.assert_allclose(np.array(found[0]["embedding"], np.float32), expected[0], atol=2e-5)


def test_each_worker_loads_the_model_once_and_keeps_it_across_queries(
    spark: SparkSession, table: DataFrame, spec: EmbeddingSpec, tmp_path: Path
) -> None:
    request = EncoderRequest(resolve(with_own_model(spec, tmp_path / "model")), "cpu", origin="once")
    result = result_udf(request)
    load_ids = []
    for n_partitions in (8, 5, 1):
        embedded = table.repartition(n_partitions).select(result("text").alias("r")).select("r.load_id")
        load_ids += [row["load_id"] for row in embedded.collect()]
    by_worker = {load_id.rsplit(":", 2)[0] for load_id in load_ids}
    assert len(set(load_ids)) == len(by_worker) <= 2
    assert all(load_id.endswith(":once") for load_id in load_ids)


def test_empty_partitions_need_no_model(spark: SparkSession, spec: EmbeddingSpec) -> None:
    missing = without_files(dataclasses.replace(spec, model="/no/such/model"))
    empty = spark.createDataFrame([], "text string").repartition(3)
    assert empty.select(result_udf(EncoderRequest(missing, "cpu"))("text")).collect() == []


def test_the_sql_function_gives_the_same_vectors(
    spark: SparkSession, table: DataFrame, spec: EmbeddingSpec, expected: NDArray[np.float32]
) -> None:
    register_sql(spark, spec, device="cpu")
    table.createOrReplaceTempView("sql_texts")
    for row in spark.sql("SELECT id, metaeol_embed(text) AS e FROM sql_texts").collect():
        np.testing.assert_allclose(np.array(row["e"], np.float32), expected[row["id"]], atol=2e-5)
    spark.catalog.dropTempView("sql_texts")


def test_a_pipeline_with_the_embedder_is_saved_and_read_back(
    spark: SparkSession, table: DataFrame, spec: EmbeddingSpec, expected: NDArray[np.float32], tmp_path: Path
) -> None:
    stage = MetaEOLEmbedder(inputCol="text", outputCol="v", device="cpu", model=spec.model, dtype="float32", max_tokens=64)
    Pipeline(stages=[stage]).fit(table).write().overwrite().save(str(tmp_path / "pipeline"))
    loaded = PipelineModel.load(str(tmp_path / "pipeline"))
    assert loaded.stages[0].embedding_spec() == stage.embedding_spec()
    for row in loaded.transform(table).collect():
        np.testing.assert_allclose(np.array(row["v"], np.float32), expected[row["id"]], atol=2e-5)


def test_refusals_come_before_any_spark_work(spark: SparkSession, table: DataFrame, spec: EmbeddingSpec) -> None:
    with pytest.raises(InputError, match="'body' is not in the DataFrame"):
        with_embeddings(table, spec, text="body")
    with pytest.raises(InputError, match="'id' must be a string, found int"):
        with_embeddings(table, spec, text="id")
    with pytest.raises(InputError, match="'text' is in the DataFrame already"):
        with_embeddings(table, spec, output="text")
    with pytest.raises(ConfigError, match="nope"):
        embed_udf(EmbeddingSpec(model=spec.model, templates="nope"))
    for device, words in (("gpu", "found 'gpu'; did you mean 'cuda'"), ("cuda:one", "found 'cuda:one'"), (None, "found 'None'")):
        with pytest.raises(ConfigError, match=f"runtime.device must be auto, cpu, cuda or cuda:N, {words}"):
            embed_udf(spec, device=device)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"runtime\.max_batch_tokens must be .*, found 0"):
        with_embeddings(table, spec, max_batch_tokens=0)
    with pytest.raises(ConfigError, match="'modell'"):
        MetaEOLEmbedder(modell="x")
    with pytest.raises(InputError, match="'id' must be a string"):
        MetaEOLEmbedder(inputCol="id", model=spec.model).transformSchema(table.schema)


def test_what_a_worker_raises_on_purpose_tells_the_story(  # last: it ends the workers, whose model others use
    spark: SparkSession, table: DataFrame, spec: EmbeddingSpec
) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(Exception, match=r"runtime\.device is 'cuda', but torch sees no GPU"):
        table.select(embed_udf(spec, device="cuda")("text")).collect()
