"""What a failure of Spark or Delta means: which to try again, and which of our errors the others are.

Failures arrive as Python classes, as bare Py4J errors or wrapped in several others, so they are told apart by the class
names and texts found along the whole chain of causes.
"""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from metaeol_udf import errors
from metaeol_udf.errors import ConflictError, EnvironmentFault, InputError, MetaEOLError

logger = logging.getLogger(__name__)

#: Conflicts with another writer, and how often the commit is tried again.
RETRIES = {
    "ConcurrentAppend": 5,
    "ConcurrentDeleteRead": 5,
    "ConcurrentDeleteDelete": 5,
    "ConcurrentWrite": 5,
    "MetadataChanged": 2,
    "ProtocolChanged": 1,
    "ConcurrentTransaction": 0,
}
_FROM_WORKER = re.compile(r"metaeol_udf\.errors\.(\w+): ([^\n]+)")
_ENVIRONMENT = (
    ("No space left on device", "the disk is full: free some space and run the same command again, it goes on where it stopped"),
    ("java.lang.OutOfMemoryError", "the Java process ran out of memory: raise spark.driver.memory or spark.executor.memory"),
    ("AccessControlException", "permission denied"),
    ("Permission denied", "permission denied"),
)

Result = TypeVar("Result")


def causes(error: BaseException) -> Iterator[str]:
    """`class: message` of an error and of all that caused it, in Python and in the JVM."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield f"{type(current).__name__}: {current}"
        origin: Any = getattr(current, "_origin", None) or getattr(current, "java_exception", None)
        while origin is not None:
            yield str(origin.toString())
            origin = origin.getCause()
        current = current.__cause__ or current.__context__


def conflict_in(error: BaseException) -> str | None:
    """Which conflict with another writer an error is, if it is one."""
    for cause in causes(error):
        for name in RETRIES:
            if f"{name}Exception" in cause:
                return name
    return None


def translate(error: Exception) -> MetaEOLError | None:
    """The error of ours that a failure of Spark means; None where it is none that we know.

    An error that a worker raised on purpose arrives as text only, and is raised again as what it was.
    """
    if isinstance(error, MetaEOLError):
        return error
    chain = list(causes(error))
    for cause in chain:
        raised = _FROM_WORKER.search(cause)
        kind = getattr(errors, raised.group(1), None) if raised else None
        if raised and isinstance(kind, type) and issubclass(kind, MetaEOLError):
            return kind(raised.group(2).strip())
    conflict = conflict_in(error)
    if conflict is not None:
        return ConflictError(
            f"another writer changed the table at the same time ({conflict}), and trying again did not help: run the job again"
        )
    if any("MULTIPLE_SOURCE_ROW_MATCHING" in cause for cause in chain):
        return InputError("source.key: a key came to stand in several rows of the source while the job ran")
    for mark, advice in _ENVIRONMENT:
        if any(mark in cause for cause in chain):
            return EnvironmentFault(advice)
    return None


def with_retries(commit: Callable[[], Result]) -> Result:
    """Run a commit that starts from the tables' present state, again where another writer was quicker.

    Raises:
        ConflictError: It was quicker too often.
    """
    tries: dict[str, int] = {}
    while True:
        try:
            return commit()
        except Exception as error:
            conflict = conflict_in(error)
            if conflict is None or tries.get(conflict, 0) >= RETRIES[conflict]:
                raise
            tries[conflict] = tries.get(conflict, 0) + 1
            pause_s = random.uniform(0.2, 1.0) * 2 ** tries[conflict]
            logger.warning("%s: another writer was quicker, trying again in %.1f s", conflict, pause_s)
            time.sleep(pause_s)
