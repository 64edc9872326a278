"""The law: whatever the settings of a cluster, the doctor says of them what the job would, in the same words."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pyspark.sql import SparkSession

from metaeol_udf.config import parse_config
from metaeol_udf.doctor import Finding, Level
from metaeol_udf.doctor.examine import make_plan
from metaeol_udf.doctor.resources import CHECKS as RESOURCE_CHECKS
from metaeol_udf.doctor.settings import CHECKS as SETTING_CHECKS
from metaeol_udf.errors import MetaEOLError
from metaeol_udf.spark.cluster.cluster_settings import EXECUTOR_GPU, TASK_GPU
from metaeol_udf.spark.cluster.preflight import check_settings, cluster_settings
from metaeol_udf.spark.udf import make_request
from metaeol_udf.spark.worker.encoder_cache import EncoderRequest
from metaeol_udf.spec import EmbeddingSpec

SHARED = ("gpu amounts", "python memory", "speculation", "worker reuse")
MASTERS = ("local[2]", "yarn", "spark://host:7077", "k8s://https://host")
DEVICES = ("auto", "cpu", "cuda", "cuda:0")
CHOICES: dict[str, tuple[str | None, ...]] = {
    EXECUTOR_GPU: (None, "1", "2"),
    TASK_GPU: (None, "1", "0.5"),
    "spark.executor.pyspark.memory": (None, "1g", "64g"),
    "spark.speculation": (None, "true"),
    "spark.python.worker.reuse": (None, "false"),
}

Verdict = tuple[int, str | None, list[str]]


def verdict_of_job(conf: dict[str, str], request: EncoderRequest, task_gpus: int | None, caplog: pytest.LogCaptureFixture) -> Verdict:
    """Exit status, the error's message and the warnings of a job in a session with these settings."""
    session = SimpleNamespace(sparkContext=SimpleNamespace(getConf=lambda: SimpleNamespace(getAll=lambda: list(conf.items()))))
    caplog.clear()
    try:
        check_settings(cluster_settings(cast("SparkSession", session), request, task_gpus))
    except MetaEOLError as error:
        return error.exit_code, str(error), caplog.messages
    return 0, None, caplog.messages


def verdict_of_doctor(conf: dict[str, str], model: Path, device: str, task_gpus: int | None) -> Verdict:
    """The same of the doctor's findings."""
    blocks: dict[str, Any] = {
        "source": {"table": "a.b", "key": ["id"]},
        "embedding": {"model": str(model)},
        "runtime": {"device": device, "task_gpus": task_gpus},
        "spark": {"conf": conf},
    }
    plan = make_plan(parse_config(blocks), {})
    found: list[Finding] = [check(plan) for check in (*RESOURCE_CHECKS, *SETTING_CHECKS)]
    shared = [finding for finding in found if finding.check in SHARED]
    assert len(shared) == len(SHARED)
    problems = [finding for finding in shared if finding.level is Level.PROBLEM]
    first = (problems[0].exit_code, str(problems[0])) if problems else (0, None)
    return *first, [str(finding) for finding in shared if finding.level is Level.WARNING]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("master", MASTERS)
def test_doctor_and_job_give_one_verdict(
    master: str, device: str, tiny_model_dir: Path, spec: EmbeddingSpec, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    request = dataclasses.replace(make_request(spec), device=device)
    seen = set()
    for task_gpus, *values in itertools.product((None, 1, 2), *CHOICES.values()):
        conf = {key: value for key, value in zip(CHOICES, values, strict=True) if value is not None} | {"spark.master": master}
        job = verdict_of_job(conf, request, task_gpus, caplog)
        assert job == verdict_of_doctor(conf, tiny_model_dir, device, task_gpus), conf
        seen.add(job[0])
    assert seen == {0, 2}
