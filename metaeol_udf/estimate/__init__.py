"""What a run would take, before anything runs: rows, real tokens, hours, cost and bytes. Writes nothing."""

from metaeol_udf.estimate.run import EstimateOptions, run_estimate

__all__ = ["EstimateOptions", "run_estimate"]
