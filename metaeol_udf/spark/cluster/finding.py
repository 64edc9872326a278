"""What a check says: of a setting, a worker, a model or a table. A job raises it or logs it, the doctor prints it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from metaeol_udf.errors import ConfigError, EnvironmentFault, MetaEOLError

#: How a `setting` begins that tells what to do instead of naming a value.
_COMMANDS = ("fix ", "unset ", "pip ")


class Level(str, Enum):
    """How bad a finding is: a problem ends the job or spoils it, a warning costs time, memory or safety."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """One check's answer.

    Attributes:
        check: Name of the check.
        level: How bad it is.
        found: What was found, in one sentence without a final stop; never a text of the table or a secret.
        setting: What to change: `key=value` where one key does it. Empty where all is well.
        exit_code: Of `metaeol doctor`, should this be the worst finding: 0, 2 (settings or input) or 5 (environment).
    """

    check: str
    level: Level
    found: str
    setting: str = ""
    exit_code: int = 0

    @property
    def advice(self) -> str:
        """Advice in the imperative: `set key=value`, or what `setting` itself says to do."""
        return self.setting if self.setting.startswith(_COMMANDS) else f"set {self.setting}"

    def error(self) -> MetaEOLError:
        """Make the error that a job ends with, of the finding's exit status; it says what was found and what to change."""
        kind = EnvironmentFault if self.exit_code == EnvironmentFault.exit_code else ConfigError
        return kind(str(self))

    def __str__(self) -> str:
        return f"{self.found}: {self.advice}" if self.setting else self.found


def ok(check: str, found: str) -> Finding:
    """Make the finding of a check to which all is well."""
    return Finding(check, Level.OK, found)


def warning(check: str, found: str, setting: str) -> Finding:
    """Make a warning: the job would run, but slower, larger or less safe than it could."""
    return Finding(check, Level.WARNING, found, setting)


def wrong_setting(check: str, found: str, setting: str) -> Finding:
    """Make the problem of a wrong setting or table, which the job would refuse or which would spoil its work: exit status 2."""
    return Finding(check, Level.PROBLEM, found, setting, ConfigError.exit_code)


def wrong_environment(check: str, found: str, setting: str) -> Finding:
    """Make the problem of a wrong environment, a machine that cannot do the work: exit status 5."""
    return Finding(check, Level.PROBLEM, found, setting, EnvironmentFault.exit_code)


def refused(check: str, error: MetaEOLError, setting: str) -> Finding:
    """Make the problem of what the job itself refused, in the job's own words and with its exit status."""
    return Finding(check, Level.PROBLEM, str(error), setting, error.exit_code)
