"""One YAML on every surface: the same vectors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession

from metaeol_udf import MetaEOLEncoder, cli
from metaeol_udf.encoder.vectors.postprocess_fit import Moments, fit_postprocess
from metaeol_udf.spark import MetaEOLEmbedder, embed_udf, register_sql, with_embeddings
from metaeol_udf.spec import EmbeddingSpec
from tests.notebooks.runner import run_notebook
from tests.spark.cluster.connect_server import ConnectServer
from tests.spark.texts import EMBEDDED, ERRORS, TEXTS, assert_same

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = {
    "name": "own",
    "text_cleanup": "paper",
    "templates": [
        {"meta_task": "topic", "prompt": 'The topic of "{text}" in one word:"'},
        {"meta_task": "mood", "prompt": 'The mood of "{text}" in one word:"'},
    ],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("one-yaml")


@pytest.fixture(scope="module")
def conf(folder: Path, tiny_model_dir: Path) -> Path:
    """A job's YAML with templates, layers and post-processing of its own."""
    (folder / "own.yaml").write_text(yaml.safe_dump(TEMPLATES))
    fitted = fit_postprocess(Moments.of(np.random.default_rng(2).normal(size=(300, 32)).astype(np.float32)), "standardize")
    (folder / "own.safetensors").write_bytes(fitted.to_bytes())
    blocks = {
        "source": {"table": str(folder / "texts"), "key": ["id"]},
        "target": {"table": str(folder / "vectors")},
        "embedding": {
            "column": "v",
            "model": str(tiny_model_dir),
            "templates": str(folder / "own.yaml"),
            "postprocess": str(folder / "own.safetensors"),
            "layer": [1, 2],
            "dtype": "float32",
            "normalize": True,
            "max_tokens": 64,
        },
        "runtime": {"device": "cpu", "max_failed_fraction": 1.0},
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(blocks))
    return path


@pytest.fixture(scope="module")
def spec(conf: Path) -> EmbeddingSpec:
    return EmbeddingSpec.load(conf)


@pytest.fixture(scope="module")
def table(spark: SparkSession, folder: Path) -> DataFrame:
    """The texts as a Delta table."""
    rows = spark.createDataFrame(list(enumerate(TEXTS)), "id int, text string")
    rows.coalesce(1).write.format("delta").save(str(folder / "texts"))
    return spark.read.format("delta").load(str(folder / "texts"))


@pytest.fixture(scope="module")
def expected(spec: EmbeddingSpec) -> NDArray[np.float32]:
    """Python: the encoder, one text at a time, so that no batch is that of another surface."""
    encoder = MetaEOLEncoder.from_spec(spec, device="cpu")
    return np.concatenate([encoder.encode([str(TEXTS[number])]) for number in EMBEDDED])


@pytest.fixture
def registered(spark: SparkSession, spec: EmbeddingSpec, table: DataFrame) -> Iterator[SparkSession]:
    register_sql(spark, spec, "embed_one_yaml", device="cpu")
    table.createOrReplaceTempView("one_yaml")
    yield spark
    spark.catalog.dropTempView("one_yaml")
    spark.sql("DROP TEMPORARY FUNCTION IF EXISTS embed_one_yaml")


def vectors_in(df: DataFrame, column: str = "v") -> dict[int, list[float] | None]:
    return {row["id"]: row[column] for row in df.select("id", column).collect()}


def test_python_in_one_batch(spec: EmbeddingSpec, expected: NDArray[np.float32]) -> None:
    together = MetaEOLEncoder.from_spec(spec, device="cpu").encode([str(TEXTS[number]) for number in EMBEDDED])
    assert_same(dict.fromkeys(range(len(TEXTS))) | dict(zip(EMBEDDED, together.tolist(), strict=True)), expected)


def test_spark_in_one_session(registered: SparkSession, table: DataFrame, spec: EmbeddingSpec, expected: NDArray[np.float32]) -> None:
    """UDF, `with_embeddings`, SQL and Transformer: one batch for all of them, so equal to the last bit."""
    embedded = with_embeddings(table, spec, "text", "v", device="cpu")
    assert {row["id"]: row["v_error"] for row in embedded.collect() if row["v_error"]} == ERRORS
    found = [
        vectors_in(table.withColumn("v", embed_udf(spec, device="cpu")("text"))),
        vectors_in(embedded),
        vectors_in(registered.sql("SELECT id, embed_one_yaml(text) AS v FROM one_yaml")),
        vectors_in(MetaEOLEmbedder.from_spec(spec, outputCol="v", device="cpu").transform(table)),
    ]
    assert_same(found[0], expected)
    assert all(other == found[0] for other in found[1:])


@pytest.mark.slow
def test_connect(connect_server: ConnectServer, conf: Path, expected: NDArray[np.float32]) -> None:
    found = connect_server.ask("every_surface", spec=str(conf))
    assert found.pop("errors") == {str(number): error for number, error in ERRORS.items()}
    assert len(found) == 4
    for vectors in found.values():
        assert_same({int(number): vector for number, vector in vectors.items()}, expected)


def test_command_line(
    spark: SparkSession, table: DataFrame, conf: Path, folder: Path, expected: NDArray[np.float32], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["embed", str(conf)]) == 0
    assert "rows embedded" in capsys.readouterr().out
    written = spark.read.format("delta").load(str(folder / "vectors"))
    assert_same(vectors_in(written), expected)
    assert {row["id"]: row["v_error"] for row in written.collect() if row["v_error"]} == ERRORS


@pytest.mark.slow
def test_streaming(
    spark: SparkSession, conf: Path, folder: Path, expected: NDArray[np.float32], capsys: pytest.CaptureFixture[str]
) -> None:
    """A first run over some of the texts, and a micro-batch with the others."""
    source, target, rows = folder / "followed", folder / "streamed", list(enumerate(TEXTS))
    command = ["stream", str(conf), f"source.table={source}", f"target.table={target}"]
    for part in (rows[:3], rows[3:]):
        spark.createDataFrame(part, "id int, text string").coalesce(1).write.format("delta").mode("append").save(str(source))
        assert cli.run(command) == 0
    assert "rows embedded" in capsys.readouterr().out
    assert_same(vectors_in(spark.read.format("delta").load(str(target))), expected)


def test_notebook(spark: SparkSession, conf: Path, spec: EmbeddingSpec, table: DataFrame, expected: NDArray[np.float32]) -> None:
    """The quick start, over texts of its own and over ours with what it defines."""
    widgets = {"catalog": "spark_catalog", "schema": "default", "table": "notebook_one_yaml", "model": spec.model, "spec": str(conf)}
    names = run_notebook(ROOT / "notebooks/quick_start.py", spark=spark, **widgets)["namespace"]
    texts = [(number, text) for number, text in names["texts"] if text and text.strip()]
    vectors = vectors_in(spark.table(names["table"]), "embedding")
    encoder = MetaEOLEncoder.from_spec(spec, device="cpu")
    for number, text in texts:
        np.testing.assert_allclose(vectors[number], encoder.encode([text])[0], rtol=0, atol=1e-5)
    assert_same(vectors_in(names["with_embeddings"](table, names["spec"], text="text", output="v", device="cpu")), expected)
    spark.sql("DROP TABLE spark_catalog.default.notebook_one_yaml")
    spark.sql("DROP TEMPORARY FUNCTION IF EXISTS metaeol_embed")
