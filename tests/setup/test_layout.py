"""The house: which folder may import which, how many modules a folder holds, how long a module is."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import metaeol_udf

ROOT = Path(metaeol_udf.__file__).parent
FILES = [path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py"]
MOST_MODULES, MOST_LINES = 10, 400

#: A folder imports folders of earlier lines only.
ORDER = [
    ".",
    "config",
    "prompts",
    "encoder/vectors",
    "encoder/checkpoint",
    "encoder/forward",
    "encoder/gpu encoder/generic",
    "encoder evaluation report_page",
    "spark/worker",
    "spark/cluster",
    "spark",
    "delta/connect",
    "delta/tables quality explain",
    "delta/sources",
    "delta/base",
    "delta/select",
    "delta/write delta/report",
    "delta/gate",
    "delta",
    "search doctor estimate starter tuning serving care",
    "cli/views",
    "cli",
]
RANK = {folder: rank for rank, line in enumerate(ORDER) for folder in line.split()}


def imports_of(path: Path) -> Iterator[Path]:
    """Files of ours that a file imports: at the top, inside functions and for types alone."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert not any(alias.name.startswith("metaeol_udf.") for alias in node.names), f"{path}: write `from … import …`"
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "metaeol_udf":
            base = ROOT.joinpath(*(node.module or "").split(".")[1:])
            for alias in node.names:
                places = (base / f"{alias.name}.py", base / alias.name / "__init__.py", base.with_suffix(".py"), base / "__init__.py")
                yield next(place for place in places if place.is_file())


def folder_of(path: Path) -> str:
    return path.parent.relative_to(ROOT).as_posix()


def test_imports_point_one_way() -> None:
    edges = {(folder_of(path), folder_of(target), path.name) for path in FILES for target in imports_of(path)}
    assert not sorted((a, b, name) for a, b, name in edges if a != b and RANK[b] >= RANK[a])


def test_no_modules_import_each_other() -> None:
    TopologicalSorter({path: set(imports_of(path)) for path in FILES}).prepare()  # raises CycleError


def test_a_folder_can_be_overlooked() -> None:
    modules: dict[str, int] = {}
    for path in FILES:
        modules[folder_of(path)] = modules.get(folder_of(path), 0) + (path.name != "__init__.py")
    assert not {folder: n for folder, n in modules.items() if n > MOST_MODULES}


def test_a_module_can_be_read_in_one_sitting() -> None:
    lengths = {path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines()) for path in ROOT.rglob("*.py")}
    assert not {name: n for name, n in lengths.items() if n > MOST_LINES}


def test_every_folder_says_what_is_in_it() -> None:
    for folder in {path.parent for path in FILES} | {ROOT}:
        words = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
        assert words, folder


def test_tests_patch_no_private_name_of_ours() -> None:
    """A test that reaches behind a module breaks with its inside: hooks and public names are for that."""
    foreign = ("torch.", "flex_module", "builtins")
    tests = Path(__file__).resolve().parents[1]
    found = [
        (path.name, match.group(0))
        for path in tests.rglob("*.py")
        for match in re.finditer(r"setattr\(([\w.]+), \"_\w+\"", path.read_text(encoding="utf-8"))
        if not match.group(1).startswith(foreign)
    ]
    assert not found
