"""How far a job is: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import logging
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import copy_context
from pathlib import Path
from typing import Protocol

from pyspark import StatusTracker
from pyspark.sql import SparkSession
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from metaeol_udf.formatting import counted
from metaeol_udf.spark.cluster.connect import is_connect
from metaeol_udf.spark.worker.task_progress import PROGRESS_FOLDER, texts_done
from metaeol_udf.terminal import LINE_EVERY_S, can_move, how_far, waiting

logger = logging.getLogger(__name__)

#: A function that a run calls with the name of each phase before the phase begins.
Between = Callable[[str], None]

POLL_EVERY_S = 0.5
_RATE_OVER_S = 600.0


class Progress(Protocol):
    """Told by the job how many unique texts are done."""

    def start(self, total: int) -> None:
        """Begin, with the number of texts to embed."""

    def update(self, done: int, detail: str) -> None:
        """Set the number of texts done so far; it never goes back."""

    def finish(self) -> None:
        """End, also after a failure."""


#: What a run does in each phase, in words; phases that take no time to speak of are not shown.
PHASE_WORDS = {
    "snapshot": "finding the rows that need work",
    "preflight": "checking the executors and the model",
    "prepare": "preparing the tables",
    "select": "selecting the texts",
    "gate": "comparing new vectors with old ones",
    "publish": "publishing the vectors",
    "verify": "verifying what the table holds",
    "delete": "looking for deleted rows",
    "quarantine": "updating the quarantine",
    "cleanup": "tidying up the journal",
    "report": "noting what this run did",
}


@contextmanager
def showing(progress: Progress, phase: str) -> Iterator[None]:
    """Show that a run is in a phase, as far as the watcher can: a `Progress` of a user's own need not have `phase`."""
    words, show = PHASE_WORDS.get(phase), getattr(progress, "phase", None)
    if words is None or show is None:
        yield
        return
    with show(words):
        yield


class BarProgress:
    """A bar with rate and time left while texts are embedded, and the name of the phase before and after, for a terminal."""

    def __init__(self) -> None:
        columns = (
            TextColumn("embedding"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[detail]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        # Where texts are counted a task at a time, steps are minutes apart: the time left needs more than one of them.
        self._bar = RichProgress(*columns, transient=False, speed_estimate_period=_RATE_OVER_S)

    def phase(self, words: str) -> AbstractContextManager[None]:
        """Show the phase, and for how long it has run."""
        return waiting(words)

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
    """A line for each phase, and one every ten seconds at most while texts are embedded, for logs."""

    def __init__(self, about: str = "") -> None:
        """Begin each line with `about`, so that the lines of two jobs in one log can be told apart."""
        self._about = f"{about}: " if about else ""
        self._phase = ""
        self._total = 0
        self._done = -1
        self._next_line = 0.0

    def _line(self, words: str) -> None:
        logger.info("%s%s", self._about, words)

    @contextmanager
    def phase(self, words: str) -> Iterator[None]:
        """Write a line as the phase begins; a phase that goes on after a pause has one line."""
        if words != self._phase:
            self._line(words)
        self._phase = words
        yield

    def start(self, total: int) -> None:
        """Say what there is to do."""
        self._total = total
        self._line(f"embedding {counted(total, 'text')}")
        self._started = time.monotonic()
        self._next_line = self._started + LINE_EVERY_S

    def update(self, done: int, detail: str) -> None:
        """Write a line where the last one is old enough, and always at the end."""
        now = time.monotonic()
        if done > self._done and (now >= self._next_line or done >= self._total):
            self._line(self._words(done, detail))
            self._done, self._next_line = done, now + LINE_EVERY_S

    def _words(self, done: int, detail: str) -> str:
        return how_far(done, self._total, time.monotonic() - self._started, detail)

    def finish(self) -> None:
        """Nothing to close."""


class NotebookProgress(LineProgress):
    """One line below the cell, which is written anew as the run goes on: a notebook shows neither bars nor logs."""

    def __init__(self, about: str = "") -> None:
        super().__init__(about)
        from IPython.display import display

        self._shown = display({"text/plain": self._about}, raw=True, display_id=True)

    def _line(self, words: str) -> None:
        super()._line(words)
        self._show(words)

    def _show(self, words: str) -> None:
        self._shown.update({"text/plain": f"{self._about}{words}"}, raw=True)

    def update(self, done: int, detail: str) -> None:
        """Write the line anew each time; the log has one every ten seconds."""
        self._show(self._words(done, detail))
        super().update(done, detail)


def default_progress(about: str = "") -> Progress:
    """A bar where standard output is a terminal, a line that changes in a notebook, else lines in a log that begin with `about`."""
    if can_move(sys.stdout):
        return BarProgress()
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return NotebookProgress(about) if hasattr(shell, "kernel") else LineProgress(about)


@contextmanager
def watch_tasks(spark: SparkSession, progress: Progress, group: str, done: int, n_texts: int, n_tasks: int) -> Iterator[None]:
    """Report, while one wave runs, how many of its texts are done.

    Workers on this machine count their texts in files. Of others it is known which tasks are done, and that is taken for the share of the
    texts.

    Args:
        spark: The session; of one of Spark Connect nothing is told before the wave is done.
        progress: What to tell.
        group: Job group that the wave runs in.
        done: Texts of earlier waves.
        n_texts: Texts of this wave.
        n_tasks: Tasks of the wave's model stage.
    """
    if is_connect(spark):
        yield
        return
    ended = threading.Event()
    tracker = spark.sparkContext.statusTracker()
    folder = Path(tempfile.mkdtemp(prefix="metaeol-progress-")) if (spark.sparkContext.master or "").startswith("local") else None

    def poll() -> None:
        first: tuple[float, int] | None = None
        while not ended.wait(POLL_EVERY_S):
            reached = int(n_texts * _share_of_tasks(tracker, group, n_tasks))
            if folder is not None:
                reached = max(reached, min(n_texts, texts_done(folder)))
            if reached:
                now = time.monotonic()
                since, before = first = first or (now, reached)
                rate = f"{(reached - before) / (now - since):.1f} texts/s" if reached > before else "the first texts"
                progress.update(done + reached, rate)

    context = spark.sparkContext
    names = ("spark.jobGroup.id", "spark.job.description", PROGRESS_FOLDER)
    before = [context.getLocalProperty(name) for name in names]  # a stream has a group of its own, by which it is stopped
    context.setJobGroup(group, "metaeol: embed one wave")
    context.setLocalProperty(PROGRESS_FOLDER, None if folder is None else str(folder))  # type: ignore[arg-type]  # None unsets it
    thread = threading.Thread(target=copy_context().run, args=(poll,), daemon=True, name="metaeol-progress")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        for name, value in zip(names, before, strict=True):
            context.setLocalProperty(name, value)  # type: ignore[arg-type]  # None unsets it
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _share_of_tasks(tracker: StatusTracker, group: str, n_tasks: int) -> float:
    """Find which share of the tasks of a wave's model stage is done, while the stage runs."""
    share = 0.0
    for job in tracker.getJobIdsForGroup(group):
        info = tracker.getJobInfo(job)
        for stage_id in info.stageIds if info is not None else ():
            stage = tracker.getStageInfo(stage_id)
            if stage is not None and stage.numTasks == n_tasks and stage.numActiveTasks:
                share = max(share, stage.numCompletedTasks / n_tasks)
    return share
