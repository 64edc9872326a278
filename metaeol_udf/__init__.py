"""MetaEOL text embeddings for Delta tables with Spark (Lei et al., ACL 2024, arXiv:2402.18458)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from metaeol_udf.errors import MetaEOLError
from metaeol_udf.prompts import TemplateSet
from metaeol_udf.spec import EmbeddingSpec

if TYPE_CHECKING:
    from metaeol_udf.delta.one_call import embed_table
    from metaeol_udf.encoder import MetaEOLEncoder
    from metaeol_udf.serving.frame import embed_frame

__version__ = "0.2.0"

__all__ = ["EmbeddingSpec", "MetaEOLEncoder", "MetaEOLError", "TemplateSet", "__version__", "embed_frame", "embed_table"]


def __getattr__(name: str) -> Any:
    """Import the encoder with torch, and the job with Spark, only when they are asked for: each does without the other's."""
    if name == "embed_table":
        from metaeol_udf.delta.one_call import embed_table

        return embed_table
    if name == "embed_frame":
        from metaeol_udf.serving.frame import embed_frame

        return embed_frame
    if name == "MetaEOLEncoder":
        from metaeol_udf.encoder import MetaEOLEncoder

        return MetaEOLEncoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
