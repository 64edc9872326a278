"""Misconfigurations of Spark and of the job, each written into a job's settings; and the key that the doctor says to change."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from metaeol_udf.config import JobConfig, parse_config
from metaeol_udf.doctor import Finding, Level, settings
from metaeol_udf.doctor.examine import make_plan
from metaeol_udf.doctor.resources import CHECKS as RESOURCE_CHECKS
from metaeol_udf.doctor.settings import CHECKS as SETTING_CHECKS
from metaeol_udf.doctor.settings import check_ignored, check_scratch_files

CUDA = {"runtime": {"device": "cuda"}}
EXECUTOR_GPU, TASK_GPU = "spark.executor.resource.gpu.amount", "spark.task.resource.gpu.amount"

SCRATCH, AUTHENTICATE, ENCRYPT = "spark.io.encryption.enabled", "spark.authenticate", "spark.network.crypto.enabled"
CIPHER = "spark.network.crypto.cipher"
SAFE = {SCRATCH: True, AUTHENTICATE: True, ENCRYPT: True, CIPHER: "AES/GCM/NoPadding"}
#: What to set, by check, where nothing is set.
OPEN = {"scratch files": SCRATCH, "authentication": AUTHENTICATE, "traffic": f"{AUTHENTICATE} {ENCRYPT} {CIPHER}"}


def job(model: Path, master: str, conf: dict[str, Any], **sections: dict[str, Any]) -> JobConfig:
    base = {"source": {"table": "a.b", "key": ["id"]}, "embedding": {"model": str(model)}, "spark": {"master": master, "conf": conf}}
    return parse_config(base | sections)


def findings(config: JobConfig) -> dict[str, Finding]:
    plan = make_plan(config, {})
    return {finding.check: finding for finding in (check(plan) for check in (*RESOURCE_CHECKS, *SETTING_CHECKS))}


@pytest.mark.parametrize(
    ("check", "master", "conf", "sections", "level", "status", "setting"),
    [
        ("gpu amounts", "yarn", {}, CUDA, Level.PROBLEM, 2, f"{EXECUTOR_GPU}=1"),
        ("gpu amounts", "yarn", {EXECUTOR_GPU: 1}, CUDA, Level.PROBLEM, 2, f"{TASK_GPU}=1"),
        ("gpu amounts", "yarn", {EXECUTOR_GPU: 1, TASK_GPU: 0.25}, CUDA, Level.WARNING, 0, f"{TASK_GPU}=1"),
        ("gpu amounts", "yarn", {EXECUTOR_GPU: 2, TASK_GPU: 2}, CUDA, Level.WARNING, 0, f"{TASK_GPU}=1"),
        ("gpu amounts", "yarn", {EXECUTOR_GPU: 1}, {"runtime": {"task_gpus": 2}}, Level.PROBLEM, 2, f"{EXECUTOR_GPU}=2"),
        ("gpu amounts", "local[2]", {}, {"runtime": {"task_gpus": 1}}, Level.PROBLEM, 2, "runtime.task_gpus=null"),
        (
            "idle gpus",
            "yarn",
            {EXECUTOR_GPU: 4, TASK_GPU: 1, "spark.executor.cores": 8, "spark.task.cpus": 4},
            CUDA,
            Level.WARNING,
            0,
            "spark.task.cpus=2",
        ),
        ("speculation", "yarn", {"spark.speculation": True}, {}, Level.WARNING, 0, "spark.speculation=false"),
        (
            "threads",
            "yarn",
            {"spark.executor.cores": 8, "spark.task.cpus": 8, "spark.executorEnv.OMP_NUM_THREADS": 1},
            {},
            Level.WARNING,
            0,
            "spark.executorEnv.OMP_NUM_THREADS=8",
        ),
        (
            "threads",
            "yarn",
            {"spark.executor.cores": 8, "spark.executorEnv.OMP_NUM_THREADS": 8},
            {},
            Level.WARNING,
            0,
            "spark.executorEnv.OMP_NUM_THREADS=1",
        ),
        (
            "python memory",
            "yarn",
            {EXECUTOR_GPU: 1, TASK_GPU: 1, "spark.executor.pyspark.memory": "8g"},
            CUDA,
            Level.PROBLEM,
            2,
            "unset spark.executor.pyspark.memory",
        ),
        (
            "python memory",
            "yarn",
            {"spark.executor.cores": 4, "spark.executor.pyspark.memory": "2g"},
            {},
            Level.PROBLEM,
            2,
            "spark.executor.pyspark.memory=5g",
        ),
        (
            "memory overhead",
            "yarn",
            {"spark.executor.cores": 4, "spark.executor.memory": "4g"},
            {},
            Level.PROBLEM,
            2,
            "spark.executor.memoryOverhead=5g",
        ),
        ("model copies", "local[100000]", {}, {}, Level.PROBLEM, 5, "spark.master=local["),
        (
            "arrow batches",
            "yarn",
            {"spark.sql.execution.arrow.maxRecordsPerBatch": 1},
            {},
            Level.WARNING,
            0,
            "spark.sql.execution.arrow.maxRecordsPerBatch=10000",
        ),
        (
            "arrow batches",
            "yarn",
            {"spark.sql.execution.arrow.maxRecordsPerBatch": 0, "spark.sql.execution.arrow.maxBytesPerBatch": "1g"},
            {},
            Level.WARNING,
            0,
            "spark.sql.execution.arrow.maxRecordsPerBatch=10000",
        ),
        ("idle timeout", "yarn", {}, {}, Level.WARNING, 0, "spark.sql.execution.pyspark.udf.idleTimeoutSeconds=1800"),
        (
            "idle timeout",
            "yarn",
            {"spark.sql.execution.pyspark.udf.idleTimeoutSeconds": 1800},
            {},
            Level.WARNING,
            0,
            "spark.sql.execution.pyspark.udf.killOnIdleTimeout=true",
        ),
        (
            "idle timeout",
            "yarn",
            {"spark.sql.execution.pyspark.udf.idleTimeoutSeconds": 20, "spark.sql.execution.pyspark.udf.killOnIdleTimeout": True},
            {},
            Level.WARNING,
            0,
            "spark.sql.execution.pyspark.udf.idleTimeoutSeconds=1800",
        ),
        ("worker reuse", "yarn", {"spark.python.worker.reuse": False}, {}, Level.WARNING, 0, "spark.python.worker.reuse=true"),
        ("retries", "yarn", {"spark.task.maxFailures": 1}, {}, Level.WARNING, 0, "spark.task.maxFailures=4"),
        ("parallelism", "yarn", {"spark.dynamicAllocation.enabled": True}, {}, Level.WARNING, 0, "spark.default.parallelism="),
        (
            "parallelism",
            "yarn",
            {"spark.dynamicAllocation.enabled": True, "spark.dynamicAllocation.cachedExecutorIdleTimeout": "60s"},
            {},
            Level.WARNING,
            0,
            "spark.dynamicAllocation.cachedExecutorIdleTimeout=infinity",
        ),
        ("parallelism", "local[8]", {"spark.default.parallelism": 1}, {}, Level.WARNING, 0, "spark.default.parallelism=8"),
        (
            "delta",
            "yarn",
            {"spark.sql.catalog.spark_catalog": "org.apache.spark.sql.internal.CatalogImpl"},
            {},
            Level.PROBLEM,
            2,
            "spark.sql.catalog.spark_catalog=org.apache.spark.sql.delta.catalog.DeltaCatalog",
        ),
        ("scratch files", "yarn", {}, {}, Level.WARNING, 0, "spark.io.encryption.enabled=true"),
        ("scratch files", "local[2]", {"spark.io.encryption.enabled": False}, {}, Level.WARNING, 0, "spark.io.encryption.enabled=true"),
        ("authentication", "spark://host:7077", {}, {}, Level.WARNING, 0, "spark.authenticate=true and spark.authenticate.secret="),
        (
            "traffic",
            "k8s://https://host",
            {"spark.authenticate": True},
            {},
            Level.WARNING,
            0,
            "spark.network.crypto.enabled=true and spark.network.crypto.cipher=AES/GCM/NoPadding",
        ),
        ("failure budget", "yarn", {}, {"runtime": {"max_failed_fraction": 1.0}}, Level.WARNING, 0, "runtime.max_failed_fraction=0.01"),
        ("failure budget", "yarn", {}, {"runtime": {"max_failed_fraction": 0.0}}, Level.WARNING, 0, "runtime.max_failed_fraction=0.01"),
    ],
)
def test_a_misconfiguration_is_found_and_the_setting_named(
    tiny_model_dir: Path,
    check: str,
    master: str,
    conf: dict[str, Any],
    sections: dict[str, dict[str, Any]],
    level: Level,
    status: int,
    setting: str,
) -> None:
    finding = findings(job(tiny_model_dir, master, conf, **sections))[check]
    assert (finding.level, finding.exit_code) == (level, status), finding
    assert finding.setting.startswith(setting), finding


def test_a_good_cluster_has_no_finding(tiny_model_dir: Path) -> None:
    conf = {
        EXECUTOR_GPU: 1,
        TASK_GPU: 1,
        "spark.executor.memoryOverhead": "4g",
        "spark.sql.execution.pyspark.udf.idleTimeoutSeconds": 1800,
        "spark.sql.execution.pyspark.udf.killOnIdleTimeout": True,
        "spark.executorEnv.HF_TOKEN": "{{secrets/models/hub}}",
        **SAFE,
    }
    assert [f for f in findings(job(tiny_model_dir, "yarn", conf, **CUDA)).values() if f.level is not Level.OK] == []


def test_one_thread_on_a_machine_of_several_cores_is_found(tiny_model_dir: Path) -> None:
    if (os.cpu_count() or 1) < 2:
        pytest.skip("this machine has one core: a single thread uses it all")
    finding = findings(job(tiny_model_dir, "local[1]", {}))["threads"]
    assert finding.level is Level.WARNING
    assert finding.setting == f"spark.executorEnv.OMP_NUM_THREADS={os.cpu_count()}"


def test_a_gpu_that_is_required_and_missing_ends_with_status_5(tiny_model_dir: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    finding = findings(job(tiny_model_dir, "local[2]", {}, **CUDA))["device"]
    assert (finding.level, finding.exit_code, finding.setting) == (Level.PROBLEM, 5, "runtime.device=auto")
    assert findings(job(tiny_model_dir, "yarn", {}, **CUDA))["device"].level is Level.OK


@pytest.mark.parametrize(
    ("key", "value", "is_shown_by_spark"),
    [
        ("spark.hadoop.fs.s3a.secret.key", "abc123", False),
        ("spark.executorEnv.HF_AUTH", "hf_abcdefgh12345678", True),
        ("spark.hadoop.fs.azure.account.key.store", "c2VjcmV0", True),
    ],
)
def test_a_secret_in_clear_is_named_by_its_key_and_never_by_its_value(
    tiny_model_dir: Path, key: str, value: str, is_shown_by_spark: bool
) -> None:
    finding = findings(job(tiny_model_dir, "yarn", {key: value}))["secrets"]
    assert finding.level is Level.WARNING
    assert finding.setting.startswith(f"spark.conf.{key}=")
    assert ("Spark's UI" in finding.found) == is_shown_by_spark
    assert value not in finding.found + finding.setting


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("spark.authenticate", "true"),
        ("spark.hadoop.fs.s3a.secret.key", "{{secrets/lake/key}}"),
        ("spark.hadoop.fs.s3a.aws.credentials.provider", "com.amazonaws.auth.InstanceProfileCredentialsProvider"),
        ("spark.hadoop.security.credential.provider.path", "jceks://hdfs/keys.jceks"),
    ],
)
def test_what_only_looks_like_a_secret_is_let_through(tiny_model_dir: Path, key: str, value: str) -> None:
    assert findings(job(tiny_model_dir, "yarn", {key: value}))["secrets"].level is Level.OK


@pytest.mark.parametrize(
    ("master", "conf", "warned"),
    [
        ("yarn", {}, OPEN),
        ("yarn", dict.fromkeys(SAFE, "false") | {CIPHER: "AES/CTR/NoPadding"}, OPEN),
        ("yarn", {AUTHENTICATE: True}, {"scratch files": SCRATCH, "traffic": f"{ENCRYPT} {CIPHER}"}),
        ("yarn", {SCRATCH: True, AUTHENTICATE: True, ENCRYPT: True}, {"traffic": CIPHER}),
        ("yarn", {SCRATCH: True, AUTHENTICATE: True, "spark.ssl.rpc.enabled": True}, {}),
        ("yarn", SAFE, {}),
        ("yarn", {SCRATCH: True, AUTHENTICATE: True, "spark.authenticate.enableSaslEncryption": True}, {"traffic": f"{ENCRYPT} {CIPHER}"}),
        ("local[2]", {}, {}),
        ("local-cluster[1,1,1024]", {}, {}),
        ("local[2]", {SCRATCH: False}, {"scratch files": SCRATCH}),
    ],
)
def test_what_lies_open_on_a_cluster_is_said_with_the_lines_that_close_it(
    tiny_model_dir: Path, master: str, conf: dict[str, Any], warned: dict[str, str]
) -> None:
    found = findings(job(tiny_model_dir, master, conf))
    checks = [found[check] for check in ("scratch files", "authentication", "traffic")]
    lines = {check.check: [line.split("=") for line in check.setting.split(" and ")] for check in checks if check.level is Level.WARNING}
    assert {check: " ".join(key for key, _ in keys) for check, keys in lines.items()} == warned
    assert all(value == str(SAFE[key]).replace("True", "true") for keys in lines.values() for key, value in keys)
    assert all(check.exit_code == 0 for check in checks)


def test_a_local_session_that_others_started_is_looked_at_and_not_taken_for_ours(tiny_model_dir: Path) -> None:
    plan = make_plan(job(tiny_model_dir, "local[2]", {}), {"spark.app.id": "local-1", "spark.master": "local[2]"})
    assert check_scratch_files(plan).level is Level.WARNING


def test_a_databricks_cluster_is_not_judged_by_settings_that_it_does_not_have(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "ON_DATABRICKS", True)
    found = findings(job(tiny_model_dir, "spark://host:7077", {}))
    assert {found[check].level for check in ("scratch files", "authentication", "traffic")} == {Level.OK}


def test_a_setting_that_a_running_session_does_not_take_is_named() -> None:
    conf = {"spark.speculation": "true", "spark.sql.shuffle.partitions": "7"}
    finding = check_ignored(conf, {"spark.sql.shuffle.partitions": "7"}, frozenset({"spark.speculation"}))
    assert finding.level is Level.WARNING
    assert "spark.speculation" in finding.setting
    assert check_ignored(conf, {"spark.speculation": "true"}, frozenset({"spark.speculation"})).level is Level.OK
