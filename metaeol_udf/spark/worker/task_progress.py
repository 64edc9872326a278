"""How many texts each task has embedded, in small files that a driver on the same machine reads while the tasks run.

Spark tells a driver what became of a task when it ends, and a task may run for an hour. The files hold a number each, and no text.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from metaeol_udf.encoder import Encoded
    from metaeol_udf.spark.worker.encoder_cache import Encoder

#: Local property of a Spark job: the folder of the files. Only a driver whose workers are on its own machine sets it.
PROGRESS_FOLDER = "metaeol.progress"

_WRITE_EVERY_S = 0.3


class TaskProgress:
    """Counts the texts that a task has embedded, in a file.

    Attributes:
        n_texts: The count; within a chunk it grows by the share of the chunk's tokens that is done.
    """

    def __init__(self, path: Path) -> None:
        self.n_texts = 0.0
        self._path = path
        self._next_write = 0.0

    def add(self, n_texts: float) -> None:
        """Count some more texts; the file follows a few times a second."""
        self.n_texts += n_texts
        if time.monotonic() >= self._next_write:
            self.write()

    def write(self) -> None:
        """Write the count."""
        self._next_write = time.monotonic() + _WRITE_EVERY_S
        try:
            self._path.write_text(str(int(self.n_texts)), encoding="ascii")
        except OSError:  # a full disk, or a driver that is gone, costs the display a number and the task nothing
            self._next_write = float("inf")


def count_texts(encoder: Encoder, results: Iterable[Encoded], path: Path) -> Iterator[Encoded]:
    """Pass on what an encoder gives, and count its texts in a file meanwhile.

    An encoder of this process tells of each batch, another one of each chunk.
    """
    progress = TaskProgress(path)
    runner = getattr(encoder, "batch_runner", None)
    if runner is not None:
        runner.on_texts = progress.add
    try:
        for encoded in results:
            if runner is None:
                progress.add(len(encoded.errors))
            yield encoded
    finally:
        if runner is not None:
            runner.on_texts = None
        progress.write()


def texts_done(folder: Path) -> int:
    """Add up the counts of all tasks."""
    counts = (path.read_text(encoding="ascii") for path in folder.iterdir())
    return sum(int(count) for count in counts if count)  # a file that is being written is empty for a moment
