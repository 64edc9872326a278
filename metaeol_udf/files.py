"""Reads YAML and JSON files within bounds, and writes small files whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from metaeol_udf.errors import ConfigError, EnvironmentFault, one_line
from metaeol_udf.formatting import shorten

MOST_BYTES = 1_000_000  # of a file that people write
_MOST_NODES = 200_000  # of a document whose aliases are written out
_MOST_LEVELS = 100  # of lists and mappings in each other: what is deeper would end in a recursion somewhere
_MOST_BITS = 10_000  # of an integer; Python writes none of over 4,300 digits
_NESTED = (dict, list, set, tuple)
_NOT_OF_ITS_TYPE = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError)  # what YAML raises of a value
_TOO_DEEP = "it is nested too deeply"
_MOST_DIGITS = 50  # of a whole number in JSON; tokenizers write 10 to the power of 30
_SURROGATE = re.compile("[\\ud800-\\udfff]")  # half a character, which no encoding takes


class _Loader(yaml.SafeLoader):
    """Loads YAML within bounds.

    Refuses a key that stands twice in a mapping, of which YAML would take the last one, and a value that is not what its tag says.
    """

    def get_single_node(self) -> yaml.Node | None:
        """As the base class; refuses a document that becomes large only by aliases."""
        node: yaml.Node | None = super().get_single_node()
        if node is not None and _count_nodes(node, {}) > _MOST_NODES:
            raise yaml.composer.ComposerError(
                None, None, f"more than {_MOST_NODES:,} values, written with aliases (*name)", node.start_mark
            )
        return node

    def fetch_flow_collection_start(self, TokenClass: Any) -> None:
        """As the base class; brackets in each other cost it the square of their number."""
        if self.flow_level >= _MOST_LEVELS:
            raise yaml.scanner.ScannerError(None, None, _TOO_DEEP, self.get_mark())
        super().fetch_flow_collection_start(TokenClass)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """As the base class; its errors about a value quote it, and are of any kind."""
        kind = node.tag.rpartition(":")[2]
        try:
            value = super().construct_object(node, deep)
        except _NOT_OF_ITS_TYPE:
            raise yaml.constructor.ConstructorError(
                None, None, f"the value is not of the type {shorten(kind, 40)}", node.start_mark
            ) from None
        if isinstance(value, int) and value.bit_length() > _MOST_BITS:
            raise yaml.constructor.ConstructorError(None, None, "the number is too large", node.start_mark)
        if isinstance(value, str) and _SURROGATE.search(value):
            raise yaml.constructor.ConstructorError(None, None, "the text holds half a character (a lone surrogate)", node.start_mark)
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As the base class."""
        found: dict[str, yaml.Mark] = {}
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key is one text or number", key.start_mark)
            name = str(key.value)
            if name in found:
                said = f"the key {shorten(name, 80)!r} stands twice, first in line {found[name].line + 1}"
                raise yaml.constructor.ConstructorError(None, None, said, key.start_mark)
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
        value = yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        raise ConfigError(f"{what}: {_where(error, text)}") from None
    except RecursionError:
        raise ConfigError(f"{what}: {_TOO_DEEP}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{what}: {shorten(one_line(error), 300)}") from None
    except _NOT_OF_ITS_TYPE:  # of a list or a mapping, which YAML fills last of all
        raise ConfigError(f"{what}: a value is not of the type that its tag (!!) says") from None
    if _is_too_deep(value):
        raise ConfigError(f"{what}: {_TOO_DEEP}")
    return value


def _is_too_deep(value: Any) -> bool:
    """Tell whether lists and mappings stand in each other on more levels than there may be; of one that holds itself, too."""
    level = [value] if isinstance(value, _NESTED) else []
    for _ in range(_MOST_LEVELS):
        if not level:
            return False
        inner = (item for part in level for item in (part.values() if isinstance(part, dict) else part))
        level = list({id(item): item for item in inner if isinstance(item, _NESTED)}.values())
    return True


