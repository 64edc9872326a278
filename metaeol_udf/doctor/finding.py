"""What a check of the doctor says."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from metaeol_udf.errors import ConfigError, EnvironmentFault, MetaEOLError


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


def ok(check: str, found: str) -> Finding:
    """All is well."""
    return Finding(check, Level.OK, found)


def warning(check: str, found: str, setting: str) -> Finding:
    """The job would run, but slower, larger or less safe than it could."""
    return Finding(check, Level.WARNING, found, setting)


def wrong_setting(check: str, found: str, setting: str) -> Finding:
    """A setting or a table that the job would refuse, or that would spoil its work: exit status 2."""
    return Finding(check, Level.PROBLEM, found, setting, ConfigError.exit_code)


def wrong_environment(check: str, found: str, setting: str) -> Finding:
    """A machine that cannot do the work: exit status 5."""
    return Finding(check, Level.PROBLEM, found, setting, EnvironmentFault.exit_code)


def refused(check: str, error: MetaEOLError, setting: str) -> Finding:
    """What the job itself would refuse, in the job's own words and with its exit status."""
    return Finding(check, Level.PROBLEM, str(error), setting, error.exit_code)
