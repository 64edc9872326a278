"""`metaeol tune`, `curves` and `fit --data`: chooses layers, templates and post-processing on labelled pairs or on texts alone."""

from metaeol_udf.tuning.command import run_curves, run_tune

__all__ = ["run_curves", "run_tune"]
