"""Checks on the driver, before anything is written: the settings that decide how often a model is loaded, and a look at the workers."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyspark.sql import SparkSession

from metaeol_udf import errors
from metaeol_udf.errors import EnvironmentFault, MetaEOLError
from metaeol_udf.spark.cluster.session import slot_count
from metaeol_udf.spark.worker.devices import device_name, task_gpus
from metaeol_udf.spark.worker.encoder_cache import EncoderRequest
from metaeol_udf.spark.worker.version_check import check_versions

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

_MAX_PROBES = 1024
_PROBE_SCHEMA = "host string, device string, error string, message string"


@dataclass(frozen=True)
class SettingProblem:
    """A Spark setting that does not suit a model.

    Attributes:
        setting: Its name.
        message: What is wrong with it, and what to set.
        is_fatal: Whether no GPU would be used at all, or the job would fail.
    """

    setting: str
    message: str
    is_fatal: bool


def setting_problems(get: Callable[[str, str], str | None], device: str, master: str, task_gpus: int | None = None) -> list[SettingProblem]:
    """What is wrong with a session's settings for a model on GPUs; nothing where it runs on CPUs.

    Args:
        get: Gives a setting's value, or the second argument where it is not set.
        device: `runtime.device`.
        master: The session's master; a local one schedules no GPUs.
        task_gpus: `runtime.task_gpus`.
    """
    schedules_gpus = not master.startswith("local") or master.startswith("local-cluster")
    if task_gpus is not None and not schedules_gpus:
        found = f"runtime.task_gpus is {task_gpus}, but master {master} schedules no GPUs: set it to null"
        return [SettingProblem("runtime.task_gpus", found, is_fatal=True)]
    amounts = {owner: get(f"spark.{owner}.resource.gpu.amount", "") or "" for owner in ("executor", "task")}
    if device == "cpu" or (device == "auto" and not any(amounts.values())):
        return []
    problems = []

    def report(setting: str, message: str, *, is_fatal: bool = False) -> None:
        problems.append(SettingProblem(setting, f"{setting} {message}", is_fatal))

    if task_gpus is not None:
        _check_executor_gpus(amounts, task_gpus, report)
    elif schedules_gpus and not device.startswith("cuda:"):
        _check_amounts(amounts, device, report)
    if get("spark.executor.pyspark.memory", ""):
        report("spark.executor.pyspark.memory", "limits address space, of which CUDA maps far more than it uses: unset it", is_fatal=True)
    if get("spark.python.worker.reuse", "true") == "false":
        report("spark.python.worker.reuse", "is false, so every task loads the model: set it to true")
    if get("spark.speculation", "false") == "true":
        report("spark.speculation", "is true, so texts of slow tasks are embedded twice: set it to false")
    return problems


def _check_amounts(amounts: dict[str, str], device: str, report: Callable[..., None]) -> None:
    executor, task = (_number(amounts[owner]) for owner in ("executor", "task"))
    names = {owner: f"spark.{owner}.resource.gpu.amount" for owner in amounts}
    if not executor and not task:
        report(names["executor"], f"is not set, but runtime.device is {device!r}: set it and {names['task']} to 1", is_fatal=True)
    elif not task:
        report(names["task"], "is not set, so tasks get no GPU of their own: set it to 1", is_fatal=device == "cuda")
    elif task != 1:
        shared, split = "several tasks share one GPU and one model, and take turns", "of use only where a model is larger than one GPU"
        effect = shared if task < 1 else split
        report(names["task"], f"is {amounts['task']}: {effect}; set it to 1")


def _check_executor_gpus(amounts: dict[str, str], task_gpus: int, report: Callable[..., None]) -> None:
    """A profile for tasks finds no GPUs that executors were not started with; Databricks does not say with how many."""
    amount = amounts["executor"]
    if _number(amount) < task_gpus and (amount or not amounts["task"]):
        found = f"is {amount or 'not set'}, but runtime.task_gpus is {task_gpus}: start executors with at least so many"
        report("spark.executor.resource.gpu.amount", found, is_fatal=True)


def _number(amount: str) -> float:
    try:
        return float(amount)
    except ValueError:
        return 0.0


@dataclass(frozen=True)
class WorkerProbe:
    """What one Python worker said of itself.

    Attributes:
        host: Its machine.
        device: What its task would compute on: a GPU's name, or `cpu`. `cpu` too where GPUs were not asked for.
        error: What is wrong, None where all is well.
    """

    host: str
    device: str
    error: MetaEOLError | None


def check_executors(spark: SparkSession, request: EncoderRequest, task_gpus: int | None = None) -> list[WorkerProbe]:
    """See that settings and workers can do what a request asks, before a model is loaded or anything written.

    Runs one task a slot. Every worker is checked again before it loads: an executor may come later.

    Returns:
        What the workers said.

    Raises:
        EnvironmentFault: A setting rules the work out, a worker lacks a GPU that is required, or its versions differ.
    """
    context = spark.sparkContext
    for problem in setting_problems(context.getConf().get, request.device, str(context.master), task_gpus):
        if problem.is_fatal:
            raise EnvironmentFault(problem.message)
        logger.warning("%s", problem.message)
    probes = probe_workers(spark, request)
    failures = {probe.host: probe.error for probe in probes if probe.error is not None}
    if failures:
        logger.error("workers cannot embed on %s", ", ".join(sorted(failures)))
        raise next(iter(failures.values()))
    return probes


def probe_workers(spark: SparkSession, request: EncoderRequest) -> list[WorkerProbe]:
    """Ask as many Python workers as there are task slots what they are.

    Raises:
        EnvironmentFault: Workers cannot even start: no Python, another Python, or no metaeol-udf on them.
    """
    n_tasks = min(_MAX_PROBES, slot_count(spark))
    asked = EncoderRequest(request.resolved, request.device, versions=request.versions)

    def probe(batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        yield from probe_worker(asked, batches)

    try:
        rows = spark.range(0, n_tasks, 1, n_tasks).mapInPandas(probe, _PROBE_SCHEMA).collect()
    except Exception as error:
        explained = _cannot_start(error)
        if explained is None:
            raise
        raise explained from error
    return [WorkerProbe(row["host"], row["device"], _error(row["error"], row["message"])) for row in rows]


def probe_worker(request: EncoderRequest, batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    """One row about this worker; runs in it. What is wrong is a value: an exception would end the worker and be retried."""
    import pandas as pd

    for _ in batches:
        pass
    device, kind, message = "cpu", None, None
    try:
        check_versions(request.versions)
        # `auto` takes what there is, so torch need not be imported for it here.
        device = device_name(task_gpus(request.device) if request.device.startswith("cuda") else ())
    except MetaEOLError as error:
        kind, message = type(error).__name__, str(error)
    yield pd.DataFrame({"host": [socket.gethostname()], "device": [device], "error": [kind], "message": [message]})


def _error(kind: str | None, message: str | None) -> MetaEOLError | None:
    if kind is None:
        return None
    error: MetaEOLError = getattr(errors, kind)(message)
    return error


def _cannot_start(error: Exception) -> EnvironmentFault | None:
    """What a failure to start Python workers means; None where it is not known."""
    shown = str(error)
    python = os.environ.get("PYSPARK_PYTHON", "python3")
    if "PYTHON_VERSION_MISMATCH" in shown:
        return EnvironmentFault(f"the workers' Python is not the driver's: let spark.pyspark.python (now {python}) name the same version")
    if "No module named 'metaeol_udf'" in shown:
        return EnvironmentFault(f"the workers' Python ({python}) has no metaeol-udf: install the driver's version on every machine")
    if "Cannot run program" in shown:
        return EnvironmentFault(f"the executors have no Python at {python}: set spark.pyspark.python to one that has metaeol-udf")
    return None
