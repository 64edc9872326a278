"""Reads YAML files, and writes small files whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from metaeol_udf.errors import ConfigError, EnvironmentFault


def read_yaml(path: str | Path, what: str) -> Any:
    """Read a YAML file.

    Raises:
        ConfigError: The file cannot be read; the message says `what` it is.
    """
    try:
        return yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read {what} {path}: {' '.join(str(error).split())}") from None


def replace_file(path: str | Path, content: bytes, *, setting: str = "") -> None:
    """Write a file and its folder; a reader sees the old file or the new file, never half of one.

    Raises:
        EnvironmentFault: The file cannot be written; the message begins with `setting`, which names the file.
    """
    whole = Path(path)
    part = whole.with_name(f".{whole.name}.{os.getpid()}.part")
    try:
        whole.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content)
        part.replace(whole)
    except OSError as error:
        if part.is_file():
            part.unlink()
        raise EnvironmentFault(f"{setting}{': ' if setting else ''}cannot write {path}: {error.strerror}") from None