def _where(error: yaml.MarkedYAMLError, text: str) -> str:
    """Say what is wrong and where. The line itself is not quoted: it may hold a password."""
    mark = error.problem_mark or error.context_mark
    place = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
    said = shorten(" ".join(part for part in (error.problem, error.context) if part), 300)
    if "\t" in said or "\\t" in said:
        return f"{place}a tab; YAML is indented with spaces"
    if mark is not None and isinstance(error, (yaml.parser.ParserError, yaml.scanner.ScannerError)):
        lines = text.splitlines()
        before = next((line for line in reversed(lines[: mark.line]) if line.strip()), "")
        indents = [len(line) - len(line.lstrip(" ")) for line in (before, lines[mark.line] if mark.line < len(lines) else "")]
        if indents[0] != indents[1]:
            said += f"; check the indentation: this line begins with {indents[1]} spaces, the line before with {indents[0]}"
    return place + said


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
    shown = shorten(str(path), 300)
    try:
        with open(path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
        text = content.decode("utf-8")
    except IsADirectoryError:
        raise ConfigError(f"cannot read {what} {shown}: it is a folder, not a file") from None
    except FileNotFoundError:
        absolute = "" if os.path.isabs(path) else f" (looked for as {shorten(os.path.abspath(path), 300)})"
        raise ConfigError(f"cannot read {what} {shown}: there is no such file{absolute}") from None
    except OSError as error:
        raise ConfigError(f"cannot read {what} {shown}: {error.strerror}") from None
    except ValueError as error:  # bytes that are no text, or a name that no file can have
        raise ConfigError(f"cannot read {what} {shown}: {one_line(error)}") from None
    if len(content) > MOST_BYTES:
        raise ConfigError(f"cannot read {what} {shown}: it is larger than {MOST_BYTES:,} bytes")
    return text


def is_file(path: Path) -> bool:
    """Tell whether a path is that of a file; of a name that no file can have it is not."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Tell whether a path is that of a folder; of a name that none can have it is not."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def is_file_name(name: str) -> bool:
    """Tell whether a name from outside can be that of a file in a folder, and of nothing elsewhere."""
    return 0 < len(name.encode("utf-8", "replace")) < 256 and not set(name) & {"/", "\\", "\0"} and name not in (".", "..")


def parse_json(text: str | bytes) -> Any:
    """Parse JSON.

    Raises:
        ValueError: It is none, is nested too deeply, or holds a number of more than 50 digits.
    """
    try:
        value = json.loads(text, parse_int=_whole_number)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    if _is_too_deep(value):
        raise ValueError(_TOO_DEEP)
    return value


def _whole_number(digits: str) -> int:
    """Read a whole number. Nothing that files hold counts that far, and messages would be as long as the number."""
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"it holds a number of {len(digits)} digits")
    return int(digits)


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


def places_of(text: str) -> dict[tuple[str, ...], tuple[int, int]]:
    """Find the line and the column, from 1, of the keys on the first three levels of a document that `parse_yaml` takes.

    The items of a list count as keys: `0`, `1` and so on.
    """
    return dict(_places(yaml.compose(text, Loader=_Loader), (), 3))


def _places(node: yaml.Node | None, names: tuple[str, ...], n_levels: int) -> Iterator[tuple[tuple[str, ...], tuple[int, int]]]:
    items: list[tuple[str, yaml.Node, yaml.Node]] = []
    if isinstance(node, yaml.MappingNode):
        items = [(str(key.value), key, value) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        items = [(str(index), value, value) for index, value in enumerate(node.value)]
    for name, marked, value in items if n_levels else ():
        here = (*names, name)
        yield here, (marked.start_mark.line + 1, marked.start_mark.column + 1)
        yield from _places(value, here, n_levels - 1)


def write_yaml(value: Any) -> str:
    """Write a plain value as YAML on one line."""
    return yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000).removesuffix("\n").removesuffix("\n...")


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
