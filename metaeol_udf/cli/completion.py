"""What the shell offers when Tab is pressed: configuration files, settings and their values. Starts in a moment: no Spark, no torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from metaeol_udf.config import CHOICES, setting_names, switches

_SUFFIXES = (".yaml", ".yml")


def complete_conf(incomplete: str) -> list[str]:
    """YAML files, and folders to look for them in."""
    return [*_paths(incomplete, _SUFFIXES)]


def complete_override(incomplete: str) -> list[str]:
    """`section.key=` of every setting; once the `=` is there, the values of settings that take a few words only."""
    name, equals, value = incomplete.partition("=")
    if not equals:
        return [f"{known}=" for known in setting_names() if known.startswith(name)]
    if name == "embedding.templates":
        from metaeol_udf.prompts.templates import builtin_names

        words = [*builtin_names(), *_paths(value, _SUFFIXES)]
    else:
        words = list(CHOICES.get(name, ("true", "false") if name in switches() else ()))
    return [f"{name}={word}" for word in words if word.startswith(value)]


def _paths(incomplete: str, suffixes: tuple[str, ...]) -> Iterator[str]:
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
            elif entry.suffix in suffixes:
                yield f"{shown}{entry.name}"
