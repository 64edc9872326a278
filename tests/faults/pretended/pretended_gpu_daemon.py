"""Spark's Python daemon on a machine that pretends to have two GPUs; named by `spark.python.daemon.module`.

All that is pretended is what torch would say of its GPUs: their names stand for the CPU. Every opening of a weights file is
written down with the process that did it, so that loads are counted by what happened to the file.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import safetensors

from metaeol_udf.spark.worker import devices

_open_weights: Any = safetensors.safe_open


def _recorded(filename: Any, *args: Any, **kwargs: Any) -> Any:
    with open(Path(os.environ["PRETENDED_OPENED"]), "a", encoding="ascii") as log:
        log.write(f"{os.getpid()}\n")
    return _open_weights(filename, *args, **kwargs)


def pretend() -> None:
    """Replace what torch says, before the daemon forks its workers."""
    gpus = [devices.Gpu("cpu", f"{os.environ['PRETENDED_UUID']}-{index}") for index in range(2)]
    devices.visible_gpus = lambda: gpus
    safetensors.safe_open = _recorded


if __name__ == "__main__":
    from pyspark.daemon import manager

    pretend()
    sys.argv[0] = "pyspark.daemon"
    manager()
