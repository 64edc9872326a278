"""RunLock: which runs are at work on a target, so that two runs of the same job do not pay for the same texts.

A claim is an empty file beside the journal's data, whose name says which process holds it. Whether that process lives is asked
of the kernel where it runs on this machine, so a run that was killed is succeeded at once. A run elsewhere writes its file
anew from time to time; it is seen whether that changes, by this machine's own clock, so clocks need not agree.

RunLock save work; no vector depends on them. Two runs that do not see each other still leave every row right.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from py4j.protocol import Py4JError
from pyspark.sql import SparkSession

from metaeol_udf.errors import ConflictError

logger = logging.getLogger(__name__)

BEAT_EVERY_S = 10.0
DEAD_AFTER_S = 35.0  # without a beat: three were missed
SETTLE_S = 3.0  # longer than a run needs from making its claim to looking for others
_FOLDER = "_claims"  # Delta leaves alone what begins with an underscore, VACUUM too


@dataclass(frozen=True)
class Holder:
    """A process that holds a claim.

    Attributes:
        run_id: Sorts by time.
        machine: A digest of the machine since its last start, with its space of process ids.
        pid: Of the driver.
        process_start: When it began, in ticks since the machine's start: process ids are used again.
    """

    run_id: str
    machine: str
    pid: int
    process_start: int

    @property
    def name(self) -> str:
        """Of the claim's file."""
        return f"{self.run_id}~{self.machine}~{self.pid}~{self.process_start}"

    @classmethod
    def parse(cls, name: str) -> Holder:
        """The holder that a file's name tells."""
        run_id, machine, pid, process_start = name.split("~")
        return cls(run_id, machine, int(pid), int(process_start))


class RunLock:
    """The claims on one target, seen by one run."""

    def __init__(self, spark: SparkSession, location: str, run_id: str) -> None:
        """See the claims of a target.

        Args:
            spark: A classic session, whose rights on the storage are used.
            location: Folder of the journal's table.
            run_id: Of this run.
        """
        context: Any = spark.sparkContext
        self._path: Any = context._jvm.org.apache.hadoop.fs.Path
        self._root = self._path(location, _FOLDER)
        self._hadoop = context._jsc.hadoopConfiguration()
        self._me = Holder(run_id, *_this_process())

    @cached_property
    def _files(self) -> Any:
        """The storage; asked for where a refusal is understood, which is a Py4JError."""
        return self._root.getFileSystem(self._hadoop)

    @contextmanager
    def hold(self, job: str) -> Iterator[None]:
        """Hold the claim on a job while the block runs.

        Args:
            job: A digest of what the job is: tables, columns, condition and spec.

        Raises:
            ConflictError: Another run holds it and lives.
        """
        folder = self._path(self._root, job)
        mine = self._path(folder, self._me.name)
        try:
            self._files.create(mine, True).close()
        except Py4JError as error:
            with suppress(Py4JError):
                self._files.delete(mine, False)  # on a full disk it may be there, yet never be given back
            logger.info("this storage takes no claims (%s): make sure that no other run of the job is at work", type(error).__name__)
            yield
            return
        ended = threading.Event()
        beat = threading.Thread(target=self._beat, args=(mine, ended), daemon=True, name="metaeol-claim")
        try:
            self._settle(folder)
            beat.start()
            yield
        finally:
            ended.set()
            if beat.is_alive():
                beat.join()
            self._files.delete(mine, False)

    def is_alone(self) -> bool:
        """Whether no other run is seen at work on the target. RunLock that dead runs left are removed.

        Where the storage shows no claims (a catalog may keep the folders of its tables to itself) nobody is seen: another run that
        counted on the journal looks again.
        """
        try:
            if not self._files.exists(self._root):
                return True
            folders = self._files.listStatus(self._root)
        except Py4JError as error:
            logger.info("this storage shows no claims (%s)", type(error).__name__)
            return True
        return not any(self._others(status.getPath()) for status in folders)

    def _settle(self, folder: Any) -> None:
        """Give way to a run that was there before. Of two that begin at once the one with the smaller run id stays."""
        others = self._others(folder)
        if others and all(other.run_id > self._me.run_id for other in others):
            time.sleep(SETTLE_S)  # a later one gives way, unless it looked before this claim was there
            others = self._others(folder)
        if others:
            holder = others[0]
            raise ConflictError(
                f"run {holder.run_id} of the same job is at work (process {holder.pid}): wait for its end, then run the job again"
            )

    def _others(self, folder: Any) -> list[Holder]:
        """Live holders of a claim beside this run."""
        found = []
        for status in self._files.listStatus(folder):
            path = status.getPath()
            holder = Holder.parse(path.getName())
            if holder.run_id == self._me.run_id:
                continue
            if self._lives(holder, path):
                found.append(holder)
            else:
                self._files.delete(path, False)
        return found

    def _lives(self, holder: Holder, path: Any) -> bool:
        if holder.machine == self._me.machine:
            return _process_start(holder.pid) == holder.process_start
        seen, deadline = self._last_beat(path), time.monotonic() + DEAD_AFTER_S
        logger.info("looking for %.0f s whether run %s on another machine lives", DEAD_AFTER_S, holder.run_id)
        while time.monotonic() < deadline:
            time.sleep(1.0)
            now = self._last_beat(path)
            if now is None:
                return False
            if now != seen:
                return True
        return False

    def _last_beat(self, path: Any) -> int | None:
        """When the file was written, by the storage's clock: only ever compared with itself. None: it is gone."""
        return self._files.getFileStatus(path).getModificationTime() if self._files.exists(path) else None

    def _beat(self, path: Any, ended: threading.Event) -> None:
        """Write the file anew until the run ends. No Spark job: with all slots taken by the model it would wait for one."""
        while not ended.wait(BEAT_EVERY_S):
            try:
                self._files.create(path, True).close()
            except Py4JError as error:
                logger.warning("no sign of life could be written (%s): a run elsewhere may take this one for dead", type(error).__name__)


def _this_process() -> tuple[str, int, int]:
    machine = f"{_text('/proc/sys/kernel/random/boot_id')}/{os.readlink('/proc/self/ns/pid')}"
    started = _process_start(os.getpid())
    return hashlib.sha256(machine.encode()).hexdigest()[:16], os.getpid(), started or 0


def _process_start(pid: int) -> int | None:
    """When a process of this machine began; None where there is none."""
    try:
        fields = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()  # the second field is a name, which may hold anything
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _text(path: str) -> str:
    return Path(path).read_text(encoding="ascii", errors="replace").strip()
