"""The `metaeol` command, but one of its executors is killed while the second wave is embedded: `losing_job.py CONF`."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import psutil

from metaeol_udf.cli import run
from metaeol_udf.delta.write.journal import Journal


def main(conf: str) -> int:
    """Run the job that loses an executor."""
    real = Journal.append_wave

    def append_wave(journal: Journal, embedded: Any, wave: int) -> None:
        if wave == 2:
            _kill_one_executor()
        real(journal, embedded, wave)

    Journal.append_wave = append_wave  # type: ignore[method-assign]
    return run(["embed", conf])


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
    sys.exit(main(*sys.argv[1:]))
