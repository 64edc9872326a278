"""The engine: from texts to vectors with PyTorch. Works on a laptop by itself; never imports Spark."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metaeol_udf.encoder.encoded import Encoded
    from metaeol_udf.encoder.encoder import MetaEOLEncoder

__all__ = ["Encoded", "MetaEOLEncoder"]


def __getattr__(name: str) -> Any:
    """Import torch only with the encoder itself: `encoder.model_files` serves Spark drivers that have no torch."""
    if name in __all__:
        from metaeol_udf.encoder import encoder

        return getattr(encoder, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
