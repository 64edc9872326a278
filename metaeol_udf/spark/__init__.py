"""Spark surfaces of the encoder: Pandas UDF, DataFrame function, ML Transformer, SQL function. Never imports torch here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metaeol_udf.lazy import names_from

if TYPE_CHECKING:
    from metaeol_udf.spark.cluster.session import get_session
    from metaeol_udf.spark.sql import register_sql
    from metaeol_udf.spark.transformer import MetaEOLEmbedder
    from metaeol_udf.spark.udf import embed_udf, with_embeddings

__all__ = ["MetaEOLEmbedder", "embed_udf", "get_session", "register_sql", "with_embeddings"]

_HOMES = {
    "MetaEOLEmbedder": "transformer",
    "embed_udf": "udf",
    "get_session": "cluster.session",
    "register_sql": "sql",
    "with_embeddings": "udf",
}

__getattr__ = names_from(__name__, _HOMES)  # every Python worker imports this package, and none needs Spark ML
