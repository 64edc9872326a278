"""The run lock: which runs are at work on a target, so that two runs of the same job do not pay for the same texts.

A lock is an empty file beside the journal's data, whose name says which process holds it. If the holder ran on this machine, the
kernel tells whether it is alive, so a new run takes over from a killed one at once. Another machine's holder rewrites its file;
we only check that the file changes, so clocks may differ.

A lock saves work; no vector depends on it. Two runs that do not see each other still leave every row right.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from py4j.protocol import Py4JError
from pyspark.sql import SparkSession

from metaeol_udf.delta.base.small_files import HadoopFolder
from metaeol_udf.delta.connect.local_folder import LocalFolder
from metaeol_udf.errors import ConflictError
from metaeol_udf.spark.cluster.connect import is_connect

logger = logging.getLogger(__name__)

Process = tuple[str, int, int]  # machine, process id and start, as in `Holder`

BEAT_EVERY_S = 10.0
DEAD_AFTER_S = 35.0  # without a beat: three were missed
SETTLE_S = 3.0  # longer than a run needs from writing its file to looking for other holders
# Delta leaves alone what begins with an underscore, VACUUM too. Earlier versions, which may run beside, use this name and the files' names.
_FOLDER = "_claims"
_ALONE = "whole_table"  # the lock of who changes all of a table, whatever the job
#: In place of a job's digest: the lock on all of a target, for storages where the commits of two drivers are not kept apart.
WHOLE_TARGET = "one-driver"
_REFUSED = (Py4JError, OSError)  # how a storage says no
_LOCK_FILE = re.compile(r"([^~]+)~([^~]+)~([0-9]{1,19})~([0-9]{1,19})")


@dataclass(frozen=True)
class Holder:
    """A process that holds a lock.

    Attributes:
        run_id: The id of its run; sorts by time.
        machine: A digest of the machine since its last start, with its space of process ids.
        pid: The driver's process id.
        process_start: When it began, in ticks since the machine's start: process ids are used again.
    """

    run_id: str
    machine: str
    pid: int
    process_start: int

    @property
    def process(self) -> Process:
        """The process alone."""
        return self.machine, self.pid, self.process_start

    @property
    def name(self) -> str:
        """The name of the lock's file."""
        return f"{self.run_id}~{self.machine}~{self.pid}~{self.process_start}"

    @classmethod
    def parse(cls, name: str) -> Holder | None:
        """Parse the name of a lock's file; None for the name of any other file."""
        found = _LOCK_FILE.fullmatch(name)
        return cls(found[1], found[2], int(found[3]), int(found[4])) if found else None


