"""What folders share of how results and progress look: JSON, a table of columns, a bar, lines in a log."""

from __future__ import annotations

import csv
import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TextIO

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from metaeol_udf.formatting import counted, flatten, format_duration, visible

logger = logging.getLogger(__name__)

LINE_EVERY_S = 10.0  # at most, in a log


def print_json(value: Any) -> None:
    """Print what a command found. A number that JSON has no word for, as a score of vectors that are all equal, is null."""
    typer.echo(json.dumps(_without_nan(value), indent=1, default=str, allow_nan=False))


def print_csv(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows as CSV with a head; what is nested stands in columns of its own, lists as JSON."""
    flat = [dict(flatten(row)) for row in rows]
    names = list(dict.fromkeys(name for row in flat for name in row))
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(names)
    for row in flat:
        cells = (row.get(name) for name in names)
        writer.writerow([json.dumps(cell, default=str) if isinstance(cell, (list, tuple, bool)) else cell for cell in cells])


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


_quiet = [False]


def set_quiet(quiet: bool) -> None:
    """Say whether this process shows no progress."""
    _quiet[0] = quiet


def is_quiet() -> bool:
    """Tell whether this process shows no progress."""
    return _quiet[0]


_is_plain = [False]


def set_plain(plain: bool) -> None:
    """Say whether this process shows progress as lines of its log, also on a terminal."""
    _is_plain[0] = plain


def can_move(stream: TextIO) -> bool:
    """Tell whether a stream shows a line that moves: it is a terminal, and nobody wants silence or lines of a log."""
    return stream.isatty() and not is_quiet() and not _is_plain[0]


_log_fields: ContextVar[Mapping[str, str] | None] = ContextVar("metaeol_log_fields", default=None)


@contextmanager
def log_fields(**fields: str) -> Iterator[None]:
    """Add fields to each line that is logged as JSON in this block."""
    token = _log_fields.set({**current_log_fields(), **fields})
    try:
        yield
    finally:
        _log_fields.reset(token)


def current_log_fields() -> Mapping[str, str]:
    """Give the fields that `log_fields` added."""
    return _log_fields.get() or {}


_shown: list[tuple[Progress, TaskID, str]] = []  # a terminal has one line that moves


@contextmanager
def waiting(words: str) -> Iterator[None]:
    """Show on a terminal that work goes on, and for how long; a log has a line. Inside another one its words take turns."""
    if not can_move(sys.stderr):
        logger.log(logging.DEBUG if is_quiet() else logging.INFO, "%s", words)
        yield
        return
    if _shown:
        outer, task, before = _shown[-1]
        outer.update(task, description=words)
        try:
            yield
        finally:
            outer.update(task, description=before)
        return
    # A copy of the terminal, because standard error itself is lent to the JVM while it starts.
    with os.fdopen(os.dup(2), "w") as file:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=Console(file=file), transient=True) as bar:
            _shown.append((bar, bar.add_task(words, total=None), words))
            try:
                yield
            finally:
                _shown.pop()


@contextmanager
def bar(words: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar on standard error, with the time left; what it gives moves the bar on by so many."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as shown:
        task = shown.add_task(words, total=total)
        yield lambda n: shown.advance(task, n)


@contextmanager
def counting(words: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show how many of `total` texts are done: by a bar on a terminal, by lines in a log. What it gives counts so many more."""
    if can_move(sys.stderr):
        with bar(words, total) as advance:
            yield advance
        return
    level = logging.DEBUG if is_quiet() else logging.INFO
    logger.log(level, "%s %s", words, counted(total, "text"))
    started = last = time.monotonic()
    done = 0

    def count(n: int) -> None:
        nonlocal done, last
        done, now = done + n, time.monotonic()
        if now - last >= LINE_EVERY_S or done >= total:
            last = now
            logger.log(level, "%s", how_far(done, total, now - started))

    yield count


def how_far(done: int, total: int, seconds: float, rate: str | None = None) -> str:
    """Say how many texts are done, at which rate, and how long the rest takes at the rate so far."""
    words = f"{done:,} of {counted(total, 'text')}, {rate or f'{done / max(seconds, 1e-9):.1f} texts/s'}"
    return f"{words}, {format_duration(seconds / done * (total - done))} left" if 0 < done < total else words


def show_columns(console: Console, title: str, head: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> None:
    """Print rows of cells under a head, if there is any; columns whose place is in `right` are set to the right.

    Control characters of cells are made visible.
    """
    title, rows = visible(title), [[visible(cell) for cell in row] for row in rows]
    if console.is_terminal:
        table = Table(title=Text(title), title_justify="left", show_header=bool(head))
        for place, words in enumerate(head or [""] * len(rows[0])):
            style = "cyan" if not head and place == 0 else ""
            table.add_column(words, justify="right" if place in right else "left", style=style, overflow="fold")
        for row in rows:
            table.add_row(*map(Text, row))
        console.print(table)
        return
    shown = [head, *rows] if head else rows
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    lines = [title]
    for row in shown:
        cells = [
            cell.rjust(width) if place in right else cell.ljust(width) for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  " + "  ".join(cells).rstrip())
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)
