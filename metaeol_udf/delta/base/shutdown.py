"""SIGTERM (a spot machine taken away, an orchestrator that stops a job): end in order, well within 30 seconds.

The wave or commit under way gets a grace period; what does not finish in it is dropped, which costs at most that wave. All
earlier waves are journalled, so the same command goes on from there.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pyspark import SparkContext
from pyspark.sql import is_remote

from metaeol_udf.errors import TerminatedError

logger = logging.getLogger(__name__)

GRACE_S = 12.0  # for what is under way; Kubernetes and spot machines give 30 s in all
LIMIT_S = 25.0  # then the process ends, whatever still runs

_requested = threading.Event()  # module state: SIGTERM concerns the whole process
_left = threading.Event()


@contextmanager
def end_on_sigterm() -> Iterator[None]:
    """Let the work inside end in order when SIGTERM comes. For the main thread of a process of its own.

    The handler only takes note: the main thread may be in the middle of a call into the JVM, which must not be broken off.
    """
    _left.clear()
    previous = signal.signal(signal.SIGTERM, lambda number, frame: _take_note())
    try:
        yield
    finally:
        _left.set()
        _requested.clear()
        signal.signal(signal.SIGTERM, previous)


def was_requested() -> bool:
    """Tell whether SIGTERM was received, which requests the end of the process."""
    return _requested.is_set()


def check_termination() -> None:
    """Check whether to terminate, where work may stop: between waves, and before a commit that another run could make as well.

    Raises:
        TerminatedError: SIGTERM came.
    """
    if was_requested():
        raise TerminatedError(
            "ended by SIGTERM; what was computed is journalled: run the same command again, it goes on where this one stopped"
        )


def _take_note() -> None:
    if not _requested.is_set():
        _requested.set()
        threading.Thread(target=_enforce, daemon=True, name="metaeol-termination").start()


def _enforce() -> None:
    logger.warning("SIGTERM: what is under way has %.0f s to finish, then it is dropped", GRACE_S)
    left = _left.wait(GRACE_S)
    deadline = time.monotonic() + LIMIT_S - GRACE_S
    while not left and time.monotonic() < deadline:
        # Again and again: one may just be about to start. On a thread of its own: a server that is gone answers nothing.
        threading.Thread(target=_cancel_jobs, daemon=True, name="metaeol-cancel").start()
        left = _left.wait(1.0)
    if not left:
        os._exit(TerminatedError.exit_code)


def _cancel_jobs() -> None:
    if is_remote():
        _interrupt()
        return
    context = SparkContext._active_spark_context
    if context is not None:
        try:
            context.cancelAllJobs()
        except Exception as error:  # noqa: BLE001 - the JVM may have got the signal too, and be gone
            logger.warning("Spark's jobs could not be cancelled: %s", type(error).__name__)


def _interrupt() -> None:
    """Interrupt what a client of Spark Connect has under way on its server."""
    from pyspark.sql.connect.session import SparkSession

    session = SparkSession._get_default_session()
    if session is not None:
        try:
            session.interruptAll()
        except Exception as error:  # noqa: BLE001 - the server may be gone
            logger.warning("the server's work could not be interrupted: %s", type(error).__name__)
