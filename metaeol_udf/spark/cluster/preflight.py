"""Checks on the driver, before anything is written: the settings that decide how often a model is loaded, and a look at the workers."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyspark.sql import SparkSession

from metaeol_udf import errors
from metaeol_udf.errors import EnvironmentFault, MetaEOLError
from metaeol_udf.spark.cluster.cluster_settings import ClusterSettings
from metaeol_udf.spark.cluster.finding import Level
from metaeol_udf.spark.cluster.rules import broken_rules
from metaeol_udf.spark.cluster.session import settings_of, slot_count
from metaeol_udf.spark.worker.devices import task_gpus
from metaeol_udf.spark.worker.encoder_cache import EncoderRequest
from metaeol_udf.spark.worker.model_staging import worker_source
from metaeol_udf.spark.worker.version_check import check_versions, differing, own_versions
from metaeol_udf.versions import has_cuda

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

_MAX_PROBES = 1024
_PROBE_SCHEMA = "host string, failed string, error string, message string"


@dataclass(frozen=True)
class WorkerProbe:
    """What one Python worker said of itself.

    Attributes:
        host: Its machine.
        error: What is wrong, None where all is well.
        failed: What the error is about: a package whose version differs (or `Python`), `model` or `device`; None without an error.
    """

    host: str
    error: MetaEOLError | None
    failed: str | None


def check_executors(spark: SparkSession, request: EncoderRequest, task_gpus: int | None = None) -> None:
    """See that settings and workers can do what a request asks, before a model is loaded or anything written.

    Runs one task a slot. Every worker is checked again before it loads: an executor may come later.

    Raises:
        ConfigError: A setting rules the work out.
        EnvironmentFault: A worker lacks a GPU that is required, or its versions differ.
        ModelFilesError: A worker lacks the model's folder, or transformers cannot load what is in it.
    """
    check_settings(cluster_settings(spark, request, task_gpus))
    resolved = request.resolved
    probes = probe_workers(spark, request.device, resolved.place, resolved.spec.revision, request.versions)
    failure = first_failure(probes)
    if failure is not None and failure.error is not None:
        logger.error("workers cannot embed on %s", ", ".join(sorted({probe.host for probe in probes if probe.error is not None})))
        raise failure.error


def check_settings(cluster: ClusterSettings) -> None:
    """See that settings break no rule whose finding is a problem; a warning is logged.

    Raises:
        ConfigError: They break such a rule, or one of them cannot be read.
        EnvironmentFault: They break a rule about the machines.
    """
    findings = broken_rules(cluster)
    for finding in findings:
        if finding.level is Level.WARNING:
            logger.warning("%s", finding)
    for finding in findings:
        if finding.level is Level.PROBLEM:
            raise finding.error()


def cluster_settings(spark: SparkSession, request: EncoderRequest, task_gpus: int | None) -> ClusterSettings:
    """Gather the settings of a cluster from a session that runs, for the model that a request names."""
    weight_bytes = sum(file.n_bytes for file in request.resolved.files if file.name.endswith(".safetensors"))
    return ClusterSettings(
        settings=settings_of(spark), device=request.device, task_gpus=task_gpus, weight_bytes=weight_bytes or None, has_gpu=has_cuda()
    )


def probe_workers(
    spark: SparkSession, device: str, place: str | None, revision: str | None = None, versions: Mapping[str, str] | None = None
) -> list[WorkerProbe]:
    """Probe as many Python workers as there are task slots; runs one small job.

    Args:
        spark: The session.
        device: `runtime.device`.
        place: Where workers look for the model's folder; None looks for none, as where the driver lacks it, too.
        revision: The commit of a hub id.
        versions: Of the driver; by default those of this process.

    Raises:
        EnvironmentFault: Workers cannot even start: no Python, another Python, or no metaeol-udf on them.
    """
    n_tasks = min(_MAX_PROBES, slot_count(spark))
    expected = own_versions() if versions is None else versions

    def probe(batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        yield from probe_worker(device, place, revision, expected, batches)

    try:
        rows = spark.range(0, n_tasks, 1, n_tasks).mapInPandas(probe, _PROBE_SCHEMA).collect()
    except Exception as error:
        explained = _cannot_start(error)
        if explained is None:
            raise
        raise explained from error
    return [WorkerProbe(host, None if kind is None else getattr(errors, kind)(message), failed) for host, failed, kind, message in rows]


def first_failure(probes: Sequence[WorkerProbe]) -> WorkerProbe | None:
    """Pick the first failure among the workers' answers, which is what a job ends with; None where all is well."""
    return next((probe for probe in probes if probe.error is not None), None)


def probe_worker(
    device: str, place: str | None, revision: str | None, versions: Mapping[str, str], batches: Iterator[pd.DataFrame]
) -> Iterator[pd.DataFrame]:
    """Probe this worker, in which it runs, for one row. What is wrong is a value: an exception would end the worker and be retried."""
    import pandas as pd

    for _ in batches:
        pass
    kind, message = None, None
    try:
        failed = next(iter(differing(versions)), None)
        check_versions(versions)
        if place is not None:
            failed = "model"
            source = worker_source(place, revision)
            from metaeol_udf.encoder.checkpoint.hf_loading import check_loadable

            check_loadable(source)
        failed = "device"
        if device.startswith("cuda"):  # `auto` takes what there is, so torch need not be imported for it here
            task_gpus(device)
        failed = None
    except MetaEOLError as error:
        kind, message = type(error).__name__, str(error)
    answer = {"host": socket.gethostname(), "failed": failed, "error": kind, "message": message}
    yield pd.DataFrame([answer])


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
