"""MetaEOL text embeddings for Delta tables with Spark (Lei et al., ACL 2024, arXiv:2402.18458)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metaeol_udf.errors import MetaEOLError
from metaeol_udf.lazy import names_from
from metaeol_udf.prompts import TemplateSet
from metaeol_udf.spec import EmbeddingSpec

if TYPE_CHECKING:
    from metaeol_udf.config import load_config
    from metaeol_udf.delta import run_embed, run_retry, run_stream
    from metaeol_udf.delta.one_call import embed_table
    from metaeol_udf.encoder import MetaEOLEncoder
    from metaeol_udf.search import search_table
    from metaeol_udf.serving.frame import embed_frame
    from metaeol_udf.spark import MetaEOLEmbedder, embed_udf, register_sql, with_embeddings

__version__ = "0.2.0"

__all__ = [
    "EmbeddingSpec",
    "MetaEOLEmbedder",
    "MetaEOLEncoder",
    "MetaEOLError",
    "TemplateSet",
    "__version__",
    "embed_frame",
    "embed_table",
    "embed_udf",
    "load_config",
    "register_sql",
    "run_embed",
    "run_retry",
    "run_stream",
    "search_table",
    "with_embeddings",
]

_HOMES = {
    "MetaEOLEmbedder": "spark",
    "MetaEOLEncoder": "encoder",
    "embed_frame": "serving.frame",
    "embed_table": "delta.one_call",
    "embed_udf": "spark",
    "load_config": "config",
    "register_sql": "spark",
    "run_embed": "delta",
    "run_retry": "delta",
    "run_stream": "delta",
    "search_table": "search",
    "with_embeddings": "spark",
}

__getattr__ = names_from(__name__, _HOMES)  # the encoder comes with torch, the job with Spark, and each does without the other's


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
