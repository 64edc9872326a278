"""The session and its executors: whether Spark starts, and what a Python worker finds where it runs."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path

from pyspark.sql import SparkSession

from metaeol_udf.config import JobConfig
from metaeol_udf.doctor.plan import Plan
from metaeol_udf.errors import EnvironmentFault
from metaeol_udf.formatting import counted
from metaeol_udf.spark.cluster.finding import Finding, ok, refused, wrong_environment
from metaeol_udf.spark.cluster.preflight import WorkerProbe, first_failure, probe_workers

#: What to change, by what a worker fails on.
_SETTINGS = {
    "Python": "spark.pyspark.python=<the same Python minor version on every node>",
    "metaeol-udf": "spark.submit.pyFiles=<the driver's wheel>",
    "model": "embedding.model=<a path that every node has>",
    "device": "runtime.device=auto, or executors with GPUs",
}
_OTHER_PACKAGES = "spark.pyspark.python=<a Python on every node with the driver's packages>"


def check_workers(spark: SparkSession, plan: Plan) -> Finding:
    """See that Python workers can do the work, with the job's own probe: same versions, the model's folder, a GPU where one is required.

    The one check that runs Python on executors. It reads no table and loads no model.
    """
    model, revision = plan.config.embedding.model, plan.config.embedding.revision
    place = str(plan.model) if Path(model).is_dir() else model  # a worker has another working folder
    is_here = isinstance(plan.model, Path)  # a model that the driver lacks is a finding of its own
    try:
        return judge_workers(probe_workers(spark, plan.device, place if is_here else None, revision))
    except EnvironmentFault as error:
        return refused("workers", error, _SETTINGS["Python"])
    except Exception as error:  # noqa: BLE001 - a worker that cannot start raises whatever Spark has for it
        return wrong_environment("workers", f"no Python worker answers: {_reason(str(error))}", _SETTINGS["Python"])


def judge_workers(probes: Sequence[WorkerProbe]) -> Finding:
    """Judge the workers by their answers: the first failure is the finding, in the job's own words."""
    failure = first_failure(probes)
    if failure is not None and failure.error is not None:
        return refused("workers", failure.error, _SETTINGS.get(str(failure.failed), _OTHER_PACKAGES))
    hosts = {probe.host for probe in probes}
    return ok("workers", f"Python {platform.python_version()}, the package and the model on {counted(len(hosts), 'host')}")


def sees_gpu() -> bool | None:
    """Tell whether torch sees a GPU in this process; None without torch."""
    try:
        import torch
    except ModuleNotFoundError:
        return None
    return bool(torch.cuda.is_available())


def session_settings(spark: SparkSession, config: JobConfig) -> tuple[dict[str, str], frozenset[str]]:
    """Settings of a running session, and the keys of `spark.conf` that it cannot change any more."""
    settings = dict(spark.sparkContext.getConf().getAll()) | dict(spark.conf.getAll)
    return settings, frozenset(key for key in config.spark.conf if not spark.conf.isModifiable(key))


def _reason(message: str) -> str:
    """The line of a worker's error that says most; never more than a line."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    telling = [line for line in lines if "Error" in line or "VERSION" in line]
    return (telling or lines or ["no reason given"])[-1][:300]
