"""What a failure of Spark or Delta means: which to try again, and which of our errors the others are.

Failures arrive as Python classes, as bare Py4J errors or wrapped in several others, so they are told apart by the class
names and texts found along the whole chain of causes.
"""

from __future__ import annotations

import logging
import random
import re
import time
import traceback
from collections.abc import Callable, Collection, Iterator
from typing import Any, TypeVar

from py4j.protocol import Py4JError

from metaeol_udf import errors
from metaeol_udf.errors import ConflictError, EnvironmentFault, InputError, MetaEOLError
from metaeol_udf.formatting import first_words

logger = logging.getLogger(__name__)

#: Conflicts with another writer, and how often the commit is tried again. Every try begins with the tables' present state and
#: checks their columns anew; after a change of metadata or protocol little is to be hoped from many tries.
RETRIES = {
    "ConcurrentAppend": 5,
    "ConcurrentDeleteRead": 5,
    "ConcurrentDeleteDelete": 5,
    "ConcurrentWrite": 5,
    "MetadataChanged": 2,
    "ProtocolChanged": 1,
    "ConcurrentTransaction": 0,
}
MAX_PAUSE_S = 20.0
_ADDED_MEANWHILE = "DELTA_DUPLICATE_COLUMNS_FOUND.ADDING_COLUMNS"  # another run has just made the columns that this one wants to make
_ADVICE = {
    "ProtocolChanged": "the table's protocol was upgraded meanwhile; if this Spark's Delta is older than it asks for, upgrade Delta",
    "MetadataChanged": "its columns or properties keep changing; run the job again when that is over",
}
#: How Spark and Delta say that another run has just made the table, or is making it: its folder is there, its first commit may not be.
_MADE_MEANWHILE = (
    "DELTA_CREATE_TABLE_WITH_",
    "DELTA_CREATE_TABLE_SCHEME_MISMATCH",
    "DELTA_MISSING_DELTA_TABLE",
    "DELTA_TABLE_NOT_FOUND",
    "ALREADY_EXISTS",
    "TableAlreadyExistsException",
)
#: How Spark and Delta say that files of an old version are gone, which VACUUM does to versions that a long run still reads.
_REMOVED = ("FAILED_READ_FILE.FILE_NOT_EXIST", "DELTA_FILE_NOT_FOUND", "DELTA_VERSIONS_NOT_CONTIGUOUS", "DELTA_CANNOT_RECONSTRUCT_VERSION")
_LOST = "Checkpoint block"  # with it Spark says that rows were kept on an executor that is lost
DOUBLED_KEY = "source.key: a key came to stand in several rows of the source while the job ran"
_TOO_NEW = "this session's Delta does not know the table's format: install a newer Delta, or drop the new features from the table"
_TABLE_REFUSES = {
    "MULTIPLE_SOURCE_ROW_MATCHING": DOUBLED_KEY,
    "DELTA_CANNOT_MODIFY_APPEND_ONLY": "a table that the job writes to has delta.appendOnly=true: set it to false by ALTER TABLE",
    "DELTA_UNSUPPORTED_FEATURES": _TOO_NEW,
    "DELTA_INVALID_PROTOCOL_VERSION": _TOO_NEW,
    "DELTA_VIOLATE_CONSTRAINT": "a CHECK constraint of the table refuses the vectors' columns: it must allow NULL and any value in them",
    "DELTA_NOT_NULL_CONSTRAINT": "a NOT NULL column of the table is none of the job's: give it a default, or use a target.table of its own",
    "DELTA_CREATE_TABLE_WITH_NON_EMPTY_LOCATION": "the folder of a table of the job holds something else than a Delta table: move it away",
    "CSV header does not conform to the schema": "source.path: a CSV file has other columns in its header than another, or another order",
    "DELTA_FAILED_TO_MERGE_FIELDS": "embedding.column: the table's columns of that name are of another type",
}
_FROM_WORKER = re.compile(r"^(?:[\w.]+: )?metaeol_udf\.errors\.(\w+): ([^\n]+)", re.MULTILINE)
_JAVA_IS_GONE = "Py4JNetworkError"
_ENVIRONMENT = (
    (
        _JAVA_IS_GONE,
        "Spark's Java process has ended, and its log says why. Most often its memory was too small or the system stopped it: raise "
        "spark.driver.memory or give the machine more, and run the same command again, it goes on where it stopped",
    ),
    (
        "StatusCode.UNAVAILABLE",
        "the server of Spark Connect does not answer: see that it runs, and run the same command again, it goes on where it stopped",
    ),
    ("No space left on device", "the disk is full: free some space and run the same command again, it goes on where it stopped"),
    ("Disk quota exceeded", "the disk quota is used up: free some space and run the same command again, it goes on where it stopped"),
    ("java.lang.OutOfMemoryError", "the Java process ran out of memory: raise spark.driver.memory or spark.executor.memory"),
    (
        "MemoryError",
        "a Python worker ran out of memory: lower runtime.max_batch_tokens, run fewer tasks at a time (spark.executor.cores), or raise "
        "spark.executor.memoryOverhead (spark.executor.pyspark.memory, where it is set)",
    ),
)

