"""The help of each command: an example that is right, a page that is there, and no types of Python."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from metaeol_udf.cli.app import app
from metaeol_udf.cli.command_help import EXAMPLES
from metaeol_udf.config import setting_names

DOCS = Path(__file__).resolve().parents[2] / "docs"


def commands(group: Any = None, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every command that runs something, by the words that call it."""
    group = typer.main.get_command(app) if group is None else group
    for word, command in group.commands.items():
        full = f"{name} {word}".strip()
        if hasattr(command, "commands"):
            yield from commands(command, full)
        else:
            yield full, command


@pytest.mark.parametrize(("name", "command"), list(commands()), ids=[name for name, _ in commands()])
def test_a_command_s_help_ends_with_an_example_that_it_takes_and_a_page(
    name: str, command: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    example, page = EXAMPLES[name]
    words = shlex.split(example)
    assert words[: len(name.split())] == name.split()
    command.make_context(name, words[len(name.split()) :])  # refuses what the command does not know
    assert {word.partition("=")[0] for word in words if re.match(r"[a-z]+\.[a-z_]+=", word)} <= set(setting_names())
    assert f"metaeol {name}" in (DOCS / page).read_text(encoding="utf-8"), f"{page} does not speak of {name}"
    command.main(["--help"], prog_name=f"metaeol {name}", standalone_mode=False)
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.endswith(f"Example: metaeol {example} More: docs/{page}")
    assert re.findall(r"<(?:bool|str|int|float|path|file|list)\b[^>]*>", shown) == []


def test_every_example_is_of_a_command_that_exists() -> None:
    assert EXAMPLES.keys() == dict(commands()).keys()
