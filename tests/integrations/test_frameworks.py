"""`MetaEOLEmbeddings` under LangChain's own test kit, and in an index of LlamaIndex, which has no kit for embeddings."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metaeol_udf import EmbeddingSpec, MetaEOLEncoder
from metaeol_udf.errors import ConfigError, InputError

pytest.importorskip("langchain_tests")
pytest.importorskip("llama_index.core")

from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests

from metaeol_udf.serving import langchain, llama_index

TEXTS = ["a red apple", "the train to Paris", "a quarterly tax form"]
OTHER = "0123456789abcdef"


class _Ours:
    """What the kit asks for."""

    @pytest.fixture(autouse=True)
    def _spec(self, spec: EmbeddingSpec) -> None:
        self.spec = spec

    @property
    def embeddings_class(self) -> type:
        return langchain.MetaEOLEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"spec": self.spec, "device": "cpu"}


class TestLangChainUnit(_Ours, EmbeddingsUnitTests):
    pass


@pytest.mark.asyncio
class TestLangChainIntegration(_Ours, EmbeddingsIntegrationTests):
    pass


def test_a_vector_store_of_langchain_finds_with_them(spec: EmbeddingSpec) -> None:
    from langchain_core.vectorstores import InMemoryVectorStore

    store = InMemoryVectorStore.from_texts(TEXTS, langchain.MetaEOLEmbeddings(spec, device="cpu"))
    ((found, score),) = store.similarity_search_with_score(TEXTS[1], k=1)
    assert found.page_content == TEXTS[1]
    assert score == pytest.approx(1, abs=1e-5)


def test_an_index_of_llamaindex_finds_with_them(spec: EmbeddingSpec) -> None:
    from llama_index.core import VectorStoreIndex
    from llama_index.core.schema import TextNode

    embeddings = llama_index.MetaEOLEmbeddings(spec, device="cpu")
    assert embeddings.model_name == embeddings.embedder.fingerprint
    index = VectorStoreIndex([TextNode(text=text) for text in TEXTS], embed_model=embeddings)
    (found,) = index.as_retriever(similarity_top_k=1).retrieve(TEXTS[1])
    assert found.node.get_content() == TEXTS[1]
    assert found.score == pytest.approx(1, abs=1e-5)
    expected = MetaEOLEncoder.from_spec(spec, device="cpu").encode(TEXTS)
    for found_vectors in (
        embeddings.get_text_embedding_batch(TEXTS),
        asyncio.run(embeddings.aget_text_embedding_batch(TEXTS)),
        [embeddings.get_query_embedding(text) for text in TEXTS],
        [asyncio.run(embeddings.aget_query_embedding(text)) for text in TEXTS],
    ):
        np.testing.assert_allclose(found_vectors, expected, atol=1e-5)


@pytest.mark.parametrize("kind", [langchain.MetaEOLEmbeddings, llama_index.MetaEOLEmbeddings])
def test_another_spec_and_blank_texts_are_refused(kind: type, spec: EmbeddingSpec, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{OTHER} is asked for"):
        kind(spec, fingerprint=OTHER, device="cpu")
    path = tmp_path / "spec.yaml"
    path.write_text(f"model: {spec.model}\ndtype: float32\n")
    embeddings = kind(path, device="cpu")
    ask = getattr(embeddings, "embed_query", None) or embeddings.get_query_embedding
    with pytest.raises(InputError, match="text 0 is blank"):
        ask(" ")