class RunLock:
    """The locks on one target, as one run finds them; `holder` is this run's own process."""

    def __init__(self, spark: SparkSession, location: str, run_id: str, process: Process | None = None) -> None:
        """Find the locks beside the journal, which stands at `location`, with the rights of the session on its storage."""
        self._spark, self._location = spark, location
        self.holder = Holder(run_id, *(process or this_process()))

    @cached_property
    def storage(self) -> HadoopFolder | LocalFolder:
        """The folder of the locks; found where a refusal of the storage is understood.

        A client of Spark Connect has no file system of Hadoop's, and sees the folders of its own machine alone.
        """
        return LocalFolder(self._location, _FOLDER) if is_connect(self._spark) else HadoopFolder(self._spark, self._location, _FOLDER)

    def hold(self, job: str) -> AbstractContextManager[None]:
        """Hold the lock on a job, known by the digest of its tables, columns, condition and spec, while the block runs.

        `WHOLE_TARGET` as the job locks out the runs of other drivers, whatever their job; runs of one driver do not lock out each other.
        """
        return self._held(job, self._settle)

    def hold_alone(self) -> AbstractContextManager[None]:
        """Hold the lock on the whole target while the block runs: no job is at work on it, and none begins.

        Raises:
            ConflictError: A run is at work.
        """
        return self._held(_ALONE, self._require_alone)

    @contextmanager
    def _held(self, folder: str, settle: Callable[[str], None]) -> Iterator[None]:
        """Hold a lock; `settle` says whether this run goes on."""
        mine = f"{folder}/{self.holder.name}"
        try:
            self.storage.touch(mine)
        except _REFUSED as error:
            with suppress(*_REFUSED):
                self.storage.remove(mine)  # on a full disk it may be there, yet never be given back
            logger.info("this storage takes no lock files (%s): make sure that no other run of the job is at work", type(error).__name__)
            yield
            return
        ended = threading.Event()
        beat = threading.Thread(target=self._beat, args=(mine, ended), daemon=True, name="metaeol-run-lock")
        try:
            settle(folder)
            beat.start()
            yield
        finally:
            ended.set()
            if beat.is_alive():
                beat.join()
            self.storage.remove(mine)

    def is_alone(self) -> bool:
        """Tell whether this run is alone at work on the target; removes locks that dead runs left.

        Where the storage shows no lock files (a catalog may keep the folders of its tables to itself) a run finds nobody: another
        run that counted on the journal then takes another snapshot.
        """
        try:
            if not self.storage.exists(""):
                return True
            folders = self.storage.names("")
        except _REFUSED as error:
            logger.info("this storage shows no lock files (%s)", type(error).__name__)
            return True
        return not any(self._others(name) for name, is_file in folders if not is_file)

    def _settle(self, folder: str) -> None:
        """Settle which run goes on: a run that was there before, or of two that begin at once the run with the smaller id."""
        others = self._others(folder)
        if others and all(other.run_id > self.holder.run_id for other in others):
            time.sleep(SETTLE_S)  # a later run gives way, unless it looked before this file was there
            others = self._others(folder)
        if others:
            run_id, process = others[0].run_id, f"process {others[0].pid}"
            if folder == WHOLE_TARGET:
                raise ConflictError(
                    f"run {run_id} of another driver is at work on the same table ({process}): wait for its end, then run the job again"
                )
            raise ConflictError(f"run {run_id} of the same job is at work ({process}): wait for its end, then run the job again")
        if self.storage.exists(_ALONE):
            self._refuse_for(self._others(_ALONE))

    def _require_alone(self, _: str) -> None:
        for name, is_file in self.storage.names(""):
            if not is_file:
                self._refuse_for(self._others(name))

    def _refuse_for(self, holders: list[Holder]) -> None:
        for holder in holders:
            raise ConflictError(
                f"run {holder.run_id} is at work on the table (process {holder.pid}): wait for its end, then run the same command again"
            )

    def _others(self, folder: str) -> list[Holder]:
        """Find other live holders of a lock beside this run."""
        found, is_whole = [], folder == WHOLE_TARGET
        for name, is_file in self.storage.names(folder):
            holder = Holder.parse(name)
            if holder is None or not is_file:
                logger.info("%s is no lock file of a run: leaving it alone", name)
                continue
            if holder.run_id == self.holder.run_id or (is_whole and holder.process == self.holder.process):
                continue
            if self._lives(holder, f"{folder}/{name}"):
                found.append(holder)
            else:
                self.storage.remove(f"{folder}/{name}")
        return found

    def _lives(self, holder: Holder, path: str) -> bool:
        """Tell whether a holder lives; for another machine's holder this takes until its next beat, or `DEAD_AFTER_S`."""
        if holder.machine == self.holder.machine:
            return _process_start(holder.pid) == holder.process_start
        last_beat, deadline = self.storage.touched(path), time.monotonic() + DEAD_AFTER_S
        logger.info("looking for %.0f s whether run %s on another machine lives", DEAD_AFTER_S, holder.run_id)
        while time.monotonic() < deadline:
            time.sleep(1.0)
            now = self.storage.touched(path)
            if now is None:
                return False
            if now != last_beat:
                return True
        return False

    def _beat(self, path: str, ended: threading.Event) -> None:
        """Beat until the run ends: write the file anew. No Spark job, which would wait for a slot while the model holds all of them."""
        while not ended.wait(BEAT_EVERY_S):
            try:
                self.storage.touch(path)
            except _REFUSED as error:
                logger.warning("no sign of life could be written (%s): a run elsewhere may take this one for dead", type(error).__name__)


def this_process() -> Process:
    """Identify this process."""
    machine = f"{_text('/proc/sys/kernel/random/boot_id')}/{os.readlink('/proc/self/ns/pid')}"
    started = _process_start(os.getpid())
    return hashlib.sha256(machine.encode()).hexdigest()[:16], os.getpid(), started or 0


def _process_start(pid: int) -> int | None:
    """Read when a process of this machine started; None where there is no such process."""
    try:
        fields = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()  # the second field is a name, which may hold anything
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _text(path: str) -> str:
    return Path(path).read_text(encoding="ascii", errors="replace").strip()
