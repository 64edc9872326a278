"""The job, but it kills itself, its JVM and its workers with SIGKILL at a point: `crashing_job.py POINT CONF`."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import NoReturn

from metaeol_udf.config import load_config
from metaeol_udf.delta import run_embed

#: By name: the phase that the job comes to, at its n-th time, and the table at whose next file it dies; None: at once.
POINTS: dict[str, tuple[str, int, str | None]] = {
    "before_embed": ("embed", 1, None),
    "mid_wave": ("embed", 2, "table__metaeol_journal"),
    "after_journal": ("journal", 2, None),
    "before_publish": ("publish", 1, None),
    "mid_publish": ("publish", 1, "table"),
    "before_cleanup": ("cleanup", 1, None),
}


def main(point: str, conf: str) -> None:
    """Run the job that dies at a point."""
    config = load_config(conf)
    phase, number, folder = POINTS[point]
    told: list[str] = []

    def between(name: str) -> None:
        told.append(name)
        if name == phase and told.count(phase) == number:
            if folder is None:
                _die()
            _die_at_new_file(Path(config.target_table).with_name(folder))

    run_embed(config, between=between)


def _die() -> NoReturn:
    os.killpg(0, signal.SIGKILL)
    raise SystemExit("unreachable")


def _die_at_new_file(folder: Path) -> None:
    """Die when a data file of the next commit is there: written, and in no version of the table."""
    known = set(folder.rglob("*.parquet"))

    def watch() -> None:
        while True:
            if set(folder.rglob("*.parquet")) - known:
                _die()
            time.sleep(0.001)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    main(*sys.argv[1:])
