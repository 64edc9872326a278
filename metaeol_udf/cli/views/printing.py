"""Prints values as a table, as JSON or as CSV, and words as they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any

from rich.console import Console
from rich.text import Text

from metaeol_udf.config import JobConfig
from metaeol_udf.formatting import flatten, format_value, visible
from metaeol_udf.terminal import print_csv, print_json, show_columns


class Format(str, Enum):
    """How a result is printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


def emit(
    as_json: bool,
    value: object,
    show: Callable[[Console], None],
    how: Format = Format.TABLE,
    rows: Sequence[Mapping[str, Any]] | None = None,
) -> None:
    """Emit a command's result.

    Args:
        as_json: Whether JSON was asked for by its own option.
        value: The result in plain values, for JSON.
        show: Prints the result for people.
        how: What `--format` says.
        rows: The result as rows, for CSV; None where `value` is a mapping, each of whose values is then a row.
    """
    if as_json or how is Format.JSON:
        print_json(value)
    elif how is Format.CSV:
        pairs = flatten(value) if isinstance(value, Mapping) else ()
        print_csv([{"name": name, "value": item} for name, item in pairs] if rows is None else rows)
    else:
        show(Console())


def emit_each(
    as_json: bool,
    configs: Sequence[JobConfig],
    found: Sequence[dict[str, Any]],
    show: Callable[[Console, str, dict[str, Any]], None],
    how: Format,
    rows: Sequence[Mapping[str, Any]] | None = None,
) -> None:
    """Emit what was found of each column of vectors: as JSON a list of it, where there are several; as CSV `rows`, or a row each value."""

    def show_all(console: Console) -> None:
        for config, each in zip(configs, found, strict=True):
            show(console, config.title, each)

    if rows is None and len(found) > 1:
        columns = [config.column for config in configs]
        rows = [
            {"column": column, "name": name, "value": value}
            for column, each in zip(columns, found, strict=True)
            for name, value in flatten(each)
        ]
    emit(as_json, found[0] if len(found) == 1 else list(found), show_all, how, rows)


def say(console: Console, *words: str | Text, style: str | None = None) -> None:
    """Print words as they are: nothing in them is markup or obeyed, and a long line stays a line in a pipe."""
    shown = [visible(word) if isinstance(word, str) else word for word in words]
    console.print(*shown, style=style, sep="", markup=False, highlight=False, soft_wrap=True)


def show_figures(console: Console, title: str, figures: Mapping[str, Any]) -> None:
    """Print figures under a title, one a line: the words that name a figure, then its value."""
    lines = [(words, format_value(value)) for words, value in figures.items()]
    show_columns(console, title, (), lines)
