from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.page_runner import matches, run_step, steps_of

ROOT = Path(__file__).resolve().parents[2]
PAGES = {path.relative_to(ROOT / "docs").as_posix(): path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").rglob("*.md"))}


RUNNABLE = [name for name, page in PAGES.items() if "<!-- run" in page]


def test_the_pages_that_must_run_do() -> None:
    assert {"tutorial.md", "explain.md", "sources.md"} <= set(RUNNABLE)


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNNABLE)
def test_a_page_shows_what_its_commands_print(name: str, tmp_path: Path, model_dir: Path) -> None:
    (tmp_path / "models").symlink_to(model_dir.parent)
    (tmp_path / "conf").symlink_to(ROOT / "conf")
    command = [sys.executable, "-m", "tests.docs.page_runner", str(ROOT / "docs" / name), str(tmp_path)]
    settings = {**os.environ, "PYTHONPATH": str(ROOT)}  # workers import what the driver imports
    done = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, check=False, timeout=540)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("comment", "shown", "printed", "same"),
    [
        ("run", "a 1\n", "a 1  \n", True),
        ("run", "a 1\n", "a 2\n", False),
        ("run", "a\n...\nc\n", "a\nb\nb\nc\n", True),
        ("run", "a\n...\nc\n", "a\nb\n", False),
        ("run", "", "something\n", False),
        ("run, figures differ", "rows   12\n", "rows  1,345.6\n", True),
        ("run, figures differ", "rows   12\n", "lines 12\n", False),
        ("run, figures differ", "rows 1\nexit status 3\n", "rows 1\n", False),
    ],
)
def test_outputs_are_compared_as_their_comment_says(comment: str, shown: str, printed: str, same: bool) -> None:
    (step,) = steps_of(f"<!-- {comment} -->\n```console\n$ command\n{shown}```\n")
    assert step.command == "command"
    assert matches(step, printed) is same


def test_a_command_that_fails_is_seen(tmp_path: Path) -> None:
    (step,) = steps_of("<!-- run -->\n```console\n$ echo no; exit 7\nno\n```\n")
    printed = run_step(step, tmp_path)
    assert printed == "no\nexit status 7\n"
    assert not matches(step, printed)


@pytest.mark.parametrize(
    "page", ["<!-- run -->\n\nNo block.\n", "<!-- run -->\n```yaml\na: 1\n```\n", "<!-- run -->\n```console\noutput\n```\n"]
)
def test_a_comment_that_runs_nothing_is_an_error(page: str) -> None:
    with pytest.raises(ValueError, match="block"):
        steps_of(page)
