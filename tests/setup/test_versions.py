"""One version everywhere, and forms for issues that ask for commands that exist."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import tomllib
import typer.main
import yaml

from metaeol_udf import __version__, cli

ROOT = Path(__file__).resolve().parents[2]
NAMED = re.compile(r"metaeol_udf-(\d+\.\d+\.\d+)-py3|(?:/|-t )metaeol:(\d+\.\d+\.\d+)")


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split("\0")
    return [
        ROOT / name for name in listed if name.startswith(("docs/", "examples/", "notebooks/", "resources/", "jobs/")) or "/" not in name
    ]


def test_wheels_and_images_are_named_by_the_packages_version() -> None:
    files = [path for path in tracked() if path.is_file() and path.suffix not in {".png", ".svg"} and path.name != "CHANGELOG.md"]
    if not files:
        pytest.skip("this folder is no git checkout")
    named = {(path.name, one or other) for path in files for one, other in NAMED.findall(path.read_text(encoding="utf-8"))}
    assert named
    assert {version for _, version in named} == {__version__}, sorted(named)


def test_pyproject_has_the_version_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == __version__


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[bw]*.yml")), ids=lambda path: path.name)
def test_a_form_for_issues_asks_for_commands_that_exist(path: Path) -> None:
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert {"name", "description", "labels", "body"} <= form.keys()
    ids = [field["id"] for field in form["body"]]
    assert len(ids) == len(set(ids))
    known = getattr(typer.main.get_command(cli.app), "commands", {})
    assert set(re.findall(r"`metaeol (\w+)", str(form))) <= set(known)


def test_the_recipe_for_a_laptop_installs_what_is_pinned() -> None:
    recipe = (ROOT / "examples/laptop/Dockerfile").read_text(encoding="utf-8")
    assert "--require-hashes -r /tmp/package.txt" in recipe
    assert "COPY requirements/package.txt" in recipe
    assert 'ENTRYPOINT ["metaeol"]' in recipe
