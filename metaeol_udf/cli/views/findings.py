"""Prints what the doctor found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from metaeol_udf.cli.views.printing import say
from metaeol_udf.formatting import counted

if TYPE_CHECKING:
    from metaeol_udf.doctor import Finding


def show_finding(console: Console, finding: Finding) -> None:
    """Print one finding of the doctor: level, check, what was found, and on a line of its own what to set."""
    style = {"ok": "green", "warning": "yellow", "problem": "bold red"}[finding.level.value]
    say(console, Text(f"{finding.level.value:<8} ", style), f"{finding.check:<16} {finding.found}")
    if finding.setting:
        say(console, f"{'':<26}{finding.advice}")


def show_verdict(console: Console, findings: Sequence[Finding]) -> None:
    """Print the warnings of the doctor, then the problems, then how many of each there are."""
    counts = {level: [finding for finding in findings if finding.level.value == level] for level in ("warning", "problem")}
    for found in counts.values():
        for finding in found:
            show_finding(console, finding)
    say(console, ", ".join([counted(len(findings), "check"), *[counted(len(found), level) for level, found in counts.items()]]))
