"""Reads YAML and JSON files within bounds, and writes small files whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from metaeol_udf.errors import ConfigError, EnvironmentFault, one_line

MOST_BYTES = 1_000_000  # of a file that people write
_MOST_NODES = 200_000  # of a document whose aliases are written out


class _Loader(yaml.SafeLoader):
    """Loads YAML within bounds, and refuses a key that stands twice in a mapping, of which YAML would take the last one."""

    def get_single_node(self) -> yaml.Node | None:
        """As the base class; refuses a document that becomes large only by aliases."""
        node: yaml.Node | None = super().get_single_node()
        if node is not None and _count_nodes(node, {}) > _MOST_NODES:
            raise yaml.composer.ComposerError(
                None, None, f"more than {_MOST_NODES:,} values, written with aliases (*name)", node.start_mark
            )
        return node

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


def _count_nodes(node: yaml.Node, counted: dict[int, int]) -> int:
    """Count the values of a document as if aliases were written out; what an alias names is counted once."""
    if id(node) not in counted:
        counted[id(node)] = 1  # of an alias to what it stands in
        inner = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        parts = inner if isinstance(node, (yaml.MappingNode, yaml.SequenceNode)) else ()
        counted[id(node)] = 1 + sum(_count_nodes(part, counted) for part in parts)
    return counted[id(node)]


def parse_yaml(text: str, what: str) -> Any:
    """Parse YAML.

    Raises:
        ConfigError: The text is no YAML, or a mapping holds a key twice; the message begins with `what`.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        raise ConfigError(f"{what}: {_where(error)}") from None
    except RecursionError:
        raise ConfigError(f"{what}: it is nested too deeply") from None
    except (yaml.YAMLError, ValueError, AttributeError, TypeError) as error:
        raise ConfigError(f"{what}: {one_line(error)}") from None


def _where(error: yaml.MarkedYAMLError) -> str:
    """Say what is wrong and where. The line itself is not quoted: it may hold a password."""
    mark = error.problem_mark or error.context_mark
    place = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
    return place + " ".join(part for part in (error.problem, error.context) if part)


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
        with open(path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ConfigError(f"cannot read {what} {path}: it is larger than {MOST_BYTES:,} bytes")
        return content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {what} {path}: {one_line(error)}") from None


def parse_json(text: str | bytes) -> Any:
    """Parse JSON.

    Raises:
        ValueError: It is none, or is nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


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


def replace_file(path: str | Path, content: bytes, *, setting: str = "", private: bool = False) -> None:
    """Write a file and its folder; a reader sees the old file or the new file, never half of one.

    A link that stands in the way is replaced, and never followed.

    Args:
        path: The file.
        content: All of it.
        setting: What names the file, for the message.
        private: Whether nobody but the owner may read the file.

    Raises:
        EnvironmentFault: The file cannot be written; the message begins with `setting`, which names the file.
    """
    with _part_of(path, setting, 0o600 if private else 0o666) as (part, file):
        file.write(content)
        file.flush()
        part.replace(path)


def check_replaceable(path: str | Path, *, setting: str = "") -> None:
    """Check that `replace_file` could write a file: makes its folder, and leaves no file behind.

    Raises:
        EnvironmentFault: It could not.
    """
    with _part_of(path, setting, 0o600):
        if Path(path).is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))


@contextmanager
def _part_of(path: str | Path, setting: str, mode: int) -> Iterator[tuple[Path, BinaryIO]]:
    """Make the file that becomes the whole file, under a name that nobody can guess; nothing stays of it where that goes wrong."""
    whole = Path(path)
    part = whole.with_name(f".{whole.name}.{secrets.token_hex(8)}.part")
    try:
        whole.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:  # x: made here, no link
            yield part, file
    except OSError as error:
        raise EnvironmentFault(f"{setting}{': ' if setting else ''}cannot write {path}: {error.strerror}") from None
    finally:
        with suppress(OSError):
            part.unlink()
