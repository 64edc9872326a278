"""What the driver sees wrong before a model is loaded: settings, versions, devices."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest
from pyspark.sql import SparkSession

from metaeol_udf.errors import EnvironmentFault
from metaeol_udf.spark.cluster import preflight
from metaeol_udf.spark.cluster.preflight import check_executors, probe_workers, setting_problems
from metaeol_udf.spark.udf import make_request
from metaeol_udf.spark.worker.version_check import check_versions, own_versions
from metaeol_udf.spec import EmbeddingSpec

GPUS = {"spark.executor.resource.gpu.amount": "1", "spark.task.resource.gpu.amount": "1"}


def _problems(
    conf: Mapping[str, str], device: str = "cuda", master: str = "spark://host:7077", task_gpus: int | None = None
) -> dict[str, bool]:
    found = setting_problems(lambda name, default: conf.get(name, default), device, master, task_gpus)
    assert all(problem.message.startswith(problem.setting) for problem in found)
    return {problem.setting: problem.is_fatal for problem in found}


@pytest.mark.parametrize(
    ("conf", "expected"),
    [
        (GPUS, {}),
        ({}, {"spark.executor.resource.gpu.amount": True}),
        ({"spark.executor.resource.gpu.amount": "1"}, {"spark.task.resource.gpu.amount": True}),
        ({"spark.task.resource.gpu.amount": "1"}, {}),  # Databricks sets no more
        (GPUS | {"spark.task.resource.gpu.amount": "0.25"}, {"spark.task.resource.gpu.amount": False}),
        (GPUS | {"spark.task.resource.gpu.amount": "2"}, {"spark.task.resource.gpu.amount": False}),
        (GPUS | {"spark.speculation": "true"}, {"spark.speculation": False}),
        (GPUS | {"spark.python.worker.reuse": "false"}, {"spark.python.worker.reuse": False}),
        (GPUS | {"spark.executor.pyspark.memory": "4g"}, {"spark.executor.pyspark.memory": True}),
    ],
)
def test_settings_that_do_not_suit_a_gpu_are_named(conf: Mapping[str, str], expected: dict[str, bool]) -> None:
    assert _problems(conf) == expected


def test_a_profile_for_tasks_needs_executors_with_gpus_and_a_master_that_schedules_them() -> None:
    executor = "spark.executor.resource.gpu.amount"
    assert _problems({}, task_gpus=1) == _problems({executor: "1"}, task_gpus=2) == {executor: True}
    assert _problems({executor: "1"}, task_gpus=1) == {}
    assert _problems({executor: "1"}, "cuda", "local[2]", 1) == {"runtime.task_gpus": True}


def test_settings_for_gpus_do_not_matter_without_them() -> None:
    assert _problems({"spark.speculation": "true"}, "cpu") == {}
    assert _problems({"spark.speculation": "true"}, "auto") == {}
    assert _problems({}, "cuda", "local[4]") == {}
    assert _problems({}, "cuda:1") == {}
    assert _problems({}, "cuda", "local-cluster[2,1,1024]") == {"spark.executor.resource.gpu.amount": True}


def test_workers_say_where_they_are(spark: SparkSession, spec: EmbeddingSpec) -> None:
    probes = check_executors(spark, make_request(spec, "cpu"))
    assert len(probes) == spark.sparkContext.defaultParallelism
    assert {(probe.device, probe.error) for probe in probes} == {("cpu", None)}


@pytest.mark.parametrize("name", ["Python", "metaeol-udf", "torch"])
def test_a_version_that_differs_is_a_clear_failure(name: str, spark: SparkSession, spec: EmbeddingSpec) -> None:
    request = make_request(spec, "cpu")
    other = dataclasses.replace(request, versions={**request.versions, name: "0.1"})
    with pytest.raises(
        EnvironmentFault, match=rf"{name} is 0\.1 on the driver and {own_versions()[name]} on .*: install the same versions"
    ):
        check_executors(spark, other)


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
        probe_workers(spark, make_request(spec, "cpu"))
