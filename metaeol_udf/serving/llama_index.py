"""`MetaEOLEmbeddings` for LlamaIndex: a `BaseEmbedding` that its indices take. Needs llama-index-core."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import PrivateAttr

from metaeol_udf.serving.embedder import SpecEmbedder
from metaeol_udf.spec import EmbeddingSpec

_MOST_TEXTS = 2_048  # that LlamaIndex hands over at once, and the most that it allows


class MetaEOLEmbeddings(BaseEmbedding):  # type: ignore[misc]  # of a package that may be missing
    """Embeds nodes and queries as a table of the same spec does. Its `model_name` is the spec's fingerprint."""

    _embedder: SpecEmbedder = PrivateAttr()

    def __init__(
        self, spec: EmbeddingSpec | Mapping[str, Any] | str | Path, *, fingerprint: str | None = None, device: str = "auto",
        max_batch_tokens: int | str = "auto", **settings: Any,
    ) -> None:  # fmt: skip
        """Load the model of a spec.

        Args:
            spec: As in `SpecEmbedder`, and so are the errors.
            fingerprint: As in `SpecEmbedder`.
            device: As in `SpecEmbedder`.
            max_batch_tokens: As in `SpecEmbedder`.
            **settings: Of `BaseEmbedding`, such as `callback_manager`.
        """
        embedder = SpecEmbedder(spec, fingerprint=fingerprint, device=device, max_batch_tokens=max_batch_tokens)
        super().__init__(**{"model_name": embedder.fingerprint, "embed_batch_size": _MOST_TEXTS, **settings})
        self._embedder = embedder

    @classmethod
    def class_name(cls) -> str:
        """Return the name under which LlamaIndex knows the class."""
        return "MetaEOLEmbeddings"

    @property
    def embedder(self) -> SpecEmbedder:
        """Return the loaded spec, with its `fingerprint` and `dim`."""
        return self._embedder

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        found: list[list[float]] = self._embedder.embed(texts).tolist()
        return found

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)
