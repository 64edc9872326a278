"""`MetaEOLEmbeddings` for LangChain: an `Embeddings` that any of its vector stores takes. Needs langchain-core."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from langchain_core.embeddings import Embeddings

from metaeol_udf.serving.embedder import SpecEmbedder
from metaeol_udf.spec import EmbeddingSpec


class MetaEOLEmbeddings(Embeddings):  # type: ignore[misc]  # of a package that may be missing
    """Embeds documents and queries as a table of the same spec does.

    Attributes:
        embedder: The loaded spec, with its `fingerprint` and `dim`.
    """

    def __init__(
        self, spec: EmbeddingSpec | Mapping[str, Any] | str | Path, *, fingerprint: str | None = None, device: str = "auto",
        max_batch_tokens: int | str = "auto",
    ) -> None:  # fmt: skip
        """Load the model of a spec; arguments and errors are those of `SpecEmbedder`."""
        self.embedder = SpecEmbedder(spec, fingerprint=fingerprint, device=device, max_batch_tokens=max_batch_tokens)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed texts, in their order. Errors are those of `SpecEmbedder.embed`."""
        found: list[list[float]] = self.embedder.embed(texts).tolist()
        return found

    def embed_query(self, text: str) -> list[float]:
        """Embed one query: as a document, for both share one space."""
        return self.embed_documents([text])[0]
