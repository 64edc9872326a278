"""`metaeol evaluate`: scores the vectors of a configuration on labelled data, and shows the scores."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metaeol_udf.quality.command import run_comparison, run_evaluate
    from metaeol_udf.quality.mteb_model import MtebModel

__all__ = ["MtebModel", "run_comparison", "run_evaluate"]

_HOMES = {"MtebModel": "mteb_model", "run_comparison": "command", "run_evaluate": "command"}


def __getattr__(name: str) -> Any:
    """Import a name when it is asked for: mteb is an extra of its own."""
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
