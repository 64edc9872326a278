"""The job, but a Java process of it is killed while the second wave is embedded: `losing_job.py executor|driver CONF`."""

from __future__ import annotations

import contextlib
import sys

import psutil

from metaeol_udf.config import load_config
from metaeol_udf.delta import run_embed
from metaeol_udf.errors import MetaEOLError


def main(which: str, conf: str) -> None:
    """Run the job that loses one of two executors, or the driver's Java process."""
    told: list[str] = []

    def between(phase: str) -> None:
        told.append(phase)
        if phase == "embed" and told.count(phase) == 2:
            _kill_one(*MARKS[which])

    try:
        run_embed(load_config(conf), between=between)
    except MetaEOLError as error:
        sys.stderr.write(f"metaeol: {error}\n")
        sys.exit(error.exit_code)


#: What the command line of such a process holds, and how many there must be. With an executor the rows go that it keeps for waves to come.
MARKS = {"executor": ("org.apache.spark.executor.CoarseGrainedExecutorBackend", 2), "driver": ("org.apache.spark.deploy.SparkSubmit", 1)}


def _kill_one(mark: str, n_expected: int) -> None:
    """Kill a Java process; its Python workers end with it."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended while we looked, or nobody has waited for it yet
            if mark in process.cmdline():
                found.append(process)
    if len(found) != n_expected:
        raise RuntimeError(f"{len(found)} processes of {mark}, not {n_expected}")
    found[0].kill()


if __name__ == "__main__":
    main(*sys.argv[1:])
