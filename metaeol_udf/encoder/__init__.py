"""The engine: from texts to vectors with PyTorch. Works on a laptop by itself; never imports Spark."""

from metaeol_udf.encoder.encoder import Encoded, MetaEOLEncoder

__all__ = ["Encoded", "MetaEOLEncoder"]
