"""Runs a notebook in Databricks' source format as plain Python, with stand-ins for what a Databricks notebook finds ready-made.

From the repository's root: `python -m tests.notebooks.runner notebooks/quick_start.py catalog=spark_catalog model=FOLDER`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pyspark.sql import DataFrame, SparkSession

_HEAD = "# Databricks notebook source"
_BREAK = "# COMMAND ----------"
_MAGIC = "# MAGIC"


class NotebookExit(Exception):
    """What `dbutils.notebook.exit` raises to end a notebook with a value."""

    def __init__(self, value: str) -> None:
        super().__init__(value)
        self.value = value


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        kind: `python`, or the name of its magic: `md`, `sql`, `pip`.
        source: Its text, of magic cells without `# MAGIC`; the first line of `pip` is the arguments.
        line: Number in the file, from 1, of its first line.
    """

    kind: str
    source: str
    line: int


def read_cells(path: Path) -> Iterator[Cell]:
    """The cells of a notebook in their order.

    Raises:
        ValueError: The file is not in Databricks' source format, or a cell mixes Python and magic lines.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    if lines[:1] != [_HEAD]:
        raise ValueError(f"{path} must begin with {_HEAD!r}")
    starts = [0, *(number for number, line in enumerate(lines) if line == _BREAK)]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        body = lines[start + 1 : end]
        if any(line.strip() for line in body):
            yield _cell(path, body, start + 2)


def _cell(path: Path, body: list[str], line: int) -> Cell:
    magic = [text for text in body if text.startswith(_MAGIC)]
    if not magic:
        return Cell("python", "\n".join(body), line)
    if len(magic) != sum(bool(text.strip()) for text in body):
        raise ValueError(f"{path}:{line}: a cell holds either Python or {_MAGIC} lines")
    stripped = [text.removeprefix(_MAGIC).removeprefix(" ") for text in magic]
    kind, _, rest = stripped[0].partition(" ")
    return Cell(kind.removeprefix("%"), "\n".join([rest, *stripped[1:]]), line)


@dataclass
class Widgets:
    """`dbutils.widgets`: values given by the caller win over defaults, as a job's parameters do."""

    given: Mapping[str, str]
    values: dict[str, str] = field(default_factory=dict)

    def text(self, name: str, defaultValue: str, label: str = "") -> None:
        self.values[name] = self.given.get(name, defaultValue)

    def dropdown(self, name: str, defaultValue: str, choices: list[str], label: str = "") -> None:
        value = self.given.get(name, defaultValue)
        if value not in choices:
            raise ValueError(f"widget {name} must be one of {choices}, found {value!r}")
        self.values[name] = value

    def get(self, name: str) -> str:
        return self.values[name]


class TaskValues:
    """`dbutils.jobs.taskValues`: what a task tells the tasks behind it."""

    def __init__(self) -> None:
        self.set_values: dict[str, Any] = {}

    def set(self, key: str, value: Any) -> None:
        self.set_values[key] = value


def _exit(value: str) -> None:
    raise NotebookExit(value)


def run_notebook(path: str | Path, *, spark: SparkSession, **widgets: str) -> dict[str, Any]:
    """Execute a notebook's cells in order, in one namespace.

    Python cells run as they are. `%sql` cells run in the session and are displayed; they take no parameters, which Delta's parser does
    not bind in Spark 4.2. `%md` cells do nothing. `%pip` cells install nothing here: their arguments are handed back.

    Args:
        path: The notebook.
        spark: The session it finds as `spark`.
        widgets: Values for its widgets.

    Returns:
        `exit`: what `dbutils.notebook.exit` was called with, or None. `displayed`: what was displayed, DataFrames as lists of rows.
        `namespace`: all names at the end. `pip`: arguments of `%pip` cells. `task_values`: what was set.

    Raises:
        ValueError: A widget was given that the notebook does not have, or a cell has a magic that is not known here.
        Exception: Whatever a cell raises, with the notebook's own line numbers.
    """
    displayed: list[Any] = []
    installed: list[str] = []
    fields, values = Widgets(widgets), TaskValues()

    def display(value: Any) -> None:
        displayed.append(value.collect() if isinstance(value, DataFrame) else value)

    dbutils = SimpleNamespace(
        widgets=fields,
        jobs=SimpleNamespace(taskValues=values),
        notebook=SimpleNamespace(exit=_exit),
        library=SimpleNamespace(restartPython=lambda: None),
    )
    names: dict[str, Any] = {"__name__": "__main__", "spark": spark, "dbutils": dbutils, "display": display}
    result = None
    os.environ.setdefault("MPLBACKEND", "Agg")  # figures are displayed, no window is opened
    try:
        for cell in read_cells(Path(path)):
            if cell.kind == "python":
                exec(compile("\n" * (cell.line - 1) + cell.source, str(path), "exec"), names)
            elif cell.kind == "sql":
                display(spark.sql(cell.source))
            elif cell.kind == "pip":
                installed.append(cell.source)
            elif cell.kind != "md":
                raise ValueError(f"{path}:{cell.line}: %{cell.kind} is not known here")
    except NotebookExit as leaving:
        result = leaving.value
    unknown = set(widgets) - set(fields.values)
    if unknown:
        raise ValueError(f"{path} has no widget {', '.join(sorted(unknown))} (widgets: {', '.join(fields.values)})")
    return {"exit": result, "displayed": displayed, "namespace": names, "pip": installed, "task_values": values.set_values}


def main(arguments: list[str]) -> None:
    """Run a notebook in a local session and print what it exits with."""
    from metaeol_udf.config import SparkConfig
    from metaeol_udf.spark.cluster.session import get_session

    path, *given = arguments
    spark = get_session(SparkConfig(conf={"spark.ui.enabled": "false"}))
    outcome = run_notebook(path, spark=spark, **dict(each.split("=", 1) for each in given))
    for shown in outcome["displayed"]:
        sys.stdout.writelines(f"{row}\n" for row in (shown if isinstance(shown, list) else [shown]))
    sys.stdout.write(f"{outcome['exit']}\n")
    spark.stop()


if __name__ == "__main__":
    main(sys.argv[1:])
