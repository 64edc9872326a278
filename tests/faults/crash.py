"""Starts jobs that die, and makes sure that nothing of them is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import yaml
from bench import ROOT, Bench

from tests.installations import make_spark_home

_PATIENCE_S = 900  # for a job of seconds: a busy machine fails no check


def crash(bench: Bench, point: str) -> None:
    """Run the job on a bench's table in a process group of its own, which dies at a point."""
    status, log = start(bench, "crashing_job.py", point)
    assert status == -signal.SIGKILL, f"the job ended by itself with {status}: {log[-2000:]}"


def start(bench: Bench, script: str, *arguments: str, master: str = "local[1]") -> tuple[int, str]:
    """Run one of the scripts beside this file on a bench's table, in a session of its own of which nothing is left.

    Returns:
        Its exit status, and what it wrote.
    """
    conf = bench.folder / "job.yaml"
    settings = {
        "spark.sql.shuffle.partitions": "1",
        "spark.databricks.delta.snapshotPartitions": "1",
        "spark.sql.warehouse.dir": str(bench.folder / "warehouse"),
    }
    blocks = bench.blocks(runtime={"wave_rows": 5}, spark={"master": master, "conf": settings})
    conf.write_text(yaml.safe_dump(blocks))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    env.pop("PYSPARK_GATEWAY_PORT", None)
    if master.startswith("local-cluster"):
        env["SPARK_HOME"] = str(make_spark_home(bench.folder / "spark"))
    command = [sys.executable, str(Path(__file__).with_name(script)), *arguments, str(conf)]
    log = bench.folder / "crash.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=bench.folder, env=env, stdout=output, stderr=output, start_new_session=True)
        try:
            status = process.wait(timeout=_PATIENCE_S)
        finally:
            _end_session(process.pid)
    return status, log.read_text()


def _end_session(session: int) -> None:
    """Kill what is left of a process's session: Spark's Python daemon has a group of its own."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        left = [process for process in psutil.process_iter() if _session_of(process.pid) == session]
        if not left:
            return
        for process in left:
            process.kill()
        psutil.wait_procs(left, timeout=1)
    raise AssertionError("processes of a killed job do not end")


def _session_of(pid: int) -> int | None:
    try:
        return None if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE else os.getsid(pid)
    except (psutil.NoSuchProcess, ProcessLookupError):
        return None
