"""Writes the notebooks for Jupyter out of those for Databricks: `python -m tests.notebooks.jupyter`.

The cells are the same. A notebook for Jupyter starts Spark itself, has a dictionary of parameters where Databricks has widgets, and no cell
that installs the package.
"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

from tests.notebooks.runner import Cell, read_cells

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "notebooks"
TARGETS = SOURCES / "jupyter"
#: Where things are on one machine, by notebook; other parameters keep the value that the widget has.
PARAMETERS = {
    "quick_start": {"catalog": "spark_catalog", "model": "models/smollm2-135m-instruct"},
    "search": {
        "conf": "conf/demo.yaml", "query": "compress a file", "duplicate_cosine": "0.995", "picture": "demo/map.png",
        "model": "models/smollm2-135m-instruct", "table": "demo/stdlib",
    },
    "quality": {"pairs": "spark_catalog.default.rated_pairs", "model": "models/smollm2-135m-instruct", "folder": "demo/quality"},
}  # fmt: skip
#: Words for Databricks, by those that a cell begins with, and what stands in their place; None leaves the cell out.
WORDS = {
    "quick_start": {
        "**What you need**": (
            "**What you need**: the package with Spark, and a model folder, which `metaeol model prepare SRC DEST` makes. Start Jupyter in the "
            "folder of both: `make demo` in a checkout makes them."
        ),
        "Put the path of your wheel here.": None,
        "## Where things are": "## Where things are\nThe table is made below.",
        "## Go on": (
            "## Go on\n- `metaeol embed CONF` keeps a table embedded: only new and changed rows.\n"
            "- `quality.ipynb` says how good the vectors are on your own labelled pairs, and finds a better spec.\n"
            "- `search.ipynb` searches, de-duplicates and clusters an embedded table, and draws a map of it."
        ),
    },
    "search": {},
    "quality": {},
}  # fmt: skip
START = """\
import os
from pathlib import Path

# Jupyter starts a notebook in its own folder. Paths below begin where the folder `models` is.
os.chdir(next((folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / "models").is_dir()), Path.cwd()))

# Spark runs in this process. Tables show as tables.
from metaeol_udf.config import SparkConfig
from metaeol_udf.spark.cluster.session import get_session

spark = get_session(SparkConfig(conf={"spark.sql.repl.eagerEval.enabled": "true", "spark.sql.repl.eagerEval.truncate": "100"}))"""


def convert(name: str) -> dict[str, Any]:
    """Make a notebook in Jupyter's format, version 4.5.

    Raises:
        ValueError: A cell holds something that only Databricks has.
    """
    cells = list(read_cells(SOURCES / f"{name}.py"))
    words = dict(WORDS[name])
    made: list[dict[str, Any]] = []
    for cell in cells:
        text = _markdown(cell, words) if cell.kind == "md" else _code(cell, PARAMETERS[name])
        if text:
            made.append(_cell("markdown" if cell.kind == "md" else "code", text))
    if words:
        raise ValueError(f"{name}: no cell begins with {', '.join(words)}")
    first = next(number for number, cell in enumerate(made) if cell["cell_type"] == "code")
    made.insert(first, _cell("code", START))
    for number, cell in enumerate(made):
        cell["id"] = f"cell-{number}"
        if "dbutils" in "".join(cell["source"]):
            raise ValueError(f"{name}: {''.join(cell['source'])!r} has no meaning outside Databricks")
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}, "language_info": {"name": "python"}}
    return {"cells": made, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}


def _cell(kind: str, text: str) -> dict[str, Any]:
    code = {"execution_count": None, "outputs": []} if kind == "code" else {}
    return {"cell_type": kind, "id": "", "metadata": {}, **code, "source": text.splitlines(keepends=True)}


def _markdown(cell: Cell, words: dict[str, str | None]) -> str:
    text = cell.source.strip()
    for begin in list(words):
        if begin in text:
            instead = words.pop(begin)
            return "" if instead is None else text[: text.index(begin)] + instead
    return text


def _code(cell: Cell, parameters: dict[str, str]) -> str:
    """The code of a cell; empty where nothing of it is left."""
    if cell.kind == "pip":
        return ""
    if cell.kind == "sql":
        return f'display(spark.sql("""\n{cell.source.strip()}\n"""))'
    if cell.kind != "python":
        raise ValueError(f"%{cell.kind} is not known here")
    kept: list[str] = []
    values: list[str] = []
    for line in cell.source.splitlines():
        if re.match(r"dbutils\.widgets\.(text|dropdown)\(", line):
            call: Any = ast.parse(line).body[0]
            name, default, *_, label = [ast.literal_eval(argument) for argument in call.value.args]
            values.append(f"    {json.dumps(name)}: {json.dumps(parameters.get(name, default))},  # {label}")
        elif not line.startswith(("dbutils.library.", "dbutils.jobs.")):
            line = re.sub(r"dbutils\.widgets\.get\(([^)]*)\)", r"parameters[\1]", line)
            kept.append(line.replace("dbutils.notebook.exit(", "print("))
    head = ["parameters = {", *values, "}"] if values else []
    return re.sub(r"\n{3,}", "\n\n", "\n".join([*head, *kept])).strip()


def text_of(name: str) -> str:
    """The file of a notebook."""
    return json.dumps(convert(name), ensure_ascii=False, indent=1) + "\n"


def main() -> None:
    TARGETS.mkdir(exist_ok=True)
    for name in PARAMETERS:
        (TARGETS / f"{name}.ipynb").write_text(text_of(name), encoding="utf-8")


if __name__ == "__main__":
    main()
