"""How far a job is: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from pyspark.sql import SparkSession
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

logger = logging.getLogger(__name__)

#: A function that a run calls with the name of each phase before the phase begins.
Between = Callable[[str], None]

LINE_EVERY_S = 10.0
POLL_EVERY_S = 0.5


class Progress(Protocol):
    """Told by the job how many unique texts are done."""

    def start(self, total: int) -> None:
        """Begin, with the number of texts to embed."""

    def update(self, done: int, detail: str) -> None:
        """Set the number of texts done so far; it never goes back."""

    def finish(self) -> None:
        """End, also after a failure."""


class BarProgress:
    """A bar with rate and time left, for a terminal."""

    def __init__(self) -> None:
        columns = (
            TextColumn("embedding"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[detail]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._bar = RichProgress(*columns, transient=False)

    def start(self, total: int) -> None:
        """Draw the empty bar."""
        self._bar.start()
        self._task = self._bar.add_task("embedding", total=total, detail="loading the model")

    def update(self, done: int, detail: str) -> None:
        """Move the bar."""
        self._bar.update(self._task, completed=done, detail=detail)

    def finish(self) -> None:
        """Leave the bar as it stands."""
        self._bar.stop()


class LineProgress:
    """A line every ten seconds at most, for logs."""

    def __init__(self) -> None:
        self._total = 0
        self._done = -1
        self._next_line = 0.0

    def start(self, total: int) -> None:
        """Say what there is to do."""
        self._total = total
        logger.info("embedding %d texts", total)
        self._next_line = time.monotonic() + LINE_EVERY_S

    def update(self, done: int, detail: str) -> None:
        """Write a line where the last one is old enough, and always at the end."""
        now = time.monotonic()
        if done > self._done and (now >= self._next_line or done >= self._total):
            logger.info("%d of %d texts, %s", done, self._total, detail)
            self._done, self._next_line = done, now + LINE_EVERY_S

    def finish(self) -> None:
        """Nothing to close."""


def default_progress() -> Progress:
    """A bar where standard output is a terminal, else lines."""
    return BarProgress() if sys.stdout.isatty() else LineProgress()


@contextmanager
def watch_tasks(spark: SparkSession, progress: Progress, group: str, done: int, n_texts: int, n_tasks: int) -> Iterator[None]:
    """Report, while one wave runs, the share of its tasks that is done.

    Args:
        spark: A classic session.
        progress: What to tell.
        group: Job group that the wave runs in.
        done: Texts of earlier waves.
        n_texts: Texts of this wave.
        n_tasks: Tasks of the wave's model stage.
    """
    ended = threading.Event()
    tracker = spark.sparkContext.statusTracker()
    started = time.monotonic()

    def poll() -> None:
        while not ended.wait(POLL_EVERY_S):
            share = 0.0
            for job in tracker.getJobIdsForGroup(group):
                info = tracker.getJobInfo(job)
                for stage_id in info.stageIds if info is not None else ():
                    stage = tracker.getStageInfo(stage_id)
                    if stage is not None and stage.numTasks == n_tasks and stage.numActiveTasks:
                        share = max(share, stage.numCompletedTasks / n_tasks)
            reached = int(n_texts * share)
            if reached:
                progress.update(done + reached, f"{reached / (time.monotonic() - started):.1f} texts/s")

    context, names = spark.sparkContext, ("spark.jobGroup.id", "spark.job.description")
    before = [context.getLocalProperty(name) for name in names]  # a stream has a group of its own, by which it is stopped
    context.setJobGroup(group, "metaeol: embed one wave")
    thread = threading.Thread(target=poll, daemon=True, name="metaeol-progress")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        for name, value in zip(names, before, strict=True):
            context.setLocalProperty(name, value)  # type: ignore[arg-type]  # None unsets it
