"""How often weights are loaded, on a cluster of several executors with pretended GPUs, by what is seen of the weights file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metaeol_udf.spark.worker.devices import Gpu
from metaeol_udf.spark.worker.shared_encoder import lease_path

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = Path(__file__).parent / "pretended" / "cluster.py"


@pytest.fixture
def uuid() -> Iterator[str]:
    """What the pretended GPUs of one test are called, so that no other test's leases are theirs."""
    name = f"pretended-{os.getpid()}-{time.time_ns()}"
    yield name
    for index in range(2):
        path = lease_path(Gpu("cpu", f"{name}-{index}"))
        path.unlink(missing_ok=True)
        path.with_suffix(".sock").unlink(missing_ok=True)


def _run(master: str, scenario: str, folder: Path, model: Path, uuid: str, *settings: str) -> Any:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYSPARK_PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "PRETENDED_UUID": uuid}
    command = [sys.executable, str(CLUSTER), master, scenario, str(folder), str(model), *settings]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_each_gpu_executor_loads_the_weights_once_over_all_waves(tmp_path: Path, tiny_model_dir: Path, uuid: str) -> None:
    found = _run("local-cluster[2,1,2048]", "job", tmp_path, tiny_model_dir, uuid)
    assert found["vectors"] == found["report"]["rows_embedded"] == 400
    assert found["report"]["executors"] == 2
    assert len(found["opened"]) == found["report"]["model_loads"] == 2
    assert len(set(found["opened"].values())) == 1


def test_a_profile_gives_gpus_to_the_embedding_stages_alone(tmp_path: Path, tiny_model_dir: Path, uuid: str) -> None:
    settings = ("spark.executor.cores=2", "spark.task.resource.gpu.amount=0.5")
    found = _run("local-cluster[2,2,2048]", "stage", tmp_path, tiny_model_dir, uuid, *settings)
    assert found["vectors"] == 400
    assert found["gpus_of_a_task"] == {"0": 0.5, "1": 1.0}
    assert found["slots"] == [4, 2]
    # Before the run a worker of each slot looks whether the weights can be loaded, which opens them once; who loads them opens them again.
    assert len(found["opened"]) == 4
    assert sum(times > 1 for times in found["opened"].values()) == found["report"]["model_loads"] == 2


def test_workers_of_one_gpu_share_one_model_and_survive_its_owner(tmp_path: Path, tiny_model_dir: Path, uuid: str) -> None:
    settings = ("spark.executor.cores=2", "spark.task.resource.gpu.amount=0.5")
    found = _run("local-cluster[1,2,2048]", "share", tmp_path, tiny_model_dir, uuid, *settings)
    assert found["vectors"] == [240, 240]
    (owner,), later_owners = found["owners"]
    before, after = found["opened"]
    assert list(before) == [str(owner)]
    assert len(after) == 2
    assert later_owners == [int(pid) for pid in after if pid != str(owner)]
