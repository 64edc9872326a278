"""The stage of Spark ML: parameters, schema, what is saved, and estimators that follow."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.classification import LogisticRegression
from pyspark.ml.clustering import KMeans
from pyspark.ml.feature import SQLTransformer
from pyspark.ml.linalg import DenseVector
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import StructType

from metaeol_udf import MetaEOLEncoder
from metaeol_udf.encoder.vectors.postprocess_fit import Moments, fit_postprocess
from metaeol_udf.errors import ConfigError, InputError, ModelFilesError
from metaeol_udf.spark import MetaEOLEmbedder
from metaeol_udf.spark.cluster.resolve import resolve
from metaeol_udf.spec import SETTINGS, EmbeddingSpec
from tests.spark.texts import EMBEDDED, ERRORS, TEXTS, assert_same


def encoded(spec: EmbeddingSpec) -> NDArray[np.float32]:
    """What the encoder itself gives for the texts that have an embedding."""
    return MetaEOLEncoder.from_spec(spec, device="cpu").encode([str(TEXTS[number]) for number in EMBEDDED])


def vectors_of(stage: MetaEOLEmbedder | PipelineModel, table: DataFrame, column: str) -> dict[int, list[float] | None]:
    return {row["id"]: None if row[column] is None else list(row[column]) for row in stage.transform(table).collect()}


@pytest.fixture
def table(spark: SparkSession) -> DataFrame:
    return spark.createDataFrame(list(enumerate(TEXTS)), "id int, text string")


@pytest.fixture
def own_files(spec: EmbeddingSpec, tmp_path: Path) -> EmbeddingSpec:
    """A spec with a template set, post-processing and a copy of the model in a folder that a test may take away."""
    home = tmp_path / "home"
    shutil.copytree(spec.model, home / "model")
    templates = {"name": "own", "text_cleanup": "none", "templates": [{"meta_task": "gist", "prompt": "{text}\nIn one word:"}]}
    (home / "own.yaml").write_text(yaml.safe_dump(templates))
    fitted = fit_postprocess(Moments.of(np.random.default_rng(5).normal(size=(200, 32)).astype(np.float32)), "standardize")
    (home / "own.safetensors").write_bytes(fitted.to_bytes())
    (home / "spec.yaml").write_text(
        f"{{model: {home}/model, templates: own.yaml, postprocess: own.safetensors, layer: [1, 2], dtype: float32}}"
    )
    return EmbeddingSpec.load(home / "spec.yaml")


def test_every_setting_is_a_parameter_with_the_specs_default_and_its_explanation() -> None:
    stage = MetaEOLEmbedder(model="m")
    assert stage.embedding_spec() == EmbeddingSpec(model="m")
    assert {param.name for param in stage.params} == {*SETTINGS, "inputCol", "outputCol", "outputType", "device", "pinned"}
    assert "max_tokens: tokens kept of a text (default: 512)" in stage.explainParams()


def test_setters_and_keywords_say_the_same_and_unknown_ones_are_refused() -> None:
    by_keyword = MetaEOLEmbedder(inputCol="t", outputCol="v", outputType="vector", device="cpu", model="m", layer=(1, 2))
    by_setter = MetaEOLEmbedder().setInputCol("t").setOutputCol("v").setOutputType("vector").setDevice("cpu").setModel("m")
    by_setter.setParams(layer=[1, 2])
    for stage in (by_keyword, by_setter):
        assert stage.embedding_spec() == EmbeddingSpec(model="m", layer=(1, 2))
        values = {param.name: value for param, value in stage.extractParamMap().items()}
        assert (values["inputCol"], values["outputCol"], values["outputType"], values["device"]) == ("t", "v", "vector", "cpu")
    for wrong, message in (
        ({"modell": "x"}, "did you mean 'model'"),
        ({"model": "x", "dtype": "float64"}, "dtype must be one of"),
        ({"outputType": "list"}, "outputType must be one of array, vector"),
    ):
        with pytest.raises(ConfigError, match=message):
            MetaEOLEmbedder(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"MetaEOLEmbedder\.model is missing"):
        MetaEOLEmbedder().embedding_spec()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", "m"), ("revision", "abc"), ("templates", "metaeol-fast"), ("layer", [1, 0.5]), ("dtype", "float32"),
        ("quantization", "int8"), ("postprocess", "p.safetensors"), ("normalize", True), ("truncate_dim", 16), ("values", "int8"),
        ("per_template", True), ("max_tokens", 9), ("long_texts", "mean"),
        ("passage", {"tokens": 64, "overlap": 0, "by": "token"}), ("device", "cpu"), ("outputType", "vector"), ("inputCol", "t"),
        ("outputCol", "v"),
    ],
)  # fmt: skip
def test_every_parameter_has_a_setter_and_a_getter(name: str, value: object) -> None:
    stage = MetaEOLEmbedder()
    ending = "".join(part[0].upper() + part[1:] for part in name.split("_"))
    assert getattr(stage, f"set{ending}")(value) is stage
    assert getattr(stage, f"get{ending}")() == value == stage.getOrDefault(name)


def test_the_setters_are_those_of_all_parameters() -> None:
    names = {
        name.removeprefix("set").replace("_", "").lower() for name in dir(MetaEOLEmbedder) if name.startswith("set") and name != "set"
    } - {"params"}
    assert names == {param.name.replace("_", "").lower() for param in MetaEOLEmbedder().params} - {"pinned"}


def test_a_copy_takes_other_values_and_leaves_the_stage_alone(table: DataFrame, spec: EmbeddingSpec) -> None:
    stage = MetaEOLEmbedder.from_spec(spec, device="cpu")
    other = stage.copy({stage.layer: 1, stage.outputCol: "lower"})
    assert (other.embedding_spec().layer, other.getOutputCol(), stage.embedding_spec().layer, stage.getOutputCol()) == (
        1, "lower", -1, "embedding"
    )  # fmt: skip
    with pytest.raises(ConfigError, match="layer must be"):
        stage.copy({stage.layer: "last"})
    lower = EmbeddingSpec(model=spec.model, dtype="float32", max_tokens=64, layer=1)
    assert_same({row["id"]: row["embedding"] for row in stage.transform(table, {stage.layer: 1}).collect()}, encoded(lower))


def test_the_schema_is_checked_before_anything_runs_and_foretold_as_it_will_be(table: DataFrame, spec: EmbeddingSpec) -> None:
    for output_type in ("array", "vector"):
        stage = MetaEOLEmbedder.from_spec(spec, outputType=output_type, device="cpu")
        foretold: StructType = stage.transformSchema(table.schema)
        assert [(field.name, field.dataType) for field in foretold] == [(f.name, f.dataType) for f in stage.transform(table).schema]
    missing = MetaEOLEmbedder(model="/no/such/model", inputCol="body")
    numbers = MetaEOLEmbedder(model="/no/such/model", inputCol="id")
    taken = MetaEOLEmbedder(model="/no/such/model", outputCol="Text")
    for stage, message in (
        (missing, r"'body' is not in the DataFrame \(columns: id, text\)"),
        (numbers, "'id' must be a string, found int"),
        (taken, "'Text' is in the DataFrame already"),
    ):
        with pytest.raises(InputError, match=message):
            stage.transformSchema(table.schema)
        with pytest.raises(InputError, match=message):
            stage.transform(table)


def test_vectors_are_dense_and_null_where_there_is_no_embedding(table: DataFrame, spec: EmbeddingSpec) -> None:
    stage = MetaEOLEmbedder.from_spec(spec, outputCol="features", outputType="vector", device="cpu")
    rows = stage.transform(table).collect()
    assert {type(row["features"]) for row in rows} == {DenseVector, type(None)}
    assert {row["id"]: row["features_error"] for row in rows if row["features_error"]} == ERRORS
    assert_same({row["id"]: row["features"] and row["features"].toArray().tolist() for row in rows}, encoded(spec))


def test_estimators_follow_in_one_pipeline(spark: SparkSession, spec: EmbeddingSpec) -> None:
    words = ["river", "music", "trade", "sleep"]
    rows = [(f"The {word} of day {day} is {word}.", float(n % 2)) for day in range(4) for n, word in enumerate(words)]
    labelled = spark.createDataFrame([*rows, (None, 1.0)], "text string, label double")
    stages = [
        MetaEOLEmbedder.from_spec(spec, outputCol="features", outputType="vector", device="cpu"),
        SQLTransformer(statement="SELECT * FROM __THIS__ WHERE features IS NOT NULL"),  # estimators refuse NULL
    ]
    classified = Pipeline(stages=[*stages, LogisticRegression(regParam=1e-4)]).fit(labelled).transform(labelled).collect()
    assert len(classified) == len(rows)
    assert all(row["prediction"] == row["label"] for row in classified)
    clustered = Pipeline(stages=[*stages, KMeans(k=4, seed=1)]).fit(labelled).transform(labelled).collect()
    assert len({row["prediction"] for row in clustered}) == 4


def test_a_pipeline_comes_back_as_it_was_saved(table: DataFrame, spec: EmbeddingSpec, tmp_path: Path) -> None:
    stage = MetaEOLEmbedder.from_spec(spec, outputCol="v", device="cpu")
    pipeline = Pipeline(stages=[stage])
    pipeline.write().overwrite().save(str(tmp_path / "pipeline"))
    pipeline.fit(table).write().overwrite().save(str(tmp_path / "model"))
    stage.write().overwrite().save(str(tmp_path / "stage"))
    unfitted, fitted = Pipeline.load(str(tmp_path / "pipeline")), PipelineModel.load(str(tmp_path / "model"))
    for loaded in (unfitted.getStages()[0], fitted.stages[0], MetaEOLEmbedder.load(str(tmp_path / "stage"))):
        assert isinstance(loaded, MetaEOLEmbedder)
        assert loaded.uid == stage.uid
        assert loaded.embedding_spec() == stage.embedding_spec()
    assert_same(vectors_of(fitted, table, "v"), encoded(spec))


def test_a_saved_stage_needs_no_file_but_the_model_wherever_that_is_now(table: DataFrame, own_files: EmbeddingSpec, tmp_path: Path) -> None:
    expected = encoded(own_files)
    stage = MetaEOLEmbedder.from_spec(own_files, outputCol="v", device="cpu")
    stage.save(str(tmp_path / "stage"))
    fingerprint = stage.resolved_spec().fingerprint()
    (tmp_path / "home" / "model").rename(tmp_path / "moved")
    shutil.rmtree(tmp_path / "home")
    loaded = MetaEOLEmbedder.load(str(tmp_path / "stage")).setModel(str(tmp_path / "moved"))
    assert loaded.resolved_spec().fingerprint() == fingerprint
    assert_same(vectors_of(loaded, table, "v"), expected)
    loaded.save(str(tmp_path / "again"))  # and may be saved again where the files never were
    assert MetaEOLEmbedder.load(str(tmp_path / "again")).resolved_spec().fingerprint() == fingerprint


def test_a_saved_stage_refuses_another_model_and_takes_other_templates_by_name(own_files: EmbeddingSpec, tmp_path: Path) -> None:
    MetaEOLEmbedder.from_spec(own_files).save(str(tmp_path / "stage"))
    (tmp_path / "home" / "own.yaml").unlink()
    loaded = MetaEOLEmbedder.load(str(tmp_path / "stage"))
    kept, other = loaded.resolved_spec(), loaded.copy({loaded.templates: "metaeol"}).resolved_spec()
    assert "In one word:" in str(kept.templates_json)
    assert "In one word:" not in str(other.templates_json)
    config = tmp_path / "home" / "model" / "config.json"
    config.write_text(config.read_text() + "\n")
    with pytest.raises(ModelFilesError, match="other files than the model that this stage was saved with"):
        loaded.resolved_spec()


def test_a_resolved_spec_keeps_its_content_in_a_stage(own_files: EmbeddingSpec) -> None:

    pinned = resolve(own_files).spec
    Path(str(own_files.postprocess)).unlink()
    assert MetaEOLEmbedder.from_spec(pinned).resolved_spec() == pinned
