"""The doctor: looks at everything that a run needs before it runs, and says the exact setting to change. Writes nothing."""

from metaeol_udf.doctor.examine import diagnose, examine, exit_code
from metaeol_udf.spark.cluster.finding import Finding, Level

__all__ = ["Finding", "Level", "diagnose", "examine", "exit_code"]
