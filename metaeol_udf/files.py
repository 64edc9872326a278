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


class _Loader(yaml.SafeLoader):
    """Loads YAML, and refuses a key that stands twice in a mapping, of which YAML would take the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As the base class."""
        found: dict[str, yaml.Mark] = {}
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            name = str(key.value)
            if name in found:
                first = found[name].line + 1
                raise yaml.constructor.ConstructorError(None, None, f"the key {name!r} stands twice, first in line {first}", key.start_mark)
            found[name] = key.start_mark
        return super().construct_mapping(node, deep)


def parse_yaml(text: str, what: str) -> Any:
    """Parse YAML.

    Raises:
        ConfigError: The text is no YAML, or a mapping holds a key twice; the message begins with `what`.
    """
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise ConfigError(f"{what}: {_one_line(error)}") from None


def read_yaml(path: str | Path, what: str) -> Any:
    """Read a YAML file.

    Raises:
        ConfigError: The file cannot be read; the message says `what` it is.
    """
    return parse_yaml(read_text(path, what), f"cannot read {what} {path}")


def read_text(path: str | Path, what: str) -> str:
    """Read a text file in UTF-8.

    Raises:
        ConfigError: The file cannot be read; the message says `what` it is.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {what} {path}: {_one_line(error)}") from None


def texts_as_written(text: str, *keys: str) -> dict[str, str | None]:
    """Read the values of a mapping in YAML as they are written: `0123` stays `0123`, where YAML would make it a number.

    Args:
        text: A document that `parse_yaml` takes.
        keys: The way to the mapping from the top.

    Returns:
        Texts by key; None for null. Values that are lists or mappings are left out, as are mappings that are not there.
    """
    node: yaml.Node | None = yaml.compose(text, Loader=_Loader)
    for name in keys:
        if not isinstance(node, yaml.MappingNode):
            return {}
        node = next((value for key, value in node.value if key.value == name), None)
    if not isinstance(node, yaml.MappingNode):
        return {}
    scalars = [(key.value, value) for key, value in node.value if isinstance(value, yaml.ScalarNode)]
    return {name: _written(value) for name, value in scalars}


def _written(value: yaml.ScalarNode) -> str | None:
    kind = value.tag.rpartition(":")[2]
    # YAML and Spark write booleans in lower case.
    return None if kind == "null" else str(value.value).lower() if kind == "bool" else str(value.value)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


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
