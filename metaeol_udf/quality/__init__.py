"""`metaeol evaluate`: scores the vectors of a configuration on labelled data, and shows the scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metaeol_udf.lazy import names_from

if TYPE_CHECKING:
    from metaeol_udf.quality.command import run_comparison, run_evaluate
    from metaeol_udf.quality.mteb_model import MtebModel

__all__ = ["MtebModel", "run_comparison", "run_evaluate"]

_HOMES = {"MtebModel": "mteb_model", "run_comparison": "command", "run_evaluate": "command"}

__getattr__ = names_from(__name__, _HOMES)  # mteb is an extra of its own
