"""The examples for Dagster and Prefect: what they take from this package is there, and no error is tried again that no try can cure.

Neither tool is installed for the tests, so the examples are parsed, not run.
"""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

from metaeol_udf import errors
from metaeol_udf.delta.base.run_report import Report

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FILES = {"dagster": EXAMPLES / "dagster/metaeol_asset.py", "prefect": EXAMPLES / "prefect/metaeol_flow.py"}


def tree_of(tool: str) -> ast.Module:
    return ast.parse(FILES[tool].read_text(encoding="utf-8"))


@pytest.mark.parametrize("tool", FILES)
def test_an_example_imports_what_is_there(tool: str) -> None:
    found = [node for node in ast.walk(tree_of(tool)) if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("metaeol_udf")]
    assert {alias.name for node in found for alias in node.names} >= {"run_embed", "BudgetError", "ConfigError"}
    for node in found:
        assert node.module is not None
        module = importlib.import_module(node.module)
        assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


@pytest.mark.parametrize("tool", FILES)
def test_errors_that_end_a_run_are_those_that_no_second_try_cures(tool: str) -> None:
    handlers = [node for node in ast.walk(tree_of(tool)) if isinstance(node, ast.ExceptHandler)]
    final = next(node.type for node in handlers if isinstance(node.type, ast.Tuple))
    named = {name.id for name in final.elts if isinstance(name, ast.Name)}
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.MetaEOLError)]
    assert named == {kind.__name__ for kind in kinds if kind.exit_code in (2, 3, 6)} - {"SettingsError"}  # a kind of ConfigError


def test_the_figures_of_the_asset_are_those_of_a_report() -> None:
    (figures,) = [
        ast.literal_eval(node.value)
        for node in ast.walk(tree_of("dagster"))
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "FIGURES"
    ]
    assert set(figures) <= vars(Report("run", "spec")).keys()
