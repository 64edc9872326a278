"""Reads YAML files, and writes small files whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
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
    with _part_of(path, setting) as part:
        part.write_bytes(content)
        part.replace(path)


def check_replaceable(path: str | Path, *, setting: str = "") -> None:
    """Check that `replace_file` could write a file: makes its folder, and leaves no file behind.

    Raises:
        EnvironmentFault: It could not.
    """
    with _part_of(path, setting) as part:
        if Path(path).is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        part.write_bytes(b"")
        part.unlink()


@contextmanager
def _part_of(path: str | Path, setting: str) -> Iterator[Path]:
    """Name the file that becomes the whole file; nothing stays of it where that goes wrong."""
    whole = Path(path)
    part = whole.with_name(f".{whole.name}.{os.getpid()}.part")
    try:
        whole.parent.mkdir(parents=True, exist_ok=True)
        yield part
    except OSError as error:
        if part.is_file():
            part.unlink()
        raise EnvironmentFault(f"{setting}{': ' if setting else ''}cannot write {path}: {error.strerror}") from None