#: How storages and catalogs say that the user may not: Hadoop's file systems, S3 (403), folders that cannot be made, and catalogs.
_DENIED = re.compile(
    r"AccessControlException|AccessDeniedException|Permission denied|Mkdirs failed to create|DELTA_CANNOT_CREATE_LOG_PATH"
    r"|PERMISSION_DENIED|INSUFFICIENT_PERMISSIONS"
)

Result = TypeVar("Result")


def causes(error: BaseException) -> Iterator[str]:
    """`class: message` of an error and of all that caused it, in Python and in the JVM."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        try:
            yield f"{type(current).__name__}: {current}"
            origin: Any = getattr(current, "_origin", None) or getattr(current, "java_exception", None)
            while origin is not None:
                yield str(origin.toString())
                origin = origin.getCause()
        except (Py4JError, OSError):  # the words of a failure in Java are asked for there
            yield _JAVA_IS_GONE
        if isinstance(current, OSError) and _comes_from_py4j(current):
            yield _JAVA_IS_GONE
        current = current.__cause__ or current.__context__


def _comes_from_py4j(error: BaseException) -> bool:
    """Tell whether an error was raised by the connection to Java."""
    return any(str(frame.f_globals.get("__name__")).startswith("py4j.") for frame, _ in traceback.walk_tb(error.__traceback__))


def conflict_in(error: BaseException) -> str | None:
    """Which conflict with another writer an error is, if it is one."""
    for cause in causes(error):
        for name in RETRIES:
            if f"{name}Exception" in cause:
                return name
        if _ADDED_MEANWHILE in cause:
            return "MetadataChanged"
    return None


def rows_are_gone(error: BaseException) -> bool:
    """Tell whether rows that a run counts on cannot be read any more: their files, or what a lost executor kept."""
    return files_are_gone(error) or any(_LOST in cause for cause in causes(error))


def is_lost_race(error: BaseException) -> bool:
    """Tell whether a table could not be made because another run has just made it, or is making it."""
    return conflict_in(error) is not None or any(mark in cause for cause in causes(error) for mark in _MADE_MEANWHILE)


def files_are_gone(error: BaseException) -> bool:
    """Whether a version that was pinned cannot be read any more."""
    return any(mark in cause for cause in causes(error) for mark in _REMOVED)


def translate(error: Exception) -> MetaEOLError | None:
    """The error of ours that a failure of Spark means; None where it is none that we know.

    An error that a worker raised on purpose arrives as text only, and is raised again as what it was.
    """
    if isinstance(error, MetaEOLError):
        return error
    chain = list(causes(error))
    for cause in chain:
        raised = _FROM_WORKER.search(cause)
        # A quotation mark before the worker's stack trace: a message of Spark's quotes a row, which may say anything.
        if raised and "'" in cause[: raised.start()].partition("Traceback")[0]:
            continue
        kind = getattr(errors, raised.group(1), None) if raised else None
        if raised and isinstance(kind, type) and issubclass(kind, MetaEOLError):
            return kind(raised.group(2).strip())
    conflict = conflict_in(error)
    if conflict is not None:
        advice = _ADVICE.get(conflict, "run the job again")
        return ConflictError(f"another writer changed the table at the same time ({conflict}), and trying again did not help: {advice}")
    for mark, message in _TABLE_REFUSES.items():
        if any(mark in cause for cause in chain):
            return InputError(message)
    if files_are_gone(error):
        return ConflictError(
            "files of the source's version were removed while the job read them, and again in its second try: run the job again, "
            "and VACUUM with a retention longer than a run (delta.deletedFileRetentionDuration)"
        )
    for mark, advice in _ENVIRONMENT:
        if any(mark in cause for cause in chain):
            return EnvironmentFault(advice)
    denied = [line for cause in chain for line in cause.splitlines() if _DENIED.search(line)]
    if denied:  # the last one is nearest to what was refused, and names it
        return EnvironmentFault(
            f"permission denied: {first_words(denied[-1], 300)}; let the user who runs the job read and write there, then run it again"
        )
    return None


def with_retries(commit: Callable[[], Result], but: Collection[str] = ()) -> Result:
    """Run a commit that starts from the tables' present state, again where another writer was quicker.

    Args:
        commit: What to run.
        but: Conflicts that the caller handles: these are raised at once.

    Raises:
        ConflictError: It was quicker too often.
    """
    tries: dict[str, int] = {}
    while True:
        try:
            return commit()
        except Exception as error:
            conflict = conflict_in(error)
            if conflict is None or conflict in but or tries.get(conflict, 0) >= RETRIES[conflict]:
                raise
            tries[conflict] = tries.get(conflict, 0) + 1
            pause(conflict, tries[conflict])


def pause(conflict: str, tries: int) -> None:
    """Pause after a conflict, longer after each try, and for a random time, so that two writers do not meet again."""
    pause_s = min(MAX_PAUSE_S, random.uniform(0.2, 1.0) * 2**tries)
    logger.warning("%s: another writer was quicker, trying again in %.1f s", conflict, pause_s)
    time.sleep(pause_s)
