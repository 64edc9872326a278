"""Spark surfaces of the encoder: Pandas UDF, DataFrame function, ML Transformer, SQL function. Never imports torch here."""

from metaeol_udf.spark.sql import register_sql
from metaeol_udf.spark.transformer import MetaEOLEmbedder
from metaeol_udf.spark.udf import embed_udf, with_embeddings

__all__ = ["MetaEOLEmbedder", "embed_udf", "register_sql", "with_embeddings"]
