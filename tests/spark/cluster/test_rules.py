"""The rules for a cluster's settings, one by one: what is a problem, what a warning, and which setting is to be changed."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from metaeol_udf.errors import ConfigError, EnvironmentFault
from metaeol_udf.spark.cluster.cluster_settings import EXECUTOR_GPU, GIB, TASK_GPU, ClusterSettings
from metaeol_udf.spark.cluster.finding import Level, wrong_environment, wrong_setting
from metaeol_udf.spark.cluster.preflight import check_settings
from metaeol_udf.spark.cluster.rules import broken_rules

ONE_EACH = {EXECUTOR_GPU: "1", TASK_GPU: "1"}
SPECULATION, REUSE, MEMORY = "spark.speculation", "spark.python.worker.reuse", "spark.executor.pyspark.memory"


def cluster(
    conf: Mapping[str, str],
    device: str = "cuda",
    master: str = "spark://host:7077",
    task_gpus: int | None = None,
    weights: int | None = None,
) -> ClusterSettings:
    return ClusterSettings(settings={**conf, "spark.master": master}, device=device, task_gpus=task_gpus, weight_bytes=weights)


def levels(settings: ClusterSettings) -> dict[str, Level]:
    found = broken_rules(settings)
    assert all(finding.exit_code == (2 if finding.level is Level.PROBLEM else 0) and finding.setting for finding in found)
    return {finding.check: finding.level for finding in found}


@pytest.mark.parametrize(
    ("conf", "expected"),
    [
        (ONE_EACH, {}),
        ({}, {"gpu amounts": Level.PROBLEM}),
        ({EXECUTOR_GPU: "1"}, {"gpu amounts": Level.PROBLEM}),
        ({TASK_GPU: "1"}, {}),  # Databricks sets no more
        (ONE_EACH | {TASK_GPU: "0.25"}, {"gpu amounts": Level.WARNING}),
        (ONE_EACH | {TASK_GPU: "2"}, {"gpu amounts": Level.WARNING}),
        (ONE_EACH | {SPECULATION: "true"}, {"speculation": Level.WARNING}),
        (ONE_EACH | {REUSE: "false"}, {"worker reuse": Level.WARNING}),
        (ONE_EACH | {MEMORY: "4g"}, {"python memory": Level.PROBLEM}),
    ],
)
def test_settings_that_do_not_suit_a_gpu_are_named(conf: Mapping[str, str], expected: dict[str, Level]) -> None:
    assert levels(cluster(conf)) == expected


@pytest.mark.parametrize(
    ("conf", "device", "task_gpus", "level", "words", "setting"),
    [
        ({EXECUTOR_GPU: "1"}, "auto", None, Level.WARNING, f"{TASK_GPU} is not set, so tasks are told no GPU", f"{TASK_GPU}=1"),
        ({}, "cuda:0", None, Level.WARNING, "all tasks of a machine share that GPU", "runtime.device=cuda"),
        ({}, "cuda", None, Level.PROBLEM, f"runtime.device is cuda, but {EXECUTOR_GPU} is not set", f"{EXECUTOR_GPU}=1"),
        ({MEMORY: "1g"}, "cpu", None, Level.PROBLEM, f"{MEMORY} leaves a Python worker 1.00 GiB", f"{MEMORY}=2g"),
        ({}, "auto", 2, Level.PROBLEM, f"runtime.task_gpus is 2, but {EXECUTOR_GPU} is not set", "runtime.task_gpus=null"),
        ({}, "auto", 1, Level.PROBLEM, f"runtime.task_gpus is 1, but {EXECUTOR_GPU} is not set", "runtime.task_gpus=null"),
        ({EXECUTOR_GPU: "1"}, "auto", 2, Level.PROBLEM, f"runtime.task_gpus is 2, but {EXECUTOR_GPU} is 1", f"{EXECUTOR_GPU}=2"),
        ({EXECUTOR_GPU: "2"}, "auto", 2, Level.WARNING, "runtime.task_gpus is 2: more than one GPU a task", "runtime.task_gpus=1"),
        ({SPECULATION: "true"}, "cpu", None, Level.WARNING, "spark.speculation is on", f"{SPECULATION}=false"),
        ({REUSE: "false"}, "cpu", None, Level.WARNING, f"{REUSE} is off", f"{REUSE}=true"),
    ],
)
def test_a_finding_names_what_is_set_and_what_to_set(
    conf: Mapping[str, str], device: str, task_gpus: int | None, level: Level, words: str, setting: str
) -> None:
    (finding,) = broken_rules(cluster(conf, device, "yarn", task_gpus, weights=10**8))
    assert (finding.level, words in finding.found) == (level, True), finding
    assert finding.setting.startswith(setting)


def test_a_profile_for_tasks_needs_executors_with_gpus_and_a_master_that_schedules_them() -> None:
    problem = {"gpu amounts": Level.PROBLEM}
    assert levels(cluster({}, task_gpus=1)) == levels(cluster({EXECUTOR_GPU: "1"}, task_gpus=2)) == problem
    assert levels(cluster({EXECUTOR_GPU: "1"}, task_gpus=1)) == levels(cluster({TASK_GPU: "1"}, task_gpus=1)) == {}
    for device in ("auto", "cpu", "cuda"):
        (finding,) = broken_rules(cluster({EXECUTOR_GPU: "1"}, device, "local[2]", 1))
        assert (finding.level, finding.setting) == (Level.PROBLEM, "runtime.task_gpus=null")


def test_gpus_do_not_matter_to_who_asks_for_none_or_runs_on_one_machine() -> None:
    assert levels(cluster({TASK_GPU: "0.5"}, "cpu")) == levels(cluster({}, "auto")) == levels(cluster({}, "cuda", "local[4]")) == {}
    assert levels(cluster({}, "cuda", "local-cluster[2,1,1024]")) == {"gpu amounts": Level.PROBLEM}


def test_python_memory_is_divided_by_the_cores_of_an_executor_as_spark_does() -> None:
    conf = {MEMORY: "4g", "spark.task.cpus": "4"}
    assert levels(cluster(conf, "cpu", weights=GIB)) == {}
    assert levels(cluster(conf | {"spark.executor.cores": "4"}, "cpu", weights=GIB)) == {"python memory": Level.PROBLEM}


def test_the_job_logs_every_warning_and_raises_the_first_problem(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ConfigError, match=rf"but {EXECUTOR_GPU} is not set: set {EXECUTOR_GPU}=1 and {TASK_GPU}=1") as refused:
        check_settings(cluster({SPECULATION: "true", MEMORY: "4g"}))
    assert refused.value.exit_code == 2
    assert caplog.messages == [f"spark.speculation is on: slow tasks, that is long texts, are computed twice: set {SPECULATION}=false"]
    with pytest.raises(ConfigError, match="CUDA maps more address space than that: unset spark"):
        check_settings(cluster(ONE_EACH | {MEMORY: "4g"}))
    with pytest.raises(ConfigError, match=f"{TASK_GPU} must be a number, found 'many'"):
        check_settings(cluster({TASK_GPU: "many"}))


def test_a_findings_error_has_its_exit_status() -> None:
    assert type(wrong_setting("check", "wrong", "key=value").error()) is ConfigError
    assert type(wrong_environment("check", "wrong", "key=value").error()) is EnvironmentFault


def test_slots_follow_cores_and_gpus_where_a_master_schedules_them() -> None:
    conf = {EXECUTOR_GPU: "2", TASK_GPU: "1", "spark.executor.cores": "8"}
    assert cluster(conf).n_slots == 2
    assert cluster(conf).slots_of(24, 3) == 6
    assert cluster(conf | {"spark.task.cpus": "8"}).n_slots == 1
    assert cluster(conf, task_gpus=2).n_slots == 1
    assert cluster(conf, master="local[8]").n_slots == 8
