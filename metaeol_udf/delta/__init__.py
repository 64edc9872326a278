"""The main job over Delta tables: select what changed, embed it in waves, journal, publish, report. Never imports torch."""

from metaeol_udf.delta.job import run_embed
from metaeol_udf.delta.progress import Progress

__all__ = ["Progress", "run_embed"]
