"""What a client of Spark Connect does in the tests: each task in a fresh process, without Java, its findings as one line of JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from pyspark.ml import Pipeline, PipelineModel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from metaeol_udf.config import parse_config
from metaeol_udf.delta import run_embed
from metaeol_udf.delta.stream import run_stream
from metaeol_udf.errors import MetaEOLError
from metaeol_udf.search import search_table
from metaeol_udf.spark import MetaEOLEmbedder, embed_udf, register_sql, with_embeddings
from metaeol_udf.spec import EmbeddingSpec
from tests.spark.texts import TEXTS

Vectors = dict[int, list[float] | None]


def main(task: str, arguments: dict[str, Any]) -> None:
    """Run one task in a session of its own."""
    spark = SparkSession.builder.remote(f"sc://127.0.0.1:{arguments.pop('port')}").getOrCreate()
    assert type(spark).__module__.startswith("pyspark.sql.connect")
    found = TASKS[task](spark, **arguments)
    print(json.dumps(found))  # noqa: T201
    spark.stop()


def every_surface(spark: SparkSession, spec: str) -> dict[str, Vectors]:
    """Vectors and errors of `TEXTS` by all ways there are over Connect, from one YAML."""
    return _surfaces(_table(spark), EmbeddingSpec.load(spec))


def every_surface_of_files(spark: SparkSession, spec: str, folder: str) -> dict[str, Vectors]:
    """The same, of the texts of Parquet files, so that no text is in what this process sends."""
    return _surfaces(spark.read.parquet(folder), EmbeddingSpec.load(spec))


def model_on_the_cluster(spark: SparkSession, model: str, archive: str | None) -> dict[str, Any]:
    """The same, of a model that this process cannot read."""
    if archive is not None:
        spark.addArtifacts(archive, archive=True)
    spec = EmbeddingSpec(model=model, dtype="float32", max_tokens=64)
    saved = MetaEOLEmbedder.from_spec(spec, device="cpu").resolved_spec()
    return {"vectors": _vectors(with_embeddings(_table(spark), spec, device="cpu"), "embedding"), "fingerprint": saved.fingerprint()}


def pipeline(spark: SparkSession, spec: str, folder: str) -> dict[str, Any]:
    """A pipeline of the stage, saved and read back through the server; and another that ends in an estimator of Spark's."""
    from pyspark.ml.classification import LogisticRegression

    stage = MetaEOLEmbedder.from_spec(EmbeddingSpec.load(spec), outputCol="features", outputType="vector", device="cpu")
    labelled = _table(spark).where("length(trim(text)) > 0").withColumn("label", (F.col("id") % 2).cast("double"))
    model = Pipeline(stages=[stage, LogisticRegression(maxIter=3)]).fit(labelled)
    Pipeline(stages=[stage]).fit(labelled).write().save(f"{folder}/pipeline")
    loaded = PipelineModel.load(f"{folder}/pipeline")
    return {
        "predictions": [row["prediction"] for row in model.transform(labelled).select("prediction").collect()],
        "loaded": {row["id"]: row["features"] and row["features"].toArray().tolist() for row in loaded.transform(_table(spark)).collect()},
    }


def refusals(spark: SparkSession, blocks: dict[str, Any]) -> dict[str, Any]:
    """Class, exit status and message of what cannot be done over Connect."""
    config = parse_config(blocks)
    elsewhere = EmbeddingSpec(model="hdfs://nowhere/model")
    calls: dict[str, Callable[[], Any]] = {
        "run_embed, given": lambda: run_embed(config, spark),
        "run_embed, active": lambda: run_embed(config),
        "run_stream": lambda: run_stream(config, spark),
        "search_table": lambda: search_table(config, ["a query"], spark=spark),
        "unreachable": lambda: embed_udf(elsewhere),
        "missing": lambda: embed_udf(EmbeddingSpec(model="no/such-model")),
        "overwrite": lambda: MetaEOLEmbedder(model=config.embedding.model).write().overwrite().save(config.source.table),
        "name": lambda: register_sql(spark, EmbeddingSpec(model=config.embedding.model), "upper"),
    }
    found = {}
    for name, call in calls.items():
        try:
            call()
        except MetaEOLError as error:
            found[name] = [type(error).__name__, error.exit_code, str(error)]
    return found


def _surfaces(table: DataFrame, spec: EmbeddingSpec) -> dict[str, Vectors]:
    spark = table.sparkSession
    table.createOrReplaceTempView("texts")
    register_sql(spark, spec, device="cpu")
    stage = MetaEOLEmbedder.from_spec(spec, outputCol="e", device="cpu")
    embedded = with_embeddings(table, spec, device="cpu")
    errors = {row["id"]: row["embedding_error"] for row in embedded.where("embedding_error IS NOT NULL").collect()}
    return {
        "with_embeddings": _vectors(embedded, "embedding"),
        "udf": _vectors(table.withColumn("e", embed_udf(spec, device="cpu")("text")), "e"),
        "sql": _vectors(spark.sql("SELECT id, metaeol_embed(text) AS e FROM texts"), "e"),
        "transformer": _vectors(stage.transform(table), "e"),
        "errors": errors,
    }


def _table(spark: SparkSession) -> DataFrame:
    return spark.createDataFrame(list(enumerate(TEXTS)), "id int, text string")


def _vectors(df: DataFrame, column: str) -> Vectors:
    return {row["id"]: row[column] for row in df.select("id", column).collect()}


TASKS: dict[str, Callable[..., Any]] = {
    task.__name__: task for task in (every_surface, every_surface_of_files, model_on_the_cluster, pipeline, refusals)
}
