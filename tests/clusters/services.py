"""Services in processes of their own on 127.0.0.1: started by a test, waited for, and stopped by their process ids."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

HOST = "127.0.0.1"
_START_S = 240  # a busy machine fails no check
_WAVE_S = 900
_RUN_S = 900
#: What the first wave writes into the log when it is done.
_FIRST_WAVE = "wave 1 of "


def free_port() -> int:
    """Find a port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


class Service:
    """A process with a log, in a session of its own: whatever it starts ends with it."""

    def __init__(self, command: Sequence[str], folder: Path, name: str, env: Mapping[str, str] | None = None) -> None:
        """Start the process in a folder, which takes its log `NAME.log`."""
        self.name, self.log = name, folder / f"{name}.log"
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                list(command), cwd=folder, env=None if env is None else dict(env), stdout=output, stderr=output, start_new_session=True
            )

    @property
    def is_running(self) -> bool:
        """Whether the process runs."""
        return self.process.poll() is None

    def written(self) -> str:
        """What the process has written so far."""
        return self.log.read_text(errors="replace")

    def wait_for(self, is_there: Callable[[], bool], what: str, patience_s: float = _START_S) -> None:
        """Wait until something is there; the process must not end before."""
        deadline = time.monotonic() + patience_s
        while not is_there():
            assert self.is_running, f"{self.name} ended with {self.process.returncode} before {what}: {self.written()[-3000:]}"
            assert time.monotonic() < deadline, f"{self.name}: {what} did not come: {self.written()[-3000:]}"
            time.sleep(0.1)

    def wait_for_port(self, port: int) -> None:
        """Wait until the process answers at a port."""
        self.wait_for(lambda: _answers(port), f"an answer at port {port}")

    def kill(self) -> None:
        """Kill the process with all that it started, as a machine that goes down does."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for _ in range(300):
            left = _members(self.process.pid)
            if not left:
                break
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            time.sleep(0.1)
        else:
            raise AssertionError(f"processes of {self.name} do not end: {left}")
        self.process.wait(30)

    def finish(self) -> int:
        """Wait for the end of a run, of which nothing is left; gives its status."""
        try:
            return self.process.wait(_RUN_S)
        finally:
            self.kill()

    def children(self, marked: str) -> list[psutil.Process]:
        """Processes below this one whose command line holds a word, the oldest first."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if marked in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return sorted(found, key=lambda process: process.create_time())


def wait_for_wave(driver: Service) -> None:
    """Wait until the first of a job's several waves is journalled."""
    driver.wait_for(lambda: _FIRST_WAVE in driver.written(), "the second wave", _WAVE_S)


@contextmanager
def running(*services: Service) -> Iterator[None]:
    """Stop services at the end of the block, the last one first, whatever happens."""
    try:
        yield
    finally:
        for service in reversed(services):
            service.kill()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def _members(session: int) -> list[psutil.Process]:
    """Processes of a session that are no zombies: Spark's Python daemon has a process group of its own."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            if process.status() != psutil.STATUS_ZOMBIE and os.getsid(process.pid) == session:
                found.append(process)
    return found
