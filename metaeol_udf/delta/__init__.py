"""The main job over Delta tables: select what changed, embed it in waves, journal, publish, report. Never imports torch."""

from metaeol_udf.delta.base.progress import Progress
from metaeol_udf.delta.job import run_embed

__all__ = ["Progress", "run_embed"]
