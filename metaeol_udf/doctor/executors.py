"""The session and its executors: whether Spark starts, and what a Python worker finds where it runs."""

from __future__ import annotations

import platform
import socket
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from pyspark.sql import SparkSession

import metaeol_udf
from metaeol_udf.config import JobConfig
from metaeol_udf.doctor.finding import Finding, ok, wrong_environment
from metaeol_udf.doctor.plan import Plan
from metaeol_udf.spark.cluster.session import slot_count

_SCHEMA = "host string, python string, package string, has_model boolean, has_gpu boolean"
_PYTHON_SETTING = "spark.pyspark.python=<the same Python minor version on every node>"


def check_workers(spark: SparkSession, plan: Plan) -> Finding:
    """Run one short task in every slot: same Python, same package, the model's folder, a GPU where one is required.

    The one check that runs Python on executors. It reads no table and loads no model.
    """
    n_tasks = slot_count(spark)
    folder = plan.config.embedding.model
    needs_gpu = plan.config.runtime.device.startswith("cuda")
    asked = _Probe(str(Path(folder).resolve()) if Path(folder).is_dir() else None, needs_gpu)
    try:
        seen = spark.range(0, n_tasks, 1, n_tasks).mapInPandas(asked, _SCHEMA).distinct().collect()
    except Exception as error:  # noqa: BLE001 - a worker that cannot start raises whatever Spark has for it
        reason = _reason(str(error))
        return wrong_environment("workers", f"no Python worker answers: {reason}", _PYTHON_SETTING)
    return judge_workers([row.asDict() for row in seen], needs_gpu)


def judge_workers(seen: list[dict[str, object]], needs_gpu: bool) -> Finding:
    """What the workers' answers mean.

    Args:
        seen: One mapping a kind of answer, with the columns of the probe.
        needs_gpu: Whether `runtime.device` requires one.
    """
    here = platform.python_version()
    for row in seen:
        host = row["host"]
        if str(row["python"]).rpartition(".")[0] != here.rpartition(".")[0]:
            return wrong_environment("workers", f"Python is {here} on the driver and {row['python']} on {host}", _PYTHON_SETTING)
        if row["package"] != metaeol_udf.__version__:
            found = f"metaeol-udf is {metaeol_udf.__version__} on the driver and {row['package']} on {host}"
            return wrong_environment("workers", found, "spark.submit.pyFiles=<the driver's wheel>")
        if not row["has_model"]:
            found = f"the model's folder is not at the same path on {host}"
            return wrong_environment("workers", found, "embedding.model=<a path that every node has>")
        if needs_gpu and not row["has_gpu"]:
            return wrong_environment("workers", f"torch sees no GPU on {host}", "runtime.device=auto, or executors with GPUs")
    hosts = sorted({str(row["host"]) for row in seen})
    return ok("workers", f"Python {here}, the package and the model on {len(hosts)} hosts")


class _Probe:
    """What a task looks at. A class of an installed module, so that it reaches workers by name."""

    def __init__(self, folder: str | None, needs_gpu: bool) -> None:
        self._folder = folder
        self._needs_gpu = needs_gpu

    def __call__(self, batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        for _ in batches:
            has_model = self._folder is None or (Path(self._folder) / "config.json").is_file()
            found = {
                "host": socket.gethostname(),
                "python": platform.python_version(),
                "package": metaeol_udf.__version__,
                "has_model": has_model,
                "has_gpu": self._needs_gpu and _sees_gpu(),
            }
            yield pd.DataFrame([found])


def sees_gpu() -> bool | None:
    """Whether torch sees a GPU in this process; None without torch."""
    try:
        return _sees_gpu()
    except ModuleNotFoundError:
        return None


def _sees_gpu() -> bool:
    import torch

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
