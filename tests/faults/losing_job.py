"""The job, but one of its executors is killed while the second wave is embedded: `losing_job.py CONF`."""

from __future__ import annotations

import contextlib
import sys

import psutil

from metaeol_udf.config import load_config
from metaeol_udf.delta import run_embed


def main(conf: str) -> None:
    """Run the job that loses an executor."""
    told: list[str] = []

    def between(phase: str) -> None:
        told.append(phase)
        if phase == "embed" and told.count(phase) == 2:
            _kill_one_executor()

    run_embed(load_config(conf), between=between)


def _kill_one_executor() -> None:
    """The executor's whole JVM, which holds rows of the waves to come; its Python workers end with it."""
    executors = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended while we looked, or nobody has waited for it yet
            if "org.apache.spark.executor.CoarseGrainedExecutorBackend" in process.cmdline():
                executors.append(process)
    if len(executors) != 2:
        raise RuntimeError(f"{len(executors)} executors, not 2")
    executors[0].kill()


if __name__ == "__main__":
    main(*sys.argv[1:])
