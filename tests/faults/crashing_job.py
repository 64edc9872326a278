"""The `metaeol` command, but it kills itself, its JVM and its workers with SIGKILL at a point: `crashing_job.py POINT CONF`.

The points are put around the product's functions from outside; the product knows nothing of them.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from metaeol_udf.cli import run
from metaeol_udf.config import load_config
from metaeol_udf.delta.write import merge
from metaeol_udf.delta.write.journal import Journal

POINTS = ("before_embed", "mid_wave", "after_journal", "before_publish", "mid_publish", "before_cleanup")


def main(point: str, conf: str) -> int:
    """Run the job that dies at a point."""
    table = Path(load_config(conf).target_table)
    journal = table.with_name(table.name + "__metaeol_journal")
    second_wave = _at_call(2)
    if point == "before_embed":
        Journal.finished = _die  # type: ignore[method-assign]
    elif point == "mid_wave":
        Journal.append_wave = _around(Journal.append_wave, before=lambda: second_wave() and _die_at_new_file(journal))  # type: ignore[method-assign]
    elif point == "after_journal":
        Journal.append_wave = _around(Journal.append_wave, after=lambda: second_wave() and _die())  # type: ignore[method-assign]
    elif point == "before_publish":
        merge.publish_in_place = _die
    elif point == "mid_publish":
        merge.publish_in_place = _around(merge.publish_in_place, before=lambda: _die_at_new_file(table))
    elif point == "before_cleanup":
        Journal.drop_published = _die  # type: ignore[method-assign]
    return run(["embed", conf])


def _die(*_: Any, **__: Any) -> NoReturn:
    os.killpg(0, signal.SIGKILL)
    raise SystemExit("unreachable")


def _at_call(number: int) -> Callable[[], bool]:
    calls: list[int] = []

    def reached() -> bool:
        calls.append(1)
        return len(calls) == number

    return reached


def _around(function: Any, before: Callable[[], object] = lambda: None, after: Callable[[], object] = lambda: None) -> Any:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        before()
        result = function(*args, **kwargs)
        after()
        return result

    return wrapped


def _die_at_new_file(folder: Path) -> None:
    """Die when a data file of the next commit is there: written, and in no version of the table."""
    known = set(folder.glob("*.parquet"))

    def watch() -> None:
        while True:
            if set(folder.glob("*.parquet")) - known:
                _die()
            time.sleep(0.001)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
