"""Arguments that several commands take, and what the shell offers for them when Tab is pressed. No Spark, no torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from metaeol_udf.cli.views import Format
from metaeol_udf.config import CHOICES, setting_names, switches

_SUFFIXES = (".yaml", ".yml")


def complete_conf(incomplete: str) -> list[str]:
    """YAML files, and folders to look for them in."""
    return list(_paths(incomplete))


def complete_override(incomplete: str) -> list[str]:
    """`section.key=` of every setting; once the `=` is there, the values of settings that take a few words only."""
    name, equals, value = incomplete.partition("=")
    if not equals:
        return [f"{known}=" for known in setting_names() if known.startswith(name)]
    if name == "embedding.templates":
        from metaeol_udf.prompts.templates import builtin_names

        words = [*builtin_names(), *_paths(value)]
    else:
        words = list(CHOICES.get(name, ("true", "false") if name in switches() else ()))
    return [f"{name}={word}" for word in words if word.startswith(value)]


def _paths(incomplete: str) -> Iterator[str]:
    """Paths that begin so, written as the user began; folders end with a slash."""
    folder, slash, start = incomplete.rpartition("/")
    shown = f"{folder}{slash}"
    try:
        entries = sorted(Path(shown or ".").expanduser().iterdir())
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith(start) and (start.startswith(".") or not entry.name.startswith(".")):
            if entry.is_dir():
                yield f"{shown}{entry.name}/"
            elif entry.suffix in _SUFFIXES:
                yield f"{shown}{entry.name}"


Full = Annotated[
    bool,
    typer.Option(
        "--full", help="Check every row of the tables. Without it a run reads the files that were added since the last proven run."
    ),
]
Conf = Annotated[Path, typer.Argument(metavar="CONF", help="The job's YAML file.", show_default=False, autocompletion=complete_conf)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Settings that override those of the file, such as runtime.device=cpu.",
        show_default=False,
        autocompletion=complete_override,
    ),
]
Where = Annotated[
    str | None,
    typer.Option(metavar="CONDITION", help="SQL condition on the rows of the source, such as \"lang = 'de'\".", show_default=False),
]


As = Annotated[Format, typer.Option("--format", help="Format of the result: table for people, json or csv for programs.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON: the same as --format json.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what the command would do. Writes nothing.")]
