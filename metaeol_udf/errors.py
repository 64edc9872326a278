"""Every error that metaeol raises on purpose, and the exit status each one gives a command.

MetaEOLError                 1  anything unexpected
├── ConfigError              2  a setting is missing, unknown or out of range
│   └── SettingsError        2  the same, of several settings at once
├── InputError               2  a table, column or key is not what the settings say
├── BudgetError              3  more rows failed than `runtime.max_failed_fraction` allows
├── ConflictError            4  another writer won, and retrying did not help
├── EnvironmentFault         5  disk, memory, Java, device
│   └── ModelFilesError      5  model files missing, truncated, altered or not allowed
├── QualityError             6  the quality gate does not let another spec's vectors into the table, or a query missed its row
└── TerminatedError        143  SIGTERM: the same command goes on where this one stopped

Messages name the thing, the rule and the value found, then the way out. They never quote a text of the user's table.
"""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

_MOST_FRAMES = 4  # of a worker's stack that a message names


def one_line(error: BaseException) -> str:
    """Write an error's message on one line; its class where the message is empty."""
    return " ".join(str(error).split()) or type(error).__name__


class MetaEOLError(Exception):
    """Base of all errors raised by this package."""

    exit_code = 1


class ConfigError(MetaEOLError, ValueError):
    """A setting is missing, unknown or out of range."""

    exit_code = 2


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with the settings.

    Attributes:
        setting: Which one, as `section.key`.
        said: The sentence about it.
        is_missing: Whether the setting must be given and is not.
    """

    setting: str
    said: str
    is_missing: bool = False


class SettingsError(ConfigError):
    """Settings are wrong: all that are, not only the first.

    Attributes:
        problems: What is wrong, in the order in which it was found.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        """Make the message of the problems: a line each."""
        super().__init__("\n".join(problem.said for problem in problems))
        self.problems = tuple(problems)

    def __reduce__(self) -> tuple[type[SettingsError], tuple[tuple[Problem, ...]]]:
        """Tell pickle what the error is made from: its message is not."""
        return type(self), (self.problems,)


class InputError(MetaEOLError, ValueError):
    """A table, column or key is not what the settings say it is."""

    exit_code = 2


class BudgetError(MetaEOLError):
    """More rows failed than the failure budget allows."""

    exit_code = 3


class ConflictError(MetaEOLError):
    """Another writer changed the table and retrying did not resolve it."""

    exit_code = 4


class EnvironmentFault(MetaEOLError):
    """The machine cannot do the work: disk, memory, Java or device."""

    exit_code = 5


class ModelFilesError(EnvironmentFault):
    """Model files are missing, truncated, altered or of a kind that is not allowed."""


class QualityError(MetaEOLError):
    """Vectors of another spec are worse than the quality gate allows, or it could not tell; or a query missed the row it must find."""

    exit_code = 6


class TerminatedError(MetaEOLError):
    """The process was asked to end with SIGTERM; what was journalled is kept, so the same command goes on from there."""

    exit_code = 143  # 128 + 15, as a shell says it


def without_message(error: Exception) -> Exception:
    """Return an error of a Python worker as it may be shown: Spark writes messages into its logs, and a library's may quote a text.

    The class and the places in the code are kept. Errors of ours pass as they are; so do those of memory and of files, which quote no text
    and of which `spark_errors` knows the way out.
    """
    name = type(error).__name__
    if isinstance(error, (MetaEOLError, MemoryError, OSError)) or name.endswith("MemoryError"):  # torch has a class of its own
        return error
    frames = traceback.extract_tb(error.__traceback__)[-_MOST_FRAMES:]
    places = ", ".join(f"{frame.name} ({'/'.join(Path(frame.filename).parts[-3:])}:{frame.lineno})" for frame in reversed(frames))
    return MetaEOLError(f"{name} in a Python worker; its message is left out, for it may quote a text. It was raised in {places}")


def did_you_mean(found: str, known: Iterable[str]) -> str:
    """Return the end of an error message about a name that is not known: the nearest known name, else all of them."""
    names = sorted(known)
    nearest = difflib.get_close_matches(found, names, n=1, cutoff=0.5)
    return f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(names)}"


#: Words that other tools use for a value, and the same value here.
_SAME_VALUES = {
    "gpu": "cuda", "mps": "cpu", "bf16": "bfloat16", "fp16": "float16", "half": "float16", "float": "float32", "fp32": "float32",
    "8bit": "int8", "4bit": "int4", "delete": "remove", "once": "availableNow", "beginning": "earliest",
}  # fmt: skip


def nearest_word(found: object, words: Iterable[str]) -> str:
    """Return the end of a message that names all valid words already: the word of the same meaning or the nearest one, or nothing."""
    by_lower = {word.lower(): word for word in words}
    if _SAME_VALUES.get(str(found).lower()) in by_lower.values():
        return f"; did you mean {_SAME_VALUES[str(found).lower()]!r}?"
    nearest = difflib.get_close_matches(str(found).lower(), by_lower, n=1, cutoff=0.5)
    return f"; did you mean {by_lower[nearest[0]]!r}?" if nearest else ""
