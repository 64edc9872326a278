"""What folders share of how results look: JSON, a table of columns, a bar while Spark works."""

from __future__ import annotations

import csv
import json
import math
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

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

from metaeol_udf.formatting import flatten, visible


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


_shown: list[tuple[Progress, TaskID, str]] = []  # a terminal has one line that moves


@contextmanager
def waiting(words: str) -> Iterator[None]:
    """Show, on a terminal, that work goes on, and for how long; in a pipe or a log nothing. Inside another one its words take turns."""
    if is_quiet() or not sys.stderr.isatty():
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
