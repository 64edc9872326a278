"""What a run would start with: the job's settings over those of the session."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from metaeol_udf.config import JobConfig
from metaeol_udf.spark.cluster.cluster_settings import ClusterSettings
from metaeol_udf.spark.cluster.finding import Finding


@dataclass(frozen=True, kw_only=True)
class Plan(ClusterSettings):
    """The plan of a run that has not begun; `settings` are those of the session, and over them `spark.conf`.

    Attributes:
        config: The job.
        model: The model's folder, or the finding that there is none.
    """

    config: JobConfig
    model: Path | Finding
