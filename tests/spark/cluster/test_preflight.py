"""What the driver sees wrong before a model is loaded: settings, versions, devices."""

from __future__ import annotations

import dataclasses
import socket
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from metaeol_udf.doctor.executors import judge_workers
from metaeol_udf.errors import EnvironmentFault, ModelFilesError
from metaeol_udf.spark.cluster import preflight
from metaeol_udf.spark.cluster.preflight import check_executors, first_failure, probe_workers
from metaeol_udf.spark.udf import make_request
from metaeol_udf.spark.worker.version_check import check_versions, own_versions
from metaeol_udf.spec import EmbeddingSpec


def test_workers_say_where_they_are(spark: SparkSession, spec: EmbeddingSpec) -> None:
    request = make_request(spec, "cpu")
    check_executors(spark, request)
    probes = probe_workers(spark, "cpu", request.resolved.place)
    assert len(probes) == spark.sparkContext.defaultParallelism
    assert {(probe.host, probe.failed, probe.error) for probe in probes} == {(socket.gethostname(), None, None)}


@pytest.mark.parametrize("name", ["Python", "metaeol-udf", "torch"])
def test_a_version_that_differs_is_a_clear_failure(name: str, spark: SparkSession, spec: EmbeddingSpec) -> None:
    request = make_request(spec, "cpu")
    other = dataclasses.replace(request, versions={**request.versions, name: "0.1"})
    with pytest.raises(
        EnvironmentFault, match=rf"{name} is 0\.1 on the driver and {own_versions()[name]} on .*: install the same versions"
    ):
        check_executors(spark, other)
    probes = probe_workers(spark, "cpu", request.resolved.place, versions=other.versions)
    assert {probe.failed for probe in probes} == {name}
    assert judge_workers(probes).found == str(first_failure(probes).error)  # type: ignore[union-attr]


def test_a_model_that_a_worker_lacks_is_found_before_it_loads(spark: SparkSession, spec: EmbeddingSpec, tmp_path: Path) -> None:
    request = make_request(spec, "cpu")
    nowhere = str(tmp_path / "nowhere")
    other = dataclasses.replace(request, resolved=dataclasses.replace(request.resolved, place=nowhere))
    with pytest.raises(ModelFilesError, match=r"model folder .*nowhere is missing on .*, the driver has it") as refused:
        check_executors(spark, other)
    probes = probe_workers(spark, "cpu", nowhere)
    assert {probe.failed for probe in probes} == {"model"}
    finding = judge_workers(probes)
    assert (finding.found, finding.exit_code) == (str(refused.value), refused.value.exit_code)
    assert judge_workers(probe_workers(spark, "cpu", None)).exit_code == 0


def test_a_driver_without_torch_is_no_difference() -> None:
    check_versions({name: version for name, version in own_versions().items() if name != "torch"})
    assert "+" not in own_versions()["torch"]


def test_a_required_gpu_that_is_absent_ends_the_job_before_anything_is_written(bench: Any) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    bench.write([(1, "a text")])
    with pytest.raises(EnvironmentFault, match=r"runtime\.device is 'cuda', but torch sees no GPU") as refused:
        bench.run(runtime={"device": "cuda"})
    assert refused.value.exit_code == 5
    assert bench.versions() == 1
    assert bench.versions("table__metaeol_journal") == 0


@pytest.mark.parametrize(
    ("shown", "meaning"),
    [
        ("[PYTHON_VERSION_MISMATCH] Python in worker has different version: 3.10 than that in driver: 3.11", "workers' Python is not"),
        ("ModuleNotFoundError: No module named 'metaeol_udf'", "has no metaeol-udf"),
        ('java.io.IOException: Cannot run program "python9"', "no Python at"),
    ],
)
def test_workers_that_cannot_start_are_explained(shown: str, meaning: str) -> None:
    error = preflight._cannot_start(RuntimeError(shown))
    assert isinstance(error, EnvironmentFault)
    assert meaning in str(error)


def test_workers_of_another_python_are_explained(spark: SparkSession, spec: EmbeddingSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spark.sparkContext, "pythonVer", "3.7")  # what pyspark sends along as the driver's
    with pytest.raises(EnvironmentFault, match="workers' Python is not the driver's"):
        probe_workers(spark, "cpu", None)
