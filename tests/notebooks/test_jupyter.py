"""The notebooks for Jupyter are those for Databricks, without what only Databricks has."""

from __future__ import annotations

import ast
import json

import pytest

from tests.notebooks.jupyter import PARAMETERS, SOURCES, TARGETS, text_of
from tests.notebooks.runner import read_cells


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_notebook_for_jupyter_is_what_its_source_makes(name: str) -> None:
    """Made anew by `python -m tests.notebooks.jupyter`."""
    assert (TARGETS / f"{name}.ipynb").read_text(encoding="utf-8") == text_of(name)


@pytest.mark.parametrize("name", PARAMETERS)
def test_it_has_all_cells_but_those_of_the_platform_and_they_parse(name: str) -> None:
    cells = json.loads(text_of(name))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    for source in code:
        ast.parse(source)
    there = [cell for cell in read_cells(SOURCES / f"{name}.py") if cell.kind in {"python", "sql"}]
    assert len(code) == len(there)  # one starts Spark, and none restarts Python
    assert not [source for source in code if "dbutils" in source or "/Volumes/" in source]
