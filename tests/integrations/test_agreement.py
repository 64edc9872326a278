"""A table, its search and all of the query side give the same vectors for one spec; what has no package here is skipped."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from numpy.typing import NDArray
from pyspark.sql import SparkSession

from metaeol_udf import EmbeddingSpec
from metaeol_udf.config import JobConfig, parse_config
from metaeol_udf.delta import run_embed
from metaeol_udf.delta.fit import fit_on
from metaeol_udf.encoder.checkpoint.resolve import resolve_local
from metaeol_udf.search import search_table

TEXTS = ["a red apple", "the train to Paris, and back", 'He said "no" — twice?', "Wo ist mein Paket?", "x " * 200]


@pytest.fixture(scope="module")
def config(spark: SparkSession, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> JobConfig:
    """An embedded table whose spec uses most of what a spec can say."""
    folder = tmp_path_factory.mktemp("agreement")
    spark.createDataFrame(list(enumerate(TEXTS)), "id int, text string").write.format("delta").save(str(folder / "table"))
    embedding = {"model": str(tiny_model_dir), "templates": "metaeol-fast", "layer": [1, 2], "dtype": "float32", "max_tokens": 64}
    fitted = fit_on(spark.createDataFrame([(str(n),) for n in range(100)], "text string"), EmbeddingSpec(**{**embedding, "layer": (1, 2)}))
    (folder / "mean.safetensors").write_bytes(fitted.to_bytes())
    embedding |= {"postprocess": str(folder / "mean.safetensors"), "truncate_dim": 24, "normalize": True}
    blocks = {"source": {"table": str(folder / "table"), "key": ["id"]}, "embedding": embedding, "runtime": {"device": "cpu"}}
    found = parse_config(blocks)
    assert run_embed(found, spark)["rows_embedded"] == len(TEXTS)
    return found


@pytest.fixture(scope="module")
def stored(spark: SparkSession, config: JobConfig) -> NDArray[np.float32]:
    """The table's vectors, whose fingerprints are the spec's."""
    rows = spark.read.format("delta").load(config.source.table).orderBy("id").collect()
    assert {row["embedding_fingerprint"][:16] for row in rows} == {resolve_local(config.embedding).fingerprint}
    return np.array([row["embedding"] for row in rows], np.float32)


def of_pyfunc(config: JobConfig, folder: Path) -> NDArray[np.float32]:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    import pandas as pd

    from metaeol_udf.serving.pyfunc import save_model

    fingerprint = save_model(config, folder / "model")
    model = mlflow.pyfunc.load_model(str(folder / "model"), model_config={"device": "cpu"})
    return model.predict(pd.DataFrame({"text": TEXTS}), params={"fingerprint": fingerprint})  # type: ignore[no-any-return]


def of_langchain(config: JobConfig, folder: Path) -> NDArray[np.float32]:
    pytest.importorskip("langchain_core", reason="langchain-core is not installed")
    from metaeol_udf.serving.langchain import MetaEOLEmbeddings

    embeddings = MetaEOLEmbeddings(config.embedding, device="cpu")
    assert embeddings.embed_query(TEXTS[0]) == pytest.approx(embeddings.embed_documents(TEXTS)[0], abs=1e-5)
    return np.array(embeddings.embed_documents(TEXTS), np.float32)


def of_llama_index(config: JobConfig, folder: Path) -> NDArray[np.float32]:
    pytest.importorskip("llama_index.core", reason="llama-index-core is not installed")
    from metaeol_udf.serving.llama_index import MetaEOLEmbeddings

    return np.array(MetaEOLEmbeddings(config.embedding, device="cpu").get_text_embedding_batch(TEXTS), np.float32)


def of_server(config: JobConfig, folder: Path) -> NDArray[np.float32]:
    with served(config) as (url, fingerprint):
        body = json.dumps({"model": fingerprint, "input": TEXTS}).encode()
        request = urllib.request.Request(f"{url}/embeddings", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as answer:
            return np.array([each["embedding"] for each in json.load(answer)["data"]], np.float32)


def of_openai_client(config: JobConfig, folder: Path) -> NDArray[np.float32]:
    openai = pytest.importorskip("openai", reason="openai is not installed")
    with served(config) as (url, fingerprint):
        client = openai.OpenAI(base_url=url, api_key="none")
        found = client.embeddings.create(model=fingerprint, input=TEXTS)  # which asks for base64
        with pytest.raises(openai.NotFoundError, match="is not served here"):
            client.embeddings.create(model="text-embedding-3-small", input=TEXTS)
        client.close()
    return np.array([each.embedding for each in found.data], np.float32)


class served:
    """A server of the configuration's spec, in this process."""

    def __init__(self, config: JobConfig) -> None:
        from metaeol_udf.serving.embedder import SpecEmbedder
        from metaeol_udf.serving.server import EmbeddingServer, ServeOptions

        self.server = EmbeddingServer(ServeOptions(port=0))
        self.server.open(SpecEmbedder(config.embedding, device="cpu"))

    def __enter__(self) -> tuple[str, str]:
        Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.server.port}/v1", self.server.fingerprint

    def __exit__(self, *_: object) -> None:
        assert self.server.stop()


@pytest.mark.parametrize("way", [of_pyfunc, of_langchain, of_llama_index, of_server, of_openai_client])
def test_vectors_are_those_of_the_table(
    way: Callable[[JobConfig, Path], NDArray[np.float32]], config: JobConfig, stored: NDArray[np.float32], tmp_path: Path
) -> None:
    found = way(config, tmp_path)
    assert found.shape == stored.shape
    cosines = (found * stored).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(stored, axis=1)
    assert cosines.min() > 1 - 1e-6
    np.testing.assert_allclose(found, stored, atol=1e-5)  # lengths too


def test_search_finds_each_text_by_itself(spark: SparkSession, config: JobConfig) -> None:
    for number, (best, *_) in enumerate(search_table(config, TEXTS, k=2, spark=spark)):
        assert best.key == {"id": number}
        assert best.score == pytest.approx(1, abs=1e-6)
